"""What an action does to the bytes of the element that it strikes: one edit, exact to the byte."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.wire import EditError
from testbed.wire.element import Element, SectionHeader
from testbed.wire.piece import flipped, number

from .command import Command, End, GoDark, Wait
from .place import Miss, Range
from .plan import (
    Blackhole,
    Close,
    Delete,
    Fault,
    FlipBits,
    Insert,
    Point,
    Reset,
    SectionPlace,
    SetField,
    Side,
    Stall,
    Truncate,
)

BETWEEN_BYTES = (Close, Reset, Blackhole, Stall, Truncate)
"""Actions that change no byte."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes `start` to `end` of an element become `new`; then the fault's other effects begin."""

    fault: Fault
    start: int
    end: int
    new: bytes = b""
    deletes: SectionHeader | None = None  # the section that is taken out up to its footer


def edit_of(fault: Fault, found: Range, element: Element) -> Edit:
    """What the fault does in the range that its place names.

    Raises:
        Miss: the value or the mask does not fit there.
    """
    match fault.action:
        case SetField(value=int(value)):
            return Edit(fault, found.start, found.end, _integer(value, found))
        case SetField(value=bytes(value)):
            end = _reach(found, len(value), element) if found.one_byte else found.end
            return Edit(fault, found.start, end, value)
        case FlipBits(mask=mask):
            end = _reach(found, len(mask), element)
            return Edit(fault, found.start, end, flipped(element.raw[found.start : end], mask))
        case Delete():
            deletes = element.section if _whole_section(fault) else None
            return Edit(fault, found.start, found.end, b"", deletes)
        case Insert(data=data):
            at = _between(fault, found)
            return Edit(fault, at, at, data)
        case _:
            at = _between(fault, found)
            return Edit(fault, at, at)


def connection_commands(fault: Fault) -> list[Command]:
    """The commands of an action on the connection; none for those on content."""
    match fault.action:
        case Close(side=side):
            return [End(each, reset=False) for each in _each(side)]
        case Reset(side=side):
            return [End(each, reset=True) for each in _each(side)]
        case Blackhole(toward=toward, swallow=swallow):
            return [GoDark(each, swallow) for each in _each(toward)]
        case Stall(for_s=for_s, toward=toward):
            return [Wait(each, for_s) for each in _each(toward)]
        case _:
            return []


def _each(side: Side) -> tuple[Side, ...]:
    return (Side.SOURCE, Side.DESTINATION) if side is Side.BOTH else (side,)


def _between(fault: Fault, found: Range) -> int:
    return found.start if fault.point is Point.BEFORE else found.end


def _integer(value: int, found: Range) -> bytes:
    try:
        return number(value, found.end - found.start)
    except EditError as error:
        raise Miss(str(error)) from None


def _reach(found: Range, size: int, element: Element) -> int:
    """Where as many bytes end; those of a named field, or from a named byte on the element's."""
    end = found.start + size
    last = len(element.raw) if found.one_byte else found.end
    if end > last:
        raise Miss(f"{size} bytes do not fit: there are {last - found.start}")
    return end


def _whole_section(fault: Fault) -> bool:
    place = fault.place
    return isinstance(place, SectionPlace) and place.part == "section" and place.byte is None
