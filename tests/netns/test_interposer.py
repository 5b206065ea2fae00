"""Frames pass between two TAPs unharmed, but for those that the rule hits."""

import asyncio
import hashlib
import os
import socket
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from netns_helpers import drained, numbered, run_inside, true_within

from testbed.netns import interposer, links
from testbed.netns.interposer import (
    LOST,
    Direction,
    Drop,
    Instead,
    Outgoing,
    Pass,
    interposed,
)
from testbed.netns.namespace import Namespace
from testbed.netns.topology import BRIDGE, CLIENT_ADDRESS, Topology

pytestmark = pytest.mark.live

DESTINATION_GUEST = "10.99.0.2"
TRANSFER_BYTES = 4 << 20


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[14:16], "big")


def by_number(verdicts: dict[int, object]):
    """A rule that hits the numbered frames by number, and nothing else."""

    def rule(_direction: Direction, frame: bytes):
        if frame[12:14] != b"\x88\xb6":
            return Pass()
        verdict = verdicts.get(number_of(frame), Pass())
        return verdict(frame) if callable(verdict) else verdict

    return rule


def duplicate(copies: int):
    return lambda frame: Instead((Outgoing(frame),) * (1 + copies))


def delay(after_s: float):
    return lambda frame: Instead((Outgoing(frame),), after_s)


@asynccontextmanager
async def wire(rule):
    """Two ends of a wire with the interposer in the middle; what enters one comes out at the other.

    Socket pairs keep frames whole, as TAPs do, and need no kernel device to be flooded.
    """
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for pair in ends:
        for end in pair:
            end.setblocking(False)
    (left, a), (right, b) = ends
    try:
        async with interposed(a.fileno(), b.fileno(), rule) as running:
            yield left, right, running
    finally:
        for pair in ends:
            for end in pair:
                end.close()


async def arrivals(end: socket.socket, count: int, within_s: float = 3.0) -> list[int]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within_s):
        return [number_of(await loop.sock_recv(end, 65536)) for _ in range(count)]


async def test_each_verdict_does_what_it_says():
    verdicts = {1: Drop(), 2: duplicate(2), 3: delay(0.05)}
    async with wire(by_number(verdicts)) as (left, right, running):
        for number in range(6):
            left.send(numbered(number))
        assert await arrivals(right, 7) == [0, 2, 2, 2, 4, 5, 3]
        right.send(numbered(4))
        assert await arrivals(left, 1) == [4]
    assert running.counts == {
        (Direction.A_TO_B, "Pass"): 3,
        (Direction.A_TO_B, "Drop"): 1,
        (Direction.A_TO_B, "Instead"): 2,
        (Direction.B_TO_A, "Pass"): 1,
    }


async def test_others_go_in_a_frames_place_in_their_order_and_where_they_are_told():
    elsewhere, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.setblocking(False)

    def rule(_direction, frame):
        before, after = Outgoing(numbered(7)), Outgoing(numbered(8))
        return Instead((before, Outgoing(frame), Outgoing(numbered(9), elsewhere.fileno()), after))

    with elsewhere, there:
        async with wire(rule) as (left, right, _running):
            left.send(numbered(0))
            assert await arrivals(right, 3) == [7, 0, 8]
            assert await arrivals(there, 1) == [9]


async def test_a_frame_is_sent_that_no_other_gave_rise_to():
    async with wire(lambda _way, _frame: Drop()) as (left, right, running):
        running.send(Direction.A_TO_B, Outgoing(numbered(1)))
        running.send(Direction.B_TO_A, Outgoing(numbered(2)))
        assert await arrivals(right, 1) == [1]
        assert await arrivals(left, 1) == [2]


async def test_equally_delayed_frames_keep_their_order():
    async with wire(lambda _way, frame: delay(0.03)(frame)) as (left, right, _running):
        for number in range(100):
            left.send(numbered(number))
        assert await arrivals(right, 100) == list(range(100))


async def test_a_longer_delay_lets_others_by():
    async with wire(by_number({0: delay(0.1), 1: delay(0.02)})) as (left, right, _running):
        for number in range(2):
            left.send(numbered(number))
        assert await arrivals(right, 2) == [1, 0]


async def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(interposer, "HELD_FRAMES_MAX", 3)
    async with wire(lambda _way, frame: delay(0.05)(frame)) as (left, right, running):
        for number in range(5):
            left.send(numbered(number))
        assert await arrivals(right, 3) == [0, 1, 2]
    assert running.counts[Direction.A_TO_B, LOST] == 2


async def test_frames_for_a_full_link_are_lost_and_counted():
    async with wire(lambda _way, frame: duplicate(5000)(frame)) as (left, _right, running):
        left.send(numbered(0, 1514))
        await true_within(lambda: running.counts[Direction.A_TO_B, LOST] > 0)


async def test_what_is_held_when_the_block_ends_is_forgotten():
    async with wire(lambda _way, frame: delay(0.02)(frame)) as (left, right, running):
        left.send(numbered(0))
        await true_within(lambda: running.counts[Direction.A_TO_B, "Instead"] == 1)
        running.close()
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            right.recv(100)


@asynccontextmanager
async def reachable_destination(rule):
    """The run's network, with an address in the destination's namespace behind the interposer."""
    async with Topology.create(interposable=True) as net:
        await links.address(net.destination, BRIDGE, f"{DESTINATION_GUEST}/24")
        async with interposed(*(tap.fd for tap in net.uplink_taps), rule) as running:
            yield net, running


@pytest.mark.parametrize("payload_bytes", [56, 1472])  # the latter fills an MTU of 1500
async def test_ping_passes(payload_bytes):
    hits = by_number({1: Drop()})
    async with reachable_destination(hits) as (net, running):
        size = str(payload_bytes)
        ping = ("ping", "-c3", "-i0.01", "-W2", "-Mdo", "-s", size, DESTINATION_GUEST)
        assert await run_inside(net.client, *ping) == 0
        assert running.counts[Direction.A_TO_B, "Pass"] >= 3


async def test_tcp_passes_both_ways_with_nothing_changed():
    sent = os.urandom(TRANSFER_BYTES)
    async with reachable_destination(lambda _way, _frame: Pass()) as (net, running):
        async with asyncio.timeout(20):
            back = await echoed(net.destination, net.client, sent)
    assert hashlib.sha256(back).digest() == hashlib.sha256(sent).digest()
    assert not any(verdict == LOST for _, verdict in running.counts)


async def test_tcp_survives_a_rule_that_drops_and_delays_its_frames():
    """The faults are those of a real link: TCP makes up for them."""
    seen = Counter()

    def rule(direction, frame):
        seen[direction] += 1
        if seen[direction] % 97 == 0:
            return Drop()
        return delay(0.002)(frame) if seen[direction] % 11 == 0 else Pass()

    sent = os.urandom(256 << 10)
    async with reachable_destination(rule) as (net, running):
        async with asyncio.timeout(20):
            assert await echoed(net.destination, net.client, sent) == sent
    assert running.counts[Direction.B_TO_A, "Drop"] > 0


async def echoed(server_side: Namespace, client_side: Namespace, data: bytes) -> bytes:
    """Send data over TCP from one namespace to another, and get it back."""
    loop = asyncio.get_running_loop()
    with (
        server_side.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        client_side.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind((DESTINATION_GUEST, 7))
        listener.listen()
        await loop.sock_connect(client, (DESTINATION_GUEST, 7))
        server, (address, _) = await loop.sock_accept(listener)
        assert address == CLIENT_ADDRESS
        received = bytearray()
        with server:
            async with asyncio.TaskGroup() as group:
                group.create_task(echo(server))
                group.create_task(loop.sock_sendall(client, data))
                while len(received) < len(data):
                    received += await loop.sock_recv(client, 65536)
                client.shutdown(socket.SHUT_WR)
        return bytes(received)


async def echo(server: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(server, 65536):
        await loop.sock_sendall(server, piece)


async def test_a_dropped_direction_is_dropped_alone():
    def rule(direction, _frame):
        return Drop() if direction is Direction.A_TO_B else Pass()

    async with Topology.create(interposable=True) as net:
        async with interposed(*(tap.fd for tap in net.uplink_taps), rule) as running:
            with net.switch.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind(("destination", 0))
                sender.send(numbered(1))
            await true_within(lambda: drained(net.destination_guest.fd))
            os.write(net.destination_guest.fd, bytes(10) + numbered(2))
            await true_within(lambda: running.counts[Direction.A_TO_B, "Drop"] == 1)
            assert drained(net.source_guest.fd) == []
