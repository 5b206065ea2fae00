"""What an action does to the bytes of the element that it strikes: one edit, exact to the byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.fault.places.parts import with_bits
from testbed.fault.places.place import Known, Miss, Range
from testbed.fault.plan import (
    Delete,
    Duplicate,
    Fault,
    FlipBits,
    Insert,
    Point,
    Replay,
    SetField,
    StalePage,
    Swap,
)
from testbed.wire import EditError
from testbed.wire.element import Element, RamFlag, RamPage
from testbed.wire.piece import flipped, number
from testbed.wire.structs import U64

from .copies import Keeper, LastBytes, OlderPage, is_whole_section


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes `start` to `end` of an element become `new`; then the fault's other effects begin."""

    fault: Fault
    start: int
    end: int
    new: bytes = b""

    @property
    def of_section(self) -> bool:
        """It is of the whole section that begins with the element."""
        return is_whole_section(self.fault.place)


def edit_of(
    fault: Fault, found: Range, element: Element, known: Known, keeper: Keeper | None
) -> Edit:
    """What the fault does in the range that its place names.

    Raises:
        Miss: the value or the mask does not fit there, or there is nothing to put there.
    """
    match fault.action:
        case SetField(value=int(value)) if found.bits is not None:
            record = int.from_bytes(element.raw[: U64.size], "big")
            changed = with_bits(record, found.bits, value, known.page_bytes)
            if changed is None:
                raise Miss(f"{value:#x} does not fit into the {found.bits} of a page record")
            return Edit(fault, 0, U64.size, U64.pack(changed))
        case SetField(value=int(value)):
            return Edit(fault, found.start, found.end, _integer(value, found))
        case SetField(value=bytes(value)):
            end = _reach(found, len(value), element) if found.one_byte else found.end
            return Edit(fault, found.start, end, value)
        case FlipBits(mask=mask):
            end = _reach(found, len(mask), element)
            return Edit(fault, found.start, end, flipped(element.raw[found.start : end], mask))
        case Delete() | Swap():
            return Edit(fault, found.start, found.end)
        case Duplicate():
            whole = element.raw if not is_whole_section(fault.place) else b""
            return Edit(fault, found.end, found.end, whole)
        case StalePage():
            assert isinstance(keeper, OlderPage)
            return _stale(fault, element, keeper, known.page_bytes)
    at = found.start if fault.point is Point.BEFORE else found.end
    match fault.action:
        case Insert(data=data):
            return Edit(fault, at, at, data)
        case Replay():
            assert isinstance(keeper, LastBytes)
            return Edit(fault, at, at, keeper.last())
        case _:
            return Edit(fault, at, at)


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """What edits make of an element's bytes; they are in the order of their places."""
    made, at = bytearray(), 0
    for edit in edits:
        made += data[at : edit.start] + edit.new
        at = edit.end
    return bytes(made + data[at:])


def changes_nothing(edit: Edit, element: Element) -> str | None:
    """Say why an edit of bytes leaves them as they came; None if it changes them."""
    old = element.raw[edit.start : edit.end]
    if edit.new != old:
        return None
    match edit.fault.action:
        case SetField(value=int(value)):
            return f"the value was {value if abs(value) < 10 else hex(value)} already"
        case SetField():
            return "those bytes were there already"
        case FlipBits():
            return "it flips no bit"
        case Delete():
            return "there was nothing to take out"
        case Insert() | Duplicate() | Replay():
            return "there was nothing to put in"
    return "its bytes were the same already"


def _stale(fault: Fault, element: Element, keeper: OlderPage, page_bytes: int) -> Edit:
    """The record with older data: in place if it has a whole page, else as one that has."""
    page, size = element.value, len(element.raw)
    assert isinstance(page, RamPage)
    older = keeper.before(page, page_bytes)
    if page.flags & RamFlag.PAGE:
        return Edit(fault, size - page_bytes, size, older)
    idstr = element.span("idstr")
    head = U64.size if idstr is None else idstr.start + idstr.size_bytes
    record = U64.pack(page.offset_bytes | RamFlag.PAGE | page.flags & RamFlag.CONTINUE)
    return Edit(fault, 0, size, record + element.raw[U64.size : head] + older)


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
