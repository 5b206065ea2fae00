"""The layout of the device sections of a stream: sizes, and fields by name.

Computed from the vmdesc (`vmdesc.py`); what the bytes of a field say is in `fields.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from .element import Span
from .fields import Field
from .vmdesc import Device, read_vmdesc

SPANS_MAX = 100_000
"""Of one section, an array's elements counting each; `e1000` has some 50 000."""


class Layout:
    """What a vmdesc says of the device sections; `devices` is in the order of the stream."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self._by_name = {(device.idstr, device.instance_id): device for device in devices}
        self._fields: dict[tuple[str, int], tuple[Field, ...]] = {}

    @classmethod
    def parse(cls, text: bytes) -> Layout:
        """Read a vmdesc.

        Raises:
            StreamError: it is not JSON, not a vmdesc, or beyond the bounds of `vmdesc.py`.
        """
        return cls(read_vmdesc(text))

    def size(self, idstr: str, instance_id: int) -> int | None:
        """Bytes of that section's payload; None if the vmdesc does not have it."""
        device = self._by_name.get((idstr, instance_id))
        return None if device is None else device.size_bytes

    def fields(self, idstr: str, instance_id: int) -> tuple[Field, ...]:
        """The leaf fields of that section, in order; empty if the vmdesc does not have it.

        They lie back to back from the payload's first byte. A section with more than `FIELDS_MAX`
        of them has only so many here. `fields.values` tells what they say.
        """
        key = idstr, instance_id
        if key not in self._fields:
            device = self._by_name.get(key)
            self._fields[key] = () if device is None else device.fields()
        return self._fields[key]

    def spans(self, idstr: str, instance_id: int) -> tuple[Span, ...]:
        """The leaf fields of that section as `fields` has them, but each element of an array alone.

        An element's name is `name[3]`. A section with more than `SPANS_MAX` of them has only so
        many here.
        """
        return tuple(islice(_elements(self.fields(idstr, instance_id)), SPANS_MAX))

    def disagreements(self, sections: Sequence[tuple[str, int, int]]) -> Iterator[str]:
        """Where sections, each (idstr, instance_id, size of the payload), differ from these."""
        described = [(d.idstr, d.instance_id, d.size_bytes) for d in self.devices]
        for number in range(max(len(described), len(sections))):
            said, cut = described[number : number + 1], list(sections[number : number + 1])
            if said != cut:
                yield (
                    f"device section {number + 1}: the vmdesc has {_describe(said)}, "
                    f"the stream was cut as {_describe(cut)}"
                )


def _elements(fields: Sequence[Field]) -> Iterator[Span]:
    for name, _, start, size_bytes, count in fields:
        if count is None:
            yield Span(name, start, size_bytes)
        else:
            for index in range(count):
                yield Span(f"{name}[{index}]", start + index * size_bytes, size_bytes)


def _describe(found: Sequence[tuple[str, int, int]]) -> str:
    if not found:
        return "none"
    idstr, instance_id, size_bytes = found[0]
    return f"{idstr} instance {instance_id} with {size_bytes} bytes"
