"""What is done to connections: as they come, all at once, at a state; and to processes."""

import gc

import pytest
from fault_helpers import BOTH, DESTINATION, SOURCE, acts, main, passed, run, strikes, struck
from wire_helpers import PAGES, precopy, ram_part, steps

from testbed.fault.command import (
    Command,
    End,
    Everywhere,
    GoDark,
    HoldBack,
    Send,
    Shape,
    Signalled,
    StopListening,
    Wait,
)
from testbed.fault.command import HalfClose as HalfCloseCommand
from testbed.fault.command import Tarpit as TarpitCommand
from testbed.fault.engine import RELAYS_MAX, FaultEngine
from testbed.fault.lanes.relay import Relay
from testbed.fault.plan import (
    Action,
    AfterFault,
    Bandwidth,
    Blackhole,
    Chance,
    Channel,
    CommandPlace,
    ConnectionPlace,
    DelayAccept,
    Fault,
    HalfClose,
    Latency,
    PagePlace,
    Place,
    Point,
    Refuse,
    Reset,
    Restore,
    SectionPlace,
    Signal,
    Slice,
    Stall,
    StatePlace,
    Tarpit,
    Truncate,
)
from testbed.wire import ChannelKind

STREAM = precopy()
PING = CommandPlace("PING")
AT = STREAM.index(b"\x08\0\x02\0\4")
ACTIVE = StatePlace(SOURCE, status="active")
SLOW, NARROW, CUT = Latency(0.02, 0.01), Bandwidth(1000, SOURCE), Slice(10, 5, 0.1, DESTINATION)


def fault(place: Place, action: Action, **more: object) -> Fault:
    return Fault(place, action, "it", **more)  # type: ignore[arg-type]


# At a place in the stream

COMMANDS: list[tuple[Action, list[Command]]] = [
    (HalfClose(DESTINATION), [HalfCloseCommand(DESTINATION)]),
    (HalfClose(SOURCE), [HalfCloseCommand(SOURCE)]),
    (SLOW, [Shape(SOURCE, SLOW), Shape(DESTINATION, SLOW)]),
    (NARROW, [Shape(SOURCE, NARROW)]),
    (CUT, [Shape(DESTINATION, CUT)]),
    (Signal(SOURCE, "KILL"), [Signalled(SOURCE, "KILL")]),
]


@pytest.mark.parametrize(("action", "expected"), COMMANDS, ids=lambda v: repr(v)[:30])
@pytest.mark.parametrize("step", [1, 300, 1 << 20])
def test_an_action_falls_between_two_bytes(
    action: Action, expected: list[Command], step: int
) -> None:
    engine = FaultEngine((fault(PING, action),))
    relay = main(engine)
    back = relay.received(DESTINATION, b"\0\2\0\4\0\0\0\1")
    assert passed(back, SOURCE)
    commands = acts(run(relay, steps(STREAM, step)))
    cut = expected == [HalfCloseCommand(DESTINATION)]
    rest = [] if cut else [Send(DESTINATION, STREAM[AT:]), HalfCloseCommand(DESTINATION)]
    assert commands == [Send(DESTINATION, STREAM[:AT]), *expected, *rest]
    goes_back = passed(relay.received(DESTINATION, b"\0\2\0\4\0\0\0\2"), SOURCE) != b""
    assert goes_back == (expected != [HalfCloseCommand(SOURCE)])


def test_a_shaped_direction_cannot_be_left_to_pass() -> None:
    engine = FaultEngine((fault(PING, NARROW), Fault(SectionPlace("timer"), Restore(), "back")))
    relay = FaultEngine((fault(PING, NARROW),), watched=False).connection(1, ChannelKind.MAIN)
    assert relay.is_passing(DESTINATION)
    relay.received(SOURCE, STREAM)
    assert relay.is_passing(SOURCE)
    assert not relay.is_passing(DESTINATION)
    assert acts(run(main(engine), [STREAM]))[-3:-1] == [
        Shape(DESTINATION, None),
        Send(DESTINATION, STREAM[STREAM.index(b"\x04\0\0\0\0\x05timer") :]),
    ]


@pytest.mark.parametrize(
    ("action", "inner"),
    [
        (Reset(), [End(SOURCE, reset=True), End(DESTINATION, reset=True)]),
        (Blackhole(DESTINATION), [GoDark(DESTINATION, swallow=False)]),
        (Stall(2.0, SOURCE), [Wait(SOURCE, 2.0)]),
        (NARROW, [Shape(SOURCE, NARROW)]),
        (Truncate(), [HalfCloseCommand(DESTINATION)]),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_a_network_that_fails_fails_everywhere(action: Action, inner: list[Command]) -> None:
    engine = FaultEngine((fault(PING, action, everywhere=True),))
    relay, other = main(engine), engine.connection(2, ChannelKind.MULTIFD)
    commands = acts(relay.received(SOURCE, STREAM))
    assert [each for each in commands if isinstance(each, Everywhere)] == [
        Everywhere(each)
        for each in inner  # type: ignore[arg-type]
    ]
    goes_on = not any(
        isinstance(each, End | HalfCloseCommand | GoDark) and each != Wait(SOURCE, 2.0)
        for each in inner
    )
    chunk = b"\x11\x22\x33\x44\0\0\0\1"
    assert (passed(other.received(SOURCE, chunk)) == chunk) == goes_on
    assert (passed(commands) == STREAM) == goes_on


# As a connection comes


def test_a_connection_is_refused_before_it_comes() -> None:
    engine = FaultEngine((fault(ConnectionPlace(2), Refuse(1.5)),))
    assert acts(engine.awaiting(1)) == []
    assert acts(engine.came(1)) == []
    commands = engine.awaiting(2)
    assert acts(commands) == [StopListening(1.5)]
    assert struck(commands) == ["connection 2 is awaited"]
    assert engine.awaiting(2) == []
    assert engine.unfired() == []


def test_what_is_awaited_is_refused_when_another_fault_has_struck() -> None:
    refused = fault(ConnectionPlace(2), Refuse(), conditions=(AfterFault("cut"),))
    engine = FaultEngine((refused, Fault(PING, Reset(), "cut")))
    assert engine.awaiting(2) == []
    commands = acts(main(engine).received(SOURCE, STREAM))
    assert commands[-3:] == [
        End(SOURCE, reset=True),
        End(DESTINATION, reset=True),
        StopListening(None),
    ]
    assert engine.awaiting(2) == []


def test_a_refusal_can_wait_for_a_state() -> None:
    refused = fault(ConnectionPlace(1), Refuse(), conditions=(AfterFault("killed"),))
    kill = Fault(StatePlace(DESTINATION, event="STOP"), Signal(DESTINATION, "KILL"), "killed")
    engine = FaultEngine((refused, kill))
    assert engine.awaiting(1) == []
    answers = engine.observed(DESTINATION, "STOP")
    assert [(number, acts(commands)) for number, commands in answers] == [
        (0, [Signalled(DESTINATION, "KILL")]),
        (0, [StopListening(None)]),
    ]


@pytest.mark.parametrize(
    ("action", "at_once", "opening"),
    [
        (DelayAccept(0.5), [HoldBack(0.5)], []),
        (Tarpit(), [TarpitCommand()], []),
        (Reset(SOURCE), [End(SOURCE, reset=True)], []),
        (Signal(SOURCE, "STOP"), [Signalled(SOURCE, "STOP")], []),
        (Blackhole(BOTH), [], [GoDark(SOURCE, False), GoDark(DESTINATION, False)]),
        (NARROW, [], [Shape(SOURCE, NARROW)]),
        (Stall(1.0, DESTINATION), [], [Wait(DESTINATION, 1.0)]),
        (Truncate(), [], [HalfCloseCommand(DESTINATION)]),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_a_connection_is_struck_as_it_comes(
    action: Action, at_once: list[Command], opening: list[Command]
) -> None:
    engine = FaultEngine((fault(ConnectionPlace(2), action),))
    assert acts(engine.came(1)) == []
    assert acts(main(engine).opening) == []
    commands = engine.came(2)
    assert acts(commands) == at_once
    assert struck(commands) == ["connection 2 came"]
    relay = engine.connection(2, ChannelKind.MULTIFD)
    assert acts(relay.opening) == opening
    dark = [GoDark(SOURCE, False), GoDark(DESTINATION, False)]
    is_cut = opening in (dark, [HalfCloseCommand(DESTINATION)])
    assert (passed(relay.received(SOURCE, b"\1")) == b"") == is_cut
    assert engine.came(2) == []


def test_a_connection_is_counted_anew_in_each_attempt() -> None:
    engine = FaultEngine((fault(ConnectionPlace(1), Tarpit(), attempt=None),))
    assert acts(engine.came(1)) == [TarpitCommand()]
    assert acts(engine.came(2)) == []
    engine.next_attempt()
    assert acts(engine.came(1)) == [TarpitCommand()]


def test_a_connection_that_never_came_is_told() -> None:
    engine = FaultEngine((fault(ConnectionPlace(3), Tarpit()),))
    engine.came(1)
    assert engine.unfired() == ["fault 1 (it) never fired: connection 3 never came"]


# At a state


def test_a_state_strikes_as_often_as_it_is_to() -> None:
    engine = FaultEngine((fault(ACTIVE, Signal(SOURCE, "STOP"), times=2),))
    told = [engine.observed(SOURCE, "MIGRATION", "active") for _ in range(3)]
    assert [[(n, acts(commands)) for n, commands in each] for each in told] == [
        [(0, [Signalled(SOURCE, "STOP")])],
        [(0, [Signalled(SOURCE, "STOP")])],
        [],
    ]
    commands = [each for answers in told for _, some in answers for each in some]
    assert [each.facts["strike"] for each in strikes(commands)] == [1, 2]


def test_a_state_has_conditions_too() -> None:
    engine = FaultEngine(
        (
            fault(ACTIVE, Reset(), conditions=(AfterFault("ping"),)),
            Fault(PING, Latency(0.1), "ping"),
        )
    )
    relay = main(engine)
    assert engine.observed(SOURCE, "MIGRATION", "active") == []
    relay.received(SOURCE, STREAM)
    ((number, commands),) = engine.observed(SOURCE, "MIGRATION", "active")
    assert number == 1
    assert acts(commands) == [End(SOURCE, reset=True), End(DESTINATION, reset=True)]


def test_a_state_on_all_connections_is_answered_once() -> None:
    engine = FaultEngine((fault(ACTIVE, Blackhole(), everywhere=True),))
    relay, other = main(engine), engine.connection(2, ChannelKind.PREEMPT)
    ((number, commands),) = engine.observed(SOURCE, "MIGRATION", "active")
    assert number == 1
    assert acts(commands) == [
        Everywhere(GoDark(SOURCE, swallow=False)),
        Everywhere(GoDark(DESTINATION, swallow=False)),
    ]
    for each in (relay, other):
        assert passed(each.received(SOURCE, b"\0\0\0\0")) == b""


def test_a_state_that_came_before_its_channel_strikes_it_as_it_begins() -> None:
    place = StatePlace(SOURCE, status="active", channel=Channel.PREEMPT)
    engine = FaultEngine((fault(place, Truncate()),))
    main(engine)
    assert engine.observed(SOURCE, "MIGRATION", "active") == []
    assert "there was no connection when active of the source came" in engine.unfired()[0]
    relay = engine.connection(2, ChannelKind.PREEMPT)
    assert acts(relay.opening) == [HalfCloseCommand(DESTINATION)]
    assert engine.unfired() == []


def test_the_return_path_can_be_truncated_at_a_state() -> None:
    place = StatePlace(SOURCE, status="active", channel=Channel.RETURN_PATH)
    engine = FaultEngine((fault(place, Truncate()),))
    relay = main(engine)
    ((_, commands),) = engine.observed(SOURCE, "MIGRATION", "active")
    assert acts(commands) == [HalfCloseCommand(SOURCE)]
    assert passed(relay.received(SOURCE, STREAM)) == STREAM


# What never struck


def test_a_fault_on_a_channel_that_never_came_says_that_nothing_passed() -> None:
    engine = FaultEngine((fault(PagePlace(nth=1, channel=Channel.PREEMPT), Reset()),))
    run(main(engine), [STREAM])
    assert engine.unfired() == [
        "fault 1 (it) never fired: no page record 1 of pc.ram on the preempt channel passed; "
        "the stream had nothing"
    ]


def test_what_an_earlier_attempt_had_is_told() -> None:
    engine = FaultEngine((fault(SectionPlace("nvme"), Reset(), attempt=1),))
    run(main(engine), [STREAM])
    engine.next_attempt()
    (sentence,) = engine.unfired()
    assert "no section nvme passed; the stream had START ram, PART ram" in sentence


def test_after_what_was_matched_comes_what_is_done_after_it() -> None:
    engine = FaultEngine((fault(PING, Stall(1.0), point=Point.AFTER),))
    commands = acts(run(main(engine), [STREAM]))
    assert commands[0] == Send(DESTINATION, STREAM[: AT + 9])


def test_a_refusal_by_chance_is_drawn_once_for_each_connection() -> None:
    def refused(seed: int) -> bool:
        engine = FaultEngine(
            (fault(ConnectionPlace(1), Refuse(), conditions=(Chance(0.5),)),), seed=seed
        )
        return any(acts(engine.awaiting(1)) for _ in range(20))

    assert 2 < sum(refused(seed) for seed in range(20)) < 18


def test_connections_that_are_over_are_forgotten_but_for_what_a_recovery_needs() -> None:
    engine = FaultEngine((fault(PagePlace(nth=1, phase="postcopy"), Reset(), connection=2),))
    run(main(engine), [STREAM])
    for number in range(2, RELAYS_MAX + 100):
        relay = engine.connection(number, ChannelKind.MULTIFD)
        run(relay, [])
        run(relay, [], DESTINATION)
    held = sum(isinstance(each, Relay) for each in gc.get_objects())
    assert held < RELAYS_MAX + 50
    recovery = engine.connection(RELAYS_MAX + 100, ChannelKind.RECOVERY)
    assert struck(recovery.received(SOURCE, ram_part(PAGES[0]))) == [
        "page 1 of pc.ram of PART ram, instance 0, section 2"
    ]
