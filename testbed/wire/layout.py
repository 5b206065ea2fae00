"""The vmdesc, read: how long each device section is and where its fields lie.

A VMSD is its fields, then its subsections (0x05, length and text of the name, be32 version_id,
fields), with nothing between. The JSON comes from a peer, so nothing in it is believed beyond
bounds. Source: QEMU `migration/vmstate.c`, `vmsd_desc_field_start`, 2.8 to 11.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .element import Span
from .error import StreamError

TEXT_BYTES_MAX = 8 << 20
"""Of a vmdesc that is read; 121 KB seen. What is longer passes, but describes nothing."""
DEPTH_MAX = 48
"""Of structs and subsections in each other; 6 seen."""
PATH_CHARACTERS_MAX = 1000
"""Of the dotted name of a field, its section's idstr included."""
NODES_MAX = 500_000
"""Of fields and subsections in all; 1500 seen."""
SECTION_BYTES_MAX = 1 << 32
SPANS_MAX = 100_000
"""Of one section's leaf fields; `e1000` has some 50 000."""
SUBSECTION_HEAD_BYTES = 1 + 1 + 4  # 0x05, length of the name, version_id; and the name itself

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field or subsection: `count` elements of `size_bytes` each, `inner` in each of them."""

    name: str
    size_bytes: int
    count: int | None = None  # None: no array
    inner: tuple[Field, ...] = ()
    head_bytes: int = 0  # of a subsection: what precedes its first field

    @property
    def total_bytes(self) -> int:
        """Bytes of all its elements."""
        return self.size_bytes * (1 if self.count is None else self.count)


@dataclass(frozen=True, slots=True)
class Device:
    """A FULL section: payload of `size_bytes`, made of `fields` back to back."""

    idstr: str
    instance_id: int
    size_bytes: int
    fields: tuple[Field, ...]


class Layout:
    """What a vmdesc says of the device sections; `devices` is in the order of the stream."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self._by_name = {(device.idstr, device.instance_id): device for device in devices}

    @classmethod
    def parse(cls, text: bytes) -> Layout:
        """Read a vmdesc.

        Raises:
            StreamError: it is not JSON, not a vmdesc, or beyond the bounds of this module.
        """
        if len(text) > TEXT_BYTES_MAX:
            raise _wrong("vmdesc", f"at most {TEXT_BYTES_MAX} bytes", f"{len(text)}")
        try:
            root = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong("vmdesc", "JSON", str(error)) from error
        return cls(_Parser().devices(root))

    def size(self, idstr: str, instance_id: int) -> int | None:
        """Bytes of that section's payload; None if the vmdesc does not have it."""
        device = self._by_name.get((idstr, instance_id))
        return None if device is None else device.size_bytes

    def spans(self, idstr: str, instance_id: int) -> tuple[Span, ...]:
        """The leaf fields of that section, in order; empty if the vmdesc does not have it.

        Names are paths: `parent.child`, `name[3]` for an element of an array. A subsection goes by
        its full VMSD name: `fw_cfg/acpi_mr.table_mr_size`, and `fw_cfg/acpi_mr` is what precedes
        its fields. `start` counts from the payload's first byte; the spans lie back to back. A
        section with more than `SPANS_MAX` of them has only so many here.
        """
        device = self._by_name.get((idstr, instance_id))
        if device is None:
            return ()
        return tuple(islice(_leaves(device.fields, "", 0), SPANS_MAX))

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


class _Parser:
    """Reads one vmdesc; counts nodes, so that their number is bounded over all of it."""

    def __init__(self) -> None:
        self._nodes = 0

    def devices(self, root: Any) -> list[Device]:
        if not isinstance(root, dict):
            raise _wrong("vmdesc", "an object", _kind(root))
        return [self._device(node) for node in _list(root, "devices", "vmdesc")]

    def _device(self, node: Json) -> Device:
        idstr = _text(node, "name", "device")
        fields = self._members(node, idstr, 0)
        if "vmsd_name" in node:
            size = _sum(fields, idstr)
        else:  # old style: an open-coded blob of stated size
            size = _integer(node, "size", idstr)
        return Device(idstr, _integer(node, "instance_id", idstr), size, fields)

    def _members(self, node: Json, inside: str, depth: int) -> tuple[Field, ...]:
        """Fields, then subsections, of a device, struct or subsection."""
        if depth > DEPTH_MAX or len(inside) > PATH_CHARACTERS_MAX:
            expected = f"a depth of at most {DEPTH_MAX}, {PATH_CHARACTERS_MAX} characters"
            raise _wrong(inside[:PATH_CHARACTERS_MAX], expected, "more")
        fields = [self._field(each, inside, depth) for each in _list(node, "fields", inside)]
        if "subsections" in node:
            for each in _list(node, "subsections", inside):
                fields.append(self._subsection(each, inside, depth))
        return tuple(fields)

    def _field(self, node: Json, inside: str, depth: int) -> Field:
        self._count(inside)
        name = _text(node, "name", inside)
        inside = f"{inside}.{name}"
        size = _integer(node, "size", inside)
        count = _integer(node, "array_len", inside) if "array_len" in node else None
        if "index" in node:
            name = f"{name}[{_integer(node, 'index', inside)}]"
        described = node.get("struct", node)
        inner: tuple[Field, ...] = ()
        if isinstance(described, dict) and "fields" in described:
            inner = self._members(described, inside, depth + 1)
            if sum(field.total_bytes for field in inner) != size:
                inner = ()  # lists repeat their keys per element: only the size is true
        if size * (count or 1) > SECTION_BYTES_MAX:
            raise _wrong(inside, f"at most {SECTION_BYTES_MAX} bytes", f"{size} x {count}")
        return Field(name, size, count, inner)

    def _subsection(self, node: Json, inside: str, depth: int) -> Field:
        self._count(inside)
        name = _text(node, "vmsd_name", inside)
        fields = self._members(node, f"{inside}.{name}", depth + 1)
        head = SUBSECTION_HEAD_BYTES + len(name.encode())
        return Field(name, head + _sum(fields, name), None, fields, head)

    def _count(self, inside: str) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise _wrong(inside, f"at most {NODES_MAX} fields", "more")


def _leaves(fields: Sequence[Field], path: str, start: int) -> Iterator[Span]:
    for field in fields:
        yield from _elements(field, f"{path}{field.name}", start)
        start += field.total_bytes


def _elements(field: Field, name: str, start: int) -> Iterator[Span]:
    if not field.size_bytes:
        return
    for index in range(1 if field.count is None else field.count):
        element = name if field.count is None else f"{name}[{index}]"
        if field.head_bytes:
            yield Span(element, start, field.head_bytes)
        if field.inner:
            yield from _leaves(field.inner, f"{element}.", start + field.head_bytes)
        elif not field.head_bytes:
            yield Span(element, start, field.size_bytes)
        start += field.size_bytes


def _sum(fields: Sequence[Field], inside: str) -> int:
    total = sum(field.total_bytes for field in fields)
    if total > SECTION_BYTES_MAX:
        raise _wrong(inside, f"at most {SECTION_BYTES_MAX} bytes", f"{total}")
    return total


def _list(node: Json, key: str, inside: str) -> list[Json]:
    value = node.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _wrong(inside, f"a list of objects as `{key}`", _kind(value))
    return value


def _text(node: Json, key: str, inside: str) -> str:
    value = node.get(key)
    if not isinstance(value, str) or len(value) > PATH_CHARACTERS_MAX:
        raise _wrong(
            inside, f"a string of at most {PATH_CHARACTERS_MAX} characters as `{key}`", _kind(value)
        )
    return value


def _integer(node: Json, key: str, inside: str) -> int:
    value = node.get(key)
    if type(value) is not int or not 0 <= value <= SECTION_BYTES_MAX:
        raise _wrong(inside, f"0 to {SECTION_BYTES_MAX} as `{key}`", repr(value)[:40])
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _describe(found: Sequence[tuple[str, int, int]]) -> str:
    if not found:
        return "none"
    idstr, instance_id, size_bytes = found[0]
    return f"{idstr} instance {instance_id} with {size_bytes} bytes"


def _wrong(inside: str, expected: str, got: str) -> StreamError:
    return StreamError(offset=0, inside=inside, expected=expected, got=got)
