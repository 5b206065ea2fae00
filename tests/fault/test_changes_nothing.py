"""A fault that changed nothing did not strike: each action, where it would and where it would not.

Of a latency, a bandwidth or slices the engine knows whether they are another rate or time than
before, not whether anybody notices; `testbed prove` finds that out.
"""

from collections.abc import Iterable

import pytest
from fault_helpers import DESTINATION, SOURCE, main, passed, strikes
from wire_helpers import head, postcopy, precopy, ram_part, ram_start

from testbed.fault.command import Command, StopListening
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    AfterFault,
    Bandwidth,
    Blackhole,
    Close,
    CommandPlace,
    ConnectionPlace,
    DelayAccept,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    HalfClose,
    Insert,
    Latency,
    MessagePlace,
    PagePlace,
    Place,
    Point,
    Refuse,
    Replay,
    Reset,
    Restore,
    SectionPlace,
    SetField,
    Signal,
    Slice,
    StalePage,
    Stall,
    StatePlace,
    Swap,
    Tarpit,
    Truncate,
)
from testbed.wire import ChannelKind, build_message
from testbed.wire.element import MessageType, RamFlag, RamPage, SectionType

STREAM = precopy()
PAGE = RamPage("pc.ram", 0x400, RamFlag.PAGE, b"a" * 0x400)
TWICE = head() + ram_start() + ram_part(PAGE) + ram_part(PAGE) + ram_part(kind=SectionType.END)
HEADER = ElementPlace("file-header", "version")
TIMER = SectionPlace("timer")
EMPTY = CommandPlace("OPEN_RETURN_PATH", field="payload")
PAGES_OF_IT = PagePlace(page=1, occurrence=2)


def played(
    faults: Iterable[Fault], stream: bytes, step: int = 1 << 20
) -> tuple[FaultEngine, list[Command], bytes]:
    """The engine, what it answered to a stream, and what went on of it."""
    engine = FaultEngine(tuple(faults))
    relay = main(engine)
    answered = [
        command
        for start in range(0, len(stream), step)
        for command in relay.received(SOURCE, stream[start : start + step])
    ]
    answered += relay.ended(SOURCE)
    return engine, answered, passed(answered)


BYTES: list[tuple[str, bytes, Place, Action, str]] = [
    ("set a number", STREAM, HEADER, SetField(3), "at the file-header: the value was 3 already"),
    (
        "set a larger one",
        STREAM,
        ElementPlace("file-header", "magic"),
        SetField(0x5145564D),
        "at the file-header: the value was 0x5145564d already",
    ),
    (
        "set bytes",
        STREAM,
        SectionPlace("timer", part="header", field="idstr"),
        SetField(b"timer"),
        "at the header of FULL timer, instance 0, section 0: those bytes were there already",
    ),
    (
        "set bits",
        STREAM,
        PagePlace(page=1, field="address"),
        SetField(0x400),
        "at the page 1 of pc.ram of PART ram, instance 0, section 2: the value was 0x400 already",
    ),
    (
        "set a byte",
        STREAM,
        SectionPlace("timer", part="payload", byte=0),
        SetField(ord("t")),
        "at the payload of FULL timer, instance 0, section 0: the value was 0x74 already",
    ),
    ("flip", STREAM, HEADER, FlipBits(b"\0\0\0\0"), "at the file-header: it flips no bit"),
    ("insert", STREAM, TIMER, Insert(b""), "there was nothing to put in"),
    (
        "delete",
        STREAM,
        EMPTY,
        Delete(),
        "at the command OPEN_RETURN_PATH (1): there was nothing to take out",
    ),
    ("replay", STREAM, TIMER, Replay(EMPTY), "there was nothing to put in"),
    (
        "swap sections",
        TWICE,
        SectionPlace("ram", "part"),
        Swap(),
        "at the header of PART ram, instance 0, section 2: the next one is the same",
    ),
    (
        "swap pages",
        TWICE,
        PagePlace(page=1),
        Swap(),
        "the next one is the same",
    ),
    (
        "stale page",
        TWICE,
        PAGES_OF_IT,
        StalePage(),
        "its data is the same as the time before",
    ),
]


@pytest.mark.parametrize("step", [1, 300, 1 << 20])
@pytest.mark.parametrize(
    ("stream", "place", "action", "why"), [row[1:] for row in BYTES], ids=[row[0] for row in BYTES]
)
def test_bytes_that_are_as_they_were(
    stream: bytes, place: Place, action: Action, why: str, step: int
) -> None:
    follows = Fault(SectionPlace("*", "end"), Reset(), "follows", conditions=(AfterFault("it"),))
    engine, answered, went_on = played([Fault(place, action, "it"), follows], stream, step)
    assert went_on == stream
    assert strikes(answered) == []
    said, *_ = engine.unfired()
    assert said.startswith("fault 1 (it) never fired: at the ")
    assert said.endswith(why)


def test_of_several_strikes_those_count_that_changed_something() -> None:
    each = Fault(CommandPlace("PING", field="value"), SetField(1), "it", times=None)
    engine, answered, _ = played([each], STREAM)
    assert engine.unfired() == [
        "fault 1 (it) never fired: at the command PING (1): the value was 1 already"
    ]
    assert strikes(answered) == []
    page = Fault(PagePlace(nth=1, field="data", byte=0), SetField(ord("a")), "it", times=None)
    other = RamPage("pc.ram", 0x800, RamFlag.PAGE, b"b" * 0x400)
    engine, answered, _ = played([page], head() + ram_start() + ram_part(PAGE) + ram_part(other))
    assert engine.unfired() == []
    assert [told.facts["strike"] for told in strikes(answered)] == [1]


# Where the stream is over anyway


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("action", [Truncate(), HalfClose(DESTINATION)], ids=["truncate", "half"])
@pytest.mark.parametrize(
    ("stream", "place", "strikes_there"),
    [
        (STREAM, ElementPlace("vmdesc"), False),
        (STREAM, ElementPlace("eof"), True),  # the vmdesc follows
        (STREAM, ElementPlace("vmdesc", byte=-2), True),
        (postcopy(), ElementPlace("eof"), False),
    ],
    ids=["vmdesc", "eof", "in the vmdesc", "eof of postcopy"],
)
def test_a_cut_at_the_end_cuts_nothing(
    stream: bytes, place: Place, strikes_there: bool, action: Action, step: int
) -> None:
    cut = Fault(place, action, "cut", point=Point.AFTER)
    engine, answered, went_on = played([cut], stream, step)
    assert bool(strikes(answered)) is strikes_there
    assert (went_on == stream) is not strikes_there
    assert [text.rpartition(": ")[2] for text in engine.unfired()] == (
        [] if strikes_there else ["nothing came after it"]
    )


@pytest.mark.parametrize(
    ("message", "strikes_there"), [("PONG", True), ("SHUT", False)], ids=["a PONG", "SHUT"]
)
def test_nothing_comes_back_after_shut(message: str, strikes_there: bool) -> None:
    cut = Fault(MessagePlace(message), Truncate(), "cut", point=Point.AFTER)
    engine = FaultEngine((cut,))
    relay = main(engine)
    relay.received(SOURCE, STREAM)
    pong, shut = build_message(MessageType.PONG, b"\0\0\0\1"), build_message(1, bytes(4))
    answered = relay.received(DESTINATION, pong + shut) + relay.ended(DESTINATION)
    assert bool(strikes(answered)) is strikes_there
    assert (engine.unfired() == []) is strikes_there


# Connections, rate and time

READY = StatePlace(SOURCE, status="active")
AGAIN = StatePlace(SOURCE, status="completed")
SLOW, SLOWER = Latency(0.5, toward=DESTINATION), Latency(0.6, toward=DESTINATION)
OVER = "nothing passed toward the destination any more"

CONNECTIONS: list[tuple[Action, Action, str | None]] = [
    (Close(), Close(), "the source's side was closed already"),
    (Close(SOURCE), Close(), None),
    (Close(), Reset(), None),  # what still comes was swallowed, and is answered by RST
    (Reset(), Close(), "the source's side was reset already"),
    (Reset(DESTINATION), Reset(DESTINATION), "the destination's side was reset already"),
    (Reset(), Stall(1.0, DESTINATION), OVER),
    (Reset(), SLOW, OVER),
    (Reset(), HalfClose(DESTINATION), OVER),
    (HalfClose(DESTINATION), HalfClose(DESTINATION), OVER),
    (HalfClose(DESTINATION), HalfClose(SOURCE), None),
    (Truncate(), HalfClose(DESTINATION), OVER),
    (HalfClose(DESTINATION), Truncate(), OVER),
    (HalfClose(DESTINATION), Stall(1.0, DESTINATION), OVER),
    (HalfClose(DESTINATION), Stall(1.0), None),
    (HalfClose(DESTINATION), Blackhole(DESTINATION, swallow=True), OVER),
    (HalfClose(DESTINATION), Blackhole(DESTINATION), None),  # the sender is not read any more
    (Blackhole(), Blackhole(), "nothing passed toward the source any more"),
    (Blackhole(swallow=True), Blackhole(), None),
    (Blackhole(DESTINATION), Blackhole(), None),
    (Blackhole(DESTINATION), Bandwidth(1000, DESTINATION), OVER),
    (Blackhole(), Reset(), None),
    (Stall(1.0), Stall(1.0), None),
    (SLOW, SLOW, "rate and time toward the destination are so already"),
    (SLOW, SLOWER, None),
    (SLOW, Latency(0.5), None),  # toward the source it is new
    (Bandwidth(1000), Bandwidth(1000, SOURCE), "rate and time toward the source are so already"),
    (Slice(10), Slice(10), "rate and time toward the source are so already"),
    (Slice(10), Slice(9), None),
    (SLOW, Restore(), None),
    (SLOW, Restore(SOURCE), "rate and time toward the source are not changed"),
    (Stall(1.0), Restore(), "rate and time toward the source are not changed"),
]


@pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
@pytest.mark.parametrize(("first", "second", "why"), CONNECTIONS, ids=lambda v: repr(v)[:40])
def test_a_connection_that_is_as_it_was(
    first: Action, second: Action, why: str | None, everywhere: bool
) -> None:
    faults = (
        Fault(READY, first, "first"),
        Fault(AGAIN, second, "second", everywhere=everywhere),
    )
    engine = FaultEngine(faults)
    relay = main(engine)
    relay.received(SOURCE, STREAM[:100])
    assert strikes(answer(engine, "active"))
    assert bool(strikes(answer(engine, "completed"))) == (why is None)
    said = (
        [] if why is None else [f"fault 2 (second) never fired: source reported completed: {why}"]
    )
    assert engine.unfired() == said


def answer(engine: FaultEngine, status: str) -> list[Command]:
    answers = engine.observed(SOURCE, "MIGRATION", status)
    return [command for _, commands in answers for command in commands]


def test_what_changes_one_of_all_connections_is_a_strike() -> None:
    faults = (Fault(READY, Reset(), "one"), Fault(AGAIN, Reset(), "all", everywhere=True))
    engine = FaultEngine(faults)
    main(engine), engine.connection(2, ChannelKind.MULTIFD)
    assert strikes(answer(engine, "active"))
    assert strikes(answer(engine, "completed"))
    assert engine.unfired() == []


def test_a_side_that_has_ended_by_itself_sends_nothing_more() -> None:
    engine = FaultEngine((Fault(READY, Stall(1.0, DESTINATION), "it"),))
    main(engine).ended(SOURCE)
    assert strikes(answer(engine, "active")) == []
    assert engine.unfired() == [f"fault 1 (it) never fired: source reported active: {OVER}"]


def test_what_it_sent_may_still_be_on_its_way() -> None:
    engine = FaultEngine((Fault(READY, SLOW, "slow"), Fault(AGAIN, Stall(1.0, DESTINATION), "it")))
    relay = main(engine)
    answer(engine, "active")
    relay.ended(SOURCE)
    assert strikes(answer(engine, "completed"))


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_in_the_stream_too(step: int) -> None:
    faults = (
        Fault(TIMER, Restore(), "nothing"),
        Fault(TIMER, SLOW, "slow", point=Point.AFTER),
        Fault(SectionPlace("*virtio-net"), SLOW, "again"),
        Fault(ElementPlace("eof"), Restore(), "back"),
        Fault(ElementPlace("vmdesc"), HalfClose(SOURCE), "half"),
        Fault(ElementPlace("vmdesc"), HalfClose(SOURCE), "half_again"),
    )
    engine, answered, went_on = played(faults, STREAM, step)
    assert went_on == STREAM
    assert [told.facts["fault"] for told in strikes(answered)] == ["slow", "back", "half"]
    assert [text.rpartition(": ")[2] for text in engine.unfired()] == [
        "rate and time toward the source are not changed",
        "rate and time toward the destination are so already",
        "nothing passed toward the source any more",
    ]


# As a connection comes


def test_a_connection_that_comes() -> None:
    first = ConnectionPlace(1)
    faults = (
        Fault(first, DelayAccept(0.1), "delay"),
        Fault(first, Tarpit(), "tarpit"),
        Fault(first, Restore(), "restore"),
        Fault(first, SLOW, "slow"),
        Fault(first, SLOW, "slow_again"),
        Fault(first, Reset(), "reset"),
        Fault(first, Reset(), "reset_again"),
    )
    engine = FaultEngine(faults)
    struck = [told.facts["fault"] for told in strikes(engine.came(1))]
    assert struck == ["delay", "tarpit", "slow", "reset"]
    assert engine.unfired() == [
        "fault 3 (restore) never fired: connection 1 came: "
        "rate and time toward the source are not changed",
        "fault 5 (slow_again) never fired: connection 1 came: "
        "rate and time toward the destination are so already",
        "fault 7 (reset_again) never fired: connection 1 came: the source's side was reset already",
    ]


def test_nobody_can_be_refused_twice() -> None:
    first = ConnectionPlace(1)
    for_a_time = Fault(first, Refuse(1.0), "for_a_time")
    faults = (for_a_time, Fault(first, Refuse(), "ever"), Fault(first, Refuse(), "again"))
    engine = FaultEngine(faults)
    answered = engine.awaiting(1)
    assert [each for each in answered if isinstance(each, StopListening)] == [
        StopListening(1.0),
        StopListening(None),
    ]
    assert engine.unfired() == ["fault 3 (again) never fired: nobody listened any more already"]


# Signals: who sends one knows whether it changes anything


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_that_was_not_sent_is_taken_back(times: int) -> None:
    engine = FaultEngine((Fault(READY, Signal(SOURCE, "CONT"), "it", times=times),))
    (struck,) = strikes(answer(engine, "active"))
    assert engine.unfired() == []
    engine.changed_nothing(struck, "the source's process ran already")
    assert engine.unfired() == [
        "fault 1 (it) never fired: source reported active: the source's process ran already"
    ]


def test_every_action_is_decided_here() -> None:
    decided = {type(row[3]) for row in BYTES}
    decided |= {type(action) for row in CONNECTIONS for action in row[:2]}
    decided |= {Truncate, Signal, Refuse, DelayAccept, Tarpit}
    decided |= {Duplicate}  # what is sent twice is an element or a section: it has bytes
    assert decided == set(Action.__args__)
