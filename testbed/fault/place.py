"""Where a fault strikes: one matcher for each kind of place; elements in, byte ranges out.

A matcher sees the elements of its direction in order and counts; it answers with the range of an
element's bytes that its fault names, once. It outlives a connection: a recovery goes on counting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from testbed.wire import Layout
from testbed.wire.element import (
    Command,
    Configuration,
    Element,
    EndOfStream,
    FileHeader,
    Message,
    Payload,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)

from .plan import (
    Channel,
    CommandPlace,
    Delete,
    ElementPlace,
    Fault,
    FlipBits,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    SectionPlace,
    SetField,
    StatePlace,
)

ELEMENTS = {
    "file-header": FileHeader,
    "configuration": Configuration,
    "eof": EndOfStream,
    "vmdesc": VmDescription,
}
FOOTER_BYTES = 5
FIELDS_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to `end` of an element, counted from its first one."""

    start: int
    end: int
    one_byte: bool = False  # a `byte` was named, or an offset: what is written does not shift

    @classmethod
    def whole(cls, element: Element) -> Range:
        """All bytes of an element."""
        return cls(0, len(element.raw))


@dataclass(slots=True)
class Known:
    """What a direction knows beside the element."""

    postcopy: bool = False  # POSTCOPY_RUN has passed
    page_bytes: int = 4096
    layout: Layout | None = None


class Miss(Exception):
    """The place is there, but what the fault names of it is not: the reason, in words."""


def is_in_pages(place: Place) -> bool:
    """True if the place may lie in a record of a page, which must then come by itself."""
    match place:
        case SectionPlace(idstr=idstr, part=part, byte=byte):
            inside = part == "payload" or (part == "section" and byte is not None)
            return inside and fnmatchcase("ram", idstr)
        case PagePlace() | OffsetPlace():
            return True
    return False


class Matcher:
    """Finds one fault's place; `find` is called with every element of its direction, in order."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._count = 0

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the fault names, or None.

        Raises:
            Miss: the element is the one, but it lacks the field or byte.
        """
        raise NotImplementedError

    def _nth(self, occurrence: int) -> bool:
        self._count += 1
        return self._count == occurrence


class _Section(Matcher):
    """A section, or a part of it; follows the matching one from its header to its footer."""

    def __init__(self, fault: Fault, place: SectionPlace) -> None:
        super().__init__(fault)
        self._place = place
        self._at_end = fault.point is Point.AFTER and not isinstance(fault.action, Delete)
        self._header: Element | None = None

    def find(self, element: Element, known: Known, /) -> Range | None:
        if isinstance(element.value, SectionHeader):
            matched = self._matches(element.value) and self._nth(self._place.occurrence)
            self._header = element if matched else None
        if self._header is None or element.section is None:
            return None
        is_footer = isinstance(element.value, SectionFooter)
        match self._place.part:
            case "section":
                found = self._in_section(self._header, element)
            case "payload" if is_footer:
                found = self._payload_end()
            case "payload":
                found = self._in_payload(self._header, element, known)
            case "header":
                found = self._narrowed(element) if element is self._header else None
            case _:
                found = self._narrowed(element) if is_footer else None
        if found is None and is_footer:
            raise Miss(self._outside(element.offset - self._header.end))
        return found

    def _matches(self, header: SectionHeader) -> bool:
        place = self._place
        return (
            fnmatchcase(header.idstr, place.idstr)
            and (place.kind is None or header.type is SectionType[place.kind.upper()])
            and place.instance_id in (None, header.instance_id)
        )

    def _narrowed(self, element: Element) -> Range:
        return narrowed(element, self._place.field, self._place.byte)

    def _in_section(self, header: Element, element: Element) -> Range | None:
        byte = self._place.byte
        is_footer = isinstance(element.value, SectionFooter)
        if byte is None:
            wanted = is_footer if self._at_end else element is header
            return Range.whole(element) if wanted else None
        if byte < 0:  # before the footer nobody knows where the section ends
            return narrowed(element, None, byte) if is_footer and byte >= -FOOTER_BYTES else None
        return _byte_at(element, header.offset + byte)

    def _payload_end(self) -> Range | None:
        """Between payload and footer: where an empty payload lies, and the end of memory's."""
        between = not isinstance(self.fault.action, SetField | FlipBits | Delete)
        return Range(0, 0) if between and self._place.byte is None else None

    def _outside(self, payload_bytes: int) -> str:
        byte, part = self._place.byte, self._place.part
        if byte is None:
            return f"its {part} is empty"
        size = payload_bytes if part == "payload" else f"{payload_bytes} between header and footer"
        return f"byte {byte} lies outside: there are {size}"

    def _in_payload(self, header: Element, element: Element, known: Known) -> Range | None:
        place = self._place
        if isinstance(element.value, SectionHeader):
            return None
        if isinstance(element.value, Payload):
            if place.field is None:
                return self._narrowed(element)
            return _field(element, place.field, place.byte, known.layout)
        # RAM: records one after the other
        if place.field is not None:
            raise Miss("only device state has fields: for memory name a `block` and page")
        if place.byte is None:
            return None if self._at_end else Range.whole(element)
        return _byte_at(element, header.end + place.byte) if place.byte >= 0 else None


class _Page(Matcher):
    def __init__(self, fault: Fault, place: PagePlace) -> None:
        super().__init__(fault)
        self._place = place

    def find(self, element: Element, known: Known, /) -> Range | None:
        page, place = element.value, self._place
        if not isinstance(page, RamPage) or not fnmatchcase(page.block, place.block):
            return None
        if place.phase is not None and (place.phase == "postcopy") != known.postcopy:
            return None
        if place.page is not None and page.offset_bytes // known.page_bytes != place.page:
            return None
        if not self._nth(place.nth if place.nth is not None else place.occurrence):
            return None
        return narrowed(element, place.field, place.byte)


class _Named(Matcher):
    """A command or a message, by name."""

    def __init__(self, fault: Fault, place: CommandPlace | MessagePlace) -> None:
        super().__init__(fault)
        self._place = place
        self._name = place.command if isinstance(place, CommandPlace) else place.message

    def find(self, element: Element, _known: Known, /) -> Range | None:
        if not isinstance(element.value, Command | Message) or element.value.name != self._name:
            return None
        if not self._nth(self._place.occurrence):
            return None
        return narrowed(element, self._place.field, self._place.byte)


class _Single(Matcher):
    """An element that is there once."""

    def __init__(self, fault: Fault, place: ElementPlace) -> None:
        super().__init__(fault)
        self._place = place

    def find(self, element: Element, _known: Known, /) -> Range | None:
        if not isinstance(element.value, ELEMENTS[self._place.element]):
            return None
        return narrowed(element, self._place.field, self._place.byte)


class _Offset(Matcher):
    def __init__(self, fault: Fault, place: OffsetPlace) -> None:
        super().__init__(fault)
        self._place = place

    def find(self, element: Element, _known: Known, /) -> Range | None:
        return _byte_at(element, self._place.offset)


def matcher(fault: Fault) -> Matcher | None:
    """The matcher of a fault's place; None for a place that is no place in the stream."""
    match fault.place:
        case SectionPlace() as place:
            return _Section(fault, place)
        case PagePlace() as place:
            return _Page(fault, place)
        case CommandPlace() | MessagePlace() as place:
            return _Named(fault, place)
        case ElementPlace() as place:
            return _Single(fault, place)
        case OffsetPlace() as place:
            return _Offset(fault, place)
        case StatePlace():
            return None


def on_return_path(place: Place) -> bool:
    """True if the place lies in the direction destination to source."""
    return isinstance(place, MessagePlace) or (
        isinstance(place, OffsetPlace) and place.channel is Channel.RETURN_PATH
    )


def narrowed(element: Element, field: str | None, byte: int | None) -> Range:
    """The range of a field of an element, of a byte of that, or of all of it.

    Raises:
        Miss: the element has no such field or byte.
    """
    found = Range.whole(element)
    if field is not None:
        span = element.span(field)
        if span is None:
            names = ", ".join(span.name for span in element.spans)
            raise Miss(f"it has no field {field!r}, only {names}")
        found = Range(span.start, span.start + span.size_bytes)
    return _byte_of(found, byte)


def _field(element: Element, name: str, byte: int | None, layout: Layout | None) -> Range:
    unknown = f"field {name!r} could not be placed"
    if layout is None or element.section is None:
        raise Miss(f"{unknown}: no vmdesc tells the section's layout")
    key = element.section.idstr, element.section.instance_id
    size = layout.size(*key)
    if size != len(element.raw):
        described = "does not know it" if size is None else f"says {size} bytes"
        raise Miss(f"{unknown}: the section has {len(element.raw)} bytes, the vmdesc {described}")
    spans = layout.spans(*key)
    for span in spans:
        if span.name == name:
            return _byte_of(Range(span.start, span.start + span.size_bytes), byte)
    some = ", ".join(span.name for span in spans[:FIELDS_SHOWN_MAX])
    more = ", ..." if len(spans) > FIELDS_SHOWN_MAX else ""
    raise Miss(f"the section has no field {name!r}; it has {some}{more}")


def _byte_of(found: Range, byte: int | None) -> Range:
    if byte is None:
        return found
    at = found.start + byte if byte >= 0 else found.end + byte
    if not found.start <= at < found.end:
        raise Miss(f"byte {byte} lies outside: there are {found.end - found.start}")
    return replace(found, start=at, end=at + 1, one_byte=True)


def _byte_at(element: Element, offset: int) -> Range | None:
    """The byte at that offset of the channel, if the element has it."""
    start = offset - element.offset
    return Range(start, start + 1, one_byte=True) if 0 <= start < len(element.raw) else None
