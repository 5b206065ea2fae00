"""A constructor for each kind of field, named as QEMU's `VMSTATE_` macros and infos are.

    VmState("i8254", 3, 2, fields=(
        uint32("channels[0].irq_disabled", version_id=3),
        array(struct("channels", CHANNEL, version_id=2), 3),
    ))

All take `version_id` (the first version of the section that has the field) and `exists` (a test
that alone decides). `attribute` is where the state has the value, if not at the field's name.

Not declared here: file descriptors (`fd`); open-coded kinds (`virtio`, `pci config`, ...), for
which `single` takes an `Info` of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from . import scalars
from .declare import Exists, Field, Info, State, VmState
from .lists import QLIST, QTAILQ, TMP, Tree

POINTER_BYTES = 8


class ScalarField(Protocol):
    """Makes a field of one value."""

    def __call__(
        self,
        name: str,
        *,
        version_id: int = 0,
        exists: Exists | None = None,
        attribute: str | None = None,
    ) -> Field:
        """See the module."""


def _of(info: Info) -> ScalarField:
    def field(
        name: str,
        *,
        version_id: int = 0,
        exists: Exists | None = None,
        attribute: str | None = None,
    ) -> Field:
        return single(name, info, version_id=version_id, exists=exists, attribute=attribute)

    return field


def single(
    name: str,
    info: Info,
    *,
    size: int | None = None,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """A value that `info` codes; `size` is that of its C type, if not the info's."""
    return Field(
        name=name,
        info=info,
        size=info.memory_bytes if size is None else size,
        version_id=version_id,
        exists=exists,
        attribute=attribute,
    )


boolean = _of(scalars.BOOL)
int8 = _of(scalars.INT8)
int16 = _of(scalars.INT16)
int32 = _of(scalars.INT32)
int64 = _of(scalars.INT64)
uint8 = _of(scalars.UINT8)
uint16 = _of(scalars.UINT16)
uint32 = _of(scalars.UINT32)
uint64 = _of(scalars.UINT64)
uint8_equal = _of(scalars.UINT8_EQUAL)
uint16_equal = _of(scalars.UINT16_EQUAL)
int32_equal = _of(scalars.INT32_EQUAL)
uint32_equal = _of(scalars.UINT32_EQUAL)
uint64_equal = _of(scalars.UINT64_EQUAL)
int32_le = _of(scalars.INT32_LE)
float64 = _of(scalars.FLOAT64)
cpudouble = _of(scalars.CPU_DOUBLE)
timer = _of(scalars.TIMER)


def buffer(
    name: str,
    size: int,
    *,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """Always `size` bytes."""
    info = scalars.BUFFER
    return single(name, info, size=size, version_id=version_id, exists=exists, attribute=attribute)


def vbuffer(
    name: str,
    size_field: str,
    *,
    multiply: int = 0,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """Bytes, as many as the state has at `size_field`, times `multiply` unless that is 0."""
    info = scalars.BUFFER
    field = single(
        name, info, size=multiply, version_id=version_id, exists=exists, attribute=attribute
    )
    return replace(field, size_field=size_field)


def bitmap(
    name: str,
    size_field: str,
    *,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """Bits, as many as the state has at `size_field`, in one integer."""
    info = scalars.BITMAP
    field = single(name, info, version_id=version_id, exists=exists, attribute=attribute)
    return replace(field, size_field=size_field)


def unused(size: int, *, version_id: int = 0, exists: Exists | None = None) -> Field:
    """`size` bytes that say nothing any more."""
    info = scalars.UNUSED
    return single("unused", info, size=size, version_id=version_id, exists=exists, attribute="")


def validate(name: str, test: Exists) -> Field:
    """No bytes: a test that the state has to pass, of what was loaded before it."""
    return Field(name=name, info=scalars.UNUSED, exists=test, num=0, must_exist=True, attribute="")


def struct(
    name: str,
    vmstate: VmState,
    *,
    size: int = 0,
    make: Callable[[], State] | None = None,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """A part of the state with a VMSD of its own, saved and loaded as of that VMSD's version.

    `make` is for arrays of them whose elements loading has to make. `size` is that of the C type;
    0 for the sum of its fields.
    """
    return Field(
        name=name,
        vmstate=vmstate,
        size=size or memory_bytes(vmstate),
        make=make,
        version_id=version_id,
        exists=exists,
        attribute=attribute,
    )


def vstruct(
    name: str,
    vmstate: VmState,
    struct_version_id: int,
    *,
    size: int = 0,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """As `struct`, saved and loaded as of a version that the declaration names (QEMU >= 3.0)."""
    field = struct(
        name, vmstate, size=size, version_id=version_id, exists=exists, attribute=attribute
    )
    return replace(field, struct_version_id=struct_version_id)


def pointer(field: Field) -> Field:
    """That field, in C behind a pointer, which may not be NULL: no difference but in size."""
    return replace(field, size=POINTER_BYTES)


def struct_pointer(
    name: str,
    vmstate: VmState,
    *,
    version_id: int = 0,
    exists: Exists | None = None,
    attribute: str | None = None,
) -> Field:
    """As `struct`, in C behind a pointer."""
    return pointer(struct(name, vmstate, version_id=version_id, exists=exists, attribute=attribute))


def array(field: Field, num: int) -> Field:
    """Always `num` elements like that field."""
    return replace(field, num=num)


def varray(field: Field, num_field: str, *, multiply: int | None = None) -> Field:
    """Elements like that field, as many as the state has at `num_field`, times `multiply`.

    There they are an int32, uint32, uint16 or uint8: C keeps the number in an int.
    """
    return replace(field, num_field=num_field, num=multiply)


def array_of_pointers(field: Field) -> Field:
    """That array, in which an element may be None; on both sides it then has to be the same."""
    assert field.is_array
    return replace(field, pointers=True, size=POINTER_BYTES)


def tmp(vmstate: VmState, make: Callable[[], State], *, exists: Exists | None = None) -> Field:
    """A state that `make` makes for the while, for values that have to be computed.

    Its `parent` is the state; hooks of `vmstate` carry over between them.
    """
    size = memory_bytes(vmstate) + POINTER_BYTES
    field = single("tmp", TMP, size=size, exists=exists, attribute="")
    return replace(field, vmstate=vmstate, make=make)


def qtailq(name: str, vmstate: VmState, make: Callable[[], State], *, version_id: int = 0) -> Field:
    """A list of states, each made by `make`."""
    field = single(name, QTAILQ, size=memory_bytes(vmstate), version_id=version_id)
    return replace(field, vmstate=vmstate, make=make)


def qlist(name: str, vmstate: VmState, make: Callable[[], State], *, version_id: int = 0) -> Field:
    """As `qtailq`, by the name of another kind of list."""
    return replace(qtailq(name, vmstate, make, version_id=version_id), info=QLIST)


def gtree(
    name: str,
    vmstate: VmState,
    make: Callable[[], State],
    *,
    key_vmstate: VmState | None = None,
    make_key: Callable[[], State] | None = None,
    version_id: int = 0,
) -> Field:
    """A dict of states by integers, or by states that `key_vmstate` declares."""
    info = Tree(key_vmstate, make_key)
    field = single(name, info, size=memory_bytes(vmstate), version_id=version_id)
    return replace(field, vmstate=vmstate, make=make)


def memory_bytes(vmstate: VmState) -> int:
    """What the fields of a VMSD take in memory, back to back: the least size of its struct."""
    return sum(
        field.size * (1 if field.num is None else field.num)
        for field in vmstate.fields
        if not field.must_exist
    )
