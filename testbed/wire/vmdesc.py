"""Reads a vmdesc: which device sections there are, of what size, made of which fields.

A VMSD is its fields, then its subsections (0x05, length and text of the name, be32 version_id,
fields), with nothing between. The JSON comes from a peer, so nothing in it is believed beyond
bounds. Source: QEMU `migration/vmstate.c`, `vmsd_desc_field_start`, 2.8 to 11.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from .error import StreamError
from .fields import LIST_MARK, SUBSECTION, SUBSECTION_HEAD_BYTES, Field

TEXT_BYTES_MAX = 48 << 20
"""Of a vmdesc that is read. What is longer passes, but describes nothing. `q35` has 7.7 KB for each
CPU (7.2), 32 MB for 4096 of them, which is the most of any machine of 10.0."""
OBJECTS_MAX = 2_000_000
"""Objects and lists in its JSON: each takes far more memory than text. `q35` has 163 for each CPU,
0.7 million for 4096 of them."""
DEPTH_MAX = 48
"""Of structs and subsections in each other; 6 seen."""
PATH_CHARACTERS_MAX = 1000
"""Of the dotted name of a field, its section's idstr included."""
NODES_MAX = 1_000_000
"""Of fields and subsections in all; `q35` has 123 for each CPU (7.2), half a million for 4096."""
SECTION_BYTES_MAX = 1 << 32
"""No section has more: 4 GiB is far beyond `device.PAYLOAD_BYTES_MAX`, but a sum stays an integer
of 64 bits wherever it goes."""
INSTANCE_IDS = range(-(1 << 31), 1 << 32)
"""An instance_id is a be32, which the JSON of QEMU before 5.0 has as an `int`."""
FIELDS_MAX = 100_000
"""Of one section's leaf fields, a run counting once; some 3000 seen."""

LIST_TYPES = ("qtailq", "qlist", "gtree")
TREE_COUNT_BYTES = 4
TREE_KEY_BYTES = 8

Json = Mapping[str, Any]


class Node(NamedTuple):
    """A field or subsection: `array_len` elements of `size_bytes` each, `inner` in each of them.

    A plain tuple: there are thousands, and the making of a frozen record costs three times more.
    """

    name: str
    type: str
    size_bytes: int
    array_len: int | None = None  # None: no array
    inner: tuple[Node, ...] = ()
    head_bytes: int = 0  # of a subsection: what precedes its first field

    @property
    def total_bytes(self) -> int:
        """Bytes of all its elements."""
        return self.size_bytes if self.array_len is None else self.size_bytes * self.array_len


@dataclass(frozen=True, slots=True)
class Device:
    """A FULL section: payload of `size_bytes`, made of `nodes` back to back."""

    idstr: str
    instance_id: int
    size_bytes: int
    nodes: tuple[Node, ...]

    def fields(self) -> tuple[Field, ...]:
        """Its leaf fields in order, back to back from 0; at most `FIELDS_MAX` of them."""
        fields: list[Field] = []
        _collect(fields, self.nodes, "", 0)
        return tuple(fields)


class _Repeated(dict[str, Any]):
    """An object in which a key comes more than once: a list, whose elements share their keys."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


LISTS = re.compile(rb'"(?:qtailq|qlist|gtree)"')


def read_vmdesc(text: bytes) -> list[Device]:
    """The device sections that a vmdesc describes, in the order of the stream.

    Raises:
        StreamError: it is not JSON, not a vmdesc, or beyond the bounds of this module.
    """
    return read_devices(read_json(text, "vmdesc"))


def read_json(text: bytes, inside: str, *, bytes_max: int | None = None) -> Any:
    """The JSON of a text that a peer wrote.

    Raises:
        StreamError: it is none, or too long.
    """
    bytes_max = TEXT_BYTES_MAX if bytes_max is None else bytes_max
    if len(text) > bytes_max:
        raise wrong(inside, f"at most {bytes_max} bytes", f"{len(text)}")
    if text.count(b"{") + text.count(b"[") > OBJECTS_MAX:
        raise wrong(inside, f"at most {OBJECTS_MAX} objects and lists", "more")
    try:
        # The hook costs a call per object: only lists need it.
        return json.loads(text, object_pairs_hook=_object if LISTS.search(text) else None)
    except (ValueError, RecursionError) as error:
        raise wrong(inside, "JSON", str(error)) from error


def read_devices(root: Any) -> list[Device]:
    """As `read_vmdesc`, from the JSON of it.

    Raises:
        StreamError: it is not a vmdesc, or beyond the bounds of this module.
    """
    if not isinstance(root, dict):
        raise wrong("vmdesc", "an object", _kind(root))
    parser = _Parser()
    return [parser.device(node) for node in objects(root, "devices", "vmdesc")]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    once = dict(pairs)
    return once if len(once) == len(pairs) else _Repeated(pairs)


class _Parser:
    """Reads one vmdesc; counts nodes, so that their number is bounded over all of it."""

    def __init__(self) -> None:
        self._nodes = 0

    def device(self, node: Json) -> Device:
        idstr = _text(node, "name", "device")
        nodes = self._members(node, idstr, 0)
        if "vmsd_name" in node:
            size = _sum(nodes, idstr)
        else:  # old style: an open-coded blob of stated size
            size = _integer(node, "size", idstr)
            if _sum(nodes, idstr) != size:
                nodes = (Node("data", "buffer", size),) if size else ()
        return Device(idstr, _instance_id(node, idstr), size, nodes)

    def _members(self, node: Json, inside: str, depth: int) -> tuple[Node, ...]:
        """Fields, then subsections, of a device, struct or subsection."""
        if depth > DEPTH_MAX or len(inside) > PATH_CHARACTERS_MAX:
            expected = f"a depth of at most {DEPTH_MAX}, {PATH_CHARACTERS_MAX} characters"
            raise wrong(inside[:PATH_CHARACTERS_MAX], expected, "more")
        nodes: list[Node] = []
        for name, same in groupby(objects(node, "fields", inside), _name):
            described = list(same)
            if len(described) == 1:
                nodes += self._field(described[0], inside, depth)
            else:
                nodes += self._array(described, name, inside, depth)
        if "subsections" in node:
            for each in objects(node, "subsections", inside):
                nodes.append(self._subsection(each, inside, depth))
        return tuple(nodes)

    def _array(
        self, described: Sequence[Json], name: str | None, inside: str, depth: int
    ) -> Iterator[Node]:
        """The elements of an array that are described one by one, or in runs.

        Only some of the descriptions carry their `index`: since 10.0 the last one does not, and
        an array of pointers is runs of those that are NULL and those that are not.
        """
        index = 0
        for each in described:
            if "index" in each:
                index = _integer(each, "index", inside)
            for node in self._field(each, inside, depth, element=f"{name}[{index}]"):
                if node.array_len is None:
                    yield node
                    continue
                self._count(inside, node.array_len)
                for offset in range(node.array_len):
                    yield node._replace(name=f"{name}[{index + offset}]", array_len=None)
            index += each.get("array_len", 1)

    def _field(
        self, node: Json, inside: str, depth: int, *, element: str | None = None
    ) -> Sequence[Node]:
        """The nodes of a field: one, but for a list; `element` is its name in an array."""
        self._count(inside)
        name = _text(node, "name", inside)
        kind = _text(node, "type", inside) if "type" in node else "unknown"
        inside = f"{inside}.{name}"
        size = _integer(node, "size", inside)
        array_len = _integer(node, "array_len", inside) if "array_len" in node else None
        if element is not None:
            name = element
        elif "index" in node:
            name = f"{name}[{_integer(node, 'index', inside)}]"
        if size * (array_len or 1) > SECTION_BYTES_MAX:
            raise wrong(inside, f"at most {SECTION_BYTES_MAX} bytes", f"{size} x {array_len}")
        inner: tuple[Node, ...] = ()
        described = node.get("struct", node)
        if kind in LIST_TYPES:
            elements = self._list(node, Node(name, kind, size), inside, depth)
            if elements and array_len is None:
                return elements
        elif isinstance(described, dict) and "fields" in described:
            inner = self._members(described, inside, depth + 1)
            if sum(each.total_bytes for each in inner) != size:
                inner = ()  # only the size is true
        found = Node(name, kind, size, array_len, inner)
        # What has no bytes is dropped: arrays of it could be of any length.
        return (found,) if found.total_bytes else ()

    def _list(self, node: Json, whole: Node, inside: str, depth: int) -> Sequence[Node]:
        """Take a list apart: (1, element)*, 0; a tree has its be32 count before, keys between.

        Nothing if its elements do not add up to its size: then that alone is known.
        """
        groups = [self._members(group, inside, depth + 1) for group in _groups(node)]
        marks = len(groups) + 1
        described = sum(each.total_bytes for group in groups for each in group)
        name, size = whole.name, whole.size_bytes
        nodes: list[Node] = []
        key_bytes = 0
        if whole.type == "gtree":
            nodes.append(Node(name, "uint32", TREE_COUNT_BYTES))
            key_bytes = TREE_KEY_BYTES
            described += TREE_COUNT_BYTES + key_bytes * len(groups)
        if described + marks != size:
            return ()
        for index, group in enumerate(groups):
            element = f"{name}[{index}]"
            nodes.append(Node(element, LIST_MARK, 1))
            if key_bytes:
                nodes.append(Node(f"{element}.key", "uint64", key_bytes))
            element_bytes = sum(each.total_bytes for each in group)
            if element_bytes:
                nodes.append(Node(element, "struct", element_bytes, None, group))
        nodes.append(Node(f"{name}[end]", LIST_MARK, 1))
        return nodes

    def _subsection(self, node: Json, inside: str, depth: int) -> Node:
        self._count(inside)
        name = _text(node, "vmsd_name", inside)
        nodes = self._members(node, f"{inside}.{name}", depth + 1)
        head = SUBSECTION_HEAD_BYTES + len(name.encode("utf-8", "surrogatepass"))
        return Node(name, SUBSECTION, head + _sum(nodes, name), None, nodes, head)

    def _count(self, inside: str, nodes: int = 1) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise wrong(inside, f"at most {NODES_MAX} fields", "more")


def _name(node: Json) -> str | None:
    # What is no text is not compared: it may nest deeper than comparing can go.
    name = node.get("name")
    return name if isinstance(name, str) else None


def _groups(node: Json) -> Iterator[Json]:
    """What describes each element of a list: keys that come again and again, from `vmsd_name`."""
    if not isinstance(node, _Repeated):
        if "fields" in node:
            yield node
        return
    group: dict[str, Any] = {}
    for key, member in node.pairs:
        if key == "vmsd_name":
            if "fields" in group:
                yield group
            group = {}
        if key in ("fields", "subsections"):
            group[key] = member
    if "fields" in group:
        yield group


def _collect(fields: list[Field], nodes: Sequence[Node], path: str, start: int) -> None:
    for node in nodes:
        name, kind, size, array_len, inner, head = node
        if inner or head:
            for index in range(1 if array_len is None else array_len):
                if len(fields) >= FIELDS_MAX:
                    return
                element = f"{path}{name}" if array_len is None else f"{path}{name}[{index}]"
                at = start + index * size
                if head:
                    fields.append(Field(element, kind, at, head))
                _collect(fields, inner, f"{element}.", at + head)
        else:
            if len(fields) >= FIELDS_MAX:
                return
            fields.append(Field(path + name, kind, start, size, array_len))
        start += size if array_len is None else size * array_len


def _sum(nodes: Sequence[Node], inside: str) -> int:
    total = sum(node.total_bytes for node in nodes)
    if total > SECTION_BYTES_MAX:
        raise wrong(inside, f"at most {SECTION_BYTES_MAX} bytes", f"{total}")
    return total


def objects(node: Json, key: str, inside: str) -> list[Json]:
    """The list of objects that `node` has under that key.

    Raises:
        StreamError: it has none there.
    """
    found = node.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise wrong(inside, f"a list of objects as `{key}`", _kind(found))
    return found


def _text(node: Json, key: str, inside: str) -> str:
    found = node.get(key)
    if not isinstance(found, str) or len(found) > PATH_CHARACTERS_MAX:
        expected = f"a string of at most {PATH_CHARACTERS_MAX} characters as `{key}`"
        raise wrong(inside, expected, _kind(found))
    return found


def _integer(node: Json, key: str, inside: str) -> int:
    found = node.get(key)
    if type(found) is not int or not 0 <= found <= SECTION_BYTES_MAX:
        got = repr(found)[:40] if isinstance(found, int | float) else _kind(found)
        raise wrong(inside, f"0 to {SECTION_BYTES_MAX} as `{key}`", got)
    return found


def _instance_id(node: Json, inside: str) -> int:
    found = node.get("instance_id")
    if type(found) is not int or found not in INSTANCE_IDS:
        raise wrong(inside, "a number of 32 bits as `instance_id`", _kind(found))
    return found % (1 << 32)


def _kind(found: object) -> str:
    return "nothing" if found is None else f"a {type(found).__name__}"


def wrong(inside: str, expected: str, got: str) -> StreamError:
    """The error for what stands in a vmdesc, whose offsets nobody knows."""
    return StreamError(offset=0, inside=inside, expected=expected, got=got)
