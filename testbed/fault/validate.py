"""Faults that make no sense, whatever the stream: said before anything starts."""

from __future__ import annotations

from testbed.wire import spans
from testbed.wire.element import Span

from .place import ELEMENTS
from .plan import (
    CommandPlace,
    Delete,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Point,
    SectionPlace,
    SetField,
    Stall,
    StatePlace,
)

SECTION_FIELDS = {"header": spans.section(1), "footer": spans.FOOTER}
ELEMENT_FIELDS = {
    "file-header": spans.FILE_HEADER,
    "configuration": spans.configuration(1),
    "eof": spans.EOF,
    "vmdesc": spans.vmdesc(1),
}
LONG_HEADER = ("start", "full")


def validate_fault(fault: Fault) -> str | None:
    """Say why a fault makes no sense; None if it does."""
    return _place(fault) or _action(fault)


def _place(fault: Fault) -> str | None:
    match fault.place:
        case SectionPlace() as place:
            return _section(place)
        case ElementPlace(element=element) if element not in ELEMENTS:
            return f"no element {element!r}; there are {', '.join(ELEMENTS)}"
        case ElementPlace(element=element, field=field):
            return _unknown(field, ELEMENT_FIELDS[element], f"element {element}")
        case CommandPlace(field=field):
            return _unknown(field, spans.command(1), "a command")
        case MessagePlace(field=field):
            return _unknown(field, spans.message(1, -1), "a message")
        case PagePlace(field=field):
            return _unknown(field, spans.page(10, 3, 1), "a page record")
        case OffsetPlace(offset=offset) if offset < 0:
            return "an offset counts from the first byte: it is not negative"
    return None


def _section(place: SectionPlace) -> str | None:
    if place.part == "section" and place.field is not None:
        return f"say which `part` of the section the field {place.field!r} is in"
    if place.part in SECTION_FIELDS:
        known = SECTION_FIELDS[place.part]
        if place.part == "header" and place.kind not in (None, *LONG_HEADER):
            known = spans.SECTION_SHORT
        return _unknown(place.field, known, f"the {place.part} of a section")
    if place.part == "payload" and (place.idstr == "ram" or place.kind not in (None, "full")):
        if place.field is not None:
            return "only device state (kind full) has fields; for memory name a `block` and page"
        if place.byte is not None and place.byte < 0:
            return "nobody knows the end of such a section before it comes: count from its start"
    return None


def _action(fault: Fault) -> str | None:
    place, action = fault.place, fault.action
    replaces = isinstance(action, SetField | FlipBits | Delete)
    if isinstance(place, StatePlace) and (replaces or isinstance(action, Insert)):
        return "a state is no place in the stream: only the connection can be acted on there"
    if replaces and fault.point is Point.AFTER:
        return "`point` is for what happens between bytes; this action is on the bytes themselves"
    match action:
        case Stall(for_s=for_s) if for_s <= 0:
            return "a stall takes some time"
        case FlipBits(mask=mask) if not any(mask):
            return "a mask without a bit set flips nothing"
        case Insert(data=b""):
            return "there is nothing to insert"
        case SetField() | FlipBits() if _is_whole_section(fault):
            return "say which `part` of the section (header, payload, footer), `field` or `byte`"
        case SetField() | FlipBits() | Delete() if _is_memory(fault):
            return "name a page of a `block`, a `byte`, or (to delete) the whole section"
        case SetField(value=int(value)):
            return _too_wide(fault, value)
    return None


def _is_whole_section(fault: Fault) -> bool:
    place = fault.place
    return isinstance(place, SectionPlace) and place.part == "section" and place.byte is None


def _is_memory(fault: Fault) -> bool:
    """True if the place is all records of a RAM section, however many."""
    place = fault.place
    if not isinstance(place, SectionPlace):
        return False
    return place.part == "payload" and place.idstr == "ram" and place.byte is None


def _unknown(field: str | None, known: tuple[Span, ...], what: str) -> str | None:
    names = [span.name for span in known]
    if field is None or field in names:
        return None
    return f"{what} has no field {field!r}; it has {', '.join(names)}"


def _too_wide(fault: Fault, value: int) -> str | None:
    size = _width(fault)
    if size is None:
        return None
    try:
        value.to_bytes(size, "big", signed=value < 0)
    except OverflowError:
        return f"{value:#x} does not fit into {size} byte{'s' * (size > 1)}"
    return None


def _width(fault: Fault) -> int | None:
    """Bytes that the place has in every stream, where that is so."""
    place = fault.place
    if isinstance(place, OffsetPlace) or getattr(place, "byte", None) is not None:
        return 1
    known: tuple[Span, ...] = ()
    match place:
        case SectionPlace(part=part):
            known = SECTION_FIELDS.get(part, ())
        case ElementPlace(element=element):
            known = ELEMENT_FIELDS[element]
        case CommandPlace():
            known = spans.command(1)
        case MessagePlace():
            known = spans.message(1, -1)
    field = getattr(place, "field", None)
    variable = {"idstr", "payload", "machine", "text", "data"}
    if field is None or field in variable:
        return None
    return next((span.size_bytes for span in known if span.name == field), None)
