"""Device state compared: what a copy of a machine holds against what the machine sent.

Some devices hold something else after a migration that did nothing wrong: their device model says
so. Which fields, between which versions, and why, is data that was measured
(`device_changes.json`, made by `scripts/measure-device-state`). All other bytes count, those that
no field names as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from .saved import DeviceSection

Version = tuple[int, int, int]
Sections = Mapping[tuple[str, int], DeviceSection]

OUTSIDE = "(outside of its fields)"
"""Field of bytes that no field names."""
PAYLOAD = "(payload)"
"""Field of a payload of which no field is known."""
VERSION = "(version_id)"
UNUSED = "unused"
"""Name, as of the vmdesc, of bytes that nobody reads (QEMU `VMSTATE_UNUSED_BUFFER`)."""
RUN_STATE = "globalstate"
"""Section of the run state, which is another one by the time when a machine is saved again."""
RINGSIZE = "virtio/ringsize"
RINGSIZE_HEAD = bytes((5, len(RINGSIZE))) + RINGSIZE.encode() + bytes((0, 0, 0, 1))
RINGSIZE_BYTES = len(RINGSIZE_HEAD) + 1024 * 4
"""A subsection within a virtio device's one field `virtio`: a be32 for each of `VIRTIO_QUEUE_MAX`
queues, saved only where one has another size than the device gives it by default (QEMU
`hw/virtio/virtio.c`, `virtio_ringsize_needed`). Compared as a field of its own, for a default that
is another one in the destination's version."""
BYTES_SHOWN_MAX = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is otherwise: `at` are the bytes of it that differ, from its start.

    `sent` or `held` is None where that side has no such field, or no such section. `is_loaded`:
    `held` is what came to the machine, where that is known and what it holds is not.
    """

    idstr: str
    instance_id: int
    field: str
    sent: bytes | None
    held: bytes | None
    at: tuple[int, ...] = ()
    is_loaded: bool = False

    @property
    def is_of_section(self) -> bool:
        """One side has no such section."""
        return not self.field

    def facts(self) -> dict[str, Any]:
        """Where it is, for the log: section, instance, field, and first and last byte."""
        return {
            "section": self.idstr,
            "instance": self.instance_id,
            "field": self.field,
            "bytes": [self.at[0], self.at[-1] + 1] if self.at else None,
        }

    def __str__(self) -> str:
        title = f"{self.idstr} {self.instance_id}"
        if not self.field:
            return f"{title}: {'never sent' if self.sent is None else 'not held'}"
        sent, held = _shown(self.sent, self.at), _shown(self.held, self.at)
        where = f", from byte {self.at[0]}" if self.at and self.at[0] else ""
        verb = "loaded" if self.is_loaded else "held"
        return f"{title}, field {self.field}{where}: sent {sent}, {verb} {held}"


def _shown(data: bytes | None, at: tuple[int, ...]) -> str:
    if data is None:
        return "none"
    start = at[0] if at else 0
    shown = data[start : start + BYTES_SHOWN_MAX].hex()
    return shown + "..." * (len(data) > start + BYTES_SHOWN_MAX) or "nothing"


def differences(sent: Sections, held: Sections) -> Iterator[Difference]:
    """Each difference between the device state that one machine sent and what another one holds."""
    for (idstr, instance), section in sent.items():
        other = held.get((idstr, instance))
        if other is None:
            yield Difference(idstr, instance, "", section.payload, None)
        else:
            yield from _between(section, other)
    for (idstr, instance), section in held.items():
        if (idstr, instance) not in sent:
            yield Difference(idstr, instance, "", None, section.payload)


def altered(sent: Sections, came: Mapping[tuple[str, int], bytes]) -> Iterator[Difference]:
    """What a fault changed on the way to a machine whose own state cannot be compared.

    Args:
        sent: what came from the source.
        came: payloads as they left the proxy, of sections that a fault changed.

    Yields:
        Each difference in a field that a loader takes. Of `UNUSED` ones it skips the bytes.
    """
    for key, payload in came.items():
        if key in sent:
            for each in _between(sent[key], replace(sent[key], payload=payload)):
                if not each.field.split(".")[-1].startswith(UNUSED):
                    yield replace(each, is_loaded=True)


def _between(sent: DeviceSection, held: DeviceSection) -> Iterator[Difference]:
    def difference(field: str, one: bytes | None, other: bytes | None) -> Difference:
        at: tuple[int, ...] = ()
        if one is not None and other is not None and len(one) == len(other):
            at = tuple(number for number, byte in enumerate(one) if byte != other[number])
        return Difference(sent.idstr, sent.instance_id, field, one, other, at)

    if sent.version_id != held.version_id:
        one, other = (each.version_id.to_bytes(4, "big") for each in (sent, held))
        yield difference(VERSION, one, other)
    if sent.payload == held.payload:
        return
    (sent, one_size), (held, other_size) = _without_ringsize(sent), _without_ringsize(held)
    if one_size != other_size:
        yield difference(RINGSIZE, one_size, other_size)
    theirs, ours = _fields(sent), _fields(held)
    if len(sent.payload) == len(held.payload):
        # Byte by byte: two versions may have other names for the same, as once it was `unused`.
        described = sent if sent.fields else held
        theirs = _fields(replace(sent, fields=described.fields))
        ours = _fields(replace(held, fields=described.fields))
    if not theirs or not ours:
        yield difference(PAYLOAD, sent.payload, held.payload)
        return
    for name in dict.fromkeys((*theirs, *ours)):
        if theirs.get(name) != ours.get(name):
            yield difference(name[0], theirs.get(name), ours.get(name))


def _without_ringsize(section: DeviceSection) -> tuple[DeviceSection, bytes | None]:
    """The section without that subsection, and its bytes; None: it has none."""
    payload = section.payload
    at = payload.find(RINGSIZE_HEAD)
    if at < 0:
        return section, None
    end = at + RINGSIZE_BYTES
    fields = tuple(
        (
            name,
            start - RINGSIZE_BYTES if start >= end else start,
            size - RINGSIZE_BYTES if start <= at and end <= start + size else size,
        )
        for name, start, size in section.fields
    )
    rest = payload[:at] + payload[end:]
    return replace(section, payload=rest, fields=fields), payload[at:end]


def _fields(section: DeviceSection) -> dict[tuple[str, int], bytes]:
    """The bytes of each field, by its name and the how-manieth of that name it is."""
    if not section.fields:
        return {}
    found: dict[tuple[str, int], bytes] = {}
    outside, end = bytearray(), 0
    for name, start, size in section.fields:
        outside += section.payload[end:start]
        end = max(end, start + size)
        number = 0
        while (name, number) in found:
            number += 1
        found[name, number] = section.payload[start : start + size]
    outside += section.payload[end:]
    if outside:
        found[OUTSIDE, 0] = bytes(outside)
    return found


# What a clean migration changes


@dataclass(frozen=True, slots=True)
class Change:
    """A field that a migration changes that did nothing wrong.

    `idstr` and `field` are patterns, in which `*` is any text. `at` are the bytes of the field that
    it may be in, as ranges; empty: all. `pairs` are the versions of source and destination between
    which it was measured; empty: all.
    """

    idstr: str
    field: str
    reason: str
    at: tuple[tuple[int, int], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def explains(self, difference: Difference) -> bool:
        """True if the difference is that one; a section that is not there never is."""
        if difference.is_of_section:
            return False
        if not _matches(self.idstr, difference.idstr) or not _matches(self.field, difference.field):
            return False
        within = (any(start <= at < end for start, end in self.at) for at in difference.at)
        return not self.at or (bool(difference.at) and all(within))


@dataclass(frozen=True, slots=True)
class Changes:
    """What was measured: the versions, as QMP greets with them, and all changes."""

    versions: tuple[Version, ...]
    changes: tuple[Change, ...]

    def between(self, source: Version, destination: Version) -> tuple[Change, ...]:
        """Those between two versions: as measured with the nearest ones that are not newer."""
        pair = self._measured(source), self._measured(destination)
        return tuple(each for each in self.changes if not each.pairs or pair in each.pairs)

    def _measured(self, version: Version) -> str:
        older = [each for each in self.versions if each <= version]
        nearest = max(older, default=min(self.versions))
        return f"{nearest[0]}.{nearest[1]}"


@cache
def measured() -> Changes:
    """What `scripts/measure-device-state` wrote."""
    return read_changes(files(__package__).joinpath("device_changes.json").read_text())


def read_changes(text: str) -> Changes:
    """Read the data: an object with `versions` and `changes`; each change as `Change` says."""
    data = json.loads(text)
    return Changes(
        tuple((each[0], each[1], 0) for each in data["versions"]),
        tuple(_change(each) for each in data["changes"]),
    )


def _change(said: Mapping[str, Any]) -> Change:
    return Change(
        said["idstr"],
        said["field"],
        said["reason"],
        tuple((start, end) for start, end in said.get("bytes", ())),
        tuple((source, destination) for source, destination in said.get("pairs", ())),
    )


def told_apart(
    found: Iterable[Difference], changes: Sequence[Change]
) -> tuple[list[Difference], list[tuple[Difference, Change]]]:
    """Those that nothing explains, and those that a clean migration has, too, with the reason."""
    wrong: list[Difference] = []
    explained: list[tuple[Difference, Change]] = []
    for difference in found:
        change = next((each for each in changes if each.explains(difference)), None)
        if change is None:
            wrong.append(difference)
        else:
            explained.append((difference, change))
    return wrong, explained


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _matches(pattern: str, text: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None
