"""Machines, NICs and workloads that a run cannot have: found before anything is started.

The guest is a boot image for a PC: it needs SeaBIOS, an IDE disk at `ide.0`, PIC, PIT and COM1, and
the network of a run has one port for a NIC of the guest's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from testbed.guest.image import LOW_MEMORY_BYTES_MAX, RATE_MAX, RESERVED_BYTES, GuestSpec
from testbed.guest.rule import PAGE_BYTES

from .fault_sense import Finding
from .model import did_you_mean
from .schema import Guest, ScenarioModel, SideMachine
from .units import shown

PC = re.compile(r"pc|q35|pc-[0-9].*|pc-(i440fx|q35)-.+|ubuntu(-q35)?")
"""The PCs with PCI and IDE of QEMU 5.2 to 11.1, and the names that distributions give them."""
MACHINES = "`pc`, `q35` and their versions, such as `pc-i440fx-7.2` and `pc-q35-10.0`"
NEEDED = {
    "sata": "the guest boots from a disk at `ide.0`",
    "pit": "the guest's workload is timed by it",
    "pic": "the guest's timer interrupts through it",
}
"""Options of a machine that may not be off, and why."""
NICS = (
    "virtio-net-pci",
    "virtio-net-pci-transitional",
    "virtio-net-pci-non-transitional",
    "virtio-net",
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "igb",
    "i82550",
    "i82551",
    "i82557a",
    "i82557b",
    "i82557c",
    "i82558a",
    "i82558b",
    "i82559a",
    "i82559b",
    "i82559c",
    "i82559er",
    "i82562",
    "i82801",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "tulip",
    "vmxnet3",
)
"""The network devices of QEMU 5.2 to 11.1 (`-device help`) that a PC has on PCI and that have a
`netdev`."""
MEMORY_MAX = 1 << 40
"""Of TCG's default CPU, `qemu64`, which has 40 bits of a physical address (QEMU
`target/i386/cpu.c`, `TCG_PHYS_ADDR_BITS`)."""
MULTIFD_CHANNELS = range(1, 256)
"""QEMU `migration/options.c`, `migrate_params_check`."""


def machine_problem(machine: str) -> str | None:
    """Say why a run cannot have a machine, in the words of QEMU's `-M`; None if it can."""
    name, *options = machine.split(",")
    name = name.removeprefix("type=")
    if PC.fullmatch(name) is None:
        return f"a run cannot start the machine {shown(name)}: its guest needs a PC, {MACHINES}"
    for option in options:
        key, _, value = option.partition("=")
        if key in NEEDED and value in ("off", "no", "false", "n"):
            return f"a run cannot do without {key}: {NEEDED[key]}"
    return None


def guest_problems(model: ScenarioModel) -> Iterator[Finding]:
    """Everything of the guest and of both sides' machines that no run can have."""
    for key in ("guest", "source", "destination"):
        own: Guest | SideMachine = getattr(model, key)
        if own.machine is not None and (why := machine_problem(own.machine)) is not None:
            yield (key, "machine"), why
        yield from ((((key, "arguments", at)), why) for at, why in _machine_twice(own.arguments))
    yield from ((("guest", *at), why) for at, why in _workload(model.guest))
    if (why := nic_problem(model.guest.nic)) is not None:
        yield ("guest", "nic"), why
    channels = model.parameters.get("multifd-channels", MULTIFD_CHANNELS[0])
    if type(channels) is not int or channels not in MULTIFD_CHANNELS:
        yield (
            ("parameters", "multifd-channels"),
            f"expected {MULTIFD_CHANNELS[0]} to {MULTIFD_CHANNELS[-1]}, got {shown(channels)}",
        )
    yield from _unheard(model)


def _workload(guest: Guest) -> Iterator[Finding]:
    least = RESERVED_BYTES + PAGE_BYTES
    if not least <= guest.memory <= MEMORY_MAX:
        yield (
            ("memory",),
            f"expected {least >> 10}K to {MEMORY_MAX >> 30}G, got {shown(guest.memory)}: the "
            f"firmware and the guest's image need {RESERVED_BYTES >> 20} MiB, and a PC has no "
            "addresses for more",
        )
        return
    if guest.pages_per_second > RATE_MAX:
        why = f"expected {RATE_MAX} or less, more than a CPU can do"
        yield ("pages_per_second",), f"{why}, got {shown(guest.pages_per_second)}"
    working_set = guest.working_set
    if working_set is None:
        return
    if working_set < PAGE_BYTES:
        yield ("working_set",), f"expected a page (4K) or more, got {shown(working_set)}"
    most = GuestSpec(guest.memory).page_count * PAGE_BYTES
    if "working_set" in guest.model_fields_set and working_set > most:
        yield (
            ("working_set",),
            f"expected {most >> 10}K or less, got {shown(working_set)}: the guest has "
            f"{guest.memory >> 10}K of memory, of which it stamps none below 1 MiB, in the last "
            f"MiB, and above {LOW_MEMORY_BYTES_MAX >> 30} GiB",
        )


def nic_problem(nic: str) -> str | None:
    """Why a run cannot have a NIC, QEMU's name of its model with its properties; None: it can."""
    name = nic.partition(",")[0]
    if name in NICS:
        return None
    if name == "none":
        return "a run cannot do without a NIC: the switch finds the guest by its MAC"
    hint = did_you_mean(name, NICS)
    return (
        f"a run cannot have the NIC {shown(name)}{hint}; it has those that a PC takes on PCI: "
        f"{', '.join(NICS)}"
    )


def _machine_twice(arguments: Sequence[str] | None) -> Iterator[tuple[int, str]]:
    """Arguments that say which machine it is, which `machine` does."""
    words = arguments or ()
    for number, (option, value) in enumerate(pairwise(words)):
        if option.lstrip("-") in ("M", "machine") and option.startswith("-"):
            first = value.partition(",")[0]
            if "=" not in first or first.startswith("type="):
                yield number + 1, f"`machine` says which it is: {value} would take its place"


def _unheard(model: ScenarioModel) -> Iterator[Finding]:
    """Announcements that are expected of a NIC that is on no network of the run."""
    announce = model.expect.announce
    if announce is None or announce.mac is None:
        return
    macs = announce.mac if isinstance(announce.mac, list) else [announce.mac]
    devices = model.guest.devices + (model.destination.devices or [])
    for mac in macs:
        if any(f"mac={mac}" in device.lower() for device in devices):
            why = f"the NIC with {mac} is on no network of the run: only `guest.nic` is"
            yield ("expect", "announce", "mac"), why
