"""Device state taken apart: the fields of a section, as a vmdesc or a learned layout has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from testbed.wire import Layout
from testbed.wire.element import SectionHeader

from .item import Item
from .payloads import shortened

INTEGER_BYTES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A FULL section as it came."""

    header: SectionHeader
    offset: int  # of the payload
    payload: bytes

    @property
    def key(self) -> tuple[str, int]:
        """What names it in a stream."""
        return self.header.idstr, self.header.instance_id

    def matches(self, pattern: str) -> bool:
        """True if the idstr is the one meant; `*` and `?` are wild."""
        return fnmatchcase(self.header.idstr, pattern)

    def fields(self, layout: Layout | None) -> list[tuple[str, bytes]]:
        """Path and bytes of each field; none if no layout fits the payload."""
        if layout is None or layout.size(*self.key) != len(self.payload):
            return []
        return [
            (span.name, self.payload[span.start : span.start + span.size_bytes])
            for span in layout.spans(*self.key)
        ]


def device_item(state: DeviceState, layout: Layout | None) -> Item:
    """What there is to say of a section: its fields with place and value."""
    header = state.header
    facts: dict[str, Any] = {
        "idstr": header.idstr,
        "instance": header.instance_id,
        "section_id": header.section_id,
        "version": header.version_id,
    }
    fields = list(_fields(state, layout))
    if fields or not state.payload:
        facts["fields"] = fields
    else:
        facts |= {"why": "no vmdesc tells its fields", "bytes": shortened(state.payload)}
    return Item("device", state.offset, len(state.payload), facts)


def _fields(state: DeviceState, layout: Layout | None) -> Iterator[dict[str, Any]]:
    start = 0
    for name, data in state.fields(layout):
        value = int.from_bytes(data, "big") if len(data) in INTEGER_BYTES else data.hex()
        yield {"name": name, "offset": start, "size": len(data), "value": value}
        start += len(data)
