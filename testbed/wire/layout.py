"""The layout of the device sections of a stream: sizes, and fields by name.

Computed from the vmdesc (`vmdesc.py`); what the bytes of a field say is in `fields.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from .element import Span
from .fields import Field
from .vmdesc import Device, read_vmdesc

SPANS_MAX = 100_000
"""Listed of one section, an array's elements counting each; `e1000` has some 50 000, `spapr_iommu`
262 144. `span` finds those beyond it, too."""

INDEX_DIGITS_MAX = 10
"""Of an element's number in its array: a section has at most 4 GiB (`vmdesc.SECTION_BYTES_MAX`)."""

Section = tuple[str, int, int]
"""A device section as it was cut: idstr, instance_id, size of the payload in bytes."""


class Layout:
    """What a vmdesc says of the device sections; `devices` is in the order of the stream.

    Two sections can have the same idstr and instance_id (`isa-ide` of the machine `isapc`, whose
    path of the device lacks the port), so `occurrence` says which one is meant, from 1, as it is
    in `Element`.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self._by_name: dict[tuple[str, int], list[Device]] = {}
        for device in devices:
            self._by_name.setdefault((device.idstr, device.instance_id), []).append(device)
        self._fields: dict[tuple[str, int, int], tuple[Field, ...]] = {}

    @classmethod
    def parse(cls, text: bytes) -> Layout:
        """Read a vmdesc.

        Raises:
            StreamError: it is not JSON, not a vmdesc, or beyond the bounds of `vmdesc.py`.
        """
        return cls(read_vmdesc(text))

    def size(self, idstr: str, instance_id: int, occurrence: int = 1) -> int | None:
        """Bytes of that section's payload; None if the vmdesc does not have it."""
        device = self._device(idstr, instance_id, occurrence)
        return None if device is None else device.size_bytes

    def fields(self, idstr: str, instance_id: int, occurrence: int = 1) -> tuple[Field, ...]:
        """The leaf fields of that section, in order; empty if the vmdesc does not have it.

        They lie back to back from the payload's first byte. A section with more than `FIELDS_MAX`
        of them has only so many here. `fields.values` tells what they say.
        """
        key = idstr, instance_id, occurrence
        if key not in self._fields:
            device = self._device(*key)
            self._fields[key] = () if device is None else device.fields()
        return self._fields[key]

    def spans(self, idstr: str, instance_id: int, occurrence: int = 1) -> tuple[Span, ...]:
        """The leaf fields of that section as `fields` has them, but each element of an array alone.

        An element's name is `name[3]`. A section with more than `SPANS_MAX` of them has only so
        many here.
        """
        fields = self.fields(idstr, instance_id, occurrence)
        return tuple(islice(_elements(fields), SPANS_MAX))

    def span(self, idstr: str, instance_id: int, occurrence: int, name: str) -> Span | None:
        """The field of that name of that section, or the element of an array, `name[3]`."""
        array, _, rest = name.removesuffix("]").rpartition("[")
        for each in self.fields(idstr, instance_id, occurrence):
            if each.array_len is None and each.name == name:
                return Span(name, each.start, each.size_bytes)
            if each.array_len is not None and each.name == array:
                is_number = rest.isascii() and rest.isdecimal() and len(rest) <= INDEX_DIGITS_MAX
                index = int(rest) if is_number else each.array_len
                if index < each.array_len and name == f"{array}[{index}]":
                    return Span(name, each.start + index * each.size_bytes, each.size_bytes)
        return None

    def doubts(self, sections: Sequence[Section]) -> dict[int, str]:
        """Which of all device sections of a stream may end elsewhere than they were cut, and why.

        Where one of them is not as the vmdesc says, either the vmdesc is wrong (`s390_css` of QEMU
        before 10.0) or the cut is. The others are certain all the same: those before it, for each
        is as long as the vmdesc says and the first one's beginning is known; those behind it, for
        the end of the last one is known; and those between two such, as long as there are as many
        of them as the vmdesc has.

        Args:
            sections: all of them, in the order of the stream.

        Returns:
            By index in `sections`, a reason that can follow "vmdesc and stream disagree on".
        """
        described = self._sections()
        if len(described) == len(sections):
            return {
                at: f"the section's size: {said[2]} and {cut[2]} bytes"
                if said[:2] == cut[:2]
                else f"the section: {said[0]} instance {said[1]:#x} and {cut[0]}"
                for at, (said, cut) in enumerate(zip(described, sections, strict=True))
                if said != cut
            }
        before = _alike(described, sections)
        behind = _alike(described[before:][::-1], sections[before:][::-1])
        why = f"how many sections there are: {len(described)} and {len(sections)}"
        return dict.fromkeys(range(before, len(sections) - behind), why)

    def disagreements(self, sections: Sequence[Section]) -> Iterator[str]:
        """Where sections differ from these."""
        described = self._sections()
        for number in range(max(len(described), len(sections))):
            said, cut = described[number : number + 1], list(sections[number : number + 1])
            if said != cut:
                yield (
                    f"device section {number + 1}: the vmdesc has {_describe(said)}, "
                    f"the stream was cut as {_describe(cut)}"
                )

    def _device(self, idstr: str, instance_id: int, occurrence: int) -> Device | None:
        devices = self._by_name.get((idstr, instance_id), ())
        return devices[occurrence - 1] if 0 < occurrence <= len(devices) else None

    def _sections(self) -> list[Section]:
        return [(each.idstr, each.instance_id, each.size_bytes) for each in self.devices]


def _alike(one: Sequence[Section], other: Sequence[Section]) -> int:
    """How many sections are the same from the first one on."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _elements(fields: Sequence[Field]) -> Iterator[Span]:
    for name, _, start, size_bytes, count in fields:
        if count is None:
            yield Span(name, start, size_bytes)
        else:
            for index in range(count):
                yield Span(f"{name}[{index}]", start + index * size_bytes, size_bytes)


def _describe(found: Sequence[Section]) -> str:
    if not found:
        return "none"
    idstr, instance_id, size_bytes = found[0]
    return f"{idstr} instance {instance_id} with {size_bytes} bytes"
