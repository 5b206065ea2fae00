"""The fault engine in playbooks: bytes in, exact commands out."""

from dataclasses import replace
from typing import TypeGuard

import pytest
from fault_helpers import BOTH, DESTINATION, SOURCE, acts, main, passed, run, struck, through
from hostile_helpers import TO_DEVICES
from wire_helpers import PAGES, device, postcopy, precopy, ram_part, recorded, steps, vmdesc

from testbed.fault.command import Command, End, GoDark, HalfClose, Observed, Send, Wait
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    Blackhole,
    Channel,
    Close,
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
    Reset,
    SectionPlace,
    SetField,
    Stall,
    StatePlace,
    Swap,
    Truncate,
)
from testbed.wire import ChannelKind, build_command, build_message, encode
from testbed.wire.element import CommandType, EndOfStream, MessageType

STREAM = precopy()
NET = device(7, "0000:00:02.0/virtio-net", b"ring \x7e\0\0\0 index")
NET_AT = STREAM.index(NET)
NET_PAYLOAD = NET_AT + NET.index(b"ring")
NET_FOOTER = NET_AT + len(NET) - 5
TIMER = device(0, "timer", b"timer's state")
KINDS = ChannelKind.MAIN, ChannelKind.RECOVERY
STEPS = [1, 7, 300, 1 << 20]

NET_SECTION = SectionPlace("*/virtio-net")


def fault(place: Place, action: Action, **more: object) -> Fault:
    return Fault(place, action, "it", **more)  # type: ignore[arg-type]


# What happens on the connection, and before or after which byte.

CONNECTION: list[tuple[Action, list[Command]]] = [
    (Close(SOURCE), [End(SOURCE, reset=False)]),
    (Close(DESTINATION), [End(DESTINATION, reset=False)]),
    (Close(), [End(SOURCE, reset=False), End(DESTINATION, reset=False)]),
    (Reset(SOURCE), [End(SOURCE, reset=True)]),
    (Reset(DESTINATION), [End(DESTINATION, reset=True)]),
    (Reset(BOTH), [End(SOURCE, reset=True), End(DESTINATION, reset=True)]),
    (Blackhole(DESTINATION), [GoDark(DESTINATION, swallow=False)]),
    (Blackhole(SOURCE, swallow=True), [GoDark(SOURCE, swallow=True)]),
    (Blackhole(), [GoDark(SOURCE, swallow=False), GoDark(DESTINATION, swallow=False)]),
    (Stall(1.5), [Wait(SOURCE, 1.5), Wait(DESTINATION, 1.5)]),
    (Stall(0.1, DESTINATION), [Wait(DESTINATION, 0.1)]),
]


@pytest.mark.parametrize(("action", "expected"), CONNECTION, ids=lambda v: repr(v)[:40])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("point", "at"), [(Point.BEFORE, NET_AT), (Point.AFTER, NET_AT + len(NET))]
)
def test_an_action_falls_between_two_bytes(
    action: Action, expected: list[Command], step: int, point: Point, at: int
) -> None:
    engine = FaultEngine((fault(NET_SECTION, action, point=point),))
    commands = acts(run(main(engine), steps(STREAM, step)))
    assert commands == [
        Send(DESTINATION, STREAM[:at]),
        *expected,
        *([] if _cuts(expected) else [Send(DESTINATION, STREAM[at:]), HalfClose(DESTINATION)]),
    ]
    assert engine.unfired() == []


def _cuts(commands: list[Command]) -> bool:
    """Whether nothing more goes toward the destination after that."""
    return any(isinstance(c, End) or c == GoDark(DESTINATION, swallow=False) for c in commands)


@pytest.mark.parametrize("step", STEPS)
def test_truncate_ends_the_stream_there_and_swallows_the_rest(step: int) -> None:
    place = SectionPlace("*/virtio-net", part="payload", byte=4)
    engine = FaultEngine((fault(place, Truncate()),))
    relay = main(engine)
    assert acts(run(relay, steps(STREAM, step))) == [
        Send(DESTINATION, STREAM[: NET_PAYLOAD + 4]),
        HalfClose(DESTINATION),
    ]
    assert acts(relay.received(DESTINATION, b"\0\2\0\4\0\0\0\1")) == [
        Send(SOURCE, b"\0\2\0\4\0\0\0\1")
    ]


# Edits: (place, action, what it makes of the stream).


def edit(at: int, old: bytes, new: bytes, stream: bytes = STREAM) -> bytes:
    assert stream[at : at + len(old)] == old
    return stream[:at] + new + stream[at + len(old) :]


PAGE = PAGES[0]
PAGE_AT = STREAM.index(encode(PAGE))
PAGE_BYTES = encode(PAGE)
PING_AT = STREAM.index(build_command(CommandType.PING, b"\0\0\0\1"))
FIRST_PART = ram_part(*PAGES)
PART_AT = STREAM.index(FIRST_PART)
EOF_AT = STREAM.index(encode(EndOfStream()) + b"\x06", NET_FOOTER)

EDITS: list[tuple[str, Place, Action, bytes]] = [
    (
        "header.version_id",
        SectionPlace("timer", part="header", field="version_id"),
        SetField(99),
        STREAM.replace(TIMER, TIMER.replace(b"\0\0\0\1timer", b"\0\0\0\x63timer")),
    ),
    (
        "header.idstr shifts",
        SectionPlace("*/virtio-net", part="header", field="idstr"),
        SetField(b"nic"),
        edit(NET_AT + 6, b"0000:00:02.0/virtio-net", b"nic"),
    ),
    (
        "header.type",
        SectionPlace("*/virtio-net", part="header", field="type"),
        SetField(0x2A),
        edit(NET_AT, b"\4", b"\x2a"),
    ),
    (
        "header byte",
        SectionPlace("*/virtio-net", part="header", byte=-1),
        SetField(7),
        edit(NET_PAYLOAD - 1, b"\1", b"\7"),
    ),
    (
        "footer.mark",
        SectionPlace("*/virtio-net", part="footer", field="mark"),
        SetField(0),
        edit(NET_FOOTER, b"\x7e", b"\0"),
    ),
    (
        "footer.section_id",
        SectionPlace("*/virtio-net", kind="full", part="footer", field="section_id"),
        FlipBits(b"\0\0\0\xff"),
        edit(NET_FOOTER + 1, b"\0\0\0\7", b"\0\0\0\xf8"),
    ),
    (
        "payload byte",
        SectionPlace("*/virtio-net", part="payload", byte=0),
        SetField(b"RING"),
        edit(NET_PAYLOAD, b"ring", b"RING"),
    ),
    (
        "payload last byte",
        SectionPlace("*/virtio-net", part="payload", byte=-1),
        FlipBits(b"\1"),
        edit(NET_FOOTER - 1, b"x", b"y"),
    ),
    (
        "payload taken out",
        SectionPlace("*/virtio-net", part="payload"),
        Delete(),
        edit(NET_PAYLOAD, b"ring \x7e\0\0\0 index", b""),
    ),
    (
        "payload field by vmdesc path",
        SectionPlace("*/virtio-net", part="payload", field="data"),
        SetField(b"ruin"),
        edit(NET_PAYLOAD, b"ring \x7e\0\0\0 index", b"ruin"),
    ),
    ("section taken out", NET_SECTION, Delete(), edit(NET_AT, NET, b"")),
    ("section before it", NET_SECTION, Insert(b"??"), edit(NET_AT, b"", b"??")),
    (
        "RAM section, byte of its records",
        SectionPlace("ram", kind="part", part="payload", byte=3),
        FlipBits(b"\x80"),
        edit(PART_AT + 5 + 3, b"\0", b"\x80"),
    ),
    (
        "page data",
        PagePlace("pc.ram", nth=1, field="data", byte=16),
        SetField(b"\xff\xff"),
        edit(PAGE_AT + 8 + 7 + 16, b"\x10\x11", b"\xff\xff"),
    ),
    (
        "page record",
        PagePlace("pc.ram", nth=1, field="record"),
        SetField(0x8),
        edit(PAGE_AT, (0x408).to_bytes(8, "big"), (0x8).to_bytes(8, "big")),
    ),
    ("page taken out", PagePlace(nth=1), Delete(), edit(PAGE_AT, encode(PAGE), b"")),
    (
        "page of any block",
        PagePlace("*acpi*", nth=2, field="data"),
        FlipBits(b"\x20"),
        STREAM.replace(b"zlib", b"Zlib"),
    ),
    (
        "command.command",
        CommandPlace("PING", field="command"),
        SetField(0x7777),
        edit(PING_AT + 1, b"\0\2", b"\x77\x77"),
    ),
    (
        "command.length",
        CommandPlace("PING", field="length"),
        SetField(5),
        edit(PING_AT + 3, b"\0\4", b"\0\5"),
    ),
    (
        "command.payload",
        CommandPlace("PING", field="payload"),
        SetField(-1),
        edit(PING_AT + 5, b"\0\0\0\1", b"\xff\xff\xff\xff"),
    ),
    (
        "command taken out",
        CommandPlace("PING"),
        Delete(),
        edit(PING_AT, build_command(CommandType.PING, b"\0\0\0\1"), b""),
    ),
    ("magic", ElementPlace("file-header", "magic"), SetField(0), edit(0, b"QEVM", b"\0\0\0\0")),
    (
        "version",
        ElementPlace("file-header", "version"),
        SetField(2),
        edit(4, b"\0\0\0\3", b"\0\0\0\2"),
    ),
    (
        "machine",
        ElementPlace("configuration", "machine"),
        SetField(b"pc-q35-9.2    "[:13]),
        edit(13, b"pc-i440fx-7.2", b"pc-q35-9.2   "),
    ),
    ("eof", ElementPlace("eof"), SetField(0xFF), edit(EOF_AT, b"\0", b"\xff")),
    ("eof taken out", ElementPlace("eof"), Delete(), edit(EOF_AT, b"\0", b"")),
    (
        "vmdesc length",
        ElementPlace("vmdesc", "length"),
        SetField(0),
        edit(EOF_AT + 2, (len(STREAM) - EOF_AT - 6).to_bytes(4, "big"), bytes(4)),
    ),
    ("offset 0", OffsetPlace(0), FlipBits(b"\1\1"), edit(0, b"QE", b"PD")),
    ("offset in RAM", OffsetPlace(PAGE_AT + 100), Insert(b"!"), edit(PAGE_AT + 100, b"", b"!")),
    ("offset in a device", OffsetPlace(NET_PAYLOAD), Delete(), edit(NET_PAYLOAD, b"r", b"")),
]


@pytest.mark.parametrize(
    ("place", "action", "expected"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS]
)
@pytest.mark.parametrize("step", STEPS)
def test_an_edit_changes_its_bytes_and_no_other(
    place: Place, action: Action, expected: bytes, step: int
) -> None:
    engine = FaultEngine((fault(place, action),))
    assert through(engine, steps(STREAM, step)) == expected != STREAM
    assert engine.unfired() == []


@pytest.mark.parametrize("stream", [precopy(), postcopy()], ids=["precopy", "postcopy"])
@pytest.mark.parametrize("step", STEPS)
def test_no_fault_changes_nothing_and_delays_nothing(stream: bytes, step: int) -> None:
    relay = main(FaultEngine())
    for chunk in steps(stream, step):
        assert acts(relay.received(SOURCE, chunk)) == [Send(DESTINATION, chunk)]
    assert acts(relay.ended(SOURCE)) == [HalfClose(DESTINATION)]


# Device phase, package, silence.


PACKAGE = postcopy()
SERIAL = device(7, "serial", b"of the FIFO")
PACKAGED_AT = PACKAGE.index(b"\x08\0\x07\0\4")
PACKAGE_SIZE = int.from_bytes(PACKAGE[PACKAGED_AT + 5 : PACKAGED_AT + 9], "big")


def packaged(size: int, old: bytes, new: bytes) -> bytes:
    """The postcopy stream with `old` replaced and a package that says `size`."""
    at = PACKAGE.index(old)
    said = PACKAGE[: PACKAGED_AT + 5] + size.to_bytes(4, "big") + PACKAGE[PACKAGED_AT + 9 :]
    return said[:at] + new + said[at + len(old) :]


PACKAGE_EDITS: list[tuple[str, Place, Action, bytes]] = [
    (
        "section taken out",
        SectionPlace("serial"),
        Delete(),
        packaged(PACKAGE_SIZE - len(SERIAL), SERIAL, b""),
    ),
    (
        "command put in",
        SectionPlace("serial"),
        Insert(build_command(0x7777, b"??")),
        packaged(PACKAGE_SIZE + 7, SERIAL, build_command(0x7777, b"??") + SERIAL),
    ),
    (
        "footer, same size",
        SectionPlace("serial", part="footer", field="section_id"),
        SetField(8),
        packaged(PACKAGE_SIZE, SERIAL, SERIAL[:-1] + b"\x08"),
    ),
    (
        "command inside taken out",
        CommandPlace("PING", occurrence=2),
        Delete(),
        packaged(PACKAGE_SIZE - 9, build_command(2, b"\0\0\0\3"), b""),
    ),
    (
        "PACKAGED's own payload",
        CommandPlace("PACKAGED", field="payload"),
        SetField(1),
        packaged(1, SERIAL, SERIAL),
    ),
]


@pytest.mark.parametrize(
    ("place", "action", "expected"),
    [e[1:] for e in PACKAGE_EDITS],
    ids=[e[0] for e in PACKAGE_EDITS],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_package_says_the_size_that_it_has(
    place: Place, action: Action, expected: bytes, step: int
) -> None:
    engine = FaultEngine((fault(place, action),))
    commands = run(main(engine), steps(PACKAGE, step))
    assert passed(commands) == expected
    end = PACKAGED_AT + 9
    resized = [
        each.facts
        for each in commands
        if isinstance(each, Observed) and each.kind == "package-resized"
    ]
    command = PACKAGE[PACKAGED_AT:end].hex(), expected[PACKAGED_AT:end].hex()
    if len(expected) == len(PACKAGE):  # nothing had to be mended
        assert resized == []
    else:
        assert resized == [dict(offset=PACKAGED_AT, before=command[0], after=command[1])]


@pytest.mark.parametrize("cut", [3, 40, 80])
def test_a_package_that_falls_silent_says_the_size_that_it_will_have(cut: int) -> None:
    ping = build_command(CommandType.PING, b"\0\0\0\3")
    begin = PACKAGED_AT + 9
    engine = FaultEngine((fault(SectionPlace("timer"), Insert(ping)),))
    relay = main(engine)
    commands = relay.received(SOURCE, PACKAGE[: begin + cut])
    commands += relay.silence(SOURCE)
    commands += run(relay, [PACKAGE[begin + cut :]])
    size = PACKAGE_SIZE + len(ping) * (not engine.unfired())
    expected = packaged(size, TIMER, ping + TIMER) if not engine.unfired() else PACKAGE
    assert passed(commands) == expected


def test_device_state_waits_for_the_vmdesc_and_ram_does_not() -> None:
    place = SectionPlace("timer", part="payload", field="data")
    relay = main(FaultEngine((fault(place, Delete()),)))
    device_phase = STREAM.index(TIMER)
    assert passed(relay.received(SOURCE, STREAM[:EOF_AT])) == STREAM[:device_phase]
    assert (
        passed(run(relay, [STREAM[EOF_AT:]]))
        == edit(device_phase, TIMER, TIMER.replace(b"timer's state", b""))[device_phase:]
    )


@pytest.mark.parametrize("cut", [NET_AT + 3, NET_PAYLOAD + 5, PART_AT + 2, PAGE_AT + 9])
def test_silence_lets_go_of_what_waits(cut: int) -> None:
    relay = main(FaultEngine((fault(NET_SECTION, Stall(1.0)),)))
    commands = relay.received(SOURCE, STREAM[:cut])
    commands += relay.silence(SOURCE)
    assert passed(commands) == STREAM[:cut]
    assert relay.silence(SOURCE) == []
    assert passed(commands + run(relay, [STREAM[cut:]])) == STREAM


def test_silence_inside_an_element_does_not_hide_it_from_a_fault() -> None:
    place = SectionPlace("*/virtio-net", part="footer", field="section_id")
    engine = FaultEngine((fault(place, SetField(1)),))
    relay = main(engine)
    commands = relay.received(SOURCE, STREAM[: NET_AT + 3])
    commands += relay.silence(SOURCE)
    commands += run(relay, [STREAM[NET_AT + 3 :]])
    assert passed(commands) == edit(NET_FOOTER + 1, b"\0\0\0\7", b"\0\0\0\1")


def test_what_went_in_silence_can_no_longer_be_struck() -> None:
    place = SectionPlace("*/virtio-net", part="header", field="type")
    engine = FaultEngine((fault(place, SetField(1)),))
    relay = main(engine)
    commands = relay.received(SOURCE, STREAM[: NET_AT + 3])
    commands += relay.silence(SOURCE)
    commands += run(relay, [STREAM[NET_AT + 3 :]])
    assert passed(commands) == STREAM
    assert engine.unfired() == [
        "fault 1 (it) never fired: at the header of FULL 0000:00:02.0/virtio-net, instance 0, "
        "section 7: those bytes had been changed, or gone on while the source was silent"
    ]


# RAM sections: payload is records.


def test_after_the_payload_of_a_ram_section_is_before_its_footer() -> None:
    place = SectionPlace("ram", kind="part", part="payload")
    engine = FaultEngine((fault(place, Insert(b"!"), point=Point.AFTER),))
    at = PART_AT + len(FIRST_PART) - 5
    assert through(engine, [STREAM]) == edit(at, b"", b"!")


def test_byte_0_of_a_ram_payload_is_one_byte() -> None:
    engine = FaultEngine((fault(SectionPlace("ram", "part", part="payload", byte=0), SetField(1)),))
    assert through(engine, [STREAM]) == edit(PART_AT + 5, b"\0", b"\1")


# What never strikes, in words.


RETURN = build_message(MessageType.PONG, b"\0\0\0\1") + build_message(MessageType.SHUT, bytes(4))
SEEN = (
    "START ram, PART ram, END ram, FULL timer, FULL 0000:00:02.0/virtio-net, "
    "FULL slirp (instance 0x1), OPEN_RETURN_PATH, PING, SWITCHOVER_START"
)

UNFIRED: list[tuple[Place, str]] = [
    (SectionPlace("nvme"), f"no section nvme passed; the stream had {SEEN}"),
    (
        SectionPlace("timer", kind="part"),
        f"no section timer of kind part passed; the stream had {SEEN}",
    ),
    (
        SectionPlace("ram", kind="part", occurrence=9),
        f"no section ram of kind part (occurrence 9) passed; the stream had {SEEN}",
    ),
    (PagePlace(page=77), f"no page 77 of pc.ram passed; the stream had {SEEN}"),
    (PagePlace(nth=77), f"no page record 77 of pc.ram passed; the stream had {SEEN}"),
    (
        PagePlace(nth=1, phase="postcopy"),
        f"no page record 1 of pc.ram in postcopy passed; the stream had {SEEN}",
    ),
    (CommandPlace("POSTCOPY_RUN"), f"no command POSTCOPY_RUN passed; the stream had {SEEN}"),
    (MessagePlace("PONG", 2), "no message PONG (occurrence 2) passed; the stream had PONG, SHUT"),
    (OffsetPlace(1 << 40), f"no byte {1 << 40} passed; the stream had {SEEN}"),
    (
        OffsetPlace(99, channel=Channel.RETURN_PATH),
        "no byte 99 of the return path passed; the stream had PONG, SHUT",
    ),
    (
        SectionPlace("*net", part="header", field="colour"),
        "at the header of FULL 0000:00:02.0/virtio-net, instance 0, section 7: it has no field "
        "'colour', only type, section_id, idstr_length, idstr, instance_id, version_id",
    ),
    (
        SectionPlace("*net", part="payload", field="vdev.isr"),
        "at the payload of FULL 0000:00:02.0/virtio-net, instance 0, section 7: the section has "
        "no field 'vdev.isr'; it has data",
    ),
    (
        SectionPlace("*net", part="footer", byte=5),
        "at the footer of FULL 0000:00:02.0/virtio-net, instance 0, section 7: byte 5 is "
        "outside: it has 5 bytes",
    ),
    (
        CommandPlace("PING", field="payload", byte=-5),
        "at the command PING (1): byte -5 is outside: it has 4 bytes",
    ),
    (
        SectionPlace("r?m", kind="part", part="payload", field="record"),
        "at the page 1 of pc.ram of PART ram, instance 0, section 2: only device state has "
        "fields: for memory name a `block` and page",
    ),
    (
        SectionPlace("ram", kind="part", part="payload", byte=1 << 20),
        "at the footer of PART ram, instance 0, section 2: byte 1048576 is outside: it has "
        f"{len(FIRST_PART) - 10} bytes",
    ),
    (
        StatePlace(DESTINATION, event="RESUME", occurrence=2),
        "no RESUME of the destination (occurrence 2) was reported",
    ),
]


@pytest.mark.parametrize(("place", "why"), UNFIRED, ids=[str(place)[:60] for place, _ in UNFIRED])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_without_its_place_harms_nothing_and_is_told(
    place: Place, why: str, step: int
) -> None:
    engine = FaultEngine((fault(place, Reset() if isinstance(place, StatePlace) else SetField(1)),))
    relay = main(engine)
    back = [
        command for chunk in steps(RETURN, step) for command in relay.received(DESTINATION, chunk)
    ]
    back += relay.ended(DESTINATION)
    assert passed(back, SOURCE) == RETURN
    assert passed(run(relay, steps(STREAM, step))) == STREAM
    assert engine.unfired() == [f"fault 1 (it) never fired: {why}"]


def test_a_fault_of_another_attempt_says_that_nothing_passed() -> None:
    engine = FaultEngine((fault(SectionPlace("timer"), Reset(), attempt=2),))
    assert through(engine, [STREAM]) == STREAM
    assert engine.unfired() == [
        "fault 1 (it) never fired: no section timer passed; the stream had nothing"
    ]


# Return path, states, attempts, recovery.


@pytest.mark.parametrize("step", STEPS)
def test_the_return_path_is_edited_as_well(step: int) -> None:
    engine = FaultEngine((fault(MessagePlace("SHUT", field="payload"), SetField(1)),))
    commands = run(main(engine), steps(RETURN, step), DESTINATION)
    assert passed(commands, SOURCE) == RETURN[:-1] + b"\1"
    assert acts(commands)[-1] == HalfClose(SOURCE)


def test_a_state_strikes_at_once_and_once() -> None:
    place = StatePlace(SOURCE, status="postcopy-active", occurrence=2)
    engine = FaultEngine((fault(place, Reset()),))
    main(engine)
    assert engine.observed(SOURCE, "MIGRATION", "postcopy-active") == []
    assert engine.observed(DESTINATION, "MIGRATION", "postcopy-active") == []
    assert engine.observed(SOURCE, "STOP", None) == []
    ((number, commands),) = engine.observed(SOURCE, "MIGRATION", "postcopy-active")
    assert number == 1
    assert acts(commands) == [End(SOURCE, reset=True), End(DESTINATION, reset=True)]
    assert struck(commands) == ["source reported postcopy-active"]
    assert engine.observed(SOURCE, "MIGRATION", "postcopy-active") == []
    assert engine.unfired() == []


def test_a_state_that_comes_before_the_connection_strikes_it_as_it_begins() -> None:
    engine = FaultEngine((fault(StatePlace(SOURCE, status="setup"), Blackhole(DESTINATION)),))
    assert engine.observed(SOURCE, "MIGRATION", "setup") == []
    assert engine.unfired() == [
        "fault 1 (it) never fired: there was no connection when setup of the source came"
    ]
    relay = main(engine)
    assert acts(relay.opening) == [GoDark(DESTINATION, swallow=False)]
    assert acts(run(relay, [STREAM])) == []
    assert engine.unfired() == []


def test_a_fault_after_the_cut_says_so() -> None:
    first = Fault(SectionPlace("timer"), Reset(), "first")
    second = Fault(NET_SECTION, Delete(), "second")
    engine = FaultEngine((first, second))
    run(main(engine), [STREAM])
    assert engine.unfired() == [
        "fault 2 (second) never fired: the stream was cut before the header of FULL "
        "0000:00:02.0/virtio-net, instance 0, section 7"
    ]


def test_two_faults_on_the_same_bytes_are_not_both_done() -> None:
    place = ElementPlace("file-header", "version")
    engine = FaultEngine((Fault(place, SetField(2), "first"), Fault(place, Delete(), "second")))
    assert through(engine, [STREAM])[:9] == b"QEVM\0\0\0\2\7"
    assert len(engine.unfired()) == 1


@pytest.mark.parametrize("step", STEPS)
def test_boundaries_that_the_vmdesc_denies_are_not_struck(step: int) -> None:
    stream = STREAM.replace(b'"size": 15', b'"size": 14')
    place = SectionPlace("*/virtio-net", part="footer", field="mark")
    engine = FaultEngine((fault(place, SetField(0)),))
    assert through(engine, steps(stream, step)) == stream
    assert engine.unfired() == [
        "fault 1 (it) never fired: at the footer of FULL 0000:00:02.0/virtio-net, instance 0, "
        "section 7: it could not be placed: vmdesc and stream disagree on the section's size: "
        "14 and 15 bytes"
    ]


def test_boundaries_that_the_vmdesc_confirms_are_exact() -> None:
    faults = (fault(NET_SECTION, Insert(b"!")), Fault(SectionPlace("ram"), Insert(b"!"), "ram"))
    commands = run(main(FaultEngine(faults)), [STREAM])
    assert [c.facts["certainty"] for c in commands if _is_strike(c)] == ["exact", "exact"]


def test_a_field_without_a_vmdesc_could_not_be_placed() -> None:
    place = SectionPlace("*/virtio-net", part="payload", field="data")
    engine = FaultEngine((fault(place, SetField(0)),))
    relay = main(engine)
    commands = relay.received(SOURCE, STREAM[: EOF_AT + 1])
    assert relay.undecided(SOURCE)
    commands += relay.silence(SOURCE)
    assert passed(commands) == STREAM[: EOF_AT + 1]
    assert "field 'data' could not be placed: no vmdesc" in engine.unfired()[0]
    assert acts(relay.ended(SOURCE)) == [HalfClose(DESTINATION)]


def test_a_field_in_a_package_is_placed_by_an_earlier_vmdesc() -> None:
    stream = PACKAGE.replace(SERIAL, NET)
    stream = stream.replace(
        PACKAGE_SIZE.to_bytes(4, "big"), (PACKAGE_SIZE - len(SERIAL) + len(NET)).to_bytes(4, "big")
    )
    place = SectionPlace("*/virtio-net", part="payload", field="data")
    engine = FaultEngine((fault(place, FlipBits(b"\x01"), attempt=2),))
    assert through(engine, [STREAM]) == STREAM
    engine.next_attempt()
    assert through(engine, [stream]) == stream.replace(b"ring", b"sing")


def test_device_sections_are_those_of_the_last_stream() -> None:
    engine = FaultEngine((fault(SectionPlace("timer"), Delete()),))
    through(engine, [STREAM])
    through(engine, [PACKAGE])
    assert {key: data for key, (_, data) in engine.device_sections.items()} == {
        ("timer", 0): b"timer's state",
        ("serial", 0): b"of the FIFO",
    }
    assert engine.layout is not None


TIMER_KEY, NET_KEY = ("timer", 0), ("0000:00:02.0/virtio-net", 0)
PAYLOAD = SectionPlace("timer", part="payload")
OTHER = SectionPlace("*/virtio-net", part="payload")


@pytest.mark.parametrize(
    ("faults", "altered"),
    [
        pytest.param([], {}, id="none"),
        pytest.param(
            [fault(replace(PAYLOAD, byte=2), FlipBits(b"\x01"))], {TIMER_KEY: b"tiler's state"}
        ),
        pytest.param(
            [fault(replace(PAYLOAD, byte=0), SetField(b"T"))], {TIMER_KEY: b"Timer's state"}
        ),
        ([fault(PAYLOAD, Insert(b"my "))], {TIMER_KEY: b"my timer's state"}),
        ([fault(PAYLOAD, Delete())], {TIMER_KEY: b""}),
        (
            [
                Fault(replace(PAYLOAD, byte=0), SetField(b"T"), "one"),
                Fault(replace(PAYLOAD, byte=-1), SetField(b"E"), "two"),
                Fault(replace(OTHER, byte=0), SetField(b"R"), "three"),
            ],
            {TIMER_KEY: b"Timer's statE", NET_KEY: b"Ring \x7e\0\0\0 index"},
        ),
        (
            [fault(ElementPlace("payload", name="timer"), Swap())],
            {TIMER_KEY: b"ring \x7e\0\0\0 index", NET_KEY: b"timer's state"},
        ),
        pytest.param([fault(SectionPlace("timer"), Delete())], {}, id="of the whole section"),
        pytest.param([fault(SectionPlace("timer"), Duplicate())], {}, id="twice"),
        pytest.param([fault(SectionPlace("timer"), Swap())], {}, id="in another order"),
        pytest.param([fault(replace(PAYLOAD, byte=3), Stall(1.0))], {}, id="none of content"),
    ],
)
def test_what_faults_made_of_device_sections_is_known(
    faults: list[Fault], altered: dict[tuple[str, int], bytes]
) -> None:
    engine = FaultEngine(tuple(faults))
    through(engine, [STREAM])
    assert engine.altered_sections == altered
    through(engine, [PACKAGE])
    assert engine.altered_sections == {}, "another stream begins"


def test_sections_are_told_as_the_source_sent_them() -> None:
    engine = FaultEngine((fault(SectionPlace("timer"), Delete()),))
    through(engine, [STREAM])
    sent = engine.sections_sent
    devices = [("timer", 0, 1), ("0000:00:02.0/virtio-net", 0, 1), ("slirp", 1, 1)]
    assert sent.begun == [("ram", 0, 4), *devices]
    assert sent.parts == {("ram", 0): 2}
    assert sent.unread is None
    through(engine, [PACKAGE])
    assert [section[0] for section in sent.begun] == ["ram", *(each[0] for each in devices)]
    assert [section[0] for section in engine.sections_sent.begun] == ["ram", "timer", "serial"]


def test_of_a_stream_that_cannot_be_read_it_is_told_that_there_may_be_more() -> None:
    engine = FaultEngine()
    through(engine, [STREAM.replace(PAGE_BYTES, b"\xff" * len(PAGE_BYTES))])
    assert "expected flags of a record" in (engine.sections_sent.unread or "")
    through(engine, [STREAM])
    assert engine.sections_sent.unread is None


def test_a_stream_that_is_cut_has_told_its_sections() -> None:
    engine = FaultEngine()
    through(engine, [STREAM[:NET_AT]])
    assert [section[0] for section in engine.sections_sent.begun] == ["ram", "timer"]
    assert engine.sections_sent.unread is None


def test_a_section_that_the_vmdesc_denies_was_never_sent() -> None:
    serial = b"a\x7e\0\0\0\5" + device(6, "forged", b"")[:-5] + b"z"
    stream = TO_DEVICES + device(5, "serial", serial)[:-5] + b"\x7e\0\0\0\6"
    engine = FaultEngine()
    through(engine, [stream + vmdesc(("serial", 0, len(serial)))])
    assert engine.sections_sent.begun == [("ram", 0, 4), ("serial", 0, None)]


def test_a_stream_is_truncated_at_a_state() -> None:
    engine = FaultEngine((fault(StatePlace(SOURCE, event="STOP"), Truncate()),))
    relay = main(engine)
    assert acts(relay.received(SOURCE, STREAM[:50])) == [Send(DESTINATION, STREAM[:50])]
    ((_, commands),) = engine.observed(SOURCE, "STOP", None)
    assert acts(commands) == [HalfClose(DESTINATION)]
    assert acts(run(relay, [STREAM[50:]])) == []


def test_each_attempt_has_its_own_faults() -> None:
    engine = FaultEngine(
        (
            Fault(ElementPlace("file-header", "version"), SetField(2), "first"),
            Fault(ElementPlace("file-header", "version"), SetField(4), "second", attempt=2),
        )
    )
    assert through(engine, [STREAM])[:8] == b"QEVM\0\0\0\2"
    engine.next_attempt()
    assert through(engine, [STREAM])[:8] == b"QEVM\0\0\0\4"
    engine.next_attempt()
    assert through(engine, [STREAM]) == STREAM
    assert engine.unfired() == []


@pytest.mark.parametrize(("connection", "struck_in"), [(None, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("version", ["qemu7.2", "qemu10.0"])
def test_a_recovery_goes_on_where_the_first_connection_was_cut(
    version: str, connection: int | None, struck_in: int
) -> None:
    streams = [recorded(f"{version}-recover.{name}c0.fwd") for name in ("", "rec.")]
    place = PagePlace("pc.ram", nth=1, phase="postcopy", field="data", byte=0)
    engine = FaultEngine((fault(place, FlipBits(b"\xff"), connection=connection),))
    outs = [
        passed(run(engine.connection(number, kind), [stream]))
        for number, (kind, stream) in enumerate(zip(KINDS, streams, strict=True), 1)
    ]
    changed = [
        number
        for number, (out, stream) in enumerate(zip(outs, streams, strict=True), 1)
        if out != stream
    ]
    assert changed == [struck_in]
    assert engine.unfired() == []
    assert (
        sum(a != b for a, b in zip(*(x[struck_in - 1] for x in (outs, streams)), strict=True)) == 1
    )


def test_two_faults_in_one_element_strike_in_its_order() -> None:
    engine = FaultEngine(
        (
            Fault(ElementPlace("file-header", "version"), SetField(2), "b"),
            Fault(ElementPlace("file-header", "magic"), SetField(b"EVMQ"), "a"),
        )
    )
    commands = run(main(engine), [STREAM])
    assert passed(commands) == b"EVMQ\0\0\0\2" + STREAM[8:]
    assert [c.facts["fault"] for c in commands if _is_strike(c)] == ["a", "b"]


def test_a_strike_is_told_with_its_bytes() -> None:
    engine = FaultEngine((fault(ElementPlace("file-header", "version"), SetField(2)),))
    (strike,) = [c for c in run(main(engine), [STREAM]) if _is_strike(c)]
    assert strike == Observed(
        "fault-struck",
        {
            "fault": "it",
            "action": "set",
            "does": "write 0x2 over it",
            "channel": "main",
            "direction": "forward",
            "offset": 4,
            "element": "file-header",
            "certainty": "exact",
            "before": "00000003",
            "before_bytes": 4,
            "after": "00000002",
            "after_bytes": 4,
        },
    )


def _is_strike(command: Command) -> TypeGuard[Observed]:
    return isinstance(command, Observed) and command.kind == "fault-struck"


@pytest.mark.parametrize(
    ("where", "what", "point", "told"),
    [
        (SectionPlace("timer"), Reset(), Point.BEFORE, False),
        (ElementPlace("ram-total"), Truncate(), Point.BEFORE, False),
        (ElementPlace("eof"), Reset(), Point.BEFORE, False),
        (ElementPlace("eof"), Reset(), Point.AFTER, True),
        (ElementPlace("vmdesc"), Reset(), Point.BEFORE, True),
        (SectionPlace("timer"), Delete(), Point.BEFORE, True),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_the_end_of_the_stream_is_told_if_it_goes_on(
    where: Place, what: Action, point: Point, told: bool, step: int
) -> None:
    commands = run(main(FaultEngine([fault(where, what, point=point)])), steps(STREAM, step))
    kinds = [each.kind for each in commands if isinstance(each, Observed)]
    assert kinds.count("eof") == told
