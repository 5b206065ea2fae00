"""The proxy with real sockets on loopback: what its peers see."""

import asyncio
import socket

import pytest
from proxy_helpers import LOOPBACK, QUIET_S, free_port, proxied
from wire_helpers import PAGES, precopy, ram_part

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    Blackhole,
    Close,
    CommandPlace,
    Fault,
    MessagePlace,
    Place,
    Reset,
    SectionPlace,
    SetField,
    Side,
    Stall,
    StatePlace,
    Truncate,
)
from testbed.log import Log
from testbed.proxy import Proxy, proxy
from testbed.proxy.address import TcpAddress
from testbed.wire import build_message
from testbed.wire.element import MessageType

SOURCE, DESTINATION, BOTH = Side.SOURCE, Side.DESTINATION, Side.BOTH
STREAM = precopy()
HERE = SectionPlace("ram", kind="part")
AT = STREAM.index(ram_part(*PAGES))
HEADER_BYTES = 5
PONG = build_message(MessageType.PONG, b"\0\0\0\1")
SHUT = build_message(MessageType.SHUT, bytes(4))
LONG = 32 << 20
"""More than the buffers of two loopback connections hold."""


def fault(place: Place, action: Action) -> Fault:
    return Fault(place, action, "it")


async def test_bytes_pass_both_ways_and_a_half_close_is_kept() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        await destination.send(PONG)
        assert await source.exactly(len(PONG)) == PONG
        await source.send(STREAM[4:])
        source.finish()
        assert await destination.rest() == STREAM[4:]
        await destination.send(SHUT)
        assert await source.exactly(len(SHUT)) == SHUT
        destination.finish()
        assert await source.receive() == b""
        ended = await rig.logged("connection-ended")
        assert ended.facts == {
            "connection": 1,
            "ended_by": "source",
            "how": "FIN",
            "bytes_forward": len(STREAM),
            "bytes_back": len(PONG) + len(SHUT),
        }


async def test_the_destination_may_half_close_first() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        destination.finish()
        assert await source.receive() == b""
        await source.send(STREAM[4:])
        source.finish()
        assert await destination.rest() == STREAM[4:]
        assert (await rig.logged("connection-ended")).facts["ended_by"] == "destination"


@pytest.mark.parametrize("by", [SOURCE, DESTINATION])
async def test_a_reset_of_one_side_reaches_the_other(by: Side) -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:50])
        one, other = (source, destination) if by is SOURCE else (destination, source)
        one.reset()
        assert await other.is_reset()
        facts = (await rig.logged("connection-ended")).facts
        assert (facts["ended_by"], facts["how"]) == (by, "RST")


async def test_megabytes_pass_unchanged() -> None:
    data = b"what" + bytes(range(256)) * 4096
    async with proxied() as rig:
        source = await rig.source()

        async def send() -> None:
            await source.send(data)
            source.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            destination = await rig.destination()
            assert await destination.rest() == data


# Faults, as the peers see them.


async def test_what_was_sent_before_a_reset_goes_on_even_if_a_write_meets_it_first() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        # Nothing is waited for in between, so the proxy sees all of it at once, the write first.
        source.socket.send(STREAM[4:8])
        destination.socket.send(b"last word")
        destination.reset()
        assert await source.exactly(9) == b"last word"
        assert await source.is_reset()


@pytest.mark.parametrize("side", Side)
async def test_a_reset_is_seen_as_reset(side: Side) -> None:
    async with proxied(fault(HERE, Reset(side))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT : AT + HEADER_BYTES])
        await rig.logged("fault-struck", fault="it", offset=AT)
        if side is not DESTINATION:
            assert await source.is_reset()
        if side is not SOURCE:
            assert await destination.is_reset()
        facts = (await rig.logged("fault-struck")).facts
        assert facts["action"] == "reset"


@pytest.mark.parametrize("side", Side)
async def test_a_close_is_seen_as_the_end(side: Side) -> None:
    async with proxied(fault(HERE, Close(side))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("fault-struck", fault="it")
        if side is not DESTINATION:
            assert await source.receive() == b""
        if side is not SOURCE:
            assert await destination.receive() == b""
        source.finish()
        destination.finish()
        facts = (await rig.logged("connection-ended")).facts
        assert (facts["ended_by"], facts["how"]) == ("fault", "FIN")


async def test_after_a_close_toward_the_destination_the_source_is_swallowed() -> None:
    async with proxied(fault(HERE, Close(DESTINATION))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:] + bytes(LONG))
        assert await destination.receive() == b""


async def test_truncate_ends_the_stream_and_the_return_path_goes_on() -> None:
    async with proxied(fault(HERE, Truncate())) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        assert await destination.receive() == b""
        await destination.send(SHUT)
        assert await source.exactly(len(SHUT)) == SHUT
        await source.send(bytes(LONG))


async def test_a_blackhole_that_reads_nothing_makes_the_sender_wait() -> None:
    async with proxied(fault(HERE, Blackhole(DESTINATION))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await asyncio.get_running_loop().sock_sendall(
                    source.socket, STREAM[AT:] + bytes(LONG)
                )
        assert await destination.hears_nothing()
        await destination.send(PONG)
        assert await source.exactly(len(PONG)) == PONG


async def test_a_blackhole_that_swallows_lets_the_sender_go_on() -> None:
    async with proxied(fault(HERE, Blackhole(DESTINATION, swallow=True))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:] + bytes(LONG))
        assert await destination.hears_nothing()


async def test_a_blackhole_hides_the_end_of_the_sender() -> None:
    async with proxied(fault(HERE, Blackhole(swallow=True))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("fault-struck")
        source.reset()
        assert await destination.hears_nothing()


async def test_a_stall_delays_and_loses_nothing() -> None:
    async with proxied(fault(HERE, Stall(QUIET_S, DESTINATION))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        loop = asyncio.get_running_loop()
        began = loop.time()
        await source.send(STREAM[AT:])
        source.finish()
        assert await destination.rest() == STREAM[AT:]
        assert loop.time() - began >= QUIET_S


async def test_bytes_are_changed_on_their_way() -> None:
    place = SectionPlace("timer", part="footer", field="section_id")
    async with proxied(fault(place, SetField(99))) as rig:
        source, destination = await rig.pair(STREAM[:4])
        await source.send(STREAM[4:])
        source.finish()
        out = await destination.rest()
        assert out == STREAM[4:].replace(b"state\x7e\0\0\0\0", b"state\x7e\0\0\0\x63")


async def test_the_return_path_is_struck_as_well() -> None:
    faults = fault(MessagePlace("SHUT", field="payload"), SetField(1))
    async with proxied(faults) as rig:
        source, destination = await rig.pair(STREAM[:4])
        await destination.send(PONG + SHUT)
        assert await source.exactly(16) == PONG + SHUT[:-1] + b"\1"


async def test_silence_lets_go_of_what_waits_for_more() -> None:
    async with proxied(fault(CommandPlace("PING", occurrence=9), Reset())) as rig:
        _, destination = await rig.pair(STREAM[: AT + HEADER_BYTES - 1])
        assert await destination.hears_nothing()


@pytest.mark.parametrize(
    ("side", "event", "status"),
    [(SOURCE, "MIGRATION", "postcopy-active"), (DESTINATION, "RESUME", None)],
)
async def test_a_state_strikes_an_idle_connection(
    side: Side, event: str, status: str | None
) -> None:
    place = StatePlace(side, status, None if status else event)
    async with proxied(fault(place, Reset())) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        rig.proxy.observed(side, event, status)
        assert await source.is_reset()
        assert await destination.is_reset()
        facts = (await rig.logged("connection-ended")).facts
        assert (facts["ended_by"], facts["how"]) == ("fault", "RST")
        assert rig.engine.unfired() == []


async def test_a_state_strikes_a_connection_that_is_blocked() -> None:
    place = StatePlace(SOURCE, "failed")
    async with proxied(fault(place, Reset())) as rig:
        source, destination = await rig.pair(STREAM[:4])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await asyncio.get_running_loop().sock_sendall(source.socket, bytes(LONG))
        rig.proxy.observed(SOURCE, "MIGRATION", "failed")
        assert await source.is_reset()
        with pytest.raises(ConnectionResetError):
            await destination.rest()


# Which connections go onward, and when.


async def test_the_first_connection_goes_onward_with_four_bytes_in_one_write() -> None:
    async with proxied() as rig:
        source = await rig.source()
        await source.send(b"QEV")
        await rig.logged("connection-opened")
        assert rig.nothing_arrived()
        await source.send(b"M")
        destination = await rig.destination()
        assert await destination.receive() == b"QEVM"


async def test_a_connection_that_never_speaks_is_not_seen_by_the_destination() -> None:
    async with proxied() as rig:
        source = await rig.source()
        source.finish()
        assert await source.receive() == b""
        assert rig.nothing_arrived()


async def test_a_stream_of_three_bytes_goes_onward_when_it_ends() -> None:
    async with proxied() as rig:
        source = await rig.source()
        await source.send(b"QEV")
        source.finish()
        assert await (await rig.destination()).rest() == b"QEV"


async def test_a_later_connection_goes_onward_before_it_speaks() -> None:
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        second = await rig.source()
        destination = await rig.destination()
        await second.send(b"\x11\x22\x33\x44")
        assert await destination.exactly(4) == b"\x11\x22\x33\x44"


async def test_a_later_connection_that_has_not_spoken_ends_with_its_destination() -> None:
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        second = await rig.source()
        (await rig.destination()).reset()
        assert await second.is_reset()


@pytest.mark.parametrize(
    ("first", "channel"),
    [
        (b"QEVM\0\0\0\3", "main"),
        (b"\x11\x22\x33\x44\0\0\0\1", "multifd"),
        (b"\x16\x03\x01\x02", "tls"),
        (b"\0\0\0\0\0\0\x10\x08", "unknown"),
        (b"what", "unknown"),
    ],
)
async def test_a_connection_is_told_by_its_first_bytes(first: bytes, channel: str) -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(first)
        identified = await rig.logged("connection-identified")
        assert identified.facts == {"connection": 1, "channel": channel}
        await source.send(b"more")
        assert await destination.exactly(4) == b"more"


async def test_a_refused_connection_onward_resets_the_source_and_is_told() -> None:
    async with proxied() as rig:
        port = free_port()
        rig.proxy.upstream = TcpAddress(LOOPBACK, port)
        source = await rig.source()
        await source.send(b"QEVM")
        assert await source.is_reset()
        refused = await rig.logged("upstream-refused")
        assert refused.facts == {
            "connection": 1,
            "address": f"{LOOPBACK}:{port}",
            "error": "ECONNREFUSED Connection refused",
        }


async def test_the_next_attempt_resets_what_is_left_and_waits_for_bytes_again() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        silent = await rig.source()
        waiting = await rig.destination()
        rig.proxy.next_attempt()
        for peer in (source, destination, silent, waiting):
            assert await peer.is_reset()
        second = await rig.source()
        opened = await rig.logged("connection-opened", connection=3)
        assert opened.facts["attempt"] == 2
        assert rig.nothing_arrived()
        await second.send(STREAM[:4])
        assert await (await rig.destination()).exactly(4) == STREAM[:4]


async def test_leaving_the_block_resets_what_is_open() -> None:
    async with proxied() as rig:
        async with Proxy.start(
            namespace=socket,
            listen=TcpAddress(LOOPBACK, port := free_port()),
            upstream=rig.proxy.upstream,
            engine=FaultEngine(),
            log=rig.log,
        ):
            source = await rig.source((LOOPBACK, port))
            await source.send(STREAM[:4])
            destination = await rig.destination()
            await destination.exactly(4)
            silent = await rig.source((LOOPBACK, port))
            waiting = await rig.destination()
        for peer in (source, destination, silent, waiting):
            assert await peer.is_reset()


async def test_an_address_in_use_is_an_oserror() -> None:
    async with proxied() as rig:
        with pytest.raises(OSError, match="in use"):
            async with Proxy.start(
                namespace=socket,
                listen=TcpAddress(*rig.listen),
                upstream=rig.proxy.upstream,
                engine=FaultEngine(),
                log=Log(),
            ):
                pass


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_MAX", 1)
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        with pytest.raises(ConnectionResetError):
            await (await rig.source()).receive()
        assert (await rig.logged("connections-surplus")).facts == {
            "open": 1,
            "reset": 1,
            "evicted": 0,
        }
        await source.send(b"on")
        assert await destination.exactly(2) == b"on"
