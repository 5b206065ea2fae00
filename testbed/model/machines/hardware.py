"""A machine of the model: its memory, its devices, and what a migration makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from testbed.model.migration.incoming import Machine
from testbed.model.migration.memory import Block, Memory
from testbed.model.migration.outgoing import Outgoing
from testbed.model.migration.ram import Ram
from testbed.model.migration.registry import Entry, Registry
from testbed.model.profile import Profile
from testbed.vmstate import Incoming, load
from testbed.vmstate.declare import Field

from .recorded import MACHINES, read

MAIN_BLOCK = "pc.ram"
CPU, CPU_COMMON, APIC, GLOBAL_STATE = ("cpu", 0), ("cpu_common", 0), ("apic", 0), ("globalstate", 0)
"""Idstr and instance_id."""
AT_REST = (CPU_COMMON, CPU, APIC, ("i8259", 0), ("i8259", 1), ("serial", 0))
"""What a guest of the testbed changes while it runs, but for clocks: those just go on."""
REGISTER_BYTES = 8
ECX, EBX, ESI, EDI, EIP, EFLAGS = 1, 3, 6, 7, 16, 17
"""In `env.regs`, which begins the payload of `cpu`, and behind it. Source: QEMU
`target/i386/cpu.h`, `target/i386/machine.c`."""
EFLAGS_CLI = 0x0002
"""Interrupts are off."""
RUNS = bytes(8)
"""The payload of `cpu_common`: neither halted nor interrupted."""
START_AT = 0x7E00
"""`protected` of `testbed/guest/boot.asm`: it needs no firmware from there on."""
FOOTER = b"\x7e"
"""The first byte of what follows a payload: no subsection."""


@dataclass(slots=True)
class Hardware:
    """A machine. `payloads` are its devices' at rest, by idstr and instance_id."""

    name: str
    """Of its type, with the version."""
    profile: Profile
    memory: Memory
    ram: Ram
    registry: Registry
    incoming: Machine
    outgoing: Outgoing
    payloads: dict[tuple[str, int], bytes]

    @property
    def main_block(self) -> Block:
        """The guest's memory."""
        block = self.memory.find(MAIN_BLOCK)
        assert block is not None, "every machine has it"
        return block

    def put_registers(self, index: int, pass_number: int, ticks: int, owed: int) -> None:
        """The guest ran here: have the devices be as when it rests, with that in its registers.

        Without it they are sent on as they came. All four are u32; see `testbed/guest/boot.asm`.

        Args:
            index: of the page to be stamped next.
            pass_number: that it gets.
            ticks: of its clock that it has dealt with.
            owed: 1/100 pages that it owes.
        """
        values = {EBX: index, ECX: pass_number, EDI: ticks, ESI: owed}
        self._put_at_rest(values, self.payloads.get(CPU_COMMON, b""))

    def put(self, idstr: str, instance_id: int, payload: bytes) -> None:
        """Have a device be in a state."""
        entry = self._device(idstr, instance_id)
        assert entry is not None, f"the machine has {idstr}"
        load_payload(entry, payload)

    def put_start(self) -> None:
        """The guest has not filled its pages yet: it begins anew where it is loaded."""
        self._put_at_rest({EIP: START_AT, EFLAGS: EFLAGS_CLI}, RUNS)

    def put_halted(self) -> None:
        """No guest is there: the CPU halts, and nothing wakes it."""
        self._put_at_rest({EFLAGS: EFLAGS_CLI}, self.payloads.get(CPU_COMMON, b""))

    def _put_at_rest(self, registers: Mapping[int, int], cpu_common: bytes) -> None:
        """Nothing of it is done to a machine whose CPU is not known."""
        for key in AT_REST:
            entry, payload = self._device(*key), self.payloads.get(key)
            if entry is None or payload is None:
                continue
            if key == CPU:
                payload = _with(payload, registers)
            elif key == CPU_COMMON:
                payload = cpu_common
            load_payload(entry, payload)

    @property
    def run_state(self) -> str | None:
        """The guest's, as the device state has it: `running`, `paused`, ...; None: none came."""
        entry = self._device(*GLOBAL_STATE)
        if entry is None or _field(entry, "runstate") is None:
            return None
        return bytes(_get(entry, "runstate")).split(b"\0")[0].decode("latin-1") or None

    @run_state.setter
    def run_state(self, name: str | None) -> None:
        entry = self._device(*GLOBAL_STATE)
        field = None if entry is None else _field(entry, "runstate")
        if entry is not None and field is not None:
            text = (name or "").encode() + b"\0"
            _set(entry, "size", len(text))
            # 100 bytes, and less since there are others behind them (8.2).
            _set(entry, "runstate", text.ljust(field.size, b"\0"))

    def put_firmware(self, *, ran: bool) -> None:
        """Have it that the firmware has read the ACPI tables, or has not since power-on.

        Source: QEMU `hw/i386/acpi-build.c`, `acpi_build_update` and `acpi_build_reset`.
        """
        entry = self._device("acpi_build", 0)
        if entry is not None and _field(entry, "patched") is not None:
            _set(entry, "patched", int(ran))

    def take_disk_out(self) -> None:
        """Have no disk at the first connector: it is as the others are."""
        for entry in self.registry:
            if entry.idstr.endswith("/ide"):
                drives = _get(entry, "bus[0].ifs")
                _copy(drives[1], drives[0])
            elif entry.idstr.endswith("/ich9_ahci"):
                inside = next(each.vmstate for each in _fields(entry) if each.name == "ahci")
                assert inside is not None, "it is a struct"
                ports = getattr(_get(entry, "ahci"), _path(inside.fields, "dev"))
                _copy(ports[1], ports[0])

    def value(self, device: tuple[str, int], name: str, index: int | None = None) -> Any:
        """What a field of a device has, by the device's idstr and instance_id.

        Args:
            device: to be asked.
            name: of a field, as descriptions say it.
            index: of an element of a list of structs, which is returned as a mapping by the names
                of its fields.

        Returns:
            Its value; None: the machine has no such device, or that no such field.
        """
        entry = self._device(*device)
        field = None if entry is None else _field(entry, name)
        if entry is None or field is None:
            return None
        value = getattr(entry.state, field.path)
        if index is None:
            return value
        if field.vmstate is None or index >= len(value):
            return None
        return {each.name: getattr(value[index], each.path) for each in field.vmstate.fields}

    def _device(self, idstr: str, instance_id: int) -> Entry | None:
        """The entry that is known by now, whatever the registry would make of the name."""
        named = (each for each in self.registry if each.idstr == idstr)
        return next((each for each in named if each.instance_id == instance_id), None)


def at_rest(
    registry: Registry, payloads: Mapping[tuple[str, int], bytes]
) -> dict[tuple[str, int], bytes]:
    """Of devices that came at any moment, as they are when the guest of the testbed rests.

    What a PC has for that is the same in all versions; of another machine nothing is known.
    """
    known = {(entry.idstr, entry.instance_id): entry for entry in registry}
    names = [field.name for field in _fields(known.get(CPU))]
    if names[:3] != ["env.regs", "env.eip", "env.eflags"]:
        return {}
    rests = {
        (section.idstr, section.instance_id): section.payload
        for section in read(MACHINES[0]).sections
    }
    where = slice(EIP * REGISTER_BYTES, (EFLAGS + 1) * REGISTER_BYTES)
    cpu = bytearray(payloads[CPU])
    cpu[where] = rests[CPU][where]
    found = {CPU: bytes(cpu)}
    for key in AT_REST:
        same = key != CPU and len(payloads.get(key, b"")) == len(rests[key])
        if same and _fields(known.get(key)):
            # The APIC's addresses and identity are its own.
            found[key] = payloads[key] if key == APIC else rests[key]
    return found


def load_payload(entry: Entry, payload: bytes) -> None:
    """Load into a device what is known to be good for it."""
    assert entry.vmstate is not None, "devices of machines are declared"
    source = Incoming(payload + FOOTER)
    for _ in load(entry.vmstate, entry.state, entry.version_id, source):
        raise AssertionError(f"{entry.idstr} wants more than its payload")
    assert source.available == len(FOOTER), f"{entry.idstr} did not take all of its payload"


def _with(payload: bytes, registers: Mapping[int, int]) -> bytes:
    """A CPU's payload with other registers, by their numbers."""
    changed = bytearray(payload)
    for number, value in registers.items():
        at = number * REGISTER_BYTES
        changed[at : at + REGISTER_BYTES] = value.to_bytes(REGISTER_BYTES, "big")
    return bytes(changed)


def _fields(entry: Entry | None) -> tuple[Field, ...]:
    return () if entry is None or entry.vmstate is None else entry.vmstate.fields


def _field(entry: Entry, name: str) -> Field | None:
    return next((each for each in _fields(entry) if each.name == name), None)


def _path(fields: Iterable[Field], name: str) -> str:
    return next(each.path for each in fields if each.name == name)


def _get(entry: Entry, name: str) -> Any:
    return getattr(entry.state, _path(_fields(entry), name))


def _set(entry: Entry, name: str, value: Any) -> None:
    setattr(entry.state, _path(_fields(entry), name), value)


def _copy(one: SimpleNamespace, other: SimpleNamespace) -> None:
    vars(other).update(deepcopy(vars(one)))
