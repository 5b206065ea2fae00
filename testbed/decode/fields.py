"""Device state taken apart: the fields of a section, as a vmdesc or a learned layout has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from testbed.wire import Layout
from testbed.wire.element import SectionHeader
from testbed.wire.fields import Field, values

from .item import Item
from .payloads import shortened


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A FULL section as it came."""

    header: SectionHeader
    offset: int  # of the payload
    payload: bytes
    occurrence: int = 1  # of its idstr and instance: some streams have two of them

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it in a stream."""
        return self.header.idstr, self.header.instance_id, self.occurrence

    def matches(self, pattern: str) -> bool:
        """True if the idstr is the one meant; `*` and `?` are wild."""
        return fnmatchcase(self.header.idstr, pattern)

    def fields(self, layout: Layout | None) -> Sequence[Field]:
        """Its fields; none if no layout fits the payload."""
        if layout is None or layout.size(*self.key) != len(self.payload):
            return ()
        return layout.fields(*self.key)


def device_item(state: DeviceState, layout: Layout | None) -> Item:
    """What there is to say of a section: its fields with place and value."""
    header = state.header
    facts: dict[str, Any] = {
        "idstr": header.idstr,
        "instance": header.instance_id,
        "section_id": header.section_id,
        "version": header.version_id,
    }
    fields = state.fields(layout)
    if fields or not state.payload:
        facts["fields"] = list(_said(fields, state.payload))
    else:
        facts |= {"why": "no vmdesc tells its fields", "bytes": shortened(state.payload)}
    return Item("device", state.offset, len(state.payload), facts)


def _said(fields: Sequence[Field], payload: bytes) -> Iterator[dict[str, Any]]:
    for field, value in zip(fields, values(fields, payload), strict=True):
        said = {"name": field.name, "type": field.type, "offset": field.start}
        yield {**said, "size": field.end - field.start, "value": value}
