"""The fault engine in playbooks: bytes in, exact commands out."""

import pytest
from fault_helpers import BOTH, DESTINATION, SOURCE, acts, run, through
from wire_helpers import PAGES, device, postcopy, precopy, ram_part, steps

from testbed.fault.command import Command, End, GoDark, HalfClose, Send, Wait
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    Blackhole,
    Close,
    CommandPlace,
    Delete,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    Reset,
    SectionPlace,
    SetField,
    Stall,
    Truncate,
)
from testbed.wire import build_command, encode
from testbed.wire.element import CommandType, EndOfStream

STREAM = precopy()
NET = device(7, "0000:00:02.0/virtio-net", b"ring \x7e\0\0\0 index")
NET_AT = STREAM.index(NET)
NET_PAYLOAD = NET_AT + NET.index(b"ring")
NET_FOOTER = NET_AT + len(NET) - 5
TIMER = device(0, "timer", b"timer's state")
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
    commands = acts(run(engine.connection(), steps(STREAM, step)))
    assert commands == [
        Send(DESTINATION, STREAM[:at]),
        *expected,
        Send(DESTINATION, STREAM[at:]),
        HalfClose(DESTINATION),
    ]
    assert engine.unfired() == []


@pytest.mark.parametrize("step", STEPS)
def test_truncate_ends_the_stream_there_and_swallows_the_rest(step: int) -> None:
    place = SectionPlace("*/virtio-net", part="payload", byte=4)
    engine = FaultEngine((fault(place, Truncate()),))
    relay = engine.connection()
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
    relay = FaultEngine().connection()
    for chunk in steps(stream, step):
        assert acts(relay.received(SOURCE, chunk)) == [Send(DESTINATION, chunk)]
    assert acts(relay.ended(SOURCE)) == [HalfClose(DESTINATION)]
