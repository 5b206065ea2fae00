"""The network of a run is as the drawing says, and all of it goes again."""

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack

import pytest
from netns_helpers import GUEST_MAC, drained, packet_socket, rarp, run_inside, true_within

from testbed.netns import links
from testbed.netns.forwarding import forwarding_table
from testbed.netns.interposer import Pass, interposed
from testbed.netns.namespace import Namespace
from testbed.netns.topology import (
    BRIDGE,
    CLIENT_ADDRESS,
    DESTINATION_ADDRESS,
    PROXY_DESTINATION_ADDRESS,
    PROXY_SOURCE_ADDRESS,
    SOURCE_ADDRESS,
    UPLINK,
    Topology,
)

pytestmark = pytest.mark.live

VNET_HEADER_BYTES = 10
NET_INIT = os.readlink("/proc/self/ns/net")


def descriptors() -> set[str]:
    """Those of namespaces and TAPs that this process holds."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("net:") or target == "/dev/net/tun":
            found.add(target)
    return found


async def pings(namespace: Namespace, address: str) -> bool:
    return await run_inside(namespace, "ping", "-c1", "-W1", address) == 0


async def test_the_migration_network_ends_at_the_proxy():
    async with Topology.create() as net:
        assert await pings(net.source, PROXY_SOURCE_ADDRESS)
        assert await pings(net.destination, PROXY_DESTINATION_ADDRESS)
        assert await pings(net.proxy, SOURCE_ADDRESS)
        assert await pings(net.proxy, DESTINATION_ADDRESS)
        assert not links.forwards_ipv4(net.proxy)
        for address in (DESTINATION_ADDRESS, PROXY_DESTINATION_ADDRESS, CLIENT_ADDRESS):
            with (
                net.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
                pytest.raises(OSError, match="unreachable"),
            ):
                sender.connect((address, 9))


async def test_nothing_is_left_in_this_process():
    before = descriptors()
    async with Topology.create() as net:
        assert os.readlink("/proc/thread-self/ns/net") == NET_INIT
        assert len({os.fstat(namespace.fd).st_ino for namespace in net.namespaces}) == 5
    await asyncio.sleep(0)  # the loop closes transports one turn later
    assert descriptors() == before


async def test_leaving_by_an_exception_closes_everything():
    before = descriptors()
    with pytest.raises(LookupError):
        async with Topology.create() as net:
            await links.up(net.source, "no-such-device")
    await asyncio.sleep(0)
    assert descriptors() == before
    assert os.readlink("/proc/thread-self/ns/net") == NET_INIT


async def test_other_tasks_never_see_another_namespace():
    seen = set()
    stop = asyncio.Event()

    async def look() -> None:
        while not stop.is_set():
            seen.add(os.readlink("/proc/thread-self/ns/net"))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        async with Topology.create():
            stop.set()
    assert seen == {NET_INIT}


@pytest.mark.parametrize("interposable", [False, True])
async def test_the_switch_learns_where_a_frame_came_in(interposable: bool):
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(Topology.create(interposable=interposable))
        if interposable:
            near, far = (tap.fd for tap in net.uplink_taps)
            await stack.enter_async_context(interposed(near, far, lambda _way, _frame: Pass()))
        assert await forwarding_table(net.switch, BRIDGE) == {}
        for tap, port in ((net.source_guest, "source"), (net.destination_guest, "destination")):
            other = net.destination_guest if port == "source" else net.source_guest
            os.write(tap.fd, bytes(VNET_HEADER_BYTES) + rarp())
            arrived = []
            await true_within(
                lambda fd=other.fd, arrived=arrived: arrived.extend(drained(fd)) or arrived
            )
            assert arrived == [bytes(VNET_HEADER_BYTES) + rarp()]
            assert await forwarding_table(net.switch, BRIDGE) == {GUEST_MAC: port}


async def test_nothing_is_on_the_guest_network_unasked():
    """The kernel itself sends nothing: no IPv6, no spanning tree, no multicast reports."""
    async with Topology.create() as net:
        with (
            packet_socket(net.switch, "client") as client,
            packet_socket(net.switch, "source") as source,
        ):
            await asyncio.sleep(1.0)  # longer than address detection and the first hello would take
            for watched in (client, source):
                with pytest.raises(BlockingIOError):
                    watched.recv(2048)


async def test_a_tap_serves_one_process_after_another():
    """A second destination gets the same descriptor as the first."""
    read_one = "import os, sys; fd = int(sys.argv[1]); os.set_blocking(fd, True); os.read(fd, 9999)"
    async with Topology.create() as net:
        fd = net.source_guest.fd
        for _ in range(2):
            with packet_socket(net.switch, "source") as sender:
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", read_one, str(fd), pass_fds=(fd,)
                )
                sender.send(rarp())
                assert await asyncio.wait_for(child.wait(), 5) == 0


async def test_a_mac_is_read_from_its_device():
    async with Topology.create() as net:
        assert len(bytes.fromhex((await links.mac_of(net.client, UPLINK)).replace(":", ""))) == 6


async def test_no_device_has_the_number_of_its_other_end() -> None:
    """Or the kernel takes its time to see that it is up, and its bridge drops what comes in."""
    async with Topology.create() as net:
        for a, a_name, b, b_name in (
            (net.source, "migration", net.proxy, "source"),
            (net.proxy, "destination", net.destination, "migration"),
            (net.source, UPLINK, net.switch, "source"),
            (net.client, UPLINK, net.switch, "client"),
            (net.destination, UPLINK, net.switch, "destination"),
        ):
            assert links.index_of(a, a_name) != links.index_of(b, b_name)
