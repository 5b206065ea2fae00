"""The guest's network on real TAPs: pinged through bridges, announced to a switch."""

import asyncio
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
from netns_helpers import GUEST_MAC, numbered, packet_socket, run_inside, true_within

from testbed.model.guest.announce import Announcer
from testbed.model.guest.network import NetworkStack, checksum, guest_address
from testbed.model.process import tap as module
from testbed.model.process.nic import Nic
from testbed.model.process.tap import Tap, TapRefused
from testbed.netns import links
from testbed.netns.capture import ETHERTYPE_RARP, capture, rarp_problems
from testbed.netns.forwarding import forwarding_table
from testbed.netns.namespace import Namespace
from testbed.netns.topology import BRIDGE, UPLINK, Topology

pytestmark = pytest.mark.live

MAC = bytes.fromhex(GUEST_MAC.replace(":", ""))
TUNSETVNETHDRSZ = 0x400454D8
TUN_F_CSUM = 1
EARLY_MS, LATE_MS = 5, 60


@asynccontextmanager
async def one_tap(on_frame, *, vnet_header_bytes=0):
    """A TAP that is up in a namespace of its own, and the shell around a copy of its descriptor."""
    async with Namespace.create("host") as host:
        with links.tap(host, "guest", vnet_header=vnet_header_bytes > 0) as made:
            if vnet_header_bytes:
                fcntl.ioctl(made.fd, TUNSETVNETHDRSZ, struct.pack("i", vnet_header_bytes))
            await links.up(host, "guest")
            shell = Tap(os.dup(made.fd), on_frame, netdev="net0")
            try:
                yield host, shell
            finally:
                shell.close()


@pytest.mark.parametrize("vnet_header_bytes", [0, 10, 12])
async def test_frames_pass_both_ways_without_their_header(vnet_header_bytes):
    frames = []
    async with one_tap(frames.append, vnet_header_bytes=vnet_header_bytes) as (host, tap):
        tap.listen()
        tap.listen()
        with packet_socket(host, "guest") as wire:
            for number, size in enumerate((60, 61, 1514)):
                wire.send(numbered(number, size))
                tap.send(numbered(number + 10, size))
            await true_within(lambda: len(frames) == 3)
            came = [wire.recv(2048) for _ in range(3)]
        assert frames == [numbered(0), numbered(1, 61), numbered(2, 1514)]
        assert came == [numbered(10), numbered(11, 61), numbered(12, 1514)]
        assert tap.dropped == 0


async def test_a_qemu_that_had_it_before_leaves_nothing_offloaded():
    """Where checksums are offloaded, the kernel leaves them to the reader of the TAP."""
    frames = []
    async with Namespace.create("host") as host:
        with links.tap(host, "guest", vnet_header=True) as made:
            fcntl.ioctl(made.fd, module.TUNSETOFFLOAD, TUN_F_CSUM)
            await links.up(host, "guest")
            await links.address(host, "guest", "10.99.0.1/24")
            tap = Tap(os.dup(made.fd), frames.append, netdev="net0")
            tap.listen()
            with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sender.sendto(b"odd", ("10.99.0.255", 9))
                await true_within(lambda: frames)
            tap.close()
    (frame,) = frames
    pseudo = frame[26:34] + struct.pack("!HH", 17, 11)
    assert checksum(pseudo + frame[34 : 34 + 11]) == 0


async def test_who_is_deaf_gets_what_the_queue_has_later():
    frames = []
    async with one_tap(frames.append) as (host, tap):
        with packet_socket(host, "guest") as wire:
            wire.send(numbered(1))
            tap.listen()
            await true_within(lambda: len(frames) == 1)
            tap.deafen()
            tap.deafen()
            wire.send(numbered(2))
            await asyncio.sleep(0.05)  # nothing comes, however long
            assert frames == [numbered(1)]
            tap.listen()
            await true_within(lambda: len(frames) == 2)


async def test_a_wake_takes_so_many_frames_and_stops_when_it_is_told(monkeypatch):
    monkeypatch.setattr(module, "FRAMES_PER_WAKE", 3)
    frames, turns = [], []

    def take(frame):
        frames.append(frame)
        if len(frames) == 6:
            tap.deafen()

    async with one_tap(take) as (host, tap):
        with packet_socket(host, "guest") as wire:
            for number in range(8):
                wire.send(numbered(number))
            tap.listen()
            async with asyncio.timeout(3):
                while len(frames) < 6:
                    await asyncio.sleep(0)
                    turns.append(len(frames))
            await asyncio.sleep(0.05)
    assert {0, 3, 6} >= set(turns)
    assert len(frames) == 6


async def test_what_the_device_would_not_take_is_dropped():
    async with one_tap(lambda _frame: None) as (host, tap):
        tap.send(b"no frame")
        assert tap.dropped == 1
        await host.netlink.link("set", index=links.index_of(host, "guest"), state="down")
        tap.send(numbered(1))
        assert tap.dropped == 2


async def test_a_device_that_is_gone_is_not_read_for_ever():
    async with one_tap(lambda _frame: None) as (host, tap):
        tap.listen()
        await host.netlink.link("del", index=links.index_of(host, "guest"))
        await true_within(lambda: tap._loop is None)
        tap.send(numbered(1))
        assert tap.dropped == 1


async def test_frames_of_a_guest_that_does_not_run_are_kept_until_it_does():
    async with Namespace.create("host") as host:
        with links.tap(host, "guest") as made:
            await links.up(host, "guest")
            nic = Nic("nic0", MAC, NetworkStack(MAC, guest_address(0)))
            nic.attach(os.dup(made.fd), netdev="net0")
            with packet_socket(host, "guest") as wire:
                wire.setblocking(False)
                numbers = iter(range(100))

                def sends(count):
                    """Send some frames: how many come out."""
                    for _ in range(count):
                        nic.send(numbered(next(numbers)))
                    return came(wire)

                assert sends(2) == []
                nic.listen()
                assert came(wire) == [numbered(0), numbered(1)]
                assert sends(1) == [numbered(2)]
                nic.deafen()
                assert sends(1) == []
                nic.listen()
                assert came(wire) == [numbered(3)]


def came(wire):
    """The frames that have come; a TAP passes them on in the call that writes them."""
    frames = []
    while select.select([wire], [], [], 0)[0]:
        frames.append(wire.recv(2048))
    return frames


@pytest.mark.parametrize("what", ["a socket", "closed", "no device"])
def test_what_is_no_tap_is_refused_in_the_words_of_the_qemu_installed(what):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = ours.fileno()
        if what == "closed":
            ours.close()
        elif what == "no device":
            tun = os.open("/dev/net/tun", os.O_RDWR)
            os.dup2(tun, fd)
            os.close(tun)
        with pytest.raises(TapRefused) as refused:
            Tap(fd, lambda _frame: None, netdev="n")
        netdev = f"tap,id=n,fd={fd}"
        done = subprocess.run(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-netdev", netdev],
            pass_fds=[] if what == "closed" else [fd],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
        )
        said = f"qemu-system-x86_64: -netdev {netdev}: {refused.value.strerror}\n"
        assert (done.returncode, done.stderr) == (1, said)


# The guest on the network of a run


@contextmanager
def guest_at(fd):
    """The guest's network on a TAP; it begins to run when its TAP is listened to."""
    stack = NetworkStack(MAC, guest_address(0))

    def answer(frame):
        if (reply := stack.answer(frame)) is not None:
            tap.send(reply)

    tap = Tap(os.dup(fd), answer, netdev="net0")
    try:
        yield stack, tap
    finally:
        tap.close()


@asynccontextmanager
async def two_hosts():
    """The network of a run, and the guest's at either host."""
    async with Topology.create() as net:
        with (
            guest_at(net.source_guest.fd) as source,
            guest_at(net.destination_guest.fd) as destination,
        ):
            yield net, source, destination


async def pings(net, *more):
    ping = ("ping", "-c2", "-i0.02", "-W1", *more, "10.99.0.2")
    return await run_inside(net.client, *ping) == 0


async def announced(announcer, tap):
    """Send all rounds when they are due."""
    announcer.begin(time.monotonic())
    while announcer.next_at_s is not None:
        await asyncio.sleep(announcer.next_at_s - time.monotonic())
        for frame in announcer.advance(time.monotonic()):
            tap.send(frame)


async def test_the_client_pings_the_guest_while_it_runs():
    async with two_hosts() as (net, (_, source), _destination):
        assert not await pings(net, "-c1")
        source.listen()
        assert await pings(net)
        assert await pings(net, "-Mdo", "-s1472")
        assert await pings(net, "-s3")
        source.deafen()
        assert not await pings(net, "-c1")


async def test_announced_from_elsewhere_it_is_pinged_there(tmp_path):
    frames = []
    ports = ("source", "destination", "client")

    def rarps():
        return [frame for frame in frames if frame.ethertype == ETHERTYPE_RARP]

    async with two_hosts() as (net, (stack, source), (_, destination)):
        source.send(stack.gratuitous_arp())
        source.listen()
        assert await pings(net)
        assert (await forwarding_table(net.switch, BRIDGE))[GUEST_MAC] == "source"
        source.deafen()
        async with capture(net.switch, ports, frames.append, tmp_path / "guest.pcap"):
            destination.listen()
            began = time.monotonic()
            await announced(Announcer([MAC]), destination)
            await true_within(lambda: len(rarps()) == 5)
        assert (await forwarding_table(net.switch, BRIDGE))[GUEST_MAC] == "destination"
        assert await pings(net)
    announcements = rarps()
    assert {frame.port for frame in announcements} == {"destination"}
    assert [rarp_problems(frame) for frame in announcements] == [[]] * 5
    assert {frame.source for frame in announcements} == {GUEST_MAC}
    for frame, expected_ms in zip(announcements, (0, 50, 200, 450, 800), strict=True):
        late_ms = (frame.at - began) * 1000 - expected_ms
        assert -EARLY_MS <= late_ms <= LATE_MS


async def test_the_guest_tells_its_address_when_it_boots():
    async with two_hosts() as (net, (stack, source), _destination):
        with packet_socket(net.client, UPLINK) as client:
            source.send(stack.gratuitous_arp())
            await true_within(lambda: select.select([client], [], [], 0)[0])
            assert client.recv(2048) == stack.gratuitous_arp()
