"""Places in the stream: on which channel each lies, and what a matcher says of an element.

What finds each kind of place is in `sections.py`, `elements.py` and `pages.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from testbed.fault.plan import (
    BlockPlace,
    Channel,
    ConnectionPlace,
    ElementPlace,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    SectionPlace,
    StatePlace,
)
from testbed.wire import Layout
from testbed.wire.element import Element, SectionType
from testbed.wire.kinds import KINDS

from .parts import part_of
from .records import Records

ELEMENTS = tuple(dict.fromkeys(kind for kind in KINDS.values() if kind != "opaque"))
"""The kinds of elements that a place may name; bytes that nobody can read have offsets only."""
FIELDS_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to `end` of an element, counted from its first one."""

    start: int
    end: int
    one_byte: bool = False  # a `byte` was named, or an offset: what is written does not shift
    bits: str | None = None  # of a page record: only `address`, only `flags`

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
    doubts: Mapping[int, str] = field(default_factory=dict)  # as `MainChannel` has them
    blocks: dict[str, int] = field(default_factory=dict)  # used bytes of each RAM block

    def check(self, element: Element) -> None:
        """See that the element begins and ends where it was cut.

        Raises:
            Miss: it belongs to a device section that the vmdesc has otherwise.
        """
        section = element.section
        if self.doubts and section is not None and section.type is SectionType.FULL:
            why = self.doubts.get(section.section_id)
            if why is not None:
                raise Miss(f"it could not be placed: vmdesc and stream disagree on {why}")


class Miss(Exception):
    """The place is there, but what the fault names of it is not: the reason, in words."""


class Matcher:
    """Finds every match of a place among the elements of its direction, which it sees in order.

    It outlives a connection: a recovery goes on.
    """

    in_pages = False
    """It may match in a record of a page: a run is told by `passed_over`, and split there."""
    in_bulk = False
    """It may match in bytes that are not copied unless they have to be: pages of multifd, TLS."""
    has_state = True
    """`passed_over` changes what it answers."""

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the place names, or None.

        Raises:
            Miss: the element is the one, but it lacks the field or byte.
        """
        raise NotImplementedError

    def nth_in(self, _records: Records, _start: int, _nth: int, _known: Known, /) -> int | None:
        """Which record from `start` on is the `nth` match in a run, if it has so many."""
        return None

    def passed_over(self, _records: Records, _start: int, _stop: int, _known: Known, /) -> int:
        """How many matches lie in these records, which will not be shown one by one."""
        return 0


def channel_of(place: Place) -> Channel | None:
    """The channel that a place is on; None for a connection, which is no channel yet."""
    match place:
        case ElementPlace() | OffsetPlace() | PagePlace() | StatePlace():
            return place.channel
        case MessagePlace():
            return Channel.RETURN_PATH
        case ConnectionPlace():
            return None
        case _:
            return Channel.MAIN


def number_of(place: Place) -> int | None:
    """The number of its channel, where it is one of several; None: any of them."""
    match place:
        case ElementPlace() | OffsetPlace() | StatePlace():
            return place.number
    return None


def in_device_state(place: Place) -> bool:
    """True if the place may lie in device state, whose boundaries are not sure at once."""
    match place:
        case SectionPlace(idstr=idstr, kind=kind):
            return kind in (None, "full") and idstr != "ram"
        case ElementPlace(element="section-header" | "section-footer" | "payload", name=name):
            return name != "ram"
    return False


def occurrence_of(place: Place) -> int:
    """The how-manieth match of its place is meant."""
    match place:
        case PagePlace(nth=int(nth)):
            return nth
        case OffsetPlace() | BlockPlace() | ConnectionPlace():
            return 1
    return place.occurrence


def is_named(name: str | None, pattern: str | None) -> bool:
    """True if there is no pattern, or it fits the name."""
    return pattern is None or (name is not None and fnmatchcase(name, pattern))


def narrowed(element: Element, name: str | None, byte: int | None, known: Known) -> Range:
    """The range of a field of an element, of a byte of that, or of all of it.

    Raises:
        Miss: the element has no such field or byte.
    """
    return byte_of(Range.whole(element) if name is None else _field(element, name, known), byte)


def _field(element: Element, name: str, known: Known) -> Range:
    span = element.span(name)
    if span is not None:
        return Range(span.start, span.start + span.size_bytes)
    part = part_of(element, name, known.page_bytes)
    if part is not None:
        return Range(*part, bits=name if name in ("address", "flags") else None)
    names = [span.name for span in element.spans]
    some = ", ".join(names[:FIELDS_SHOWN_MAX]) + (", ..." if len(names) > FIELDS_SHOWN_MAX else "")
    raise Miss(f"it has no field {name!r}, only {some}" if names else "it has no fields")


def outside(byte: int, size: int) -> str:
    """Say that something of `size` bytes has no such byte."""
    return f"byte {byte} is outside: it has {size} byte{'s' * (size != 1)}"


def byte_of(found: Range, byte: int | None) -> Range:
    """A byte of a range; a negative one counts from its end.

    Raises:
        Miss: it has no such byte.
    """
    if byte is None:
        return found
    at = found.start + byte if byte >= 0 else found.end + byte
    if not found.start <= at < found.end:
        raise Miss(outside(byte, found.end - found.start))
    return replace(found, start=at, end=at + 1, one_byte=True, bits=None)


def byte_at(element: Element, offset: int) -> Range | None:
    """The byte at that offset of the channel, if the element has it."""
    start = offset - element.offset
    return Range(start, start + 1, one_byte=True) if 0 <= start < len(element.raw) else None
