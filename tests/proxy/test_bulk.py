"""Gigabytes would take the same ways: into windows, through pipes, by sockets that are full."""

import asyncio
import os
import random
from mmap import mmap

import pytest
from proxy_helpers import Peer, Rig, proxied
from wire_helpers import PAGES, precopy, ram_part

from testbed.fault.command import Command
from testbed.fault.engine import FaultEngine
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import Fault, FlipBits, OffsetPlace, Reset, SectionPlace, Side
from testbed.proxy import pipes, pump, windows
from testbed.wire import ChannelKind

HEAD = precopy()[: precopy().index(ram_part(*PAGES))]
DATA = HEAD + random.Random(1).randbytes(1 << 20) * 12
"""More than the buffers of the sockets hold; no stream from somewhere on, which is no matter."""
LATER = Fault(SectionPlace("nowhere", kind="full"), Reset(), "later")


class Seen(Passing):
    """Nothing parses, but somebody looks: bytes come into windows."""

    def is_passing(self, _sender: Side, /) -> bool:
        return False


class Plain(FaultEngine):
    """An engine that gives all connections the same relay."""

    def __init__(self, relay: type[Passing]) -> None:
        super().__init__()
        self._relay = relay

    def connection(self, number: int, kind: ChannelKind | None) -> Passing:  # noqa: ARG002
        return self._relay()


ENGINES = {
    "spliced": lambda: Plain(Passing),
    "in windows": lambda: Plain(Seen),
    "watched": FaultEngine,
    "armed": lambda: FaultEngine((LATER,)),
}


async def carry(sender: Peer, receiver: Peer, data: bytes) -> bytes:
    """Send all of it and FIN; what came at the other end."""

    async def send() -> None:
        await sender.send(data)
        sender.finish()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        rest = group.create_task(receiver.rest())
    return rest.result()


@pytest.mark.parametrize("how", ENGINES)
async def test_much_passes_unchanged_and_is_counted(how: str) -> None:
    async with proxied(engine=ENGINES[how]()) as rig:
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]
        (connection,) = rig.proxy.connections
        assert connection.received_bytes == {Side.SOURCE: len(DATA), Side.DESTINATION: 0}
        assert connection.sent_bytes == {Side.SOURCE: 0, Side.DESTINATION: len(DATA)}
        assert await carry(destination, source, DATA) == DATA
        ended = await rig.logged("connection-ended")
        assert ended.facts["bytes_forward"] == ended.facts["bytes_back"] == len(DATA)


@pytest.mark.parametrize("relay", [Passing, Seen])
async def test_without_a_window_or_pipe_to_spare_it_passes_all_the_same(
    relay: type[Passing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "PAIRS_MAX", 0)
    monkeypatch.setattr(pump.PipePool, "take", lambda _: None)
    async with proxied(engine=Plain(relay)) as rig:
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]


async def test_less_is_read_at_once_where_it_takes_long_to_understand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a peer that makes its elements small would have others wait for seconds."""
    sizes: list[int] = []

    class Slow(Seen):
        def received_window(self, sender: Side, data: mmap, start: int, end: int) -> list[Command]:
            sizes.append(end - start)
            return super().received_window(sender, data, start, end)

    monkeypatch.setattr(pump, "TURN_S", 0.0)
    async with proxied(engine=Plain(Slow)) as rig:
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]
    assert sizes[0] <= pump.FIRST_BYTES
    assert len(sizes) > 1
    assert max(sizes[1:]) <= pump.LEAST_BYTES


async def test_windows_are_few_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, windows.Window)
    async with proxied(engine=Plain(Seen)) as rig:
        await carry_three_times(rig)
    assert len(made) == 2


async def test_pipes_are_few_used_again_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, pipes.Pipe)
    before = len(os.listdir("/proc/self/fd"))
    async with proxied(engine=Plain(Passing)) as rig:
        await carry_three_times(rig)
    assert len(made) == 1
    assert len(os.listdir("/proc/self/fd")) == before


async def carry_three_times(rig: Rig) -> None:
    for number in (1, 2, 3):
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]
        destination.finish()
        assert await source.receive() == b""
        await rig.logged("connection-ended", connection=number)


def counted(monkeypatch: pytest.MonkeyPatch, made: type) -> list[object]:
    """All that are made of that class from now on."""
    instances: list[object] = []
    init = made.__init__

    def count(self: object) -> None:
        instances.append(self)
        init(self)

    monkeypatch.setattr(made, "__init__", count)
    return instances


@pytest.mark.parametrize("relay", [Passing, Seen])
async def test_a_reset_while_much_is_under_way_is_passed_on(relay: type[Passing]) -> None:
    async with proxied(engine=Plain(relay)) as rig:
        source, destination = await rig.pair(DATA[:4])

        async def send() -> None:
            with pytest.raises(ConnectionError):
                await source.send(DATA * 5)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            await destination.exactly(5 << 20)
            destination.reset()
        facts = (await rig.logged("connection-ended")).facts
        assert (facts["ended_by"], facts["how"]) == ("destination", "RST")


@pytest.mark.parametrize("relay", [Passing, Seen])
async def test_one_that_is_stuck_does_not_keep_others_waiting(relay: type[Passing]) -> None:
    async with proxied(engine=Plain(relay)) as rig:
        stuck, _ = await rig.pair(DATA[:4])
        stuck.socket.setblocking(False)
        while True:
            try:
                stuck.socket.send(DATA)
            except BlockingIOError:
                break
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]


class Told:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.bytes = {Side.SOURCE: bytearray(), Side.DESTINATION: bytearray()}

    def opened(self, number: int) -> None:
        self.events.append(("opened", number))

    def received(self, number: int, sender: Side, data: bytes | memoryview) -> None:
        assert number == 1
        self.bytes[sender] += data

    def ended(self, number: int, how: str) -> None:
        self.events.append((how, number))


async def test_a_recorder_is_told_all_that_came_before_any_fault() -> None:
    told = Told()
    at = len(HEAD) - 1
    struck = Fault(OffsetPlace(at), FlipBits(b"\xff"), "flip")
    async with proxied(struck, recorder=told) as rig:
        source, destination = await rig.pair(DATA[:4])
        received = await carry(source, destination, DATA[4:])
        assert received != DATA[4:]
        assert len(received) == len(DATA) - 4
        await carry(destination, source, b"back")
        await rig.logged("connection-ended")
    assert bytes(told.bytes[Side.SOURCE]) == DATA
    assert told.bytes[Side.DESTINATION] == b"back"
    assert told.events == [("opened", 1), ("FIN", 1)]


async def test_nothing_is_spliced_past_a_recorder() -> None:
    told = Told()
    async with proxied(engine=Plain(Passing), recorder=told) as rig:
        source, destination = await rig.pair(DATA[:4])
        assert await carry(source, destination, DATA[4:]) == DATA[4:]
    assert bytes(told.bytes[Side.SOURCE]) == DATA
