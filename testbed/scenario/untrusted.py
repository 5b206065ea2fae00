"""What a scenario may ask of QEMU when nobody vouches for it: `testbed run --untrusted`.

A scenario says what QEMU is started with, and QEMU runs programs, and reads and writes files, as
whoever runs it: `-netdev tap,script=`, `-device loader,file=`, the migration parameter
`cpr-exec-command`. So only what is listed here passes, whatever a later QEMU can do. What else is
trusted is in `docs/trust.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .fault_sense import KeyPath
from .machine_sense import NICS
from .scenario import Scenario
from .schema import Guest, SideMachine
from .units import shown

DEVICES = frozenset(
    (
        *NICS,
        *("AC97", "ES1370", "intel-hda", "ich9-intel-hda", "hda-duplex", "hda-micro", "hda-output"),
        *("VGA", "bochs-display", "cirrus-vga", "secondary-vga", "vmware-svga"),
        *("virtio-gpu-pci", "virtio-vga", "ati-vga"),
        *("ahci", "ich9-ahci", "lsi53c895a", "megasas", "mptsas1068", "piix3-ide", "pvscsi"),
        *("virtio-balloon-pci", "virtio-rng-pci", "virtio-scsi-pci", "virtio-serial-pci"),
        *("virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci"),
        *("qemu-xhci", "nec-usb-xhci", "piix3-usb-uhci", "piix4-usb-uhci", "usb-ehci"),
        *("ich9-usb-ehci1", "ich9-usb-uhci1", "ich9-usb-uhci2", "ich9-usb-uhci3", "pci-ohci"),
        *("usb-hub", "usb-kbd", "usb-mouse", "usb-tablet", "usb-wacom-tablet"),
        *("i6300esb", "ib700", "pvpanic", "pvpanic-pci", "vmcoreinfo", "edu", "pci-testdev"),
        *("ioh3420", "pci-bridge", "pcie-pci-bridge", "pcie-root-port", "i82801b11-bridge"),
        *("sdhci-pci", "isa-debug-exit", "smbus-eeprom"),
    )
)
"""Devices that are all inside of QEMU: none needs a file, a program or a device of the host's."""
DEVICE_OPTIONS = re.compile(
    r"(id|bus|addr|mac|multifunction|port|chassis|chassis_nr|slot|vectors|queues|mq|rombar|acpi-index"
    r"|max_outputs|max_ports|vgamem_mb|ram_size|vram_size|xres|yres|edid|rx_queue_size|tx_queue_size"
    r"|host_mtu|speed|duplex|disable-legacy|disable-modern|ats|iommu_platform|packed|event_idx"
    r"|indirect_desc|deflate-on-oom|free-page-hint|free-page-reporting|max-bytes|period|p2|p3"
    r"|masterbus|firstport|iobase|iosize|failover"
    r"|(guest|host|ctrl)_[a-z0-9_]+|csum|gso|x-[a-z0-9-]+|any_layout)"
)
"""What may be said of them: none is the name of a file, or of something else that QEMU has."""
MACHINE_OPTIONS = frozenset(
    "acpi default-bus-bypass-iommu dump-guest-core fd-bootchk graphics hmat hpet i8042 "
    "kernel-irqchip kernel_irqchip max-ram-below-4g mem-merge nvdimm smbus smm suppress-vmdesc usb "
    "vmport".split()
)
"""Options of `-M` that name no file, as `kernel`, `firmware` and `dumpdtb` do, and no object."""
PLAIN = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
"""A value that is no path outside of QEMU's own folders, and holds no further option."""
PARAMETERS_OF_WORDS = frozenset(("multifd-compression", "zero-page-detection"))
"""Migration parameters whose values are words of QEMU's, where others are numbers or true or false.
`cpr-exec-command` is a program, `tls-creds` an object with files."""
WHY = "a scenario that is not trusted (--untrusted)"


def untrusted_problems(scenario: Scenario, *, server: bool) -> list[str]:
    """Say everything that a scenario may not ask for, each with its place in the file.

    Args:
        scenario: and its variants.
        server: the command line names the Toxiproxy server, so the scenario's is not used.
    """
    found = [_told(scenario, at, what) for at, what in _of_machines(scenario)]
    for played in (scenario, *(variant.scenario for variant in scenario.variants)):
        parameters = _parameters(played.model.parameters)
        found += [_told(played, at, what) for at, what in parameters]
    if scenario.model.toxiproxy is not None and not server:
        what = "connects to no server; --toxiproxy names one of yours"
        found.append(_told(scenario, ("toxiproxy",), what))
    return found


def _told(scenario: Scenario, at: KeyPath, what: str) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)[1:]
    return f"{scenario.where(at)}: {key}: {WHY} {what}"


def _of_machines(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    model = scenario.model
    for key in ("guest", "source", "destination"):
        own: Guest | SideMachine = getattr(model, key)
        if own.arguments:
            yield (key, "arguments"), "has no arguments of its own: QEMU's run programs"
        for number, device in enumerate(own.devices or ()):
            if (what := _device(device)) is not None:
                yield (key, "devices", number), what
        if own.machine is not None and (what := _machine(own.machine)) is not None:
            yield (key, "machine"), what
    if (what := _device(model.guest.nic)) is not None:
        yield ("guest", "nic"), what


def _device(text: str) -> str | None:
    """Why a `-device` is not allowed."""
    driver, *options = text.removeprefix("driver=").split(",")
    if driver not in DEVICES:
        return f"has no device {shown(driver)}; {_some_of()} are allowed"
    for option in options:
        name, _, value = option.partition("=")
        if DEVICE_OPTIONS.fullmatch(name) is None or PLAIN.fullmatch(value) is None:
            return f"says {shown(option)} of no device"
    return None


def _some_of() -> str:
    return "NICs, displays, USB, sound and other devices that need nothing of the host's"


def _machine(text: str) -> str | None:
    """Why a `-M` is not allowed; that its type is, has been checked."""
    for option in text.split(",")[1:]:
        name, _, value = option.partition("=")
        if name not in MACHINE_OPTIONS or PLAIN.fullmatch(value) is None:
            return f"says {shown(option)} of no machine"
    return None


def _parameters(parameters: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for name, value in parameters.items():
        is_plain = isinstance(value, bool | int | float) or value is None
        is_word = name in PARAMETERS_OF_WORDS and isinstance(value, str)
        is_size = isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}[KMG]?(iB|B)?", value)
        if not (is_plain or is_word or is_size):
            yield ("parameters", name), "sets no parameter that is neither a number nor a switch"
