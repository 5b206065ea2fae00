"""Finds sections, and parts of them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from testbed.fault.plan import SectionPlace
from testbed.wire.element import Element, Payload, SectionFooter, SectionHeader, SectionType

from .place import (
    FIELDS_SHOWN_MAX,
    Known,
    Matcher,
    Miss,
    Range,
    byte_at,
    byte_of,
    narrowed,
    outside,
)
from .records import Records

FOOTER_BYTES = 5


class SectionMatcher(Matcher):
    """A section, or a part of it; follows a matching one from its header to its footer.

    Args:
        place: what to find.
        at_end: what is named is what lies behind it.
        between: nothing is done to its bytes: it may be empty.
    """

    def __init__(self, place: SectionPlace, *, at_end: bool, between: bool) -> None:
        self._place = place
        self._at_end = at_end
        self._between = between
        self._followed: Element | None = None  # the header
        inside = place.part == "payload" or (place.part == "section" and place.byte is not None)
        self.in_pages = inside and fnmatchcase("ram", place.idstr)

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the place names, or None."""
        if isinstance(element.value, SectionHeader):
            self._followed = element if self._matches(element.value) else None
        if self._followed is None or element.section is None:
            return None
        header, is_footer = self._followed, isinstance(element.value, SectionFooter)
        if is_footer:
            self._followed = None
        match self._place.part:
            case "section":
                found = self._in_section(header, element, known)
            case "payload" if is_footer:
                found = self._payload_end()
            case "payload":
                found = self._in_payload(header, element, known)
            case "header":
                found = self._narrowed(element, known) if element is header else None
            case _:
                found = self._narrowed(element, known) if is_footer else None
        if found is not None:
            self._followed = None
        elif is_footer and self._is_left_out():
            raise Miss(self._outside(element.offset - header.end))
        return found

    def nth_in(self, records: Records, start: int, nth: int, _known: Known, /) -> int | None:
        """Where in the run a byte of the section is, or its first record."""
        if nth != 1 or self._followed is None or not self.in_pages:
            return None
        at = self._record(records, self._followed)
        return at if at is not None and at >= start else None

    def passed_over(self, records: Records, start: int, stop: int, _known: Known, /) -> int:
        """Whether it was in these records."""
        if self._followed is None or not self.in_pages:
            return 0
        at = self._record(records, self._followed)
        if at is None or not start <= at < stop:
            return 0
        self._followed = None
        return 1

    def _record(self, records: Records, header: Element) -> int | None:
        """The record of the run that has what the place names, while its section is followed."""
        place, run = self._place, records.element
        if place.byte is None:
            first = place.part == "payload" and place.field is None and not self._at_end
            return 0 if first or place.field is not None else None
        base = header.offset if place.part == "section" else header.end
        offset = base + place.byte
        if place.byte < 0 or not run.offset <= offset < run.end:
            return None
        return records.at(offset - run.offset)

    def _matches(self, header: SectionHeader) -> bool:
        place = self._place
        return (
            fnmatchcase(header.idstr, place.idstr)
            and (place.kind is None or header.type is SectionType[place.kind.upper()])
            and place.instance_id in (None, header.instance_id)
        )

    def _narrowed(self, element: Element, known: Known) -> Range:
        return narrowed(element, self._place.field, self._place.byte, known)

    def _in_section(self, header: Element, element: Element, known: Known) -> Range | None:
        byte = self._place.byte
        is_footer = isinstance(element.value, SectionFooter)
        if byte is None:
            wanted = is_footer if self._at_end else element is header
            return Range.whole(element) if wanted else None
        if byte < 0:  # before the footer nobody knows where the section ends
            wanted = is_footer and byte >= -FOOTER_BYTES
            return narrowed(element, None, byte, known) if wanted else None
        return byte_at(element, header.offset + byte)

    def _payload_end(self) -> Range | None:
        """Between payload and footer: where an empty payload lies, and the end of memory's."""
        return Range(0, 0) if self._between and self._place.byte is None else None

    def _is_left_out(self) -> bool:
        """True if what is named had to be in the section, and was not."""
        return self._place.part != "section" or self._place.byte is not None

    def _outside(self, payload_bytes: int) -> str:
        byte, part = self._place.byte, self._place.part
        if byte is None:
            return f"its {part} is empty"
        between = "" if part == "payload" else " between header and footer"
        return f"{outside(byte, payload_bytes)}{between}"

    def _in_payload(self, header: Element, element: Element, known: Known) -> Range | None:
        place = self._place
        if isinstance(element.value, SectionHeader):
            return None
        if isinstance(element.value, Payload):
            if place.field is None:
                return self._narrowed(element, known)
            return device_field(element, place.field, place.byte, known)
        # RAM: records one after the other
        if place.field is not None:
            raise Miss("only device state has fields: for memory name a `block` and page")
        if place.byte is None:
            return None if self._at_end else Range.whole(element)
        return byte_at(element, header.end + place.byte) if place.byte >= 0 else None


def device_field(element: Element, name: str, byte: int | None, known: Known) -> Range:
    """A field of a device section's payload, by the vmdesc.

    Raises:
        Miss: there is no vmdesc, it is of another section, or it has no such field.
    """
    unknown, layout = f"field {name!r} could not be placed", known.layout
    if layout is None or element.section is None:
        raise Miss(f"{unknown}: no vmdesc tells the section's layout")
    key = element.section.idstr, element.section.instance_id, element.occurrence
    size = layout.size(*key)
    if size != len(element.raw):
        described = "does not know it" if size is None else f"says {size} bytes"
        raise Miss(f"{unknown}: the section has {len(element.raw)} bytes, the vmdesc {described}")
    span = layout.span(*key, name)
    if span is not None:
        return byte_of(Range(span.start, span.start + span.size_bytes), byte)
    spans = layout.spans(*key)
    some = ", ".join(span.name for span in spans[:FIELDS_SHOWN_MAX])
    more = ", ..." if len(spans) > FIELDS_SHOWN_MAX else ""
    raise Miss(f"the section has no field {name!r}; it has {some}{more}")
