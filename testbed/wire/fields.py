"""The fields of a device section: typed runs of bytes, and what those bytes say.

A leaf field of the vmdesc is a run of `array_len` elements of one type. One `struct` format per
call decodes all of them, so a section of 50 000 fields costs no loop over its elements. Encodings:
QEMU `migration/vmstate-types.c`, 2.8 to 11.1.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from .error import StreamError
from .structs import U32

ARRAY_VALUES_MAX = 1 << 20
"""A run of more elements is one value, in hex; 32 768 seen (`e1000`)."""
BITMAP_BYTES_MAX = 1 << 18
"""What is longer is shown in hex; virtio-mem has 1 bit per 2 MiB."""
SUBSECTION = "subsection"
"""Type of what precedes the fields of a subsection: 0x05, counted name, be32 version_id."""
SUBSECTION_HEAD_BYTES = 1 + 1 + 4  # and the name itself
LIST_MARK = "list mark"
"""Type of the byte before each element of a list (1) and after the last one (0)."""

Scalar = int | float | bool | str | None
FieldValue = Scalar | list[Scalar]
"""What a field says, as JSON can: see `values`."""


class Field(NamedTuple):
    """A leaf field: `array_len` elements of `size_bytes` each, from byte `start` of the payload.

    `name` is a path: `parent.child`, `name[3]` for an element of an array whose elements are
    described one by one or have fields of their own. A subsection goes by its full VMSD name:
    `fw_cfg/acpi_mr.table_mr_size`, and `fw_cfg/acpi_mr`, of type `SUBSECTION`, is what precedes its
    fields. The elements of a list are `name[0]`, each after a `LIST_MARK` of that same name, and
    the mark that ends it is `name[end]`. `type` is the vmdesc's: `uint32`, `timer`, `buffer`, ...
    """

    name: str
    type: str
    start: int
    size_bytes: int
    array_len: int | None = None  # None: no array

    @property
    def end(self) -> int:
        """The first byte of the payload after it."""
        return self.start + self.size_bytes * (1 if self.array_len is None else self.array_len)


def values(fields: Sequence[Field], payload: bytes) -> list[FieldValue]:
    """What the fields say, in their order; a field that is an array says a list.

    Args:
        fields: of one section, ascending, none overlapping another; gaps are skipped.
        payload: of that section.

    Returns:
        For each field, by its type: integers as such; bool: whether it is not 0; `timer`:
        nanoseconds, -1 for none armed; `float64` and `CPU_Double_U`: a float, or hex where JSON
        has no number for it; `bitmap`: the bits set, as `0-3,9`; `nullptr`: None; `SUBSECTION`:
        its version_id; all others, and what does not have the size of its type: hex.

    Raises:
        StreamError: the payload ends before the last field does.
    """
    if not fields:
        return []
    if fields[-1].end > len(payload):
        raise StreamError(
            offset=len(payload),
            inside=f"field {fields[-1].name}",
            expected=f"a payload of {fields[-1].end} bytes",
            got=f"{len(payload)}",
        )
    flat = iter(struct.unpack_from(_format(fields), payload))
    return [_value(field, flat) for field in fields]


def value(kind: str, data: bytes) -> FieldValue:
    """What one field of that type says, whose bytes `data` are; as `values` has it."""
    return values((Field(kind, kind, 0, len(data)),), data)[0]


def _format(fields: Sequence[Field]) -> str:
    codes, at = [">"], 0
    for field in fields:
        if field.start != at:
            codes.append(f"{field.start - at}x")
        code, _ = _coding(field)
        count = 1 if field.array_len is None else field.array_len
        if count > ARRAY_VALUES_MAX:
            codes.append(f"{count * field.size_bytes}s")
        elif len(code) == 1:
            codes.append(f"{count}{code}")
        else:
            codes.append(code * count)
        at = field.end
    return "".join(codes)


def _value(field: Field, flat: Iterator[Any]) -> FieldValue:
    _, say = _coding(field)
    if field.array_len is None:
        found: Scalar = next(flat) if say is None else say(next(flat))
        return found
    if field.array_len > ARRAY_VALUES_MAX:
        return _hex(next(flat))
    run = islice(flat, field.array_len)
    return list(run) if say is None else list(map(say, run))


Say = Callable[..., Scalar]


def _coding(field: Field) -> tuple[str, Say | None]:
    """The `struct` code of one element, and what makes a value of what that unpacks."""
    known = CODINGS.get((field.type, field.size_bytes))
    if known is not None:
        return known
    return f"{field.size_bytes}s", OTHERS.get(field.type, _hex)


def _hex(data: bytes) -> str:
    return data.hex()


def _float(number: float) -> float | str:
    return number if math.isfinite(number) else struct.pack(">d", number).hex()


def _null(data: bytes) -> str | None:
    return None if data == b"0" else data.hex()


def _version_id(head: bytes) -> int | str:
    if len(head) <= SUBSECTION_HEAD_BYTES or head[0] != 5 or head[1] != len(head) - 6:
        return head.hex()
    return int(U32.unpack_from(head, len(head) - U32.size)[0])


def _bits(data: bytes) -> str:
    """The numbers of the bits set: be64 words, the first word's least significant bit is 0."""
    if len(data) % 8 or len(data) > BITMAP_BYTES_MAX:
        return data.hex()
    words = struct.unpack(f">{len(data) // 8}Q", data)
    digits = "".join(f"{word:064b}"[::-1] for word in words)
    runs = ((run.start(), run.end() - 1) for run in re.finditer("1+", digits))
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


CODINGS: Mapping[tuple[str, int], tuple[str, Say | None]] = {
    ("bool", 1): ("?", None),
    ("timer", 8): ("q", None),
    ("float64", 8): ("d", _float),
    ("CPU_Double_U", 8): ("d", _float),
    ("nullptr", 1): ("c", _null),
    (LIST_MARK, 1): ("B", None),
    # "le" is less or equal, not little-endian.
    ("int32 le", 4): ("i", None),
    **{
        (f"{kind}{size * 8}{equal}", size): (code, None)
        for size, signed, unsigned in ((1, "b", "B"), (2, "h", "H"), (4, "i", "I"), (8, "q", "Q"))
        for kind, code in (("int", signed), ("uint", unsigned))
        for equal in ("", " equal")
    },
}
"""By type and size in bytes."""
OTHERS: Mapping[str, Say] = {SUBSECTION: _version_id, "bitmap": _bits}
"""Types of no fixed size that say more than their hex."""
