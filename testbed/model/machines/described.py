"""Devices as a stream describes them: for a machine that takes one in and sends it on.

The vmdesc of a stream names every section's fields with type and size. That is enough to load the
section field by field, to fail in QEMU's words where it is cut, and to save it again to the same
bytes and the same description. What a device itself would judge, its values, is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from testbed.vmstate import (
    Element,
    Field,
    Info,
    Loader,
    Node,
    Saver,
    Source,
    Story,
    VmState,
    VmStateFailed,
    fields,
    scalars,
)
from testbed.vmstate.declare import NAME_BYTES_MAX, Coding

Json = dict[str, Any]
INFOS: dict[str, Info] = {
    info.name: info for info in vars(scalars).values() if isinstance(info, scalars.Scalar)
}


class OwnNumber(scalars.Equal):
    """A number that has to be the device's own: the first one that is loaded is."""

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Read it, and compare it with the device's, if that is known."""
        if element.value is None:
            return (yield from self.scalar.get(loader, element))
        return (yield from super().get(loader, element))


OWN_NUMBERS: dict[str, Info] = {
    each.name: OwnNumber(each.name, each.scalar, each.memory_bytes)
    for each in vars(scalars).values()
    if isinstance(each, scalars.Equal)
}
"""For a machine whose devices are known before anything comes."""
CONDITIONAL = {"identify_data": "identify_set"}
"""Fields that elements of one array may have or not, and the field before that says so: what an
IDE drive says of itself is sent if there is one. Source: QEMU `hw/ide/core.c`."""


class NotDeclarable(Exception):
    """Elements of one array differ in their fields, and no description says by what."""


@dataclass(frozen=True)
class OpenCoded(Info):
    """What QEMU codes by hand, and a description has only the size of."""

    name: str
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        """Save the bytes."""
        saver.data += element.value

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load them."""
        return (yield from loader.read(element.size))

    def coding(self, field: Field) -> Coding | None:
        """As they are."""
        return None if field.is_array else scalars.raw(field.size)


class Sized:
    """State of which only the size is known, as a handler of an `OldStyle` entry."""

    def __init__(self, size_bytes: int, described: Node) -> None:
        self.data = bytes(size_bytes)
        self.described: Node | None = described

    def save(self) -> bytes:
        """The bytes that came."""
        return self.data

    def load(self, source: Source, version_id: int) -> Story[None]:
        """Take as many."""
        del version_id
        self.data = yield from source.read(len(self.data))
        if source.error:
            raise VmStateFailed(source.error)


def declared(
    *nodes: Json,
    infos: Mapping[str, Info] = INFOS,
    subsections: Mapping[str, Sequence[Json]] | None = None,
) -> VmState:
    """The declaration of a section, or of a part of it; its states are made by `blank`.

    Args:
        nodes: descriptions of it, which may differ in their subsections.
        infos: what codes a field, by its type; all others are taken for bytes.
        subsections: descriptions of those that a VMSD may have beside, by its name, in order.

    Raises:
        NotDeclarable: no declaration says what the descriptions do.
    """
    return _Declarer(infos, subsections or {}).vmstate(nodes, nodes[0]["vmsd_name"])


def size_of(node: Json) -> int:
    """How many bytes a section has."""
    if "size" in node and "vmsd_name" not in node:
        return int(node["size"])
    size = sum(int(each["size"]) * int(each.get("array_len", 1)) for each in node["fields"])
    for sub in node.get("subsections", ()):
        size += 6 + len(sub["vmsd_name"].encode()) + size_of(sub)  # its head: 0x05, name, version
    return size


def blank(vmstate: VmState) -> SimpleNamespace:
    """A state to load into."""
    state = SimpleNamespace(subsections=set())
    _fill(vmstate, state)
    return state


def _fill(vmstate: VmState, state: SimpleNamespace) -> None:
    for each in vmstate.fields:
        if each.path and each.vmstate is not None:
            made = [blank(each.vmstate) for _ in range(each.num or 1)]
            setattr(state, each.path, made if each.is_array else made[0])
        elif isinstance(each.info, OwnNumber):
            setattr(state, each.path, None)
    for sub in vmstate.subsections:
        _fill(sub, state)


NUMBERED = re.compile(r"\[\d+\]$")
TWICE = ("config", "env.xmm_regs", "cur_offset", "unused")
"""Names that a VMSD of a PC has for two fields, of which a stream may have one: a vmdesc numbers
them (`vmfield_name_num`, QEMU `migration/vmstate.c`), errors do not. Others have their number in C.
"""


class _Declarer:
    """Makes declarations; every field gets an attribute of its own."""

    def __init__(
        self, infos: Mapping[str, Info], subsections: Mapping[str, Sequence[Json]]
    ) -> None:
        self._infos, self._subsections = infos, subsections
        self._attributes = 0

    def vmstate(self, nodes: Sequence[Json], name: str) -> VmState:
        """One VMSD of descriptions that may differ in their subsections."""
        elements = [_unconditional(each["fields"]) for each in nodes]
        if any(_shape(each) != _shape(elements[0]) for each in elements):
            raise NotDeclarable
        made = list(self._fields(elements))
        for node in nodes:
            self._add_conditional(made, node["fields"])
        found = self._found(nodes, name)
        subsections = tuple(self._subsection(subs, sub) for sub, subs in found.items())

        def begin(state: Any) -> None:
            state.subsections.difference_update(found)

        pre_load = begin if found else None
        return VmState(name, nodes[0]["version"], 0, tuple(made), subsections, pre_load=pre_load)

    def _add_conditional(self, made: list[Field], nodes: Sequence[Json]) -> None:
        """Declare what not all elements have, each behind the field that says so."""
        known = {each.name for each in made}
        for node in nodes:
            before = CONDITIONAL.get(node["name"])
            if before is None or before not in known or node["name"] in known:
                continue
            at = next(number for number, each in enumerate(made) if each.name == before)
            field = self._field([node], 1)

            def exists(state: Any, _version_id: int, path: str = made[at].path) -> bool:
                return bool(getattr(state, path))

            made.insert(at + 1, replace(field, exists=exists))

    def _found(self, nodes: Sequence[Json], name: str) -> dict[str, list[Json]]:
        """Descriptions of each subsection, in the order in which they are saved."""
        known = self._subsections.get(name, ())
        found: dict[str, list[Json]] = {sub["vmsd_name"]: [] for sub in known}
        for node in nodes:
            for sub in node.get("subsections", ()):
                found.setdefault(sub["vmsd_name"], []).append(sub)
        for sub in known:
            if not found[sub["vmsd_name"]]:
                found[sub["vmsd_name"]].append(sub)
        found = {sub: subs for sub, subs in found.items() if "fields" in subs[0]}
        if not all(_is_of(sub, name) for sub in found):
            raise NotDeclarable  # it would not be loaded
        return found

    def _subsection(self, nodes: Sequence[Json], name: str) -> VmState:
        made = self.vmstate(nodes, name)

        def came(state: Any, _version_id: int) -> None:
            state.subsections.add(name)

        return replace(made, needed=lambda state: name in state.subsections, post_load=came)

    def _fields(self, elements: Sequence[list[Json]]) -> Iterator[Field]:
        """Fields of one VMSD, described for each element; those of a name are one array."""
        places = zip(*elements, strict=True)
        for _, same in groupby(places, lambda nodes: nodes[0]["name"]):
            described = list(same)
            nodes = [node for nodes in described for node in nodes]
            made = self._field(nodes, len(described))
            name = NUMBERED.sub("", made.name)
            yield replace(made, told_as=name) if name in TWICE else made

    def _field(self, nodes: Sequence[Json], count: int) -> Field:
        node = nodes[0]
        self._attributes += 1
        attribute = f"at{self._attributes}"
        if node["type"] == "struct":
            inner = self.vmstate([each["struct"] for each in nodes], node["struct"]["vmsd_name"])
            made = fields.struct(node["name"], inner, attribute=attribute)
        elif node["type"] == "tmp":
            return self._temporary(nodes, attribute)
        else:
            info = self._infos.get(node["type"]) or OpenCoded(node["type"])
            made = fields.single(node["name"], info, size=node["size"], attribute=attribute)
        if "array_len" in node:
            return fields.array(made, node["array_len"])
        if "index" not in node:
            return made
        if made.vmstate is None or not made.vmstate.subsections:
            # Nothing else that was seen keeps elements from being described at once.
            made = replace(made, exists=lambda *_: True)
        return fields.array(made, count)

    def _temporary(self, nodes: Sequence[Json], attribute: str) -> Field:
        """A temporary that its parent keeps."""
        inner = self.vmstate(nodes, nodes[0]["vmsd_name"])

        def restore(temporary: Any) -> None:
            vars(temporary).update(vars(getattr(temporary.parent, attribute)))

        def keep(temporary: Any, _version_id: int) -> None:
            setattr(temporary.parent, attribute, temporary)

        inner = replace(inner, pre_save=restore, post_load=keep)
        made = fields.tmp(inner, lambda: blank(inner))
        return replace(made, version_id=inner.version_id)


def _is_of(sub: str, name: str) -> bool:
    """Whether that can be a subsection of the VMSD of that name."""
    is_longer = sub.startswith(name) and sub != name
    return is_longer and len(sub.encode(errors="replace")) <= NAME_BYTES_MAX


def _unconditional(nodes: Sequence[Json]) -> list[Json]:
    """The fields that every element has."""
    names = {each["name"] for each in nodes}
    return [each for each in nodes if CONDITIONAL.get(each["name"]) not in names]


def _shape(nodes: list[Json]) -> list[Any]:
    return [(each["name"], each.get("array_len")) for each in nodes]
