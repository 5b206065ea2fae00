"""A section that is taken out while it passes: how much of it there was, for the log."""

from __future__ import annotations

from testbed.fault.plan import Fault
from testbed.wire.element import Element

from .kept import Kept
from .shown import Shown


class Removal:
    """From the header on, which has been taken out already."""

    def __init__(self, fault: Fault, header: Element) -> None:
        self._fault = fault
        self._offset = header.offset
        self._shown = Shown.of(header.raw)

    def add(self, element: Element, kept: Kept) -> None:
        """Another element of it, whose bytes are among those kept."""
        self._shown += Shown.kept(kept, element.offset, element.end)

    def facts(self) -> dict[str, object]:
        """What there was of it, for the log."""
        where = {"fault": self._fault.name, "offset": self._offset}
        return {**where, **self._shown.facts("before")}
