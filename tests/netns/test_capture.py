"""The capture sees each frame once, where it came in; a RARP is held against QEMU's layout."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from netns_helpers import GUEST_MAC, numbered, packet_socket, rarp, true_within
from scapy.utils import RawPcapReader

from testbed import tasks
from testbed.netns import capture as capture_module
from testbed.netns.capture import Losses, capture, decode, rarp_problems
from testbed.netns.inside import SandboxSide
from testbed.netns.kernel import mount
from testbed.netns.sandbox import Sandbox
from testbed.netns.topology import UPLINK, Topology

PORTS = ("source", "destination", "client")


def changed(offset: int, data: bytes) -> bytes:
    frame = bytearray(rarp())
    frame[offset : offset + len(data)] = data
    return bytes(frame)


def frames_in(path) -> list[bytes]:
    with RawPcapReader(str(path)) as reader:
        return [raw for raw, _ in reader]


@pytest.mark.parametrize(
    ("frame", "problems"),
    [
        pytest.param(rarp(), [], id="QEMU's own"),
        pytest.param(rarp() + b"\0", ["length", "padding"], id="one byte more"),
        pytest.param(rarp()[:59], ["length", "padding"], id="one byte less"),
        pytest.param(changed(0, bytes(6)), ["destination"], id="not a broadcast"),
        pytest.param(changed(14, b"\0\2"), ["hardware_type"], id="not Ethernet"),
        pytest.param(changed(16, b"\x86\xdd"), ["protocol_type"], id="not IPv4"),
        pytest.param(changed(18, b"\x08"), ["hardware_bytes"], id="longer hardware addresses"),
        pytest.param(changed(19, b"\x10"), ["protocol_bytes"], id="longer addresses"),
        pytest.param(changed(20, b"\0\4"), ["opcode"], id="a reply"),
        pytest.param(changed(22, b"\2" * 6), ["sender_mac"], id="another sender"),
        pytest.param(changed(28, b"\1" * 4), ["sender_ip"], id="a sender's address"),
        pytest.param(changed(32, b"\2" * 6), ["target_mac"], id="another target"),
        pytest.param(changed(38, b"\1" * 4), ["target_ip"], id="a target's address"),
        pytest.param(changed(6, b"\2" * 6), ["sender_mac", "target_mac"], id="another source"),
        pytest.param(changed(59, b"\1"), ["padding"], id="padding not zero"),
    ],
)
def test_a_rarp_is_held_against_qemu_s_layout(frame, problems):
    found = rarp_problems(decode("destination", 0.0, frame))
    assert [problem.partition(":")[0] for problem in found] == problems


@pytest.mark.parametrize("length", range(60))
def test_a_frame_that_is_cut_short_is_a_problem_and_no_error(length):
    assert rarp_problems(decode("destination", 0.0, rarp()[:length]))


def test_importing_the_room_does_not_import_scapy():
    code = (
        "import sys, pkgutil, importlib, testbed.netns\n"
        "for module in pkgutil.iter_modules(testbed.netns.__path__):\n"
        "    importlib.import_module(f'testbed.netns.{module.name}')\n"
        "sys.exit('scapy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.live
async def test_each_frame_is_captured_once_where_it_came_in(tmp_path):
    frames = []
    path = tmp_path / "guest.pcap"
    async with (
        Topology.create() as net,
        capture(net.switch, PORTS, frames.append, path) as running,
    ):
        began = time.monotonic()
        os.write(net.destination_guest.fd, bytes(10) + rarp())
        with packet_socket(net.client, UPLINK) as client:
            client.send(numbered(1, 1514))
        os.write(net.source_guest.fd, bytes(10) + numbered(2))
        await true_within(lambda: len(frames) == 3)
        ended = time.monotonic()
        assert (running.frames, str(running.losses())) == (3, "")
    by_port = {frame.port: frame for frame in frames}
    assert set(by_port) == set(PORTS)
    announced = by_port["destination"]
    assert rarp_problems(announced) == []
    assert announced.rarp["sender_mac"] == announced.source == GUEST_MAC
    assert by_port["client"].raw == numbered(1, 1514)
    for frame in frames:
        assert began - 0.001 <= frame.at <= ended + 0.001
    assert sorted(frames_in(path)) == sorted(frame.raw for frame in frames)


@pytest.mark.live
async def test_a_file_is_whole_at_any_moment_and_without_frames(tmp_path):
    path = tmp_path / "guest.pcap"
    async with (
        Topology.create() as net,
        capture(net.switch, PORTS, lambda _frame: None, path) as running,
    ):
        assert frames_in(path) == []
        with packet_socket(net.client, UPLINK) as client:
            client.send(rarp())
        await true_within(lambda: running.frames == 1)
        assert frames_in(path) == [rarp()]


@pytest.mark.live
async def test_a_tag_that_the_kernel_takes_out_is_put_back(tmp_path):
    path = tmp_path / "guest.pcap"
    tagged = rarp()[:12] + bytes.fromhex("8100 2064") + rarp()[12:]
    frames = []
    async with Topology.create() as net, capture(net.switch, PORTS, frames.append, path):
        with packet_socket(net.client, UPLINK) as client:
            client.send(tagged)
        await true_within(lambda: len(frames) == 1)
    assert frames[0].raw == tagged
    assert frames_in(path) == [tagged]


@pytest.mark.live
async def test_what_is_beyond_the_bound_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "FRAMES_MAX", 2)
    frames = []
    path = tmp_path / "guest.pcap"
    async with Topology.create() as net, capture(net.switch, PORTS, frames.append, path) as running:
        with packet_socket(net.client, UPLINK) as client:
            for number in range(5):
                client.send(numbered(number))
        await true_within(lambda: running.frames == 5)
        assert running.losses() == Losses(bound=3)
        assert str(running.losses()) == "3 came after the first 2"
    assert len(frames) == 2


@pytest.mark.live
async def test_what_the_kernel_drops_is_told_and_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "RECEIVE_BYTES", 1 << 14)
    frames = []
    path = tmp_path / "guest.pcap"
    async with Topology.create() as net, capture(net.switch, PORTS, frames.append, path) as running:
        with packet_socket(net.client, UPLINK) as client:
            for _ in range(2):
                before = running.losses().kernel
                for number in range(500):  # the event loop waits meanwhile
                    client.send(numbered(number))
                assert running.losses().kernel > before
            # The bridge's own device has each once more, which is dropped or passed over.
            await true_within(lambda: running.frames + running.losses().kernel >= 1000)
    assert len(frames) == running.frames


def fill(folder: Path) -> None:
    """Leave no room on the file system of a folder."""
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def with_a_full_disk(side: SandboxSide) -> int:
    """A capture whose disk is full after the first frame: what it says, and what is in the file."""
    folder = Path("/mnt")
    mount("tmpfs", str(folder), "tmpfs", options="size=64k")

    async def main() -> list[object]:
        frames = []
        path = folder / "guest.pcap"
        async with (
            Topology.create() as net,
            capture(net.switch, PORTS, frames.append, path) as running,
        ):
            with packet_socket(net.client, UPLINK) as client:
                client.send(numbered(0))
                await true_within(lambda: len(frames) == 1)
                fill(folder)
                for number in range(1, 100):  # the page that the file has already takes some
                    client.send(numbered(number))
                await true_within(lambda: len(frames) == 100)
            in_file = [frame.hex() for frame in frames_in(path)]
            assert in_file == [frame.raw.hex() for frame in frames[: len(in_file)]]
            return [len(in_file), str(running.losses())]

    side.write(json.dumps(tasks.run(main())).encode())
    return 0


@pytest.mark.live
def test_a_full_disk_is_told_and_leaves_a_file_that_can_be_read():
    with Sandbox.start(with_a_full_disk) as sandbox:
        answer = b"".join(iter(lambda: os.read(sandbox.fd, 4096), b""))
        assert sandbox.wait() == 0, sandbox.failure
    written, said = json.loads(answer)
    assert 1 <= written < 100
    assert said == f"{100 - written} are not in the file: No space left on device"


@pytest.mark.live
async def test_a_port_that_is_not_there_is_an_error(tmp_path):
    async with Topology.create() as net:
        with pytest.raises(LookupError, match="has no device 'none'"):
            async with capture(net.switch, ("none",), lambda _frame: None, tmp_path / "x.pcap"):
                pass
