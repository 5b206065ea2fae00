"""A recorded machine with other memory, more or fewer CPUs, fewer NICs and their own addresses.

What depends on them in the devices' state is set as a real machine of that shape has it.

Source: QEMU `hw/i386/pc.c`, `pc_cmos_init`; `hw/i386/pc_piix.c`, `pc_init1`; `hw/i386/pc_q35.c`,
`pc_q35_init`; `hw/pci-host/i440fx.c`, `i440fx_init`; 7.2, and found by recording such machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from .recorded import MACS, Recording, Section

PER_CPU = ("cpu_common", "cpu", "apic")
"""Idstrs of what each CPU has, in the order in which they are registered."""
SECOND_CPU = 1
APIC_ID_AT = 4
NIC_SUFFIX = "/virtio-net"

MIB, GIB = 1 << 20, 1 << 30
KIB = 1 << 10
BASE_KIB_MAX = 640
WORD_MAX = 0xFFFF
UNIT_HIGH = 64 << 10  # what memory above 16 MiB and above 4 GiB is counted in
COREBOOT_AT = 4 + 0x57
"""In the payload of I440FX: its version_id, then `I440FX_COREBOOT_RAM_SIZE` of its config."""
COREBOOT_UNIT = 8 << 20


class Shape(NamedTuple):
    """What machines of one type may differ in."""

    memory_bytes: int
    cpus: int
    macs: tuple[bytes, ...]


def sections(recording: Recording, shape: Shape) -> Iterator[Section]:
    """The device sections of a machine of that shape, in the order of the stream.

    Section_ids are given in that order, so one that is there or not shifts all behind it.
    """
    shift = nics = 0
    second: list[Section] = []
    for section in recording.sections:
        moved = replace(section, section_id=section.section_id + shift)
        if section.instance_id == SECOND_CPU and section.idstr in PER_CPU:
            second.append(moved)
            if len(second) == len(PER_CPU):
                yield from _further_cpus(second, shape.cpus)
                shift += len(PER_CPU) * (shape.cpus - 2)
        elif is_nic(section):
            if nics < len(shape.macs):
                payload = section.payload.replace(recorded_mac(section), shape.macs[nics])
                yield replace(moved, payload=payload)
            else:
                shift -= 1
            nics += 1
        else:
            yield replace(moved, payload=_fitted(recording.machine, section, shape))


def is_nic(section: Section) -> bool:
    """Whether that is a NIC's."""
    return section.idstr.endswith(NIC_SUFFIX)


def recorded_mac(section: Section) -> bytes:
    """The address of a NIC that was recorded."""
    known = (bytes.fromhex(mac.replace(":", "")) for mac in MACS)
    return next(mac for mac in known if mac in section.payload)


def low_bytes(machine: str, memory_bytes: int) -> int:
    """How much of the memory lies below 4 GiB."""
    if machine.startswith("pc-q35"):
        begin, most = 0xB000_0000, 2 * GIB
    else:
        begin, most = 0xE000_0000, 3 * GIB
    return memory_bytes if memory_bytes < begin else most


def _further_cpus(second: list[Section], cpus: int) -> Iterator[Section]:
    """Those of each CPU but the first, made of those of the second."""
    for number in range(SECOND_CPU, cpus):
        for section in second:
            payload = bytearray(section.payload)
            if section.idstr == "apic":
                payload[APIC_ID_AT] = number
            yield replace(
                section,
                section_id=section.section_id + len(PER_CPU) * (number - SECOND_CPU),
                instance_id=number,
                payload=bytes(payload),
            )


def _fitted(machine: str, section: Section, shape: Shape) -> bytes:
    payload = bytearray(section.payload)
    if section.idstr == "mc146818rtc":
        for at, value in _cmos(low_bytes(machine, shape.memory_bytes), shape):
            payload[at] = value
    elif section.idstr.endswith("/I440FX"):
        payload[COREBOOT_AT] = min(shape.memory_bytes // COREBOOT_UNIT, 0xFF)
    elif section.idstr == "kvm-tpr-opt":
        # As before its option ROM ran: a destination looks for that in memory, which is empty.
        return bytes(len(payload))
    return bytes(payload)


def _cmos(low: int, shape: Shape) -> Iterator[tuple[int, int]]:
    """What the firmware is told of memory and CPUs: place and byte. CMOS begins the payload."""
    high = shape.memory_bytes - low
    extended = min(max(low // KIB - 1024, 0), WORD_MAX)
    words = {
        0x15: min(low // KIB, BASE_KIB_MAX),
        0x17: extended,
        0x30: extended,
        0x34: min(max(low - 16 * MIB, 0) // UNIT_HIGH, WORD_MAX),
        0x5B: high // UNIT_HIGH & WORD_MAX,
    }
    for at, word in words.items():
        yield at, word & 0xFF
        yield at + 1, word >> 8
    yield 0x5D, high // UNIT_HIGH >> 16
    yield 0x5F, shape.cpus - 1
