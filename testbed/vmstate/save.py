"""Saves state as it is declared, and describes what was saved as a vmdesc does.

Source: QEMU `migration/vmstate.c`, `vmstate_save_state_v`, `vmsd_desc_field_start` and
`vmstate_subsection_save`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, NamedTuple

from .compile import SUBSECTION, Step, plan
from .declare import Element, Field, FieldNodes, FixedNodes, Node, State, VmState, read_path
from .failure import VmStateFailed
from .scalars import NULLPTR, Scalar


class Manner(Enum):
    """Whose vmdesc: versions differ in the text, and in what they say of arrays."""

    QEMU_2_9 = "2.9"  # to 5.2
    QEMU_7_2 = "7.2"  # 6.0 to 9.2
    QEMU_10_0 = "10.0"

    __hash__ = object.__hash__  # an Enum's own is slow, and what a run has is looked up by it


class Saved(NamedTuple):
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
        fields: FieldNodes | None = None
        if node is not None:
            fields = FieldNodes()
            node += ("vmsd_name", vmstate.name), ("version", version_id), ("fields", fields)
        for step in plan(vmstate, version_id):
            if step.exists is None or step.exists(state, version_id):
                self._step(vmstate, step, state, fields)
            elif step.must_exist:
                line = f"Output state validation failed: {vmstate.name}/{step.fields[0][0].name}"
                raise VmStateFailed(-1, line)

    def _step(self, vmstate: VmState, step: Step, state: State, into: FieldNodes | None) -> None:
        """Save fields at once, if they can be and it is known how they are described."""
        data = nodes = None
        if step.run is not None:
            data, nodes = step.run.save(state), step.run.nodes.get(self._manner)
        if data is not None and (into is None or nodes is not None):
            self.data += data
            if into is not None and nodes is not None:
                into.add_fixed(nodes)
            return
        begin = 0 if into is None else len(into)
        for field, name in step.fields:
            self._one(vmstate, field, name, state, into)
        if step.run is not None and data is not None and into is not None:
            step.run.nodes[self._manner] = FixedNodes(into[begin:])

    def _one(
        self, vmstate: VmState, field: Field, name: str, state: State, into: list[Node] | None
    ) -> None:
        try:
            self._field(field, name, state, into)
        except VmStateFailed as failed:
            line = f"Save of field {vmstate.name}/{field.name} failed"
            raise failed.within(line) from failed

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


def can_compress(field: Field) -> bool:
    """Whether one description is for all elements of an array: none of them can differ."""
    if field.exists is not None:
        return False
    if field.type_name != "struct":
        return True
    assert field.vmstate is not None
    return not field.vmstate.subsections and all(map(can_compress, field.vmstate.fields))
