"""How single values lie in the stream; all integers are big-endian.

Source: QEMU `migration/vmstate-types.c` (until 2.11 in `vmstate.c`), and `timer_put`, `timer_get`
of `migration/savevm.c`. Names are QEMU's, oddities included: `uint64_equal` goes by `int64 equal`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from .declare import FIELD_BYTES_MAX, Coding, Element, Field, Info, Loader, Saver, Story
from .failure import EINVAL, VmStateFailed

WORD_BITS = 64
NULLPTR = b"0"
"""In place of an element of an array of pointers that points nowhere."""
NO_DEADLINE = (1 << 64) - 1
"""In place of the expire time of a timer that is not armed: -1 in 64 bits."""


def timer_put(expire_ns: int | None) -> bytes:
    """The be64 of a timer: when it expires, in ns of its clock; None if it is not armed."""
    return (NO_DEADLINE if expire_ns is None else expire_ns).to_bytes(8, "big")


def timer_get(data: bytes) -> int | None:
    """When the timer of that be64 expires, in ns of its clock; None if it is not to be armed.

    A time before the clock's zero is taken for zero: QEMU's `timer_mod_ns` has it so.
    """
    found = int.from_bytes(data, "big")
    if found == NO_DEADLINE:
        return None
    return 0 if found >> 63 else found


@cache
def _one(code: str) -> struct.Struct:
    return struct.Struct(f">{code}")


@dataclass(frozen=True)
class Scalar(Info):
    """A value of a fixed size that any bytes of this size are: `code` is `struct`'s."""

    name: str
    code: str
    memory_bytes: int
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        """Append the value."""
        saver.data += self.pack([element.value])

    def get(self, loader: Loader, element: Element) -> Story[Any]:  # noqa: ARG002
        """Read a value, whatever was before."""
        return self.unpack((yield from loader.read(self.wire_bytes)))[0]

    def coding(self, field: Field) -> Coding | None:
        """As one value, or as the bytes of an array."""
        if field.num is None:
            return Coding(self.code, self.wire_bytes)
        return raw(field.num, self.wire_bytes, self.unpack, self.pack)

    @cached_property
    def wire_bytes(self) -> int:
        """Bytes of one value in the stream."""
        return _one(self.code).size

    def pack(self, values: Sequence[Any]) -> bytes:
        """All these values, back to back."""
        if len(values) == 1:
            return _one(self.code).pack(values[0])
        return struct.pack(f">{len(values)}{self.code}", *values)

    def unpack(self, data: bytes) -> list[Any]:
        """All the values that lie back to back in `data`."""
        count = len(data) // self.wire_bytes
        if count == 1:
            return list(_one(self.code).unpack(data))
        return list(struct.unpack(f">{count}{self.code}", data))


@dataclass(frozen=True)
class Timer(Scalar):
    """When a timer expires, in ns, or None."""

    def pack(self, values: Sequence[Any]) -> bytes:
        """All these times, back to back."""
        return b"".join(map(timer_put, values))

    def unpack(self, data: bytes) -> list[Any]:
        """All the times that lie back to back in `data`."""
        return [timer_get(data[at : at + 8]) for at in range(0, len(data), 8)]

    def coding(self, field: Field) -> Coding | None:
        """As its be64."""
        if field.num is None:
            return raw(1, self.wire_bytes, timer_get, timer_put)
        return super().coding(field)


@dataclass(frozen=True)
class Equal(Info):
    """An integer that has to be the one that is there already."""

    name: str
    scalar: Scalar
    memory_bytes: int

    def put(self, saver: Saver, element: Element) -> None:
        """Append the integer."""
        self.scalar.put(saver, element)

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read an integer and compare it."""
        found = yield from self.scalar.get(loader, element)
        if found != element.value:
            mask = (1 << 8 * self.scalar.wire_bytes) - 1
            raise VmStateFailed(EINVAL, f"{element.value & mask:x} != {found & mask:x}")
        return found


class Int32LessOrEqual(Info):
    """An integer from 0 to the one that is there already."""

    name = "int32 le"
    memory_bytes = 4

    def put(self, saver: Saver, element: Element) -> None:
        """Append the integer."""
        INT32.put(saver, element)

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read an integer and compare it."""
        found = yield from INT32.get(loader, element)
        if not 0 <= found <= element.value:
            line = f"Invalid value {found} expecting positive value <= {element.value}"
            raise VmStateFailed(EINVAL, line)
        return found


class Buffer(Info):
    """Bytes."""

    name = "buffer"
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        """Append the bytes, of which there are as many as the declaration says."""
        name, found = element.field.name, len(element.value)
        assert found == element.size, f"{name}: {found} bytes, {element.size} declared"
        saver.data += element.value

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read the bytes."""
        return (yield from loader.read(bounded(element.size)))

    def coding(self, field: Field) -> Coding | None:
        """As they are."""
        return None if field.is_array else raw(field.size)


class Unused(Info):
    """Room that a field once had: zeros go out, anything may come in."""

    name = "unused_buffer"
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        """Append zeros."""
        saver.data += bytes(element.size)

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read over it."""
        yield from loader.read(bounded(element.size))

    def coding(self, field: Field) -> Coding | None:
        """As nothing."""
        return None if field.is_array else Coding(f"{field.size}x", field.size)


class Bitmap(Info):
    """Bits, as one integer whose bit n is bit n; its size is in bits, not in bytes.

    be64 words, the one with bit 0 first; of the last one all 64 bits are taken and given.
    """

    name = "bitmap"
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        """Append the words."""
        words = -(-element.size // WORD_BITS)
        little = element.value.to_bytes(words * 8, "little")
        saver.data += b"".join(little[at : at + 8][::-1] for at in range(0, words * 8, 8))

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read the words."""
        data = yield from loader.read(bounded(-(-element.size // WORD_BITS) * 8))
        little = b"".join(data[at : at + 8][::-1] for at in range(0, len(data), 8))
        return int.from_bytes(little, "little")


def raw(
    count: int,
    size: int = 1,
    decode: Callable[[bytes], Any] | None = None,
    encode: Callable[[Any], bytes] | None = None,
) -> Coding | None:
    """The coding of `count` times `size` bytes; None if there are no so many."""
    if type(count) is not int or not 0 <= count * size <= FIELD_BYTES_MAX:
        return None
    return Coding(f"{count * size}s", count * size, decode, encode)


def bounded(size: int) -> int:
    """That size of a field in bytes.

    Raises:
        VmStateFailed: it is negative or beyond our bound; QEMU aborts for want of memory.
    """
    if not 0 <= size <= FIELD_BYTES_MAX:
        raise VmStateFailed(EINVAL, f"a field of {size} bytes; at most {FIELD_BYTES_MAX}")
    return size


BOOL = Scalar("bool", "?", 1)
INT8 = Scalar("int8", "b", 1)
INT16 = Scalar("int16", "h", 2)
INT32 = Scalar("int32", "i", 4)
INT64 = Scalar("int64", "q", 8)
UINT8 = Scalar("uint8", "B", 1)
UINT16 = Scalar("uint16", "H", 2)
UINT32 = Scalar("uint32", "I", 4)
UINT64 = Scalar("uint64", "Q", 8)
FLOAT64 = Scalar("float64", "d", 8)
CPU_DOUBLE = Scalar("CPU_Double_U", "d", 8)  # upper half, lower half: the order of a be64
TIMER = Timer("timer", "Q", 8)  # in memory QEMU mostly has a pointer
UINT8_EQUAL = Equal("uint8 equal", UINT8, 1)
UINT16_EQUAL = Equal("uint16 equal", UINT16, 2)
INT32_EQUAL = Equal("int32 equal", INT32, 4)
UINT32_EQUAL = Equal("uint32 equal", UINT32, 4)
UINT64_EQUAL = Equal("int64 equal", UINT64, 8)
INT32_LE = Int32LessOrEqual()
BUFFER = Buffer()
UNUSED = Unused()
BITMAP = Bitmap()
