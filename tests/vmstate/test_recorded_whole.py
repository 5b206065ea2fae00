"""Every device of recorded streams: declared by its own description, loaded, saved, described.

The declaration is made from the vmdesc, so it proves nothing about the device, but much about
loading, saving and describing what some eighty devices are made of.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from vmstate_helpers import loaded, sections

from testbed.vmstate import (
    Element,
    Field,
    Info,
    Loader,
    Manner,
    Saver,
    Story,
    VmState,
    device_node,
    save,
    scalars,
    text,
)
from testbed.vmstate import fields as f

INFOS: dict[str, Info] = {
    info.name: info for info in vars(scalars).values() if isinstance(info, scalars.Scalar)
}
STREAMS = [
    ("qemu7.2-precopy.c0", Manner.QEMU_7_2),
    ("qemu7.2-devices-net", Manner.QEMU_7_2),
    ("qemu10.0-precopy.c0", Manner.QEMU_10_0),
    ("qemu10.0-devices-storage", Manner.QEMU_10_0),
    ("qemu10.0-devices-memory", Manner.QEMU_10_0),
]


@dataclass(frozen=True)
class Opaque(Info):
    """What QEMU codes by hand, of which a description has only the size."""

    name: str
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        saver.data += element.value

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        return (yield from loader.read(element.size))


def shape(fields: list[dict[str, Any]]) -> list[Any]:
    return [(each["name"], each.get("array_len")) for each in fields]


class Differ(Exception):
    """Elements of one array differ in their fields (`ide_drive`): no description says by what."""


class Declarer:
    """Makes a declaration of a node, and states to load."""

    def __init__(self) -> None:
        self._attributes = 0

    def vmstate(self, nodes: Sequence[dict[str, Any]], name: str) -> VmState:
        """One VMSD of descriptions that may differ in their subsections."""
        node = nodes[0]
        if any(shape(each["fields"]) != shape(node["fields"]) for each in nodes):
            raise Differ
        fields = tuple(self._fields([each["fields"] for each in nodes]))
        found: dict[str, list[dict[str, Any]]] = {}
        for each in nodes:
            for sub in each.get("subsections", ()):
                found.setdefault(sub["vmsd_name"], []).append(sub)
        subsections = tuple(self._subsection(subs, name) for name, subs in found.items())
        return VmState(name, node["version"], 0, fields, subsections)

    def _subsection(self, nodes: Sequence[dict[str, Any]], name: str) -> VmState:
        made = self.vmstate(nodes, name)

        def came(state: Any, _version_id: int) -> None:
            state.subsections.add(name)

        return replace(made, needed=lambda state: name in state.subsections, post_load=came)

    def _fields(self, elements: Sequence[list[dict[str, Any]]]) -> Iterator[Field]:
        """Fields of one VMSD, described for each element; `unused[1]` is declared by that name."""
        places = zip(*elements, strict=True)
        for _, same in groupby(places, lambda nodes: nodes[0]["name"]):
            described = list(same)
            yield self._field([node for nodes in described for node in nodes], len(described))

    def _field(self, nodes: Sequence[dict[str, Any]], count: int) -> Field:
        node = nodes[0]
        self._attributes += 1
        attribute = f"at{self._attributes}"
        if node["type"] == "struct":
            inner = self.vmstate([each["struct"] for each in nodes], node["struct"]["vmsd_name"])
            field = f.struct(node["name"], inner, attribute=attribute)
        elif node["type"] == "tmp":
            return self._tmp(nodes, attribute)
        else:
            info = INFOS.get(node["type"]) or Opaque(node["type"])
            field = f.single(node["name"], info, size=node["size"], attribute=attribute)
        if "array_len" in node:
            return f.array(field, node["array_len"])
        if "index" not in node:
            return field
        if field.vmstate is None or not field.vmstate.subsections:
            # Nothing else that was seen keeps elements from being described at once.
            field = replace(field, exists=lambda *_: True)
        return f.array(field, count)

    def _tmp(self, nodes: Sequence[dict[str, Any]], attribute: str) -> Field:
        """A temporary that its parent keeps."""
        inner = self.vmstate(nodes, nodes[0]["vmsd_name"])

        def restore(temporary: Any) -> None:
            vars(temporary).update(vars(getattr(temporary.parent, attribute)))

        def keep(temporary: Any, _version_id: int) -> None:
            setattr(temporary.parent, attribute, temporary)

        inner = replace(inner, pre_save=restore, post_load=keep)
        field = f.tmp(inner, lambda: blank(inner))
        return replace(field, version_id=inner.version_id)


def blank(vmstate: VmState) -> SimpleNamespace:
    state = SimpleNamespace(subsections=set())
    fill(vmstate, state)
    return state


def fill(vmstate: VmState, state: SimpleNamespace) -> None:
    for field in vmstate.fields:
        if field.path and field.vmstate is not None:
            made = [blank(field.vmstate) for _ in range(field.num or 1)]
            setattr(state, field.path, made if field.is_array else made[0])
    for sub in vmstate.subsections:
        fill(sub, state)


@pytest.mark.parametrize(("stream", "manner"), STREAMS)
def test_every_device_saves_back_to_its_bytes_and_its_description(
    stream: str, manner: Manner
) -> None:
    differ = set()
    for (idstr, instance_id), section in sections(stream).items():
        try:
            vmstate = Declarer().vmstate([section.node], section.node["vmsd_name"])
        except Differ:
            differ.add(idstr)
            continue
        state = blank(vmstate)
        stream_bytes = section.payload + b"\x7e"
        source = loaded(vmstate, state, section.version_id, stream_bytes, ended=False)
        assert source.offset == len(section.payload), idstr
        saved = save(vmstate, state, manner=manner)
        assert saved.data == section.payload, idstr
        node = device_node(idstr, instance_id, saved.node)
        assert text(node) == json.dumps(section.node), idstr
    assert len(sections(stream)) > 30
    assert {idstr.split("/")[-1] for idstr in differ} <= {"ide", "ich9_ahci"}
