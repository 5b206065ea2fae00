"""Finds elements by kind and name, and bytes by their offset."""

from __future__ import annotations

from testbed.fault.plan import CommandPlace, ElementPlace, MessagePlace, OffsetPlace
from testbed.wire.element import Command, Element, Message, Payload
from testbed.wire.kinds import kind_of, name_of

from .place import Known, Matcher, Range, byte_at, is_named, narrowed
from .records import Records
from .sections import device_field

BULKY = ("multifd-pages", "multifd-payload", "tls-record")


class NamedMatcher(Matcher):
    """A command or a message, by name."""

    def __init__(self, place: CommandPlace | MessagePlace) -> None:
        self._place = place
        self._name = place.command if isinstance(place, CommandPlace) else place.message

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the place names, or None."""
        if not isinstance(element.value, Command | Message) or element.value.name != self._name:
            return None
        return narrowed(element, self._place.field, self._place.byte, known)


class ElementMatcher(Matcher):
    """An element of a kind, of any name or of one that fits."""

    has_state = False

    def __init__(self, place: ElementPlace) -> None:
        self._place = place
        self.in_pages = place.element == "ram-page"
        self.in_bulk = place.element in BULKY

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the place names, or None."""
        place = self._place
        if kind_of(element.value) != place.element or not is_named(_name(element), place.name):
            return None
        if isinstance(element.value, Payload) and place.field is not None:
            return device_field(element, place.field, place.byte, known)
        return narrowed(element, place.field, place.byte, known)

    def nth_in(self, records: Records, start: int, nth: int, _known: Known, /) -> int | None:
        """Every record of a block whose name fits."""
        at = start + nth - 1
        return at if self._has(records) and at < len(records) else None

    def passed_over(self, records: Records, start: int, stop: int, _known: Known, /) -> int:
        """All of them, of such a block."""
        return stop - start if self._has(records) else 0

    def _has(self, records: Records) -> bool:
        return self.in_pages and is_named(records.block, self._place.name)


class OffsetMatcher(Matcher):
    """The byte at an offset."""

    in_pages = True
    in_bulk = True

    def __init__(self, place: OffsetPlace) -> None:
        self._offset = place.offset

    def find(self, element: Element, _known: Known, /) -> Range | None:
        """The byte, if the element has it."""
        return byte_at(element, self._offset)

    def nth_in(self, records: Records, start: int, nth: int, _known: Known, /) -> int | None:
        """The record that has the byte."""
        run = records.element
        if nth != 1 or not run.offset <= self._offset < run.end:
            return None
        at = records.at(self._offset - run.offset)
        return at if at >= start else None

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> int:
        """Whether it was in these records."""
        at = self.nth_in(records, start, 1, known)
        return int(at is not None and at < stop)


def _name(element: Element) -> str | None:
    """The name of an element; of a part of a section, that of the section."""
    name = name_of(element.value)
    return element.section.idstr if name is None and element.section is not None else name
