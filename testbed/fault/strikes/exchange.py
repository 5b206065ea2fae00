"""Two sections, or two elements of a kind, that leave in the other order.

The first is held until the second is complete, with what comes between them: bounded, and let go
as it came where no second one comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testbed.fault.places.place import Miss
from testbed.wire.element import Element, SectionFooter, SectionHeader
from testbed.wire.kinds import kind_of

from .copies import COPY_BYTES_MAX
from .edit import Edit

Leaving = tuple[Element, Sequence[Edit]]
"""An element, and what else is to be done to it."""


class Exchange:
    """What is held of an exchange.

    Args:
        edit: of the fault that exchanges.
        first: the element with which the first begins; all of it, unless the edit is of a section.
        edits: what other faults do in that element.
    """

    def __init__(self, edit: Edit, first: Element, edits: Sequence[Edit]) -> None:
        self.edit = edit
        self.first = first
        self.start = first.offset  # of the first byte that is held
        self.is_complete = False
        self.second: Element | None = None  # its first element
        self._parts: tuple[list[Leaving], ...] = ([(first, edits)], [], [])
        self._at = 0 if edit.of_section else 1  # first, between, second
        self._bytes = first.size_bytes

    def wants(self, kind: str) -> bool:
        """True if an element of that kind may be the second one."""
        return not self.edit.of_section and kind_of(self.first.value) == kind

    def takes(self, element: Element) -> bool:
        """True if it belongs here; false if the second section was complete without a footer."""
        is_header = isinstance(element.value, SectionHeader)
        inside = element.section is not None and not is_header
        return self._at != 2 or inside

    def add(self, element: Element, edits: Sequence[Edit]) -> None:
        """Hold one more; then it may be complete.

        Raises:
            Miss: the exchange cannot be.
        """
        self._bytes += element.size_bytes
        self.start = min(self.start, element.offset)
        if element.in_package != self.first.in_package:
            raise Miss("a package begins or ends before the next one")
        if self._bytes > COPY_BYTES_MAX:
            raise Miss(f"more than {COPY_BYTES_MAX} bytes came before the end of the next one")
        if self.edit.of_section:
            self._add_to_section(element)
        elif self.wants(kind_of(element.value)):
            self._at, self.second, self.is_complete = 2, element, True
        self._parts[self._at].append((element, edits))
        if self._at == 0 and isinstance(element.value, SectionFooter):
            self._at = 1
        elif self._at == 2 and self.edit.of_section:
            self.is_complete = isinstance(element.value, SectionFooter)

    def end(self) -> None:
        """Nothing more belongs to the second one."""
        self.is_complete = self._at == 2

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Offsets at which the first one and the second one begin and end."""
        for part in (self._parts[0], self._parts[2]):
            yield part[0][0].offset, part[-1][0].end

    def exchanged(self) -> Iterator[Leaving]:
        """All that was held, in the other order."""
        first, between, second = self._parts
        yield from (*second, *between, *first)

    def as_it_came(self) -> Iterator[Leaving]:
        """All that was held."""
        for part in self._parts:
            yield from part

    def _add_to_section(self, element: Element) -> None:
        if isinstance(element.value, SectionHeader):
            self._at, self.second = 2, element
        elif self._at == 0 and element.section is None:  # sections have no footers
            self._at = 1
