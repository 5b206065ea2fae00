"""Loads state as it is declared, from bytes that may still be on their way.

Source: QEMU `migration/vmstate.c`, `vmstate_load_state` and `vmstate_subsection_load`; texts of
2.9 to 10.0, which are the same.
"""

from __future__ import annotations

from typing import Any

from .compile import SUBSECTION, plan
from .declare import (
    ELEMENTS_MAX,
    Element,
    Field,
    Source,
    State,
    Story,
    VmState,
    int32,
    read_path,
    write_path,
)
from .failure import EINVAL, ENOENT, VmStateFailed
from .scalars import NULLPTR, Scalar


def load(vmstate: VmState, state: State, version_id: int, source: Source) -> Story[None]:
    """Load a section's payload into `state`; yields while bytes are missing.

    It peeks at one byte behind the payload, and at more if that is 0x05: nothing else tells
    whether a subsection comes. What does not begin with the VMSD's name is left for others.

    Args:
        vmstate: the declaration.
        state: whose attributes are set; structs that it is made of are loaded in place.
        version_id: of the section, from its header.
        source: where the payload begins; afterwards, where it ended.

    Raises:
        VmStateFailed: it may not be loaded, or the stream ended; `state` may be loaded in part.
    """
    yield from _Load(source).load(vmstate, state, version_id)


class _Load:
    """One loading; what a `Loader` is to an `Info`."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def read(self, count: int) -> Story[bytes]:
        """The next `count` bytes; what lies beyond the end reads as zeros, as in QEMU."""
        return (yield from self.source.read(count)).ljust(count, b"\0")

    def load(self, vmstate: VmState, state: State, version_id: int) -> Story[None]:
        """Load a VMSD, its subsections included."""
        if not vmstate.minimum_version_id <= version_id <= vmstate.version_id:
            _check_version(vmstate, int32(version_id))
        if vmstate.pre_load is not None:
            vmstate.pre_load(state)
        for fields, exists, must_exist, run in plan(vmstate, version_id):
            if exists is not None and not exists(state, version_id):
                if must_exist:
                    line = f"Input validation failed: {vmstate.name}/{fields[0][0].name}"
                    raise VmStateFailed(-1, line)
            elif run is None or not run.load(state, self.source):
                for field, _ in fields:
                    yield from self._field(vmstate, field, state)
        try:
            if self._may_begin_subsection():
                yield from self._subsections(vmstate, state)
        except VmStateFailed as failed:
            self._keep(failed)
            raise
        if vmstate.post_load is not None:
            vmstate.post_load(state, version_id)

    def _keep(self, failed: VmStateFailed) -> None:
        self.source.error = self.source.error or failed.ret

    def _field(self, vmstate: VmState, field: Field, state: State) -> Story[None]:
        try:
            yield from self._value(field, state)
        except VmStateFailed as failed:
            self._keep(failed)
            name = field.told_as or field.name
            raise failed.within(f"Failed to load {vmstate.name}:{name}") from failed

    def _value(self, field: Field, state: State) -> Story[None]:
        if field.is_array:
            yield from self._array(field, state)
            return
        if isinstance(field.info, Scalar) and not field.pointers:  # most are
            data = yield from self.read(field.info.wire_bytes)
            self._check_source()
            if field.path:
                write_path(state, field.path, field.info.unpack(data)[0])
            return
        size = field.element_size(state)
        current = read_path(state, field.path) if field.uses_current else None
        found = yield from self._element(field, current, size)
        if field.path and not field.is_struct:
            write_path(state, field.path, found)

    def _array(self, field: Field, state: State) -> Story[None]:
        count, size = field.count(state), field.element_size(state)
        if count > ELEMENTS_MAX:
            raise VmStateFailed(EINVAL, f"{count} elements; at most {ELEMENTS_MAX}")
        if field.make is not None:
            yield from self._made(field, state, count)
            return
        if field.uses_current:
            elements = read_path(state, field.path)
            if len(elements) < count:  # QEMU writes behind the end of the array
                line = f"{count} elements for an array of {len(elements)}"
                raise VmStateFailed(EINVAL, line)
            for index in range(count):
                found = yield from self._element(field, elements[index], size)
                if not field.is_struct:
                    elements[index] = found
            return
        if isinstance(field.info, Scalar):
            found = field.info.unpack((yield from self.read(count * field.info.wire_bytes)))
            self._check_source()
        else:
            found = []
            for _ in range(count):
                found.append((yield from self._element(field, None, size)))
        if field.path:
            write_path(state, field.path, found)

    def _made(self, field: Field, state: State, count: int) -> Story[None]:
        """Structs that are made one by one: a count alone costs no memory."""
        assert field.make is not None
        made: list[State] = []
        write_path(state, field.path, made)
        for _ in range(count):
            made.append(field.make())
            yield from self._element(field, made[-1], field.size)

    def _element(self, field: Field, current: Any, size: int) -> Story[Any]:
        found: Any = None
        if field.pointers and current is None:
            if (yield from self.read(len(NULLPTR))) != NULLPTR:
                line = "vmstate: get_nullptr expected VMS_NULLPTR_MARKER"
                raise VmStateFailed(EINVAL, line)
        elif field.info is not None:
            found = yield from field.info.get(self, Element(field, size, current))
        else:
            assert field.vmstate is not None
            version_id = field.struct_version_id
            if version_id is None:
                version_id = field.vmstate.version_id
            yield from self.load(field.vmstate, current, version_id)
        self._check_source()
        return found

    def _check_source(self) -> None:
        if self.source.error:
            raise VmStateFailed(self.source.error)

    def _may_begin_subsection(self) -> bool:
        """The next byte says so, or is not in hand."""
        with self.source.in_hand() as view:
            return not view or view[0] == SUBSECTION

    def _subsections(self, vmstate: VmState, state: State) -> Story[None]:
        own_name = vmstate.name.encode()
        while (yield from self.source.peek(1)) == bytes([SUBSECTION]):
            length = int.from_bytes((yield from self.source.peek(1, skip=1)), "big")
            if length < len(own_name) + 1:
                return
            name = yield from self.source.peek(length, skip=2)
            name_ends = name.find(b"\0")  # a C string, whatever its length says
            if len(name) < length or not name.startswith(own_name):
                return
            name = name if name_ends < 0 else name[:name_ends]
            for each in vmstate.subsections:
                if each.name.encode() == name:
                    break
            else:
                raise VmStateFailed(ENOENT)
            yield from self.source.read(2 + length)
            version_id = int.from_bytes((yield from self.read(4)), "big") & 0xFF
            yield from self.load(each, state, version_id)


def _check_version(vmstate: VmState, version_id: int) -> None:
    said = f"{vmstate.name}: incoming version_id {version_id} is too"
    if version_id > vmstate.version_id:
        line = f"{said} new for local version_id {vmstate.version_id}"
        raise VmStateFailed(EINVAL, line)
    if version_id < vmstate.minimum_version_id:
        # Two blanks, as QEMU has them.
        line = f"{said} old for local minimum version_id  {vmstate.minimum_version_id}"
        raise VmStateFailed(EINVAL, line)
