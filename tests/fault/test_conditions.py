"""When a fault strikes: conditions, occurrences that count them, chance from a seed."""

import pytest
from fault_helpers import DESTINATION, SOURCE, main, passed, run, struck, through
from wire_helpers import device, head, postcopy, precopy, ram_part, ram_start, steps

from testbed.fault.command import Observed
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    AfterFault,
    Before,
    BlockPlace,
    Chance,
    Channel,
    CommandPlace,
    Condition,
    ConnectionPlace,
    Delete,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    MessagePlace,
    PagePlace,
    Place,
    Reached,
    SectionPlace,
    SetField,
    StatePlace,
    Vcpus,
)
from testbed.wire import ChannelKind, build, encode
from testbed.wire.element import EndOfStream, RamFlag, RamPage, SectionType

STEPS = [7, 300, 1 << 20]
PAGES = [
    RamPage("pc.ram", 0x400 * n, RamFlag.PAGE | RamFlag.CONTINUE * (n > 0), bytes([n]) * 0x400)
    for n in range(24)
]
STREAM = b"".join(
    [
        head(),
        encode(build.ping(1)),
        ram_start(),
        ram_part(*PAGES[:12]),
        encode(build.ping(2)),
        ram_part(*PAGES[:1], *PAGES[12:]),
        ram_part(kind=SectionType.END),
        device(0, "timer", b"timer"),
        device(7, "net", b"net"),
        encode(EndOfStream()),
    ]
)
"""Two rounds of pages, 12 and 13 records; page 0 is in both."""
EVERY_PAGE = ElementPlace("ram-page")
PING_2 = CommandPlace("PING", occurrence=2)


RECORDS = [*PAGES[:12], PAGES[0], *PAGES[12:]]


def places() -> list[int]:
    """Where each page record is in the stream."""
    offsets: list[int] = []
    for record in RECORDS:
        offsets.append(STREAM.index(encode(record), offsets[-1] + 1 if offsets else 0))
    return offsets


OFFSETS = places()


def numbers(place: Place, *conditions: Condition, step: int = 300, **more: object) -> list[int]:
    """At which page records a fault strikes, at each that it can or as often as it says."""
    more = {"times": None, "conditions": conditions, **more}
    engine = FaultEngine((Fault(place, Insert(b"!"), "it", **more),))  # type: ignore[arg-type]
    commands = run(main(engine), steps(STREAM, step))
    found = [
        each.facts["offset"]
        for each in commands
        if isinstance(each, Observed) and each.kind == "fault-struck"
    ]
    expected = STREAM
    for offset in reversed(found):
        expected = expected[:offset] + b"!" + expected[offset:]
    assert passed(commands) == expected
    return [OFFSETS.index(offset) for offset in found]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ((), range(25)),
        ((Reached((PING_2,)),), range(12, 25)),
        ((Before(PING_2),), range(12)),
        ((Reached((PagePlace(page=3),)), Before(PagePlace(page=7))), range(3, 7)),
        ((Reached((BlockPlace("pc.ram", passed_bytes=0x400 * 20),)),), range(19, 25)),
        ((Reached((PagePlace(page=0, occurrence=2), PagePlace(page=20))),), range(21, 25)),
        ((Vcpus(running=True),), range(25)),
        ((Vcpus(running=False),), ()),
        ((AfterFault("nobody"),), ()),
        ((Reached((CommandPlace("PING"), SectionPlace("net"))),), ()),
    ],
    ids=str,
)
def test_a_fault_strikes_while_its_conditions_hold(
    conditions: tuple[Condition, ...], expected: range, step: int
) -> None:
    assert numbers(EVERY_PAGE, *conditions, step=step) == list(expected)


@pytest.mark.parametrize("step", STEPS)
def test_an_occurrence_counts_where_the_conditions_hold(step: int) -> None:
    after = Reached((PING_2,))
    third = PagePlace(nth=3)
    assert numbers(third, step=step, times=1) == [2]
    assert numbers(third, after, step=step, times=1) == [14]
    assert numbers(third, after, step=step, times=2) == [14, 15]
    assert numbers(PagePlace(page=0, occurrence=1), after, step=step, times=1) == [12]


def test_one_fault_waits_for_another() -> None:
    place = CommandPlace("PING", field="payload")
    engine = FaultEngine(
        (
            Fault(place, SetField(9), "second", conditions=(AfterFault("first"),)),
            Fault(PagePlace(page=3), Insert(b"!"), "first"),
        )
    )
    out = through(engine, steps(STREAM, 300))
    page = encode(PAGES[3])
    expected = STREAM.replace(page, b"!" + page)
    expected = expected.replace(encode(build.ping(2)), encode(build.ping(9)))
    assert out == expected
    assert engine.unfired() == []


def test_vcpus_stop_with_the_end_of_memory_or_the_package_or_when_qmp_says() -> None:
    stopped = (Vcpus(running=False),)
    section = Fault(SectionPlace("*"), Insert(b"!"), "it", conditions=stopped)
    engine = FaultEngine((section,))
    (at,) = struck(run(main(engine), [STREAM]))
    assert at == "header of END ram, instance 0, section 2"
    engine = FaultEngine((section,))
    (at,) = struck(run(main(engine), [postcopy()]))
    assert at == "header of FULL timer, instance 0, section 0"
    engine = FaultEngine((section,))
    relay = main(engine)
    engine.observed(DESTINATION, "STOP")
    assert struck(relay.received(SOURCE, head() + ram_start())) == []
    engine.observed(SOURCE, "STOP")
    engine.observed(SOURCE, "RESUME")
    assert struck(relay.received(SOURCE, ram_part(*PAGES[:1]))) == []
    engine.observed(SOURCE, "STOP")
    assert struck(relay.received(SOURCE, ram_part(*PAGES[:1]))) == [
        "header of PART ram, instance 0, section 2"
    ]


def test_places_on_two_channels_and_states_can_all_be_waited_for() -> None:
    places = (
        MessagePlace("PONG"),
        ElementPlace("multifd-init", channel=Channel.MULTIFD),
        StatePlace(DESTINATION, status="active", occurrence=2),
        ConnectionPlace(2),
    )
    engine = FaultEngine(
        (Fault(EVERY_PAGE, Delete(), "it", conditions=(Reached(places),), times=None),)
    )
    relay = main(engine)
    page = ram_part(*PAGES[:1])
    assert passed(relay.received(SOURCE, head() + ram_start() + page)).endswith(page)
    assert passed(relay.received(DESTINATION, encode(build.pong(1))), SOURCE)
    engine.came(2)
    multifd = engine.connection(2, ChannelKind.MULTIFD)
    multifd.received(SOURCE, b"\x11\x22\x33\x44\0\0\0\1" + bytes(56))
    engine.observed(DESTINATION, "MIGRATION", "active")
    assert passed(relay.received(SOURCE, page)) == page
    engine.observed(DESTINATION, "MIGRATION", "active")
    assert passed(relay.received(SOURCE, page)) == ram_part()


def test_chance_is_drawn_from_the_seed_at_each_match() -> None:
    def taken(seed: int, step: int, times: int | None = None, occurrence: int = 1) -> list[str]:
        place = ElementPlace("ram-page", occurrence=occurrence)
        fault = Fault(place, Insert(b"!"), "it", times=times, conditions=(Chance(0.5),))
        engine = FaultEngine((fault,), seed=seed)
        return struck(run(main(engine), steps(STREAM, step)))

    drawn = {seed: taken(seed, 300) for seed in range(8)}
    assert len({tuple(each) for each in drawn.values()}) == 8
    assert 60 < sum(map(len, drawn.values())) < 140  # of 200
    for seed, once in drawn.items():
        assert taken(seed, 1 << 20) == once
        assert taken(seed, 300, times=2) == once[:2]
        assert len(taken(seed, 300, occurrence=25)) <= 1


def test_other_faults_do_not_change_what_chance_draws() -> None:
    def fault(name: str) -> Fault:
        return Fault(EVERY_PAGE, FlipBits(b"\1"), name, times=None, conditions=(Chance(0.3),))

    alone = through(FaultEngine((fault("a"),), seed=5), [STREAM])
    more = Fault(CommandPlace("PING"), Insert(b""), "b", conditions=(Chance(0.5),))
    assert through(FaultEngine((more, fault("a")), seed=5), [STREAM]) == alone


@pytest.mark.parametrize(("attempt", "expected"), [(None, [True, True]), (2, [False, True])])
def test_a_fault_of_each_attempt_counts_anew_in_each(
    attempt: int | None, expected: list[bool]
) -> None:
    place = PagePlace(nth=3)
    engine = FaultEngine(
        (Fault(place, Delete(), "it", attempt=attempt, conditions=(Before(PING_2),)),)
    )
    outs = []
    for _ in expected:
        outs.append(encode(PAGES[2]) not in through(engine, [STREAM]))
        engine.next_attempt()
    assert outs == expected


def test_a_place_that_a_condition_only_waits_for_delays_nothing_else() -> None:
    landmark = Reached((SectionPlace("net", part="payload", byte=1),))
    engine = FaultEngine((Fault(CommandPlace("PING"), Delete(), "it", conditions=(landmark,)),))
    assert through(engine, [precopy()]) == precopy()
    assert "no command PING passed" in engine.unfired()[0]
