"""Saves state as it is declared, and describes what was saved as a vmdesc does.

Source: QEMU `migration/vmstate.c`, `vmstate_save_state_v`, `vmsd_desc_field_start` and
`vmstate_subsection_save`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from struct import Struct
from typing import Any

from .declare import Element, Field, Node, State, VmState, read_path
from .failure import VmStateFailed
from .load import SUBSECTION
from .scalars import NULLPTR, Scalar

PLAIN_MIN = 4
"""Elements of an array for which it is worth while to look whether they are plain."""


class Manner(Enum):
    """Whose vmdesc: versions differ in the text, and in what they say of arrays."""

    QEMU_2_9 = "2.9"  # to 5.2
    QEMU_7_2 = "7.2"  # 6.0 to 9.2
    QEMU_10_0 = "10.0"


@dataclass(frozen=True, slots=True)
class Saved:
    """The payload of a section, and its description: `vmsd_name`, `version`, `fields`, ..."""

    data: bytes
    node: Node


def save(vmstate: VmState, state: State, *, manner: Manner = Manner.QEMU_7_2) -> Saved:
    """Save the state as a section's payload of the declaration's version_id.

    Raises:
        VmStateFailed: a hook refused, or the state is not valid as it is.
    """
    saver = _Save(manner)
    node = Node()
    saver.save(vmstate, state, node)
    return Saved(bytes(saver.data), node)


@dataclass(frozen=True, slots=True)
class Plain:
    """A struct of plain values alone, each always there: one code for all, one description."""

    code: Struct
    paths: tuple[str, ...]
    node: Node

    @classmethod
    def of(cls, field: Field) -> Plain | None:
        """What the elements of an array are, if they are that, and each of them is described."""
        vmstate = field.vmstate
        if vmstate is None or not field.is_struct or field.pointers or can_compress(field):
            return None
        hooks = vmstate.pre_save, vmstate.post_save, field.struct_version_id
        if vmstate.subsections or any(each is not None for each in hooks):
            return None
        described = []
        for each in vmstate.fields:
            plain = type(each.info) is Scalar and not each.is_array and not each.pointers
            if not plain or each.exists is not None or each.version_id > vmstate.version_id:
                return None
            assert isinstance(each.info, Scalar)
            described.append((each.name, each.info, each.path))
        names = [name for name, _, _ in described]
        if len(set(names)) < len(names) or not all(path for _, _, path in described):
            return None
        fields = [
            Node([("name", name), ("type", info.name), ("size", info.wire_bytes)])
            for name, info, _ in described
        ]
        head = ("vmsd_name", vmstate.name), ("version", vmstate.version_id)
        code = Struct(">" + "".join(info.code for _, info, _ in described))
        return cls(code, tuple(path for _, _, path in described), Node([*head, ("fields", fields)]))


class _Save:
    """One saving; what a `Saver` is to an `Info`."""

    def __init__(self, manner: Manner) -> None:
        self.data = bytearray()
        self._manner = manner

    def save(
        self, vmstate: VmState, state: State, node: Node | None, version_id: int | None = None
    ) -> None:
        """Save a VMSD, its subsections included, and describe it in `node`."""
        if version_id is None:
            version_id = vmstate.version_id
        if vmstate.pre_save is not None:
            try:
                vmstate.pre_save(state)
            except VmStateFailed as failed:
                raise failed.within(f"pre-save failed: {vmstate.name}") from failed
        try:
            self._fields(vmstate, state, node, version_id)
            self._subsections(vmstate, state, node)
        finally:
            if vmstate.post_save is not None:
                vmstate.post_save(state)

    def _fields(self, vmstate: VmState, state: State, node: Node | None, version_id: int) -> None:
        fields: list[Node] | None = None
        if node is not None:
            fields = []
            node += ("vmsd_name", vmstate.name), ("version", version_id), ("fields", fields)
        for field, name in zip(vmstate.fields, unique_names(vmstate), strict=True):
            if field.exists_in(state, version_id):
                try:
                    self._field(field, name, state, fields)
                except VmStateFailed as failed:
                    line = f"Save of field {vmstate.name}/{field.name} failed"
                    raise failed.within(line) from failed
            elif field.must_exist:
                line = f"Output state validation failed: {vmstate.name}/{field.name}"
                raise VmStateFailed(-1, line)

    def _field(self, field: Field, name: str, state: State, into: list[Node] | None) -> None:
        value = read_path(state, field.path)
        if isinstance(field.info, Scalar) and not field.is_array and not field.pointers:
            self._scalars(field.info, name, [value], into)  # most are
            return
        size = field.element_size(state)
        if not field.is_array:
            self._element(field, name, value, size, into, None)
            return
        count = field.count(state)
        elements = value if field.path else [value] * count
        assert len(elements) >= count, f"{field.name}: {len(elements)} elements of {count}"
        elements = elements[:count]
        if isinstance(field.info, Scalar) and not field.pointers and can_compress(field):
            self._scalars(field.info, name, elements, into)
            return
        plain = Plain.of(field) if count >= PLAIN_MIN and into is not None else None
        if plain is not None and into is not None:
            self._plain(field, name, elements, plain, into)
            return
        for first, end in self._runs(field, elements):
            once = can_compress(field) or self._is_null_run(field, elements[first])
            for index in range(first, end):
                described = into if index == first or not once else None
                if self._manner is not Manner.QEMU_10_0:
                    left = count
                elif once or index == first:
                    left = end - index
                else:
                    left = count - index
                place = ("array_len", left) if once else ("index", index)
                shown = place if left > 1 else None
                self._element(field, name, elements[index], size, described, shown)

    def _plain(
        self, field: Field, name: str, elements: Sequence[Any], plain: Plain, into: list[Node]
    ) -> None:
        """An array of structs of which each is described, all in the same words."""
        count, size = len(elements), plain.code.size
        for index, element in enumerate(elements):
            self.data += plain.code.pack(*[read_path(element, path) for path in plain.paths])
            # Before 10.0 it is the array that is counted, and not what is left of it.
            left = count if self._manner is not Manner.QEMU_10_0 else count - index
            place = [("index", index)] if left > 1 else []
            kind, inner = ("type", field.type_name), ("struct", plain.node)
            into.append(Node([("name", name), *place, kind, inner, ("size", size)]))

    def _runs(self, field: Field, elements: Sequence[Any]) -> Iterator[tuple[int, int]]:
        """From where to where elements are described together: 10.0 tells NULLs from others."""
        if self._manner is not Manner.QEMU_10_0 or not field.pointers:
            if elements:
                yield 0, len(elements)
            return
        first = 0
        for _, run in groupby(elements, lambda element: element is None):
            end = first + len(list(run))
            yield first, end
            first = end

    def _is_null_run(self, field: Field, element: Any) -> bool:
        return self._manner is Manner.QEMU_10_0 and field.pointers and element is None

    def _scalars(
        self, info: Scalar, name: str, elements: Sequence[Any], into: list[Node] | None
    ) -> None:
        """An array whose elements are described once, at once."""
        self.data += info.pack(elements)
        if into is not None and elements:
            node = Node([("name", name), ("type", info.name), ("size", info.wire_bytes)])
            if len(elements) > 1:
                node.insert(1, ("array_len", len(elements)))
            into.append(node)

    def _element(
        self,
        field: Field,
        name: str,
        value: Any,
        size: int,
        into: list[Node] | None,
        place: tuple[str, int] | None,
    ) -> None:
        start, null = len(self.data), field.pointers and value is None
        node = inner = None
        if into is not None:
            kind = "nullptr" if self._is_null_run(field, value) else field.type_name
            node = inner = Node([("name", name), *([place] if place else []), ("type", kind)])
            if kind == "struct":
                inner = Node()
                node.append(("struct", inner))
            into.append(node)
        if null:
            self.data += NULLPTR
        elif field.info is not None:
            field.info.put(self, Element(field, size, value, inner))
        else:
            assert field.vmstate is not None
            self.save(field.vmstate, value, inner, field.struct_version_id)
        if node is not None:
            node.append(("size", len(self.data) - start))

    def _subsections(self, vmstate: VmState, state: State, node: Node | None) -> None:
        described: list[Node] = []
        for each in vmstate.subsections:
            if not each.is_needed(state):
                continue
            name = each.name.encode()
            self.data += bytes([SUBSECTION, len(name)]) + name + each.version_id.to_bytes(4, "big")
            if node is None:
                self.save(each, state, None)
                continue
            if not described:
                node.append(("subsections", described))
            described.append(Node())
            self.save(each, state, described[-1])


def unique_names(vmstate: VmState) -> list[str]:
    """The fields' names in a vmdesc: a name that more than one field has is numbered."""
    names = [field.name for field in vmstate.fields]
    if len(set(names)) == len(names):
        return names
    count, met, names = Counter(names), Counter[str](), []
    for field in vmstate.fields:
        number = met[field.name]
        met[field.name] += 1
        names.append(field.name if count[field.name] == 1 else f"{field.name}[{number}]")
    return names


def can_compress(field: Field) -> bool:
    """Whether one description is for all elements of an array: none of them can differ."""
    if field.exists is not None:
        return False
    if field.type_name != "struct":
        return True
    assert field.vmstate is not None
    return not field.vmstate.subsections and all(map(can_compress, field.vmstate.fields))
