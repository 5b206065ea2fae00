"""Faults that make no sense, whatever the stream: said before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.wire import spans
from testbed.wire.element import Span

from .places.parts import BIT_FIELDS, names_of
from .places.place import ELEMENTS, channel_of
from .places.trigger import REPLACES
from .plan import (
    Bandwidth,
    Before,
    BlockPlace,
    Chance,
    Channel,
    CommandPlace,
    Condition,
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
    OnContent,
    PagePlace,
    Place,
    Point,
    Reached,
    Refuse,
    Replay,
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
    Vcpus,
)
from .sentence import action_name
from .strikes.copies import is_whole_section

SIGNALS = ("KILL", "STOP", "CONT")
SECTION_FIELDS = {"header": spans.section(1), "footer": spans.FOOTER}
LONG_HEADER = ("start", "full")
PAGE_FIELDS = (*spans.page(10, 3, 1), *(Span(name, 0, 8) for name in BIT_FIELDS))
ELEMENT_FIELDS = {
    "file-header": spans.FILE_HEADER,
    "configuration": spans.configuration(1),
    "configuration-subsection": spans.subsection(1, 1),
    "section-header": spans.section(1),
    "section-footer": spans.FOOTER,
    "ram-total": spans.RECORD,
    "ram-block": (*spans.ram_block(1, True, True, False), *spans.ram_block(1, False, False, True)),
    "ram-page": PAGE_FIELDS,
    "record": spans.RECORD,
    "mapped-bitmap": (),
    "mapped-pages": (),
    "mapped-gap": (),
    "eof": spans.EOF,
    "vmdesc": spans.vmdesc(1),
    "multifd-init": spans.MULTIFD_INIT,
    "multifd-packet": (*spans.multifd_packet(0, 0, 1), *spans.MULTIFD_DEVICE_STATE),
    "multifd-payload": (),
    "tls-record": spans.tls_record(1),
}
"""What an element of each kind may have, where that can be listed."""
INDEXED = {"multifd-packet": ("offset[n]", "zero_offset[n]"), "multifd-pages": ("page[n]",)}
ELSEWHERE = {
    "message": (Channel.RETURN_PATH,),
    "multifd-init": (Channel.MULTIFD,),
    "multifd-packet": (Channel.MULTIFD,),
    "multifd-pages": (Channel.MULTIFD,),
    "multifd-payload": (Channel.MULTIFD,),
    "ram-page": (Channel.MAIN, Channel.PREEMPT),
    "record": (Channel.MAIN, Channel.PREEMPT),
    "tls-record": (Channel.TLS, Channel.RETURN_PATH),
}
"""The channels of kinds that do not pass on the main one alone."""
NUMBERED = (Channel.MULTIFD, Channel.TLS, Channel.UNKNOWN, Channel.RETURN_PATH)
VARIABLE = frozenset({"idstr", "payload", "machine", "text", "data", "block", "bitmap"})
"""Fields whose size depends on the stream."""


def validate_fault(fault: Fault) -> str | None:
    """Say why a fault makes no sense; None if it does."""
    return next(_problems(fault), None)


def _problems(fault: Fault) -> Iterator[str]:
    yield from _place(fault.place)
    if isinstance(fault.action, Replay):
        yield from _place(fault.action.place)
    for condition in fault.conditions:
        yield from _condition(condition, fault)
    if fault.times is not None and fault.times < 1:
        yield "`times` counts from 1"
    yield from _action_at(fault)
    yield from _values(fault)
    yield from _scope(fault)
    if isinstance(fault.place, ConnectionPlace):
        number = fault.place.number
        if fault.connection not in (None, number):
            yield f"connection {number} is never connection {fault.connection}: say it once"


# Places


def _place(place: Place) -> Iterator[str]:
    match place:
        case SectionPlace():
            yield from _section(place)
        case ElementPlace():
            yield from _element(place)
        case CommandPlace(command=name, field=field):
            yield from _unknown(field, spans.command(1), "a command", names_of(name, message=False))
        case MessagePlace(message=name, field=field):
            known = spans.message(1, 1) if name == "RECV_BITMAP" else spans.message(1, -1)
            yield from _unknown(field, known, "a message", names_of(name, message=True))
        case PagePlace():
            yield from _page(place)
        case BlockPlace():
            yield from _block(place)
        case OffsetPlace(offset=offset) if offset < 0:
            yield "an offset counts from the first byte: it is not negative"
        case ConnectionPlace(number=number) if number < 1:
            yield "connections count from 1"
        case StatePlace(status=status, event=event) if (status is None) == (event is None):
            yield "say which: `status` (of a migration), or `event`"
    if getattr(place, "number", None) is not None and channel_of(place) not in (None, *NUMBERED):
        yield f"there is one {channel_of(place)} channel: it has no number"
    if getattr(place, "occurrence", 1) < 1:
        yield "occurrences count from 1"


def _section(place: SectionPlace) -> Iterator[str]:
    if not place.idstr:
        yield "no section has an empty idstr"
    if place.part == "section" and place.field is not None:
        yield f"say which `part` of the section the field {place.field!r} is in"
    elif place.part in SECTION_FIELDS:
        known = SECTION_FIELDS[place.part]
        if place.part == "header" and place.kind not in (None, *LONG_HEADER):
            known = spans.SECTION_SHORT
        yield from _unknown(place.field, known, f"the {place.part} of a section")
    elif place.part == "payload" and (place.idstr == "ram" or place.kind not in (None, "full")):
        if place.field is not None:
            yield "only device state (kind full) has fields; for memory name a `block` and page"
        if place.byte is not None and place.byte < 0:
            yield "nobody knows the end of such a section before it comes: count from its start"


def _element(place: ElementPlace) -> Iterator[str]:
    kind = place.element
    if kind not in ELEMENTS:
        yield f"no element {kind!r}; there are {', '.join(ELEMENTS)}"
        return
    channels = ELSEWHERE.get(kind, (Channel.MAIN,))
    if place.channel not in channels:
        yield f"{kind} passes on {' or '.join(channels)}, never on {place.channel}"
    if kind in ELEMENT_FIELDS or kind in INDEXED:
        base = (place.field or "").partition("[")[0]
        indexed = INDEXED.get(kind, ())
        if f"{base}[n]" not in indexed or "[" not in (place.field or ""):
            yield from _unknown(
                place.field, ELEMENT_FIELDS.get(kind, ()), f"element {kind}", indexed
            )
    elif kind in ("command", "message"):
        shape = spans.message(1, 1) if kind == "message" else spans.command(1)
        parts = names_of(place.name, message=kind == "message")
        yield from _unknown(place.field, shape, f"a {kind}", parts)


def _page(place: PagePlace) -> Iterator[str]:
    if place.page is not None and place.nth is not None:
        yield "say which: `page` (by its number), or the nth page record"
    if place.nth is not None and place.occurrence != 1:
        yield "the nth page record is there once: it has no occurrence"
    if place.channel not in (Channel.MAIN, Channel.PREEMPT):
        yield f"page records pass on main or preempt, never on {place.channel}"
    if place.channel is Channel.PREEMPT and place.phase == "precopy":
        yield "the preempt channel carries pages in postcopy only"
    yield from _unknown(place.field, PAGE_FIELDS, "a page record")
    if place.field in BIT_FIELDS and place.byte is not None:
        yield f"{place.field} is some bits of the `record`: name a byte of that"


def _block(place: BlockPlace) -> Iterator[str]:
    if (place.passed_bytes is None) == (place.share is None):
        yield "say which: bytes of the block that have passed, or a `share` of its pages"
    if place.share is not None and not 0 < place.share <= 1:
        yield f"a share of a block's pages is more than 0 and at most 1, not {place.share}"
    if place.passed_bytes is not None and place.passed_bytes < 1:
        yield "some bytes of the block have to pass"


def _unknown(
    field: str | None, known: tuple[Span, ...], what: str, more: tuple[str, ...] = ()
) -> Iterator[str]:
    names = list(dict.fromkeys([*(span.name for span in known), *more]))
    base, _, index = (field or "").partition("[")
    if field is None or field in names or (index and f"{base}[n]" in names):
        return
    has = f"it has {', '.join(names)}" if names else "it has none"
    yield f"{what} has no field {field!r}; {has}"


# Conditions


def _condition(condition: Condition, fault: Fault) -> Iterator[str]:
    match condition:
        case Reached(places=()):
            yield "say which places have to be reached"
        case Reached(places=places):
            for place in places:
                yield from _place(place)
        case Before(place=place):
            yield from _place(place)
            if place == fault.place:
                yield "a fault cannot strike at a place before which it has to strike"
        case Chance(probability=probability) if not 0 < probability <= 1:
            yield f"a chance is more than 0 and at most 1, not {probability}"
        case Vcpus(running=True) if getattr(fault.place, "phase", None) == "postcopy":
            yield "in postcopy the guest never runs at the source: this can never hold"


# Actions


def _action_at(fault: Fault) -> Iterator[str]:
    """An action that does not go with the place."""
    place, action = fault.place, fault.action
    if isinstance(place, StatePlace) and isinstance(action, OnContent):
        yield "a state is no place in the stream: only the connection can be acted on there"
    if isinstance(place, ConnectionPlace) and isinstance(action, OnContent):
        yield "nothing of a connection was read when it comes: name a place in the stream"
    if isinstance(action, Refuse | DelayAccept | Tarpit) and not isinstance(place, ConnectionPlace):
        yield f"{action_name(action)} is for a connection that comes: name that with `connection`"
    if isinstance(action, REPLACES) and fault.point is Point.AFTER:
        yield "`point` is for what happens between bytes; this action is on the bytes themselves"
    if isinstance(place, StatePlace | ConnectionPlace) and fault.point is Point.AFTER:
        yield "`point` is for places in the stream: there is nothing after this one"
    match action:
        case SetField() | FlipBits() if is_whole_section(place):
            yield "say which `part` of the section (header, payload, footer), `field` or `byte`"
        case SetField() | FlipBits() | Delete() | Duplicate() | Swap() if _is_memory(place):
            yield "name a page of a `block`, a `byte`, or (to delete) the whole section"
        case Duplicate() | Swap() if _is_narrowed(place):
            yield "a whole section or element is sent twice or exchanged: no `field` or `byte`"
        case StalePage():
            yield from _stale(place)
    yield from _bits(fault)


def _stale(place: Place) -> Iterator[str]:
    if not isinstance(place, PagePlace) or place.page is None:
        yield "older data is kept of one page alone: name it with `page`"
    elif place.byte is not None or place.field not in (None, "data"):
        yield "all of the page is replaced: no `field` or `byte`"


def _bits(fault: Fault) -> Iterator[str]:
    field = getattr(fault.place, "field", None)
    if field not in BIT_FIELDS:
        return
    match fault.action:
        case SetField(value=int()):
            pass
        case action if isinstance(action, OnContent):
            yield f"{field} is some bits of the `record`: set it to a number, or change the record"


def _values(fault: Fault) -> Iterator[str]:
    """What an action says that no stream could take."""
    match fault.action:
        case Stall(for_s=for_s) | DelayAccept(for_s=for_s) if for_s <= 0:
            what = "stall" if isinstance(fault.action, Stall) else "delay"
            yield f"a {what} takes some time"
        case Refuse(for_s=float() | int() as for_s) if for_s <= 0:
            yield "to refuse takes some time; without one nobody listens any more"
        case FlipBits(mask=mask) if not any(mask):
            yield "a mask without a bit set flips nothing"
        case Insert(data=b""):
            yield "there is nothing to insert"
        case SetField(value=int(value)):
            yield from _too_wide(fault, value)
        case Latency(delay_s=delay, jitter_s=jitter) if (
            min(delay, jitter) < 0 or not delay + jitter
        ):
            yield "a latency is more than 0 s, and its jitter not less"
        case Bandwidth(bytes_per_s=rate) if rate < 1:
            yield "a bandwidth is a byte a second at least; nothing at all is a blackhole"
        case Slice() as piece if piece.average_bytes < 1 or piece.variation_bytes < 0:
            yield "a slice has a byte at least"
        case Slice() as piece if piece.variation_bytes >= piece.average_bytes or piece.delay_s < 0:
            yield "a slice varies by less than its average, and waits no negative time"
        case Signal(signal=name) if name not in SIGNALS:
            yield f"no signal {name!r}; there are {', '.join(SIGNALS)}"
        case Signal(side=Side.BOTH) | HalfClose(toward=Side.BOTH):
            yield "say which side: source or destination"


def _scope(fault: Fault) -> Iterator[str]:
    if not fault.everywhere:
        return
    if isinstance(fault.action, OnContent | Signal | Refuse | DelayAccept | Tarpit):
        yield "only what is done to a connection, or to rate and time, can be done everywhere"


def _is_narrowed(place: Place) -> bool:
    return (
        isinstance(place, OffsetPlace | BlockPlace)
        or getattr(place, "field", None) is not None
        or getattr(place, "byte", None) is not None
    )


def _is_memory(place: Place) -> bool:
    """True if the place is all records of a RAM section, however many."""
    if not isinstance(place, SectionPlace):
        return False
    return place.part == "payload" and place.idstr == "ram" and place.byte is None


def _too_wide(fault: Fault, value: int) -> Iterator[str]:
    size = _width(fault.place)
    if size is None:
        return
    try:
        value.to_bytes(size, "big", signed=value < 0)
    except OverflowError:
        yield f"{value:#x} does not fit into {size} byte{'s' * (size > 1)}"


def _width(place: Place) -> int | None:
    """Bytes that the place has in every stream, where that is so."""
    if isinstance(place, OffsetPlace) or getattr(place, "byte", None) is not None:
        return 1
    known: tuple[Span, ...] = ()
    match place:
        case SectionPlace(part=part):
            known = SECTION_FIELDS.get(part, ())
        case ElementPlace(element=element):
            known = ELEMENT_FIELDS.get(element, ())
        case CommandPlace():
            known = spans.command(1)
        case MessagePlace():
            known = spans.message(1, -1)
        case PagePlace():
            known = PAGE_FIELDS
    field = getattr(place, "field", None)
    if field is None or field in VARIABLE or field in BIT_FIELDS:
        return None
    sizes = {span.size_bytes for span in known if span.name == field}
    return sizes.pop() if len(sizes) == 1 else None
