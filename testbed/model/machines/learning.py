"""A registry that learns its devices from the stream that is loaded into it.

The first device section that nobody knows is where it begins: all that follows is waited for, up to
the vmdesc, and cut by it. Only what fits it to the last byte is believed.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testbed.model.migration.registry import Entry, Registry
from testbed.vmstate import (
    Incoming,
    Manner,
    Node,
    Source,
    State,
    Story,
    VmState,
    VmStateFailed,
    device_node,
    load,
    save,
    text,
)
from testbed.wire import Layout, StreamError, encode
from testbed.wire.described import CANDIDATE, CANDIDATE_BYTES_MAX, CANDIDATES_MAX, walk
from testbed.wire.element import SectionHeader, SectionType
from testbed.wire.live import READERS
from testbed.wire.structs import SECTION
from testbed.wire.vmdesc import TEXT_BYTES_MAX

from .described import NotDeclarable, Sized, blank, declared

PHASE_BYTES_MAX = 32 << 20
"""Of all device sections and their vmdesc, held back; 0.3 MB seen."""
STRUCTS_MAX = 100_000
"""Of one section that is declared; some hundreds seen. What has more is kept as bytes."""
VERSION_MAX = (1 << 32) - 1
FOOTER = b"\x7e"
"""The first byte of what follows a payload: no subsection."""
LIVE = frozenset(idstr for idstr, _ in READERS)
"""Idstrs of live sections, beside RAM: nothing describes those."""
MALFORMED = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
"""What comes of a description that is none; the vmdesc is a peer's."""


class Came(NamedTuple):
    """A device section as it came."""

    header: SectionHeader
    payload: bytes


@dataclass(slots=True)
class Learning(Registry):
    """The registry of a machine that is to become another."""

    early: list[Came] = field(default_factory=list)
    """Device sections that came before RAM: they are registered with the others."""
    learned: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """Payloads as they came, by idstr and instance_id, once they are known."""
    manner: Manner = Manner.QEMU_7_2
    """Of the vmdesc that came."""
    section_id_of: Callable[[Entry], int] = lambda entry: entry.section_id
    """By which section_id an entry was begun."""

    def find(self, idstr: str, instance_id: int) -> Entry | None:
        """Whose section that is; of one that is not known yet, an entry that learns of it."""
        found = super(Learning, self).find(idstr, instance_id)
        if found is not None or self.learned or idstr in LIVE:
            return found
        entry = Entry(idstr, instance_id, VERSION_MAX, 0)
        entry.old_style = _Learner(self, entry, idstr, instance_id)
        return entry

    def learn(self, sections: Sequence[Came], vmdesc: bytes) -> None:
        """Register what came, early sections first; `vmdesc` describes them in that order."""
        described = json.loads(vmdesc)
        wholes = dict(json.loads(vmdesc, object_pairs_hook=Node))["devices"]
        self.manner = _manner(vmdesc, described)
        came = [*self.early, *sections]
        for number, (each, node) in enumerate(zip(came, described["devices"], strict=True)):
            entry = self._registered(each, node, wholes[number])
            entry.section_id = each.header.section_id
            entry.early = number < len(self.early)
            self.next_section_id = max(self.next_section_id, entry.section_id + 1)
            self.learned[each.header.idstr, each.header.instance_id] = each.payload

    def _registered(self, came: Came, node: Any, whole: Node) -> Entry:
        """An entry with that state; what came before RAM is loaded by that."""
        header = came.header
        found = _declared(came, node, whole, self.manner)
        if found is None:
            sized = Sized(len(came.payload), whole)
            sized.data = came.payload
            ids = header.instance_id, header.version_id
            return self.register_old_style(header.idstr, *ids, sized)
        entry = self.register(*found, header.instance_id)
        entry.idstr, entry.version_id = header.idstr, header.version_id
        return entry


@dataclass(slots=True)
class _Learner:
    """Loads the section from which on nothing is known, once all is."""

    registry: Learning
    entry: Entry
    idstr: str
    instance_id: int
    described: Node | None = None

    def save(self) -> bytes:
        """Nothing: it is of no machine."""
        return b""

    def load(self, source: Source, version_id: int) -> Story[None]:
        """Learn what all sections are, and load this one.

        Raises:
            VmStateFailed: no vmdesc says so, or it may not be loaded.
        """
        if not (yield from self._learn(source, version_id)):
            line = f"no vmdesc says what '{self.idstr}' is"
            raise VmStateFailed(source.error or -errno.EINVAL, line)
        entry = self.registry.find(self.idstr, self.instance_id)
        assert entry is not None, "it was the first one to be registered"
        if entry.vmstate is not None:
            yield from load(entry.vmstate, entry.state, version_id, source)
        else:
            assert entry.old_style is not None, "it is a device"
            yield from entry.old_style.load(source, version_id)

    def _learn(self, source: Source, version_id: int) -> Story[bool]:
        """Register all, if a vmdesc fits what comes before it; of several the last one in hand.

        What a payload imitates is in the middle of what is there, as a rule.
        """
        searched, found = 0, None
        for _ in range(CANDIDATES_MAX):
            while (place := _candidate(source, searched)) is None and found is None:
                with source.in_hand() as view:
                    size = len(view)
                searched = max(searched, size - CANDIDATE_BYTES_MAX + 1)
                if not (yield from _wait_for(source, size + 1)):
                    return False
            if place is None:
                break
            eof_at, end = place
            searched = eof_at + 1
            if not (yield from _wait_for(source, end)):
                continue
            with source.in_hand() as view:
                held = bytes(view[:end])
            found = self._fitting(held, eof_at, version_id) or found
        if found is None:
            return False
        self.registry.learn(*found)
        return True

    def _fitting(
        self, held: bytes, eof_at: int, version_id: int
    ) -> tuple[list[Came], bytes] | None:
        """The sections and their vmdesc, if those are what was held."""
        early, vmdesc = self.registry.early, held[eof_at + 1 + SECTION.size :]
        try:
            devices = Layout.parse(vmdesc).devices
        except StreamError:
            return None
        ids = self.idstr, self.instance_id, version_id
        section_id = self.registry.section_id_of(self.entry)
        head = encode(SectionHeader(SectionType.FULL, section_id, *ids))
        data = head + held
        cut = walk(data, devices[len(early) :])
        if not cut or len(early) + len(cut) < len(devices):
            return None
        sizes = [len(each.payload) for each in early]
        is_exact = cut[-1].end == len(head) + eof_at
        if not is_exact or sizes != [device.size_bytes for device in devices[: len(early)]]:
            return None
        return [Came(each.header, data[each.payload : each.footer]) for each in cut], vmdesc


def _candidate(source: Source, searched: int) -> tuple[int, int] | None:
    """Where in what is in hand, from `searched` on, EOF and a vmdesc may stand, and its end."""
    with source.in_hand() as view:
        while (found := CANDIDATE.search(view, searched)) is not None:
            eof_at, length = found.start(), int.from_bytes(found[1], "big")
            if length <= TEXT_BYTES_MAX:
                return eof_at, eof_at + 1 + SECTION.size + length
            searched = eof_at + 1
    return None


def _wait_for(source: Source, size_bytes: int) -> Story[bool]:
    """Wait until so many bytes are in hand; false if they will not be, or are too many."""
    if size_bytes > PHASE_BYTES_MAX:
        return False
    return bool((yield from source.peek(1, skip=size_bytes - 1)))


def _manner(vmdesc: bytes, described: Any) -> Manner:
    if vmdesc.startswith(b"{ "):
        return Manner.QEMU_2_9
    return Manner.QEMU_10_0 if "configuration" in described else Manner.QEMU_7_2


def _declared(came: Came, node: Any, whole: Node, manner: Manner) -> tuple[VmState, State] | None:
    """Declaration and state of a section, if it comes back by it to its bytes and its words."""
    header = came.header
    try:
        if "vmsd_name" not in node or _structs(node) > STRUCTS_MAX:
            return None
        vmstate = declared(node)
        state = blank(vmstate)
        source = Incoming(came.payload + FOOTER)
        for _ in load(vmstate, state, header.version_id, source):
            return None
        saved = save(vmstate, state, manner=manner)
        shown = device_node(header.idstr, header.instance_id, saved.node)
        same = text(shown) == text(whole)
    except (NotDeclarable, VmStateFailed, *MALFORMED):
        return None
    return (vmstate, state) if saved.data == came.payload and same else None


def _structs(node: Any) -> int:
    """How many structs a description has, those of all elements."""
    count = 0
    for each in (*node["fields"], *node.get("subsections", ())):
        inner = each.get("struct", each)
        if "fields" in inner:
            count += each.get("array_len", 1) * (1 + _structs(inner))
    return count
