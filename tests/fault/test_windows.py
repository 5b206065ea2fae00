"""Bytes that come in windows: the same goes on, and of what goes on unchanged nothing is copied."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from mmap import mmap

import pytest
from fault_helpers import DESTINATION, SOURCE, main, passed, run, through
from wire_helpers import parse, pieces, postcopy, precopy, recorded

from testbed.fault.command import Command, Observed, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import (
    BlockPlace,
    Channel,
    CommandPlace,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    OffsetPlace,
    PagePlace,
    SectionPlace,
    SetField,
    Stall,
    Swap,
    Vcpus,
)
from testbed.wire import ChannelKind, MainChannel
from testbed.wire.element import RamPage

HEADROOM = 1 << 14
FAULTS = {
    "none": (),
    "later": (Fault(SectionPlace("nosuch"), Delete(), "it"),),
    "section": (Fault(SectionPlace("cpu", part="footer"), FlipBits(b"\1"), "it"),),
    "page": (Fault(PagePlace(nth=777), Insert(b"!"), "it"),),
    "every 64th page": tuple(
        Fault(PagePlace(nth=number), SetField(0), str(number)) for number in range(64, 1024, 64)
    ),
    "share": (Fault(BlockPlace("pc.ram", share=0.5), Delete(), "it"),),
    "offset": (Fault(OffsetPlace(1_500_000), FlipBits(b"\xff"), "it"),),
    "twice": (Fault(SectionPlace("ram", "part"), Duplicate(), "it"),),
    "exchanged": (Fault(SectionPlace("*cpu*"), Swap(), "it"),),
    "in a package": (Fault(CommandPlace("PING", occurrence=3), Delete(), "it"),),
    "while stopped": (Fault(PagePlace(nth=1), Stall(1.0), "it", conditions=(Vcpus(False),)),),
}


def in_windows(relay: Passing, data: bytes, sizes: Sequence[int]) -> list[Command]:
    """All commands for data in windows of these sizes in turn; views are copied at once."""
    done: list[Command] = []
    turns, at = cycle(sizes), 0
    buffers = cycle([mmap(-1, HEADROOM + max(sizes)) for _ in range(2)])
    while at < len(data):
        window = data[at : at + next(turns)]
        buffer = next(buffers)
        buffer[HEADROOM:] = window.ljust(len(buffer) - HEADROOM, b"\x7e")  # of earlier windows
        end = HEADROOM + len(window)
        done += copied(relay.received_window(SOURCE, buffer, HEADROOM, end))
        at += len(window)
    return done + copied(relay.ended(SOURCE))


def copied(commands: Iterable[Command]) -> list[Command]:
    return [
        Send(each.toward, bytes(each.data)) if isinstance(each, Send) else each for each in commands
    ]


@pytest.mark.parametrize("name", ["qemu7.2-precopy.c0.fwd", "qemu10.0-postcopy.c0.fwd"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("sizes", [(200_000,), (7_000, 100, 100_000, 1)], ids=str)
def test_windows_give_what_chunks_give(
    name: str, faults: tuple[Fault, ...], sizes: Sequence[int]
) -> None:
    data = recorded(name)
    whole = FaultEngine(faults)
    expected = through(whole, [data])
    engine = FaultEngine(faults)
    assert passed(in_windows(main(engine), data, sizes)) == expected
    assert engine.unfired() == whole.unfired()


@pytest.mark.parametrize("stream", [precopy(), postcopy()], ids=["precopy", "postcopy"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_windows_and_chunks_may_take_turns(stream: bytes, faults: tuple[Fault, ...]) -> None:
    expected = through(FaultEngine(faults), [stream])
    relay = main(FaultEngine(faults))
    done: list[Command] = []
    buffers = cycle([mmap(-1, HEADROOM + 4096) for _ in range(2)])
    for number, piece in enumerate(pieces(stream, 5)):
        if number % 3:
            buffer = next(buffers)
            buffer[HEADROOM : HEADROOM + len(piece)] = piece
            done += copied(relay.received_window(SOURCE, buffer, HEADROOM, HEADROOM + len(piece)))
        else:
            done += copied(relay.received(SOURCE, piece))
    assert passed(done + relay.ended(SOURCE)) == expected


@pytest.mark.parametrize("faults", [FAULTS["none"], FAULTS["later"], FAULTS["page"]])
def test_what_passes_unchanged_is_not_copied(faults: tuple[Fault, ...]) -> None:
    data = recorded("qemu7.2-precopy.c0.fwd")
    relay = main(FaultEngine(faults))
    size = 1 << 20
    buffers = cycle([mmap(-1, HEADROOM + size) for _ in range(2)])
    copies = views = 0
    for at in range(0, 4 << 20, size):
        buffer = next(buffers)
        buffer[HEADROOM:] = data[at : at + size]
        for command in relay.received_window(SOURCE, buffer, HEADROOM, HEADROOM + size):
            if isinstance(command, Send) and isinstance(command.data, memoryview):
                assert command.data.obj is buffer
                views += len(command.data)
            elif isinstance(command, Send):
                copies += len(command.data)
    assert views > 4 * size * 0.8
    assert copies < 4 * size * 0.2
    relay.ended(SOURCE)


def test_what_a_window_had_left_goes_on_with_the_next_one_as_one_piece() -> None:
    data = recorded("qemu7.2-precopy.c0.fwd")[: 4 << 20]  # up to there nothing is held
    expected = through(FaultEngine(FAULTS["later"]), [data])
    relay = main(FaultEngine(FAULTS["later"]))
    size = 100_001
    sent = [each for each in in_windows(relay, data, (size,)) if isinstance(each, Send)]
    assert b"".join(each.data for each in sent) == expected
    assert len(sent) < 1.2 * len(data) / size  # where something is told, there are two


@pytest.mark.parametrize("number", [1, 100_000])
def test_the_pages_of_a_multifd_channel_are_not_copied(number: int) -> None:
    data = recorded("qemu7.2-multifd.c1.fwd")
    place = ElementPlace("multifd-packet", channel=Channel.MULTIFD, occurrence=number)
    for faults in ((), (Fault(place, Insert(b"!"), "it"),)):
        expected = passed(run(FaultEngine(faults).connection(1, ChannelKind.MULTIFD), [data]))
        relay = FaultEngine(faults).connection(1, ChannelKind.MULTIFD)
        assert passed(in_windows(relay, data, (200_000, 70))) == expected
        assert len(expected) == len(data) + (number == 1 and len(faults))


def test_with_nothing_to_watch_for_nothing_is_parsed() -> None:
    data = recorded("qemu7.2-precopy.c0.fwd")
    engine = FaultEngine((Fault(SectionPlace("timer"), Insert(b"!"), "it"),), watched=False)
    relay = main(engine)
    assert not relay.is_passing(SOURCE)
    assert relay.is_passing(DESTINATION)
    at = data.index(b"\x05timer")
    commands = relay.received(SOURCE, data)
    assert not any(isinstance(each, Observed) and each.kind == "section" for each in commands)
    assert passed(commands) == data[: at - 5] + b"!" + data[at - 5 :]
    assert relay.is_passing(SOURCE)
    assert relay.received(SOURCE, b"not even a stream") == [Send(DESTINATION, b"not even a stream")]
    assert engine.unfired() == []


def test_what_a_recovery_needs_is_parsed() -> None:
    place = PagePlace(nth=1, phase="postcopy")
    engine = FaultEngine((Fault(place, Delete(), "it", connection=2),), watched=False)
    assert not main(engine).is_passing(SOURCE)
    assert not engine.connection(2, ChannelKind.RECOVERY).is_passing(SOURCE)
    assert engine.connection(3, ChannelKind.MULTIFD).is_passing(SOURCE)


@pytest.mark.parametrize("name", ["qemu7.2-precopy.c0.fwd", "qemu10.0-postcopy.c0.fwd"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_what_goes_at_once_is_what_the_engine_sends(name: str, faults: tuple[Fault, ...]) -> None:
    """Each element comes by itself, so that a page can be told to go on before it is read."""
    relay = main(FaultEngine(faults))
    for element in parse(MainChannel(), [recorded(name)]):
        at_once = relay.goes_at_once(SOURCE, element.raw)
        commands = relay.received(SOURCE, element.raw)
        if at_once:
            assert passed(commands) == element.raw
            assert all(isinstance(each, Send | Observed) for each in commands)


def test_a_page_goes_at_once_while_a_later_section_is_waited_for() -> None:
    data = recorded("qemu10.0-postcopy.c0.fwd")
    relay = main(FaultEngine(FAULTS["later"]))
    told = []
    for element in parse(MainChannel(), [data]):
        told.append((type(element.value), relay.goes_at_once(SOURCE, element.raw)))
        relay.received(SOURCE, element.raw)
    at_once = {kind for kind, goes in told if goes}
    assert at_once == {RamPage}
