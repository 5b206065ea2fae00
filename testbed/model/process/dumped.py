"""What `-dump-vmstate` tells of a machine: its devices, by the names of their types.

As in QEMU: what is registered by something else than a device is not in it. Source of the names:
`-dump-vmstate` of QEMU 7.2.
"""

from __future__ import annotations

import re
from typing import Any

from testbed.model.machines.hardware import Hardware
from testbed.vmstate import dump, dump_text

NUMBERED = re.compile(r"\[\d+\]$")
ELEMENTS = ("port.ifs[0]",)
"""Fields that are elements of an array, and have their names of it."""
TYPES = {
    "kvm-tpr-opt": "kvmvapic",
    "fw_cfg": "fw_cfg_io",
    "I440FX": "i440FX",
    "mch": "mch",
    "dma": "i8257",
    "PIIX3": "PIIX3",
    "ICH9LPC": "ICH9-LPC",
    "ich9_ahci": "ich9-ahci",
    "ich9_smb": "ICH9-SMB",
    "i8259": "isa-i8259",
    "ioapic": "ioapic",
    "hpet": "hpet",
    "mc146818rtc": "mc146818rtc",
    "i8254": "isa-pit",
    "pcspk": "isa-pcspk",
    "serial": "isa-serial",
    "fdc": "isa-fdc",
    "ps2kbd": "ps2-kbd",
    "ps2mouse": "ps2-mouse",
    "pckbd": "i8042",
    "vmmouse": "vmmouse",
    "port92": "port92",
    "piix4_pm": "PIIX4_PM",
    "virtio-net": "virtio-net-device",
    "nvme": "nvme",
}
"""By the name of the VMSD."""


def dumped(hardware: Hardware) -> str:
    """The text of the file, for a machine."""
    declared = {
        TYPES[entry.vmstate.name]: entry.vmstate
        for entry in hardware.registry
        if entry.vmstate is not None and entry.vmstate.name in TYPES
    }
    root = dump(hardware.name, declared)
    for device in root.values():
        if "Description" in device:
            _name_plainly(device["Description"])
    return dump_text(root)


def _name_plainly(described: dict[str, Any]) -> None:
    """Take away what numbers fields of one name: a declaration needs that, QEMU's has none."""
    for field in described.get("Fields", ()):
        if field["field"] not in ELEMENTS:
            field["field"] = NUMBERED.sub("", field["field"])
        if "Description" in field:
            _name_plainly(field["Description"])
    for subsection in described.get("Subsections", ()):
        _name_plainly(subsection)
