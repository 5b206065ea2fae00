"""Where a fault strikes: one matcher for each kind of place; elements in, byte ranges out.

A matcher sees every element of its direction in order and counts; it answers with the range of an
element's bytes that its fault names, once.
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
    CommandPlace,
    ElementPlace,
    Fault,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    SectionPlace,
    StatePlace,
)

ELEMENTS = {
    "file-header": FileHeader,
    "configuration": Configuration,
    "eof": EndOfStream,
    "vmdesc": VmDescription,
}


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
    """What a direction knows at an element, beside the element: shared by its matchers."""

    postcopy: bool = False
    layout: Layout | None = None


class Miss(Exception):
    """The place is there, but the bytes that the fault names are not: the reason, in words."""


class Matcher:
    """Finds one fault's place; `find` is called with every element, in order."""

    def __init__(self, fault: Fault, known: Known) -> None:
        self.fault = fault
        self._known = known
        self._count = 0

    def find(self, element: Element) -> Range | None:
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

    def __init__(self, fault: Fault, known: Known, place: SectionPlace) -> None:
        super().__init__(fault, known)
        self._place = place
        self._header: Element | None = None

    def find(self, element: Element) -> Range | None:
        if isinstance(element.value, SectionHeader):
            matched = self._matches(element.value) and self._nth(self._place.occurrence)
            self._header = element if matched else None
        if self._header is None or element.section is None:
            return None
        match self._place.part, element.value:
            case "section", SectionHeader() if self.fault.point is Point.BEFORE:
                return Range.whole(element)
            case "section", SectionFooter() if self.fault.point is Point.AFTER:
                return Range.whole(element)
            case "header", SectionHeader():
                return narrowed(element, self._place.field, self._place.byte)
            case "footer", SectionFooter():
                return narrowed(element, self._place.field, self._place.byte)
            case "payload", SectionHeader() | SectionFooter():
                return None
            case "payload", _:
                return self._in_payload(self._header, element)
        return None

    def _matches(self, header: SectionHeader) -> bool:
        place = self._place
        return (
            fnmatchcase(header.idstr, place.idstr)
            and (place.kind is None or header.type is SectionType[place.kind.upper()])
            and place.instance_id in (None, header.instance_id)
        )

    def _in_payload(self, header: Element, element: Element) -> Range | None:
        place = self._place
        if isinstance(element.value, Payload):
            if place.field is None:
                return narrowed(element, None, place.byte)
            return _field(element, place.field, place.byte, self._known.layout)
        # RAM: records one after the other.
        byte = place.byte or 0
        start = header.end + byte - element.offset
        if byte >= 0 and 0 <= start < len(element.raw):
            return Range(start, start + 1, one_byte=True) if place.byte else Range.whole(element)
        return None


class _Page(Matcher):
    def __init__(self, fault: Fault, known: Known, place: PagePlace) -> None:
        super().__init__(fault, known)
        self._place = place

    def find(self, element: Element) -> Range | None:
        page, place = element.value, self._place
        if not isinstance(page, RamPage) or not fnmatchcase(page.block, place.block):
            return None
        if place.phase is not None and (place.phase == "postcopy") != self._known.postcopy:
            return None
        if place.page is not None and page.offset_bytes // 4096 != place.page:
            return None
        if not self._nth(place.nth if place.nth is not None else place.occurrence):
            return None
        return narrowed(element, place.field, place.byte)


class _Named(Matcher):
    """A command or a message, by name."""

    def __init__(self, fault: Fault, known: Known, place: CommandPlace | MessagePlace) -> None:
        super().__init__(fault, known)
        self._place = place
        self._name = place.command if isinstance(place, CommandPlace) else place.message

    def find(self, element: Element) -> Range | None:
        if not isinstance(element.value, Command | Message) or element.value.name != self._name:
            return None
        if not self._nth(self._place.occurrence):
            return None
        return narrowed(element, self._place.field, self._place.byte)


class _Single(Matcher):
    """An element that is there once."""

    def __init__(self, fault: Fault, known: Known, place: ElementPlace) -> None:
        super().__init__(fault, known)
        self._place = place

    def find(self, element: Element) -> Range | None:
        if not isinstance(element.value, ELEMENTS[self._place.element]):
            return None
        return narrowed(element, self._place.field, self._place.byte)


class _Offset(Matcher):
    def __init__(self, fault: Fault, known: Known, place: OffsetPlace) -> None:
        super().__init__(fault, known)
        self._place = place

    def find(self, element: Element) -> Range | None:
        start = self._place.offset - element.offset
        if 0 <= start < len(element.raw):
            return Range(start, start + 1, one_byte=True)
        return None


def matcher(fault: Fault, known: Known) -> Matcher | None:
    """The matcher of a fault's place; None for a place that is no place in the stream."""
    match fault.place:
        case SectionPlace() as place:
            return _Section(fault, known, place)
        case PagePlace() as place:
            return _Page(fault, known, place)
        case CommandPlace() | MessagePlace() as place:
            return _Named(fault, known, place)
        case ElementPlace() as place:
            return _Single(fault, known, place)
        case OffsetPlace() as place:
            return _Offset(fault, known, place)
        case StatePlace():
            return None


def on_return_path(place: Place) -> bool:
    """True if the place lies in the direction destination to source."""
    return isinstance(place, MessagePlace) or (isinstance(place, OffsetPlace) and place.return_path)


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
    if layout is None or element.section is None:
        raise Miss(f"field {name!r} cannot be placed: no vmdesc tells the section's layout")
    spans = layout.spans(element.section.idstr, element.section.instance_id)
    for span in spans:
        if span.name == name:
            return _byte_of(Range(span.start, span.start + span.size_bytes), byte)
    some = ", ".join(span.name for span in spans[:12])
    raise Miss(f"the section has no field {name!r}; it has {some}{', ...' * (len(spans) > 12)}")


def _byte_of(found: Range, byte: int | None) -> Range:
    if byte is None:
        return found
    at = found.start + byte if byte >= 0 else found.end + byte
    if not found.start <= at < found.end:
        raise Miss(f"byte {byte} lies outside: there are {found.end - found.start}")
    return replace(found, start=at, end=at + 1, one_byte=True)
