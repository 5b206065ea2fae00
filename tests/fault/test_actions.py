"""What actions on content make of a stream, at every kind of place."""

from collections.abc import Iterable, Mapping

import pytest
from fault_helpers import DESTINATION, SOURCE, main, passed, run, struck, through
from wire_helpers import PAGES, device, head, postcopy, precopy, ram_part, ram_start, steps

from testbed.fault.command import Command, Observed
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    BlockPlace,
    CommandPlace,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    Replay,
    SectionPlace,
    SetField,
    StalePage,
    Swap,
    Truncate,
)
from testbed.wire import build, build_command, encode, xbzrle
from testbed.wire.element import CommandType, RamBlock, RamFlag, RamPage, SectionType

STREAM = precopy()
PACKAGE = postcopy()
TIMER = device(0, "timer", b"timer's state")
NET = device(7, "0000:00:02.0/virtio-net", b"ring \x7e\0\0\0 index")
OPEN, PING = build_command(CommandType.OPEN_RETURN_PATH), encode(build.ping(1))
SWITCHOVER = build_command(CommandType.SWITCHOVER_START)
START, PART, END = ram_start(), ram_part(*PAGES), ram_part(kind=SectionType.END)
PAGE, ZERO = encode(PAGES[0]), encode(PAGES[1])
DISCARD = build.discard("pc.ram", [(0x400, 0x800), (0x1000, 0x400)])
STEPS = [5, 300, 1 << 20]

RUN = tuple(
    RamPage("pc.ram", 0x400 * n, RamFlag.PAGE | RamFlag.CONTINUE * (n > 0), bytes([n + 1]) * 0x400)
    for n in range(40)
)
LONG = head() + ram_start() + ram_part(*RUN) + ram_part(kind=SectionType.END)
"""A stream with pages that come as a run."""


def fault(place: Place, action: Action, **more: object) -> Fault:
    return Fault(place, action, "it", **more)  # type: ignore[arg-type]


def edit(old: bytes, new: bytes, stream: bytes = STREAM) -> bytes:
    assert stream.count(old) == 1
    return stream.replace(old, new)


def page(n: int) -> bytes:
    return encode(RUN[n])


EDITS: list[tuple[str, bytes, Place, Action, bytes]] = [
    # Twice
    ("a section", STREAM, SectionPlace("timer"), Duplicate(), edit(TIMER, TIMER * 2)),
    ("memory", STREAM, SectionPlace("ram", "part"), Duplicate(), edit(PART, PART * 2)),
    (
        "a footer",
        STREAM,
        SectionPlace("timer", part="footer"),
        Duplicate(),
        edit(TIMER, TIMER + TIMER[-5:]),
    ),
    ("a command", STREAM, CommandPlace("PING"), Duplicate(), edit(PING, PING * 2)),
    ("a page", STREAM, PagePlace(page=1), Duplicate(), edit(PAGE, PAGE * 2)),
    ("a page of a run", LONG, PagePlace(page=9), Duplicate(), edit(page(9), page(9) * 2, LONG)),
    ("the EOF", STREAM, ElementPlace("eof"), Duplicate(), edit(b"\0\6\0\0", b"\0\0\6\0\0")),
    # Exchanged
    (
        "sections",
        STREAM,
        SectionPlace("timer"),
        Swap(),
        edit(TIMER + NET, NET + TIMER),
    ),
    (
        "sections, with a command between them",
        STREAM,
        SectionPlace("ram", "part"),
        Swap(),
        edit(PART + SWITCHOVER + END, END + SWITCHOVER + PART),
    ),
    (
        "commands",
        STREAM,
        CommandPlace("OPEN_RETURN_PATH"),
        Swap(),
        edit(OPEN + PING, PING + OPEN),
    ),
    ("pages", STREAM, PagePlace(page=1), Swap(), edit(PAGE + ZERO, ZERO + PAGE)),
    (
        "pages of a run",
        LONG,
        PagePlace(page=17),
        Swap(),
        edit(page(17) + page(18), page(18) + page(17), LONG),
    ),
    (
        "footers",
        STREAM,
        SectionPlace("timer", part="footer"),
        Swap(),
        edit(TIMER[-5:] + NET, NET[-5:] + NET[:-5] + TIMER[-5:]),
    ),
    (
        "entries of the block list",
        STREAM,
        ElementPlace("ram-block", name="pc.ram"),
        Swap(),
        edit(
            encode(RamBlock("pc.ram", 0x20000)) + encode(RamBlock("/rom@etc/acpi/rsdp", 0x10000)),
            encode(RamBlock("/rom@etc/acpi/rsdp", 0x10000)) + encode(RamBlock("pc.ram", 0x20000)),
        ),
    ),
    # Again
    (
        "a section",
        STREAM,
        SectionPlace("0000*"),
        Replay(SectionPlace("timer")),
        edit(NET, TIMER + NET),
    ),
    (
        "a command",
        STREAM,
        ElementPlace("eof"),
        Replay(CommandPlace("PING")),
        edit(b"\0\6\0\0", PING + b"\0\6\0\0"),
    ),
    (
        "a page of a run",
        LONG,
        SectionPlace("ram", "end"),
        Replay(PagePlace(page=9)),
        edit(END, page(9) + END, LONG),
    ),
    (
        "the last of several",
        LONG,
        PagePlace(page=30),
        Replay(PagePlace(nth=1)),
        edit(page(30), page(29) + page(30), LONG),
    ),
    # Fields within fields
    (
        "a page's address",
        STREAM,
        PagePlace(page=1, field="address"),
        SetField(0x7C00),
        edit(PAGE[:8], (0x7C08).to_bytes(8, "big")),
    ),
    (
        "a page's flags",
        STREAM,
        PagePlace(page=1, field="flags"),
        SetField(0x3FF),
        edit(PAGE[:8], (0x7FF).to_bytes(8, "big")),
    ),
    (
        "an address in a run",
        LONG,
        PagePlace(page=20, field="address"),
        SetField(0),
        edit(page(20), (0x28).to_bytes(8, "big") + page(20)[8:], LONG),
    ),
    (
        "what PING asks for",
        STREAM,
        CommandPlace("PING", field="value"),
        SetField(9),
        edit(PING, encode(build.ping(9))),
    ),
    (
        "the size of a package",
        PACKAGE,
        CommandPlace("PACKAGED", field="package_bytes"),
        SetField(0),
        PACKAGE[: PACKAGE.index(b"\x08\0\x07\0\4") + 5]
        + bytes(4)
        + PACKAGE[PACKAGE.index(b"\x08\0\x07\0\4") + 9 :],
    ),
    (
        "a block's used_length",
        STREAM,
        ElementPlace("ram-block", "used_length", name="/rom*"),
        SetField(0x4000),
        edit(
            encode(RamBlock("/rom@etc/acpi/rsdp", 0x10000)),
            encode(RamBlock("/rom@etc/acpi/rsdp", 0x4000)),
        ),
    ),
    (
        "the total of the block list",
        STREAM,
        ElementPlace("ram-total", "record"),
        SetField(0x34),
        edit((0x30004).to_bytes(8, "big"), (0x34).to_bytes(8, "big")),
    ),
    (
        "the second header",
        STREAM,
        ElementPlace("section-header", "version_id", name="*", occurrence=4),
        SetField(0x0102),
        edit(b"timer\0\0\0\0\0\0\0\1", b"timer\0\0\0\0\0\0\1\2"),
    ),
    (
        "a UUID",
        STREAM,
        ElementPlace("configuration-subsection", "payload", name="*uuid"),
        FlipBits(b"\xff" * 16),
        edit(b"uuid\0\0\0\1" + bytes(range(16)), b"uuid\0\0\0\1" + bytes(range(255, 239, -1))),
    ),
    (
        "a field of device state",
        STREAM,
        ElementPlace("payload", "data", 0, name="timer"),
        SetField(b"T"),
        edit(b"timer's", b"Timer's"),
    ),
    # So much of a block
    (
        "bytes",
        LONG,
        BlockPlace("pc.ram", passed_bytes=0x400 * 11),
        Insert(b"!"),
        edit(page(10), b"!" + page(10), LONG),
    ),
    (
        "a share",
        LONG,
        BlockPlace("pc.ram", share=0.07),  # of 128 pages
        Insert(b"!"),
        edit(page(8), b"!" + page(8), LONG),
    ),
    (
        "a byte of memory's payload",
        LONG,
        SectionPlace("ram", "part", part="payload", byte=len(page(0)) + 5 * len(page(1)) + 3),
        FlipBits(b"\xff"),
        edit(page(6), page(6)[:3] + b"\xff" + page(6)[4:], LONG),
    ),
    (
        "an offset in a run",
        LONG,
        OffsetPlace(LONG.index(page(30)) + 20),
        Delete(),
        edit(page(30), page(30)[:20] + page(30)[21:], LONG),
    ),
    (
        "any page",
        LONG,
        ElementPlace("ram-page", "data", 0, name="pc.*", occurrence=33),
        SetField(b"??"),
        edit(page(32), page(32)[:8] + b"??" + page(32)[10:], LONG),
    ),
]


@pytest.mark.parametrize(
    ("stream", "place", "action", "expected"),
    [each[1:] for each in EDITS],
    ids=[f"{type(each[3]).__name__} {each[0]}" for each in EDITS],
)
@pytest.mark.parametrize("step", STEPS)
def test_an_edit_changes_its_bytes_and_no_other(
    stream: bytes, place: Place, action: Action, expected: bytes, step: int
) -> None:
    engine = FaultEngine((fault(place, action),))
    assert through(engine, steps(stream, step)) == expected
    assert engine.unfired() == []


INSIDE_PACKAGE: list[tuple[Place, Action, int, bytes, bytes]] = [
    (SectionPlace("timer"), Duplicate(), len(TIMER), TIMER, TIMER * 2),
    (
        SectionPlace("timer"),
        Swap(),
        0,
        TIMER + device(7, "serial", b"of the FIFO"),
        device(7, "serial", b"of the FIFO") + TIMER,
    ),
    (SectionPlace("serial"), Replay(SectionPlace("timer")), len(TIMER), TIMER, TIMER * 2),
]


@pytest.mark.parametrize(("place", "action", "more", "old", "new"), INSIDE_PACKAGE, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_a_package_says_the_size_that_it_has(
    place: Place, action: Action, more: int, old: bytes, new: bytes, step: int
) -> None:
    said = PACKAGE.index(b"\x08\0\x07\0\4") + 5
    size = int.from_bytes(PACKAGE[said : said + 4], "big") + more
    expected = PACKAGE[:said] + size.to_bytes(4, "big") + PACKAGE[said + 4 :].replace(old, new)
    engine = FaultEngine((fault(place, action),))
    assert through(engine, steps(PACKAGE, step)) == expected
    assert engine.unfired() == []


OLD, NEW = b"o" * 0x400, b"n" * 0x400
FULL, ALL_ZERO = build.page("pc.ram", 0x800, OLD), build.page("pc.ram", 0x800, bytes(0x400))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (FULL, build.page("pc.ram", 0x800, NEW), FULL),
        (
            ALL_ZERO,
            build.page("pc.ram", 0x800, NEW),
            RamPage("pc.ram", 0x800, RamFlag.PAGE, bytes(0x400)),
        ),
        (FULL, ALL_ZERO, FULL),
        (FULL, build.xbzrle_page("pc.ram", 0x800, OLD, OLD[:9] + NEW[9:30] + OLD[30:]), FULL),
        (build.compressed_page("pc.ram", 0x800, OLD), ALL_ZERO, FULL),
        (
            FULL,
            build.page("pc.ram", 0x800, bytes(0x400), same_block=True),
            build.page("pc.ram", 0x800, OLD, same_block=True),
        ),
    ],
    ids=["page", "zero, then page", "zero", "xbzrle", "compressed", "same block"],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_stale_page_has_the_data_of_the_time_before(
    before: RamPage, now: RamPage, expected: RamPage, step: int
) -> None:
    rest = ram_part(build.page("pc.ram", 0, NEW), now)
    stream = head() + ram_start() + ram_part(before) + rest
    engine = FaultEngine((fault(PagePlace(page=2, occurrence=2), StalePage()),))
    out = through(engine, steps(stream, step))
    assert out == stream.replace(encode(now) + bytes(7), encode(expected) + bytes(7))[: len(out)]
    assert out.count(encode(expected)) == 1 + (before == expected)
    assert engine.unfired() == []


def test_the_older_data_of_a_difference_is_what_it_made() -> None:
    newer = NEW[:9] + OLD[9:]
    difference = RamPage("pc.ram", 0x800, RamFlag.XBZRLE, xbzrle.encode(OLD, newer) or b"")
    stream = head() + ram_start() + ram_part(FULL) + ram_part(difference) + ram_part(ALL_ZERO)
    engine = FaultEngine((fault(PagePlace(page=2, occurrence=3), StalePage()),))
    made = encode(build.page("pc.ram", 0x800, newer))
    assert through(engine, [stream]) == stream.replace(encode(ALL_ZERO), made)


# What cannot be done is told, and nothing else happens.

MISSES: list[tuple[Place, Action, str]] = [
    (SectionPlace("slirp"), Swap(), "the stream ended before the next one"),
    (ElementPlace("configuration"), Swap(), "the stream ended before the next one"),
    (SectionPlace("timer"), Replay(SectionPlace("slirp")), "nothing has passed there before"),
    (PagePlace(page=1), StalePage(), "it has not been sent before"),
    (PagePlace(page=1, field="address"), SetField(0x401), "0x401 does not fit into the address"),
    (PagePlace(page=1, field="flags"), SetField(0x400), "0x400 does not fit into the flags"),
    (CommandPlace("PING", field="block"), SetField(b""), "it has no field 'block'"),
]


@pytest.mark.parametrize(("place", "action", "why"), MISSES, ids=[str(each[2]) for each in MISSES])
@pytest.mark.parametrize("step", STEPS)
def test_what_cannot_be_done_is_told(place: Place, action: Action, why: str, step: int) -> None:
    engine = FaultEngine((fault(place, action),))
    assert through(engine, steps(STREAM, step)) == STREAM
    (sentence,) = engine.unfired()
    assert why in sentence


def test_an_exchange_does_not_reach_into_a_package() -> None:
    engine = FaultEngine((fault(SectionPlace("ram", "part"), Swap()),))
    assert through(engine, steps(PACKAGE, 50)) == PACKAGE
    assert "a package begins or ends before the next one" in engine.unfired()[0]


def test_an_exchange_is_given_up_when_the_sender_falls_silent() -> None:
    engine = FaultEngine((fault(CommandPlace("PING"), Swap()),))
    relay = main(engine)
    at = STREAM.index(PING) + len(PING)
    commands = relay.received(SOURCE, STREAM[: at + 40])
    assert passed(commands) == STREAM[: at - len(PING)]
    assert relay.undecided(SOURCE)
    commands += relay.silence(SOURCE)
    assert passed(commands) == STREAM[: at + 40]
    assert passed(commands + run(relay, [STREAM[at + 40 :]])) == STREAM
    assert "the sender fell silent before the next one came" in engine.unfired()[0]


def test_two_exchanges_of_one_element_are_not_both_done() -> None:
    engine = FaultEngine(
        (Fault(CommandPlace("PING"), Swap(), "a"), Fault(CommandPlace("PING"), Swap(), "b"))
    )
    relay = main(engine)
    at = STREAM.index(PING) + len(PING)
    commands = relay.received(SOURCE, STREAM[: at + 3]) + relay.silence(SOURCE)
    assert passed(commands) == STREAM[: at + 3]
    assert passed(commands + run(relay, [STREAM[at + 3 :]])) == STREAM
    assert "another fault exchanges it" in engine.unfired()[1]


def test_what_another_fault_does_in_an_exchanged_section_is_done() -> None:
    engine = FaultEngine(
        (
            Fault(SectionPlace("timer"), Swap(), "swap"),
            Fault(SectionPlace("timer", part="payload", byte=0), SetField(b"T"), "first"),
            Fault(SectionPlace("0000*", part="header", field="type"), SetField(9), "second"),
        )
    )
    expected = edit(TIMER + NET, b"\x09" + NET[1:] + TIMER.replace(b"timer's", b"Timer's"))
    assert through(engine, steps(STREAM, 11)) == expected
    assert engine.unfired() == []


def test_a_section_that_is_cut_is_not_doubled() -> None:
    engine = FaultEngine(
        (
            Fault(SectionPlace("timer"), Duplicate(), "twice"),
            Fault(SectionPlace("timer", part="footer"), Truncate(), "cut"),
        )
    )
    assert through(engine, [STREAM]) == STREAM[: STREAM.index(TIMER) + len(TIMER) - 5]
    assert "the stream was cut in the section" in engine.unfired()[0]


@pytest.mark.parametrize("step", STEPS)
def test_the_return_path_is_edited_as_well(step: int) -> None:
    pong, shut = encode(build.pong(1)), encode(build.shut(0))
    asked = encode(build.request_pages(0x1000, 0x400, "pc.ram"))
    for place, action, expected in (
        (MessagePlace("PONG"), Swap(), asked + pong + shut),
        (MessagePlace("SHUT"), Replay(MessagePlace("PONG")), pong + asked + pong + shut),
        (MessagePlace("SHUT"), Duplicate(), pong + asked + shut + shut),
        (
            MessagePlace("REQ_PAGES_ID", field="offset_bytes"),
            SetField(0x10),
            pong + encode(build.request_pages(0x10, 0x400, "pc.ram")) + shut,
        ),
        (
            MessagePlace("REQ_PAGES_ID", field="block"),
            SetField(b"ps.ram"),
            pong + encode(build.request_pages(0x1000, 0x400, "ps.ram")) + shut,
        ),
        (MessagePlace("PONG", field="value"), SetField(7), encode(build.pong(7)) + asked + shut),
    ):
        engine = FaultEngine((fault(place, action),))
        back = run(main(engine), steps(pong + asked + shut, step), DESTINATION)
        assert passed(back, SOURCE) == expected
        assert engine.unfired() == []


def test_a_field_of_a_command_lies_where_its_payload_says() -> None:
    stream = head() + encode(DISCARD)
    for field, value, old, new in (
        ("range_start[1]", 0x2000, (0x1000).to_bytes(8, "big"), (0x2000).to_bytes(8, "big")),
        ("range_bytes[0]", 1, (0x800).to_bytes(8, "big"), (1).to_bytes(8, "big")),
        ("version", 5, b"\0\x06pc.ram", b"\5\x06pc.ram"),
        ("block", b"pc.rom", b"\x06pc.ram", b"\x06pc.rom"),
    ):
        place = CommandPlace("POSTCOPY_RAM_DISCARD", field=field)
        engine = FaultEngine((fault(place, SetField(value)),))
        assert through(engine, [stream]) == stream.replace(old, new) != stream
    engine = FaultEngine(
        (fault(CommandPlace("POSTCOPY_RAM_DISCARD", field="range_start[2]"), SetField(0)),)
    )
    assert through(engine, [stream]) == stream
    assert "it has no field 'range_start[2]'" in engine.unfired()[0]


@pytest.mark.parametrize("step", STEPS)
def test_every_match_is_struck_or_as_many_as_are_wanted(step: int) -> None:
    for times, occurrence, numbers in (
        (3, 1, (0, 1, 2)),
        (None, 37, (36, 37, 38, 39)),
        (2, 5, (4, 5)),
    ):
        place = ElementPlace("ram-page", "data", 0, occurrence=occurrence)
        engine = FaultEngine((fault(place, SetField(0xEE), times=times),))
        commands = run(main(engine), steps(LONG, step))
        expected = LONG
        for n in numbers:
            expected = edit(page(n), page(n)[:-0x400] + b"\xee" + page(n)[-0x3FF:], expected)
        assert passed(commands) == expected
        assert [
            each.facts["strike"]
            for each in commands
            if isinstance(each, Observed) and each.kind == "fault-struck"
        ] == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("step", [1, len(STREAM)])
def test_what_was_changed_is_told(step: int) -> None:
    engine = FaultEngine((fault(SectionPlace("timer"), Swap()),))
    commands = run(main(engine), steps(STREAM, step))
    (facts,) = told(commands, "fault-struck")
    assert facts["action"] == "swap"
    assert (facts["offset"], facts["other_offset"]) == (STREAM.index(TIMER), STREAM.index(NET))
    assert (facts["before"], facts["before_bytes"]) == (TIMER[:32].hex(), len(TIMER))
    assert (facts["after"], facts["after_bytes"]) == (NET[:32].hex(), len(NET))
    assert struck(commands) == ["header of FULL timer, instance 0, section 0"]
    assert facts["other_element"] == "header of FULL 0000:00:02.0/virtio-net, instance 0, section 7"


@pytest.mark.parametrize("step", [1, len(STREAM)])
@pytest.mark.parametrize("cut", [None, STREAM.index(TIMER) + 30])
def test_how_much_of_a_section_was_taken_out_is_told(step: int, cut: int | None) -> None:
    engine = FaultEngine((fault(SectionPlace("timer"), Delete()),))
    commands = run(main(engine), steps(STREAM[:cut], step))
    (facts,) = told(commands, "section-removed")
    there = TIMER if cut is None else TIMER[:19]  # no more than the header is understood
    assert facts == {
        "fault": "it",
        "offset": STREAM.index(TIMER),
        "before": there[:32].hex(),
        "before_bytes": len(there),
    }


def test_how_many_pages_were_taken_out_is_told() -> None:
    engine = FaultEngine((fault(SectionPlace("ram", "part"), Delete()),))
    commands = run(main(engine), [LONG])
    (facts,) = told(commands, "section-removed")
    part = ram_part(*RUN)
    assert facts["before_bytes"] == len(part)
    assert facts["before"] == part[:32].hex()


def told(commands: Iterable[Command], kind: str) -> list[Mapping[str, object]]:
    return [each.facts for each in commands if isinstance(each, Observed) and each.kind == kind]


def test_what_lies_after_is_put_in_after_it() -> None:
    place = SectionPlace("timer")
    engine = FaultEngine((fault(place, Replay(CommandPlace("PING")), point=Point.AFTER),))
    assert through(engine, [STREAM]) == edit(TIMER, TIMER + PING)
