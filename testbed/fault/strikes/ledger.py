"""What the connections of a run share: the fate of its faults, the device state that was sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from testbed.fault.plan import Fault
from testbed.wire import Layout
from testbed.wire.channel import AFTER_THE_END
from testbed.wire.element import (
    Element,
    FileHeader,
    Opaque,
    Payload,
    SectionHeader,
    SectionType,
)
from testbed.wire.error import CUT_SHORT

DEVICE_BYTES_MAX = 16 << 20
"""Device state kept for comparison, and held while its boundaries are unknown. It is for each
connection, so less than one section may have (`wire/device.py`). `pc` has 0.5 MB, pseries 2.3."""

WAITING_BYTES_MAX = 64 << 20
"""Bytes of all connections together that wait for what follows them, or nearly: see `waits`."""
WAITING_LEAST_BYTES = 1 << 20
"""So many of a direction never count."""

DeviceSections = dict[tuple[str, int], tuple[SectionHeader, bytes]]


@dataclass(slots=True)
class SectionsSent:
    """The sections of one stream as the source sent them, whatever faults did to them then.

    `begun` are idstr, instance_id and version_id of each START and FULL section in order; the
    version is None where only the vmdesc tells of it. `denied` are those whose payload the vmdesc
    says to be of another size than it was cut. `parts` counts PART and END sections by
    idstr and instance_id. `unread` says why there may be more that nobody saw, or is None. The
    parser bounds how many there are.
    """

    begun: list[tuple[str, int, int | None]] = field(default_factory=list)
    parts: Counter[tuple[str, int]] = field(default_factory=Counter)
    unread: str | None = None
    denied: frozenset[tuple[str, int]] = frozenset()
    _full: list[int] = field(default_factory=list)  # which of `begun` are FULL

    def learn(self, element: Element) -> None:
        """Take note of a header, of the vmdesc, or of what could not be read."""
        match element.value:
            case SectionHeader(type=SectionType.PART | SectionType.END) as header:
                self.parts[header.idstr, header.instance_id] += 1
            case SectionHeader() as header:
                if header.type is SectionType.FULL:
                    self._full.append(len(self.begun))
                self.begun.append((header.idstr, header.instance_id, header.version_id))
            case Opaque(why=why) if why != AFTER_THE_END and not why.startswith(CUT_SHORT):
                self.unread = why

    def described(self, layout: Layout, payloads: DeviceSections) -> None:
        """The vmdesc came: where it denies which sections there were, it is right.

        A payload that imitates a footer and a header makes sections that there are not.
        """
        sizes = {key: len(payload) for key, (_, payload) in payloads.items()}
        described = {(each.idstr, each.instance_id): each.size_bytes for each in layout.devices}
        self.denied = frozenset(
            key
            for key in sizes.keys() | described.keys()
            if sizes.get(key, 0) != described.get(key, 0)
        )
        told = [(device.idstr, device.instance_id) for device in layout.devices]
        if [self.begun[at][:2] for at in self._full] == told:
            return
        full = frozenset(self._full)
        others = [each for at, each in enumerate(self.begun) if at not in full]
        self.begun = [*others, *((idstr, instance_id, None) for idstr, instance_id in told)]
        self._full = list(range(len(others), len(self.begun)))


@dataclass(slots=True)
class Ledger:
    """Which faults struck, which came to their place in vain and why; device state and layout.

    `device_sections` holds the payloads of the FULL sections by (idstr, instance_id), as the
    source sent them in the last stream that had any; `layout` is the last vmdesc that came;
    `sections` are those of the last stream. `altered_sections` are the payloads of those of
    `device_sections` that a fault changed, as they left.
    """

    struck: Counter[str] = field(default_factory=Counter)
    misses: dict[str, str] = field(default_factory=dict)
    device_sections: DeviceSections = field(default_factory=dict)
    altered_sections: dict[tuple[str, int], bytes] = field(default_factory=dict)
    layout: Layout | None = None
    sections: SectionsSent = field(default_factory=SectionsSent)
    _device_bytes: int = 0
    _waiting: WeakKeyDictionary[object, int] = field(default_factory=WeakKeyDictionary)

    def waits(self, direction: object, size_bytes: int) -> bool:
        """Note how much waits in that direction; false if it is more than its share."""
        if size_bytes <= WAITING_LEAST_BYTES:
            self._waiting.pop(direction, None)
            return True
        self._waiting[direction] = size_bytes
        is_full = sum(self._waiting.values()) > WAITING_BYTES_MAX
        return not is_full or size_bytes <= WAITING_BYTES_MAX // len(self._waiting)

    def strike(self, fault: Fault) -> int:
        """Note that the fault has struck; how often by now."""
        self.struck[fault.name] += 1
        return self.struck[fault.name]

    def undo(self, name: str, why: str) -> None:
        """The fault of that name did not strike after all: it changed nothing."""
        self.struck[name] -= 1
        if not self.struck[name]:
            del self.struck[name]
        self.misses[name] = why

    def miss(self, fault: Fault, why: str) -> None:
        """Note that the fault came to its place and could not strike there."""
        self.misses[fault.name] = why

    def learn(self, element: Element) -> None:
        """Keep the device state that the source sends; a file header begins it anew."""
        value, section = element.value, element.section
        if isinstance(value, FileHeader):
            self.device_sections.clear()
            self.altered_sections.clear()
            self._device_bytes = 0
            self.sections = SectionsSent()
        self.sections.learn(element)
        if isinstance(value, Payload) and section is not None and _is_full(section):
            self._device_bytes += len(value.data)
            if self._device_bytes <= DEVICE_BYTES_MAX:
                self.device_sections[section.idstr, section.instance_id] = section, value.data

    def alter(self, element: Element, left: bytes) -> None:
        """Keep what left in the place of a device's payload, if it is another."""
        value, section = element.value, element.section
        if isinstance(value, Payload) and section is not None and _is_full(section):
            key = section.idstr, section.instance_id
            if left != value.data and key in self.device_sections:
                self.altered_sections[key] = left


def _is_full(section: SectionHeader) -> bool:
    return section.type is SectionType.FULL
