"""Faults that make no sense are told, in words, before anything starts."""

import pytest

from testbed.fault.engine import validate_fault
from testbed.fault.plan import (
    Action,
    AfterFault,
    Bandwidth,
    Before,
    BlockPlace,
    Chance,
    Channel,
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
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    Reached,
    Refuse,
    Replay,
    Reset,
    Restore,
    SectionPlace,
    SetField,
    Side,
    Signal,
    Slice,
    StalePage,
    Stall,
    StatePlace,
    Swap,
    Tarpit,
    Truncate,
    Vcpus,
)

TIMER = SectionPlace("timer")
STOP = StatePlace(Side.SOURCE, event="STOP")
SECOND = ConnectionPlace(2)
PAGE = PagePlace(page=5)
PACKET = ElementPlace("multifd-packet", channel=Channel.MULTIFD)

SENSE: list[tuple[Place, Action]] = [
    (STOP, Reset()),
    (STOP, Truncate()),
    (STOP, Signal(Side.SOURCE, "KILL")),
    (STOP, Latency(0.1, 0.1)),
    (SECOND, Refuse()),
    (SECOND, Refuse(2.5)),
    (SECOND, DelayAccept(1.0)),
    (SECOND, Tarpit()),
    (SECOND, Close()),
    (TIMER, Delete()),
    (TIMER, Duplicate()),
    (TIMER, Swap()),
    (TIMER, Replay(PAGE)),
    (TIMER, HalfClose(Side.SOURCE)),
    (SectionPlace("ram", part="payload"), Reset()),
    (SectionPlace("ram", part="payload", byte=3), SetField(1)),
    (SectionPlace("timer", part="header"), Duplicate()),
    (PAGE, StalePage()),
    (PagePlace(page=5, field="data"), StalePage()),
    (PagePlace(page=5, field="address"), SetField(0x5000)),
    (PagePlace(page=5, field="flags"), Reset()),
    (BlockPlace("pc.ram", share=1.0), Restore()),
    (PACKET, Swap()),
    (ElementPlace("multifd-packet", "offset[3]", channel=Channel.MULTIFD), SetField(1 << 63)),
    (ElementPlace("multifd-packet", "idstr", channel=Channel.MULTIFD, number=3), FlipBits(b"\1")),
    (ElementPlace("multifd-pages", "page[0]", 7, channel=Channel.MULTIFD), SetField(255)),
    (ElementPlace("ram-block", "used_length", name="pc.ram"), SetField(0)),
    (ElementPlace("live-record", "whatever"), Delete()),
    (ElementPlace("tls-record", channel=Channel.RETURN_PATH, number=2), Truncate()),
    (ElementPlace("message", "value", name="SHUT", channel=Channel.RETURN_PATH), SetField(1)),
    (MessagePlace("REQ_PAGES_ID", field="block"), SetField(b"x")),
    (MessagePlace("RECV_BITMAP", field="end_mark"), SetField(0)),
    (CommandPlace("POSTCOPY_RAM_DISCARD", field="range_start[7]"), SetField(0)),
    (OffsetPlace(9, Channel.UNKNOWN, 2), Insert(b"!")),
]


@pytest.mark.parametrize(("place", "action"), SENSE, ids=str)
def test_what_makes_sense_is_let_be(place: Place, action: Action) -> None:
    assert validate_fault(Fault(place, action, "it")) is None


NONSENSE: list[tuple[Place, Action, str]] = [
    # Places
    (SectionPlace("ram", part="payload", field="record"), Reset(), "only device state"),
    (SectionPlace("ram", part="payload", byte=-1), Reset(), "nobody knows the end"),
    (SectionPlace("cpu", field="version_id"), Reset(), "say which `part`"),
    (SectionPlace("cpu", part="footer", field="type"), Reset(), "has no field 'type'"),
    (SectionPlace("ram", "part", part="header", field="idstr"), Reset(), "it has type, section_id"),
    (SectionPlace(""), Reset(), "no section has an empty idstr"),
    (SectionPlace("cpu", occurrence=0), Reset(), "occurrences count from 1"),
    (ElementPlace("footer"), Reset(), "no element 'footer'; there are file-header"),
    (ElementPlace("opaque"), Reset(), "no element 'opaque'"),
    (ElementPlace("multifd-packet"), Reset(), "passes on multifd, never on main"),
    (ElementPlace("message"), Reset(), "passes on return-path, never on main"),
    (ElementPlace("eof", channel=Channel.PREEMPT), Reset(), "passes on main, never on preempt"),
    (ElementPlace("mapped-gap", "data"), Reset(), "has no field 'data'; it has none"),
    (ElementPlace("multifd-pages", "data", channel=Channel.MULTIFD), Reset(), "it has page[n]"),
    (ElementPlace("vmdesc", "json"), Reset(), "it has type, length, text"),
    (ElementPlace("vmdesc", number=1), Reset(), "there is one main channel"),
    (MessagePlace("SHUT", field="block"), Reset(), "it has type, length, payload, value"),
    (MessagePlace("PONG", field="bitmap"), Reset(), "has no field 'bitmap'"),
    (CommandPlace("PING", field="block"), Reset(), "it has type, command, length, payload, value"),
    (PagePlace(page=1, nth=2), Reset(), "say which: `page`"),
    (PagePlace(nth=2, occurrence=3), Reset(), "it has no occurrence"),
    (PagePlace(page=1, channel=Channel.TLS), Reset(), "never on tls"),
    (PagePlace(page=1, channel=Channel.PREEMPT, phase="precopy"), Reset(), "in postcopy only"),
    (PagePlace(page=1, field="flags", byte=0), Reset(), "name a byte of that"),
    (BlockPlace("pc.ram"), Reset(), "say which: bytes of the block"),
    (BlockPlace("pc.ram", 5, 0.5), Reset(), "say which: bytes of the block"),
    (BlockPlace("pc.ram", share=1.5), Reset(), "at most 1, not 1.5"),
    (BlockPlace("pc.ram", passed_bytes=0), Reset(), "some bytes"),
    (OffsetPlace(-1), Reset(), "it is not negative"),
    (ConnectionPlace(0), Reset(), "connections count from 1"),
    (StatePlace(Side.SOURCE), Reset(), "say which: `status`"),
    (StatePlace(Side.SOURCE, "active", number=2), Reset(), "there is one main channel"),
    (TIMER, Replay(ElementPlace("nothing")), "no element 'nothing'"),
    # What goes with which
    (STOP, Delete(), "a state is no place in the stream"),
    (STOP, Refuse(), "for a connection that comes"),
    (SECOND, Duplicate(), "nothing of a connection was read"),
    (TIMER, Tarpit(), "for a connection that comes"),
    (TIMER, DelayAccept(1), "for a connection that comes"),
    (TIMER, SetField(1), "say which `part` of the section"),
    (TIMER, FlipBits(b"\1"), "say which `part` of the section"),
    (SectionPlace("ram", part="payload"), Delete(), "name a page"),
    (SectionPlace("ram", part="payload"), Swap(), "name a page"),
    (SectionPlace("cpu", part="footer", field="mark"), Duplicate(), "no `field` or `byte`"),
    (OffsetPlace(7), Swap(), "no `field` or `byte`"),
    (TIMER, StalePage(), "name it with `page`"),
    (PagePlace(nth=1), StalePage(), "name it with `page`"),
    (PagePlace(page=1, field="record"), StalePage(), "all of the page is replaced"),
    (PagePlace(page=1, field="address"), FlipBits(b"\1"), "set it to a number"),
    (PagePlace(page=1, field="flags"), SetField(b"\1"), "set it to a number"),
    # Values
    (TIMER, Stall(0), "a stall takes some time"),
    (SECOND, DelayAccept(0), "a delay takes some time"),
    (SECOND, Refuse(0), "to refuse takes some time"),
    (PAGE, FlipBits(b"\0\0"), "flips nothing"),
    (TIMER, Insert(b""), "nothing to insert"),
    (TIMER, Latency(0, 0), "a latency is more than 0 s"),
    (TIMER, Latency(1, -1), "its jitter not less"),
    (TIMER, Bandwidth(0), "a byte a second at least"),
    (TIMER, Slice(0), "a byte at least"),
    (TIMER, Slice(5, 5), "less than its average"),
    (TIMER, Signal(Side.SOURCE, "TERM"), "there are KILL, STOP, CONT"),
    (TIMER, Signal(Side.BOTH, "KILL"), "say which side"),
    (TIMER, HalfClose(Side.BOTH), "say which side"),
    (OffsetPlace(1), SetField(256), "0x100 does not fit into 1 byte"),
    (SectionPlace("cpu", part="footer", field="mark"), SetField(300), "does not fit into 1 byte"),
    (ElementPlace("file-header", "version"), SetField(1 << 32), "does not fit into 4 bytes"),
    (
        ElementPlace("multifd-packet", "packet_num", channel=Channel.MULTIFD),
        SetField(1 << 64),
        "does not fit into 8 bytes",
    ),
    (PagePlace(page=1, field="record"), SetField(1 << 64), "does not fit into 8 bytes"),
]


@pytest.mark.parametrize(
    ("place", "action", "why"), NONSENSE, ids=[f"{n} {why}" for n, (*_, why) in enumerate(NONSENSE)]
)
def test_nonsense_is_told(place: Place, action: Action, why: str) -> None:
    assert why in str(validate_fault(Fault(place, action, "it")))


MORE: list[tuple[dict[str, object], str | None]] = [
    ({"point": Point.AFTER, "action": Delete()}, "`point` is for what happens between bytes"),
    ({"point": Point.AFTER, "action": Duplicate()}, "`point` is for what happens between bytes"),
    ({"point": Point.AFTER, "place": STOP}, "`point` is for places in the stream"),
    ({"times": 0}, "`times` counts from 1"),
    ({"times": None}, None),
    ({"everywhere": True}, None),
    ({"everywhere": True, "action": Delete()}, "can be done everywhere"),
    ({"everywhere": True, "action": Signal(Side.SOURCE, "STOP")}, "can be done everywhere"),
    ({"conditions": (Reached(()),)}, "say which places"),
    ({"conditions": (Reached((OffsetPlace(-1),)),)}, "it is not negative"),
    ({"conditions": (Before(ElementPlace("nothing")),)}, "no element 'nothing'"),
    ({"conditions": (Before(TIMER),)}, "before which it has to strike"),
    ({"conditions": (Chance(0),)}, "a chance is more than 0"),
    ({"conditions": (Chance(1.01),)}, "at most 1, not 1.01"),
    ({"place": SECOND, "connection": 1}, "connection 2 is never connection 1"),
    ({"place": SECOND, "connection": 2}, None),
    (
        {"place": PagePlace(nth=1, phase="postcopy"), "conditions": (Vcpus(running=True),)},
        "in postcopy the guest never runs at the source",
    ),
    (
        {"place": PagePlace(nth=1, phase="postcopy"), "conditions": (Vcpus(running=False),)},
        None,
    ),
    ({"conditions": (AfterFault("other"), Vcpus(running=True), Chance(1))}, None),
]


@pytest.mark.parametrize(
    ("more", "why"), MORE, ids=[f"{n} {each[1]}" for n, each in enumerate(MORE)]
)
def test_the_rest_of_a_fault_is_looked_at_too(more: dict[str, object], why: str | None) -> None:
    fault = Fault(**{"place": TIMER, "action": Reset(), "name": "it", **more})  # type: ignore[arg-type]
    found = validate_fault(fault)
    assert (found is None) if why is None else why in str(found)
