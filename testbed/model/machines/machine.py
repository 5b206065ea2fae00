"""The machines that the model can be, built of recordings of real ones.

A machine is its memory, empty, and its devices as they were when the guest of the testbed rested
on a real one. Every device is declared by its own description, so what a real machine of that type
sends is loaded and refused field by field, and what is sent is what a real one could have sent.

Source: QEMU `hw/i386/pc.c`, `pc_cmos_init`; `hw/i386/pc_piix.c`, `pc_q35.c`; `hw/core/machine.c`
and `softmmu/vl.c` for the texts; 7.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from testbed.model.migration.configuration import Configuration, configuration
from testbed.model.migration.incoming import Machine
from testbed.model.migration.memory import Memory
from testbed.model.migration.outgoing import Outgoing
from testbed.model.migration.ram import Ram
from testbed.model.migration.ram_load import VERSION as RAM_VERSION
from testbed.model.migration.registry import Registry
from testbed.model.profile import Profile
from testbed.vmstate import Info, Manner, VmState

from .described import INFOS, OWN_NUMBERS, blank, declared
from .device_facts import MINIMUM_VERSIONS, SINCE, SUBSECTIONS
from .hardware import Hardware, load_payload
from .learning import Learning
from .recorded import MACS, Recording, Section, read
from .variant import Shape, is_nic, recorded_mac, sections
from .virtio import VirtioNet

NIC_MODEL = "virtio-net-pci"
NICS_MAX = len(MACS)
CPUS_MAX = 16
RAM = "ram"
MAIN_BLOCK = "pc.ram"
BLOCK_BYTES_MAX = {
    "/rom@etc/acpi/tables": 2 << 20,
    "/rom@etc/table-loader": 64 << 10,
    "/rom@etc/acpi/rsdp": 4 << 10,
}
"""What blocks can be resized to, those that can. Source: QEMU `hw/i386/acpi-build.c`."""
FAMILIES = {"pc": "pc-i440fx", "q35": "pc-q35"}
"""By the alias of the newest one."""
DESCRIPTIONS = {
    "pc-i440fx": "Standard PC (i440FX + PIIX, 1996)",
    "pc-q35": "Standard PC (Q35 + ICH9, 2009)",
}
VERSIONS = {"2.9": ("2.9",), "7.2": ("7.2", "2.9")}
"""Of machine types, by the profile that has them; the newest first."""
MANNERS = {"2.9": Manner.QEMU_2_9, "7.2": Manner.QEMU_7_2}


class MachineError(Exception):
    """A machine that cannot be; the text is QEMU's, without the program's name."""


ROM_BYTES = 256 << 10
"""Of `virtio-net-pci`'s option ROM, `efi-virtio.rom`, as a power of two (QEMU `hw/pci/pci.c`,
`pci_add_option_rom`; 2.9 to 11.1)."""
FIRST_SLOTS = {"pc-i440fx": 2, "pc-q35": 1}
"""The first PCI slot that is free, by family; NICs and others take them in order."""


class Nic(NamedTuple):
    """A NIC: its device model, and its address as six numbers in hex with colons.

    With `rom` it has an option ROM, as it has unless QEMU is told `romfile=`. It is a block of
    memory and comes along in a migration. Here nothing is in it.
    """

    mac: str
    model: str = NIC_MODEL
    rom: bool = False


def machines(profile: Profile) -> Iterator[tuple[str, str]]:
    """Each name by which a machine can be had, and what `-machine help` says of it."""
    newest, *older = VERSIONS[profile.name]
    for alias, family in FAMILIES.items():
        said = DESCRIPTIONS[family]
        yield alias, f"{said} (alias of {family}-{newest})"
        yield f"{family}-{newest}", said + (" (default)" if alias == "pc" else "")
        for version in older:
            yield f"{family}-{version}", said


def machine_help(profile: Profile) -> str:
    """What `-machine help` prints."""
    lines = (f"{name:<20} {said}\n" for name, said in machines(profile))
    return f"Supported machines are:\n{''.join(lines)}"


def resolve(profile: Profile, name: str) -> str:
    """The versioned name of a machine type.

    Raises:
        MachineError: there is none of that name.
    """
    if name in FAMILIES:
        return f"{FAMILIES[name]}-{VERSIONS[profile.name][0]}"
    if name not in dict(machines(profile)):
        advice = "Use -machine help to list supported machines"
        raise MachineError(f"unsupported machine type\n{advice}")
    return name


def build(
    profile: Profile,
    machine: str,
    memory_bytes: int,
    cpus: int = 1,
    nics: Sequence[Nic] = (),
    *,
    disk: bool = True,
    waits: bool = False,
) -> Hardware:
    """A machine, its memory empty.

    Args:
        profile: whose it is.
        machine: its type, or an alias of one.
        memory_bytes: of its main memory, whole pages.
        cpus: 1 to `CPUS_MAX`.
        nics: at most `NICS_MAX`, in the order of their slots.
        disk: whether there is a disk at its first IDE connector.
        waits: its devices are as they are before it ever ran: another state is to be loaded.

    Raises:
        MachineError: there is no such machine, or it cannot have that.
    """
    name = resolve(profile, machine)
    assert 1 <= cpus <= CPUS_MAX, f"{cpus} CPUs"
    _check(nics)
    recording = read(name)
    slot = FIRST_SLOTS[name.rpartition("-")[0]]
    roms = [f"0000:00:{slot + at:02x}.0/{NIC_MODEL}.rom" for at, nic in enumerate(nics) if nic.rom]
    memory = _memory(recording, memory_bytes, roms)
    ram = Ram(memory, profile)
    shape = Shape(memory_bytes, cpus, tuple(_bytes(nic.mac) for nic in nics))
    before = read(name, power_on=True) if waits else None
    registry, payloads = _registry(recording, before, shape, ram, profile)
    hardware = _hardware(name, profile, ram, registry, payloads)
    if before is not None:
        for section in sections(before, shape):
            hardware.put(section.idstr, section.instance_id, section.payload)
        hardware.run_state = None
    if not disk:
        hardware.take_disk_out()
    return hardware


def empty(profile: Profile) -> Hardware:
    """A machine of nothing, which becomes what a stream says: see `adopting.Adopting`."""
    memory = Memory()
    ram = Ram(memory, profile)
    registry = Learning()
    registry.register_live(RAM, 0, RAM_VERSION, ram)
    return _hardware("none", profile, ram, registry, {})


def _hardware(
    name: str,
    profile: Profile,
    ram: Ram,
    registry: Registry,
    payloads: dict[tuple[str, int], bytes],
) -> Hardware:
    vmsd, state = configuration(profile), Configuration(name)
    return Hardware(
        name=name,
        profile=profile,
        memory=ram.memory,
        ram=ram,
        registry=registry,
        incoming=Machine(name, registry, ram, vmsd, state),
        outgoing=Outgoing(registry, ram, vmsd, state, manner=MANNERS[profile.name]),
        payloads=payloads,
    )


def _check(nics: Sequence[Nic]) -> None:
    for nic in nics:
        if nic.model != NIC_MODEL:
            raise MachineError(f"'{nic.model}' is not a valid device model name")
    if len(nics) > NICS_MAX:
        said = f"no slot/function available for {NIC_MODEL}, all in use or reserved"
        raise MachineError(f"PCI: {said}")


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _memory(recording: Recording, memory_bytes: int, roms: Sequence[str]) -> Memory:
    """The blocks, and those of ROMs behind all that are not smaller, as QEMU sorts them."""
    memory = Memory()
    left = list(roms)
    for block in recording.blocks:
        used = memory_bytes if block.idstr == MAIN_BLOCK else block.used_bytes
        most = BLOCK_BYTES_MAX.get(block.idstr)
        while left and (most or used) < ROM_BYTES:
            memory.add(left.pop(0), ROM_BYTES)
        memory.add(block.idstr, used, max_bytes=most)
    return memory


def _registry(
    recording: Recording, before: Recording | None, shape: Shape, ram: Ram, profile: Profile
) -> tuple[Registry, dict[tuple[str, int], bytes]]:
    """The entries, each loaded, and what was loaded into them."""
    recorded = (*recording.sections, *(before.sections if before else ()))
    vmstates = _vmstates(recorded, dies_if_cut=profile.dies_in_virtio)
    registry, payloads = Registry(), {}
    for section in sections(recording, shape):
        if registry.next_section_id <= recording.ram_id < section.section_id:
            registry.register_live(RAM, 0, RAM_VERSION, ram).section_id = recording.ram_id
        vmstate = vmstates[section.described["vmsd_name"]]
        entry = registry.register(vmstate, blank(vmstate), section.instance_id)
        entry.idstr, entry.version_id = section.idstr, section.version_id
        entry.section_id = section.section_id
        registry.next_section_id = section.section_id + 1
        load_payload(entry, section.payload)
        payloads[section.idstr, section.instance_id] = section.payload
    return registry, payloads


def _vmstates(recorded: Sequence[Section], *, dies_if_cut: bool) -> dict[str, VmState]:
    """The declaration of each kind of device, by all that was recorded of it."""
    kinds: dict[str, list[Section]] = {}
    infos = {**INFOS, **OWN_NUMBERS}
    for section in recorded:
        kinds.setdefault(section.described["vmsd_name"], []).append(section)
        if is_nic(section):
            mac = recorded_mac(section)
            infos[VirtioNet.name] = VirtioNet.of(section.payload, mac, dies_if_cut=dies_if_cut)
    return {name: _declared(name, same, infos) for name, same in kinds.items()}


def _declared(name: str, same: Sequence[Section], infos: Mapping[str, Info]) -> VmState:
    described = [section.described for section in same]
    vmstate = declared(*described, infos=infos, subsections=SUBSECTIONS)
    minimum = MINIMUM_VERSIONS.get(name, vmstate.version_id)
    fields = tuple(
        replace(each, version_id=SINCE.get((name, each.name), each.version_id))
        for each in vmstate.fields
    )
    return replace(vmstate, minimum_version_id=minimum, fields=fields)
