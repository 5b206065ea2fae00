"""What `-device` plugs: disks, NICs, and a device that cannot be migrated.

Source of texts: QEMU `softmmu/qdev-monitor.c`, `hw/core/qdev-properties.c`, `hw/nvme/ctrl.c` (7.2),
each checked with the real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from testbed.model.machines.machine import FIRST_SLOTS
from testbed.model.migration.registry import Registry
from testbed.model.snapshots.snapshots import Drive
from testbed.vmstate import VmState

from .command_line import Option

DISK, NIC, NVME = "ide-hd", "virtio-net-pci", "nvme"
ALIASES = {"virtio-net": NIC}
"""On a machine with PCI (`softmmu/qdev-monitor.c`, `qdev_alias_table`)."""
PROPERTIES = {
    DISK: ("drive", "bus", "unit", "bootindex", "serial", "model"),
    NIC: ("netdev", "mac", "bus", "bootindex", "romfile"),
    NVME: ("serial", "drive", "bus", "bootindex"),
}
"""By driver, beside the id."""
MAC = re.compile(r"[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}")
UNMIGRATABLE = VmState(NVME, unmigratable=True)


def by_driver(devices: Iterable[Option]) -> list[Option]:
    """Each device by the name of its driver, where it was given an alias."""
    return [replace(device, first=ALIASES.get(device.first, device.first)) for device in devices]


def check(devices: Sequence[Option], *, only_migratable: bool) -> None:
    """Check each device by itself, and that none has the id of another.

    Raises:
        Usage: one cannot be.
    """
    ids: set[str] = set()
    for device in devices:
        if not device.first:
            raise device.refused("Parameter 'driver' is missing")
        if device.values.get("id", "") in ids:
            raise device.refused(f"Duplicate ID '{device.values['id']}' for device")
        if "id" in device.values:
            ids.add(device.values["id"])
        if device.first not in PROPERTIES:
            raise device.refused(f"'{device.first}' is not a valid device model name")
        for key in device.values:
            if key != "id" and key not in PROPERTIES[device.first]:
                raise device.refused(f"Property '{device.first}.{key}' not found")
        _check_values(device, only_migratable=only_migratable)
    _check_order(devices)


def _check_values(device: Option, *, only_migratable: bool) -> None:
    mac = device.values.get("mac")
    if mac is not None and not MAC.fullmatch(mac):
        why = f"Property 'virtio-net-device.mac' doesn't take value '{mac}'"
        raise device.refused(why)
    if device.first == NVME:
        if only_migratable:
            why = "Device nvme is not migratable, but --only-migratable was specified"
            raise device.refused(why)
        if "serial" not in device.values:
            raise device.refused("serial property not set")


def _check_order(devices: Sequence[Option]) -> None:
    """A recorded NIC is in the slot in which it was."""
    before = None
    for device in devices:
        if device.first == NVME:
            before = device
        elif device.first == NIC and before is not None:
            raise before.refused("the model has it behind the NICs")


def nics(devices: Sequence[Option]) -> list[Option]:
    """The NICs, in order."""
    return [device for device in devices if device.first == NIC]


def disks(devices: Sequence[Option]) -> list[Option]:
    """The disks, in order."""
    return [device for device in devices if device.first == DISK]


def mac(device: Option, count: int) -> str:
    """The address that the NIC of that number is given, or QEMU's usual one; with colons."""
    return device.values.get("mac", f"52:54:00:12:34:{0x56 + count:02x}").replace("-", ":")


def plug_unmigratable(devices: Sequence[Option], registry: Registry, machine: str) -> None:
    """Register those that cannot be migrated, each by its slot."""
    for path in _paths(devices, machine):
        registry.register(UNMIGRATABLE, path, device_path=path)


def _paths(devices: Sequence[Option], machine: str) -> Iterator[str]:
    family = machine.rpartition("-")[0]
    slot = FIRST_SLOTS[family] + len(nics(devices))
    for _ in filter(lambda device: device.first == NVME, devices):
        yield f"0000:00:{slot:02x}.0"
        slot += 1


def check_plugged(devices: Sequence[Option], drives: Sequence[Drive]) -> None:
    """Every disk must have a drive that there is, for itself.

    Raises:
        Usage: one has not.
    """
    by_name = {drive.name: drive for drive in drives}
    used: set[str] = set()
    for device in disks(devices):
        name = device.values.get("drive")
        if name is None:
            raise device.refused("No drive specified")
        drive = by_name.get(name)
        if drive is None:
            raise device.refused(f"Property '{DISK}.drive' can't find value '{name}'")
        if name in used:
            raise device.refused(f"Drive '{name}' is already in use by another device")
        if drive.image is None:
            raise device.refused("Device needs media, but drive is empty")
        if drive.image.read_only:
            raise device.refused("Block node is read-only")
        used.add(name)
