"""Elements held back until their boundaries are as sure as they will get.

Device sections carry no length. In precopy the vmdesc tells their sizes just after the last one:
what lies between is held, and RAM never is. In postcopy no vmdesc comes, but the package states
its length and the destination reads it whole before it uses any of it: the package is held.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from testbed.fault.strikes.ledger import DEVICE_BYTES_MAX
from testbed.wire.element import (
    Certainty,
    Command,
    CommandType,
    Element,
    Opaque,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.structs import U32


class Hold:
    """The elements of a device phase, or of a package whose bytes `left` are still to come."""

    def __init__(self, first: Element) -> None:
        self.elements = [first]
        self.is_package = isinstance(first.value, Command)
        self._left = package_bytes(first) if self.is_package else DEVICE_BYTES_MAX

    def add(self, element: Element) -> bool:
        """Hold one more; true if nothing more will be learned by waiting."""
        self.elements.append(element)
        self._left -= element.size_bytes
        return self._left <= 0 or (
            not self.is_package and isinstance(element.value, VmDescription | Opaque)
        )

    @property
    def is_described(self) -> bool:
        """The vmdesc is what it ends with."""
        return isinstance(self.elements[-1].value, VmDescription)

    def settle(self, doubts: Container[int]) -> None:
        """The vmdesc came: all boundaries are certain but those of these sections, by id."""
        self.elements = [
            replace(element, certainty=Certainty.EXACT)
            if element.section is not None and element.section.section_id not in doubts
            else element
            for element in self.elements
        ]


def package_bytes(element: Element) -> int:
    """Bytes of the package that this element announces; 0 if it announces none."""
    match element.value:
        case Command(command=CommandType.PACKAGED, payload=payload) if len(payload) == U32.size:
            return int(U32.unpack(payload)[0])
    return 0


def begins_device_phase(element: Element) -> bool:
    """True at the header of a FULL section outside of a package."""
    value = element.value
    is_full = isinstance(value, SectionHeader) and value.type is SectionType.FULL
    return is_full and not element.in_package
