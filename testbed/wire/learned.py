"""Layouts learned from streams with a vmdesc, for streams of the same machine without one.

Postcopy never sends a vmdesc, and it can be suppressed; sizes and fields of device sections are
the same all the same, as long as the machine is. Some sections differ in size from time to time
(optional subsections, queues), so one layout may know several sizes of a section, each from
another stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .element import Configuration, Element, Payload, SectionHeader, SectionType, VmDescription
from .layout import Layout, Section
from .vmdesc import Device, objects, read_json, wrong

LEARNED_BYTES_MAX = 64 << 20
"""Of a layout that was written down."""
STREAMS_MAX = 64
"""Of which one layout may know."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """What one stream told: its vmdesc, and the version_id of each device section."""

    vmdesc: bytes
    version_ids: tuple[int | None, ...]  # None: that section is not as the vmdesc says


class LearnedLayout:
    """Sizes and fields of the device sections of a machine, by idstr, instance and version.

    `machine` is the type for which it is valid, as the configuration names it; empty if the
    streams that it was learned from had none.
    """

    def __init__(self, machine: str, streams: Iterable[_Stream]) -> None:
        self.machine = machine
        self._streams = tuple(dict.fromkeys(streams))
        if len(self._streams) > STREAMS_MAX:
            raise wrong("learned layout", f"at most {STREAMS_MAX} streams", "more")
        self._devices: dict[tuple[str, int, int], dict[int, Device]] = {}
        for stream in self._streams:
            devices = Layout.parse(stream.vmdesc).devices
            if len(devices) != len(stream.version_ids):
                expected = f"{len(devices)} version_ids"
                raise wrong("learned layout", expected, f"{len(stream.version_ids)}")
            for device, version_id in zip(devices, stream.version_ids, strict=True):
                if version_id is None:
                    continue
                key = device.idstr, device.instance_id, version_id
                self._devices.setdefault(key, {}).setdefault(device.size_bytes, device)

    @classmethod
    def of(cls, elements: Iterable[Element]) -> LearnedLayout:
        """Learn from a stream: its configuration, FULL sections and vmdesc; others are ignored.

        A section that is not as long as the vmdesc says is not learned (`Layout.doubts`).

        Raises:
            StreamError: it has no vmdesc, or another number of sections than that says.
        """
        machine = ""
        cut: list[Section] = []
        version_ids: list[int | None] = []
        for element in elements:
            match element.value:
                case Configuration(name):
                    machine = name
                case SectionHeader(SectionType.FULL, _, idstr, instance_id, version_id):
                    cut.append((idstr, instance_id, 0))
                    version_ids.append(version_id)
                case Payload(data) if cut and _is_full(element):
                    cut[-1] = *cut[-1][:2], len(data)
                case VmDescription(text):
                    layout = Layout.parse(text)
                    if len(layout.devices) != len(cut):
                        for why in layout.disagreements(cut):
                            raise wrong("stream", "sections as its vmdesc says", why)
                    for at in layout.doubts(cut):
                        version_ids[at] = None
                    return cls(machine, [_Stream(text, tuple(version_ids))])
        raise wrong("stream", "a vmdesc to learn from", "none")

    @classmethod
    def from_json(cls, text: bytes) -> LearnedLayout:
        """Read what `to_json` wrote.

        Raises:
            StreamError: it is not that, or beyond the bounds of this module or of `vmdesc.py`.
        """
        inside = "learned layout"
        root = read_json(text, inside, bytes_max=LEARNED_BYTES_MAX)
        if not isinstance(root, dict) or not isinstance(root.get("machine"), str):
            raise wrong(inside, "an object with a `machine`", type(root).__name__)
        streams = objects(root, "streams", inside)
        return cls(root["machine"], [_stream(each) for each in streams[: STREAMS_MAX + 1]])

    def to_json(self) -> bytes:
        """The layout as JSON, for `from_json`.

        An object: `machine`; `streams`, a list of objects: `vmdesc`, its text as it came, for JSON
        with duplicate keys does not survive being parsed; `version_ids`, one for each of its
        devices, null for one that the stream had otherwise.
        """
        streams = [
            {"version_ids": stream.version_ids, "vmdesc": stream.vmdesc.decode("latin-1")}
            for stream in self._streams
        ]
        return json.dumps({"machine": self.machine, "streams": streams}, indent=1).encode()

    def merge(self, other: LearnedLayout) -> LearnedLayout:
        """What both know; where they know the same of a section, this one's fields.

        Raises:
            StreamError: they are of different machine types, or too many.
        """
        if self.machine != other.machine:
            raise wrong("learned layout", f"one of {self.machine!r}", f"one of {other.machine!r}")
        return LearnedLayout(self.machine, (*self._streams, *other._streams))

    def fits(self, machine: str | None) -> bool:
        """Whether it is of that machine type; None: a stream that does not say, nothing denies."""
        return machine is None or not self.machine or machine == self.machine

    def sizes(self, header: SectionHeader) -> tuple[int, ...]:
        """Sizes in bytes that the payload of a section had, ascending; empty if it knows none."""
        return tuple(sorted(self._known(header)))

    def device(self, header: SectionHeader, size_bytes: int) -> Device | None:
        """The section with a payload of that size."""
        return self._known(header).get(size_bytes)

    def _known(self, header: SectionHeader) -> dict[int, Device]:
        if header.type is not SectionType.FULL:
            return {}
        key = header.idstr, header.instance_id, header.version_id
        return self._devices.get(key, {})


def _is_full(element: Element) -> bool:
    return element.section is not None and element.section.type is SectionType.FULL


def _stream(node: Any) -> _Stream:
    inside = "learned layout"
    text, version_ids = node.get("vmdesc"), node.get("version_ids")
    if not isinstance(text, str) or any(ord(each) > 0xFF for each in set(text)):
        raise wrong(inside, "a text of bytes as `vmdesc`", type(text).__name__)
    if not isinstance(version_ids, list) or not all(
        each is None or type(each) is int for each in version_ids
    ):
        raise wrong(inside, "integers or null as `version_ids`", type(version_ids).__name__)
    return _Stream(text.encode("latin-1"), tuple(version_ids))
