"""What the engine asks for beyond one direction: rates, all connections, signals, sides."""

import asyncio

import pytest
from proxy_helpers import QUIET_S, WITHIN_S, proxied
from wire_helpers import PAGES, precopy, ram_part

from testbed.fault.command import Command, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import (
    Action,
    Bandwidth,
    Blackhole,
    Fault,
    HalfClose,
    Latency,
    Reset,
    Restore,
    SectionPlace,
    Side,
    Signal,
    Slice,
    Stall,
    StatePlace,
)
from testbed.proxy import outlet as outlet_module
from testbed.proxy.connection import Connection
from testbed.proxy.proxy import HELD_BYTES_MAX
from testbed.proxy.stages import Latency as LatencyStage
from testbed.proxy.stages import LimitData, ResetPeer, Timeout
from testbed.wire import ChannelKind

SOURCE, DESTINATION = Side.SOURCE, Side.DESTINATION
STREAM = precopy()
HERE = SectionPlace("ram", kind="part")
AT = STREAM.index(ram_part(*PAGES))
MULTIFD = b"\x11\x22\x33\x44\0\0\0\1" + bytes(56)


def fault(action: Action, *, everywhere: bool = False, name: str = "it") -> Fault:
    return Fault(HERE, action, name, everywhere=everywhere)


def on_state(status: str, action: Action) -> Fault:
    return Fault(StatePlace(SOURCE, status), action, status)


BACK = b"<sent back>"


class SendsBack(FaultEngine):
    """An engine that sends the source a word for each piece that comes from it."""

    def connection(self, _number: int, _kind: ChannelKind | None) -> Passing:
        return _SendsBack()


class _SendsBack(Passing):
    def received(self, sender: Side, data: bytes) -> list[Command]:
        back = [Send(SOURCE, BACK)] if sender is SOURCE else []
        return [*back, Send(sender.other, data)]

    def goes_at_once(self, _sender: Side, _data: bytes | memoryview, /) -> bool:
        return False

    def is_passing(self, _sender: Side, /) -> bool:
        return False


async def test_latency_delays_all_that_follows_and_loses_nothing() -> None:
    async with proxied(fault(Latency(QUIET_S, toward=DESTINATION))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        source.finish()
        struck = await rig.logged("fault-struck")
        assert await destination.rest() == STREAM[AT:]
        assert rig.log.now_s() - struck.at_s >= QUIET_S
        destination.finish()
        await rig.logged("connection-ended", how="FIN", bytes_forward=len(STREAM))


async def test_bandwidth_makes_the_sender_wait_until_it_is_restored() -> None:
    restore = on_state("completed", Restore(DESTINATION))
    async with proxied(fault(Bandwidth(1, DESTINATION)), restore) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        data = STREAM[AT:] + bytes(4 << 20)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.send(data))
            await rig.logged("fault-struck")
            assert await destination.hears_nothing()
            rig.proxy.observed(SOURCE, "MIGRATION", "completed")
            assert await destination.exactly(len(data)) == data


async def test_slices_come_one_by_one() -> None:
    async with proxied(fault(Slice(8, toward=SOURCE))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("fault-struck")
        await destination.send(bytes(64))
        assert await source.exactly(64) == bytes(64)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_fault_everywhere_strikes_all_connections(reset: bool) -> None:
    action: Action = Reset() if reset else Blackhole(swallow=True)
    async with proxied(fault(action, everywhere=True)) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        multifd, its_end = await rig.pair(MULTIFD)
        await source.send(STREAM[AT:])
        await rig.logged("fault-struck")
        for peer in (source, destination, multifd, its_end):
            if reset:
                assert await peer.is_reset()
            else:
                assert await peer.hears_nothing()
        if not reset:
            multifd.finish()
            assert await its_end.hears_nothing()


async def test_a_half_close_leaves_the_other_direction() -> None:
    async with proxied(fault(HalfClose(DESTINATION))) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        assert await destination.receive() == b""
        await destination.send(b"back")
        assert await source.exactly(4) == b"back"


async def test_an_end_that_waits_for_a_stall_keeps_nothing_else_waiting() -> None:
    long_s = 2.0 * WITHIN_S
    faults = (fault(Stall(long_s, SOURCE)), fault(HalfClose(SOURCE), name="then"))
    async with proxied(*faults) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        much = STREAM[AT:] + bytes(7 << 20)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.send(much))
            assert await destination.exactly(len(much)) == much
        assert await source.hears_nothing()


async def test_an_end_comes_after_a_stall_and_what_was_stalled() -> None:
    faults = (fault(Stall(QUIET_S, SOURCE)), fault(HalfClose(SOURCE), name="then"))
    async with proxied(*faults) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        struck = await rig.logged("fault-struck", fault="then")
        assert await source.rest() == b""
        assert rig.log.now_s() - struck.at_s >= QUIET_S * 0.9
        await source.send(b"more")
        assert await destination.exactly(len(STREAM[AT:]) + 4) == STREAM[AT:] + b"more"


async def test_what_a_fault_sends_back_waits_for_who_is_full_and_nothing_else_does() -> None:
    async with proxied(engine=SendsBack()) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        back = bytes(range(256)) * (32 << 10)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(destination.send(back))  # which the source does not read
            await rig.logged("connection-identified")
            back_at = rig.proxy.connections[0].outlets[SOURCE]
            async with asyncio.timeout(WITHIN_S):
                while not back_at.keeps:  # noqa: ASYNC110 - nothing tells that a socket is full
                    await asyncio.sleep(0)
            for _ in range(8):
                await source.send(STREAM[:AT])
                assert await destination.exactly(AT) == STREAM[:AT]
            got = await source.exactly(len(back) + 9 * len(BACK))
            await sending
        for _ in range(9):
            assert BACK in got
            got = got.replace(BACK, b"", 1)
        assert got == back


async def test_what_a_fault_sends_back_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet_module, "ADDED_BYTES_MAX", 3 * len(BACK))
    async with proxied(engine=SendsBack()) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        (connection,) = rig.proxy.connections
        connection.outlets[SOURCE].stall(QUIET_S)
        sent = 0
        async with asyncio.TaskGroup() as group:

            async def send() -> None:
                nonlocal sent
                for _ in range(10):
                    await source.send(STREAM[:AT])
                    sent += 1
                    await destination.exactly(AT)

            group.create_task(send())
            assert await source.exactly(11 * len(BACK)) == 11 * BACK  # when the stall is over
        assert sent == 10


async def test_a_signal_goes_to_the_endpoint_and_into_the_log() -> None:
    sent: list[tuple[Side, str]] = []
    options = {"on_signal": lambda side, signal: sent.append((side, signal))}
    async with proxied(fault(Signal(DESTINATION, "STOP")), **options) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("signal-sent", side="destination", signal="STOP")
        await rig.logged("fault-struck", fault="it", connection=1)
        assert sent == [(DESTINATION, "STOP")]
        assert await destination.exactly(len(STREAM) - AT) == STREAM[AT:]


async def test_a_signal_without_endpoints_is_told() -> None:
    async with proxied(fault(Signal(SOURCE, "KILL"))) as rig:
        source, _ = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("signal-unsent", side="source", signal="KILL")
        assert rig.log.first("fault-struck") is None
        assert rig.proxy.engine.unfired() == [
            "fault 1 (it) never fired: at the header of PART ram, instance 0, section 2: "
            "the endpoints' processes are not ours"
        ]


async def test_a_signal_that_changes_nothing_is_no_strike() -> None:
    options = {"on_signal": lambda side, _: f"the {side}'s process ran already"}
    async with proxied(fault(Signal(SOURCE, "CONT")), **options) as rig:
        source, _ = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        why = "the source's process ran already"
        await rig.logged("signal-unsent", side="source", signal="CONT", why=why)
        assert rig.log.first("fault-struck") is None
        assert rig.proxy.engine.unfired() == [
            f"fault 1 (it) never fired: at the header of PART ram, instance 0, section 2: {why}"
        ]


# Stages that somebody else sets, before a byte or while it runs.


async def test_a_line_may_be_set_before_a_byte_passes() -> None:
    def limited(connection: Connection) -> None:
        connection.set_stages(DESTINATION, [LimitData(10)])

    async with proxied(on_connection=limited) as rig:
        source = await rig.source()
        await source.send(STREAM)
        destination = await rig.destination()
        assert await destination.rest() == STREAM[:10]
        ended = await rig.logged("connection-ended")
        assert (ended.facts["ended_by"], ended.facts["how"]) == ("proxy", "FIN")
        assert ended.facts["bytes_forward"] == 10


async def test_a_line_may_reset_a_live_connection() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        (connection,) = rig.proxy.connections
        connection.set_stages(DESTINATION, [ResetPeer(0, awaits_bytes=False)])
        assert await source.is_reset()
        assert await destination.is_reset()
        assert (await rig.logged("connection-ended")).facts["how"] == "RST"


async def test_a_line_may_close_an_idle_connection_in_time() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        (connection,) = rig.proxy.connections
        connection.set_stages(SOURCE, [Timeout(0.05)])
        assert await source.receive() == b""
        assert await destination.receive() == b""


async def test_what_a_line_holds_is_bounded_and_the_sender_waits() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        (connection,) = rig.proxy.connections
        connection.set_stages(DESTINATION, [LatencyStage(3600)])
        data = bytes(2 * HELD_BYTES_MAX)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(source.send(data))
            assert await destination.hears_nothing()
            assert not sending.done()
            assert 0 < connection.lines[DESTINATION].held_bytes < HELD_BYTES_MAX
            connection.set_stages(DESTINATION, [])
            assert await destination.exactly(len(data)) == data


async def test_what_came_late_and_found_the_socket_full_goes_on_when_it_is_read() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        (connection,) = rig.proxy.connections
        connection.set_stages(DESTINATION, [LatencyStage(QUIET_S)])
        await source.send(bytes(HELD_BYTES_MAX // 4))
        source.finish()
        assert len(await destination.exactly(1)) == 1
        assert await source.hears_nothing()
        assert len(await destination.rest()) == HELD_BYTES_MAX // 4 - 1
        destination.finish()
        await rig.logged("connection-ended", how="FIN")


async def test_a_blackhole_whose_two_ends_have_gone_is_over() -> None:
    async with proxied(fault(Blackhole())) as rig:
        source, destination = await rig.pair(STREAM[:AT])
        await source.send(STREAM[AT:])
        await rig.logged("fault-struck")
        source.finish()
        assert await destination.hears_nothing()
        destination.finish()
        await rig.logged("connection-ended", bytes_forward=AT)
