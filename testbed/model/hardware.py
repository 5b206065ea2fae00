"""A machine of the model: its memory, its devices, and what a migration makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from testbed.vmstate import Field, Incoming, VmState, load

from .incoming import Machine
from .memory import Block, Memory
from .outgoing import Outgoing
from .profile import Profile
from .ram import Ram
from .recorded import MACHINES, read
from .registry import Entry, Registry

MAIN_BLOCK = "pc.ram"
AT_REST = (
    ("cpu_common", 0),
    ("cpu", 0),
    ("apic", 0),
    ("i8259", 0),
    ("i8259", 1),
    ("serial", 0),
)
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
        cpu = bytearray(self.payloads["cpu", 0])
        for register, value in values.items():
            _put(cpu, register, value)
        self._put_at_rest(cpu, self.payloads["cpu_common", 0])

    def put_start(self) -> None:
        """The guest has not filled its pages yet: it begins anew where it is loaded."""
        cpu = bytearray(self.payloads["cpu", 0])
        _put(cpu, EIP, START_AT)
        _put(cpu, EFLAGS, EFLAGS_CLI)
        self._put_at_rest(cpu, RUNS)

    def put_halted(self) -> None:
        """No guest is there: the CPU halts, and nothing wakes it."""
        cpu = bytearray(self.payloads["cpu", 0])
        _put(cpu, EFLAGS, EFLAGS_CLI)
        self._put_at_rest(cpu, self.payloads["cpu_common", 0])

    def _put_at_rest(self, cpu: bytes | bytearray, cpu_common: bytes) -> None:
        given = {("cpu", 0): bytes(cpu), ("cpu_common", 0): cpu_common}
        for key in AT_REST:
            if key in self.payloads:
                load_payload(self._entry(*key), given.get(key, self.payloads[key]))

    @property
    def run_state(self) -> str | None:
        """The guest's, as the device state has it: `running`, `paused`, ...; None: it has none."""
        entry = self.registry.find("globalstate", 0)
        if entry is None:
            return None
        return bytes(_get(entry, "runstate")).split(b"\0")[0].decode("latin-1")

    @run_state.setter
    def run_state(self, name: str) -> None:
        entry = self.registry.find("globalstate", 0)
        if entry is not None:
            text = name.encode() + b"\0"
            _set(entry, "size", len(text))
            # 100 bytes, and less since there are others behind them (8.2).
            _set(entry, "runstate", text.ljust(_field(entry, "runstate").size, b"\0"))

    def take_disk_out(self) -> None:
        """Have no disk at the first connector: it is as the others are."""
        for entry in self.registry:
            if entry.idstr.endswith("/ide"):
                drives = _get(entry, "bus[0].ifs")
                _copy(drives[1], drives[0])
            elif entry.idstr.endswith("/ich9_ahci"):
                ports = getattr(_get(entry, "ahci"), _path(_field(entry, "ahci").vmstate, "dev"))
                _copy(ports[1], ports[0])

    def _entry(self, idstr: str, instance_id: int) -> Entry:
        entry = self.registry.find(idstr, instance_id)
        assert entry is not None, f"every machine has {idstr}"
        return entry


def at_rest(payloads: Mapping[tuple[str, int], bytes]) -> dict[tuple[str, int], bytes]:
    """Of devices that came at any moment, as they are when the guest of the testbed rests.

    What a PC has for that is the same in all versions; another machine has nothing of it.
    """
    found = {key: payload for key, payload in payloads.items() if key in AT_REST}
    if ("cpu", 0) in found:
        rests = {
            (section.idstr, section.instance_id): section.payload
            for section in read(MACHINES[0]).sections
        }
        cpu = bytearray(found["cpu", 0])
        where = slice(EIP * REGISTER_BYTES, (EFLAGS + 1) * REGISTER_BYTES)
        cpu[where] = rests["cpu", 0][where]
        found["cpu", 0] = bytes(cpu)
        for key in (("cpu_common", 0), ("i8259", 0), ("i8259", 1), ("serial", 0)):
            if key in found and len(found[key]) == len(rests[key]):
                found[key] = rests[key]
    return found


def load_payload(entry: Entry, payload: bytes) -> None:
    """Load into a device what is known to be good for it."""
    assert entry.vmstate is not None, "devices of machines are declared"
    source = Incoming(payload + FOOTER)
    for _ in load(entry.vmstate, entry.state, entry.version_id, source):
        raise AssertionError(f"{entry.idstr} wants more than its payload")
    assert source.available == len(FOOTER), f"{entry.idstr} did not take all of its payload"


def _put(payload: bytearray, number: int, value: int) -> None:
    payload[number * REGISTER_BYTES : (number + 1) * REGISTER_BYTES] = value.to_bytes(
        REGISTER_BYTES, "big"
    )


def _field(entry: Entry, name: str) -> Field:
    assert entry.vmstate is not None, "devices of machines are declared"
    return next(each for each in entry.vmstate.fields if each.name == name)


def _path(vmstate: VmState | None, name: str) -> str:
    assert vmstate is not None, "it is a struct"
    return next(each.path for each in vmstate.fields if each.name == name)


def _get(entry: Entry, name: str) -> Any:
    return getattr(entry.state, _field(entry, name).path)


def _set(entry: Entry, name: str, value: Any) -> None:
    setattr(entry.state, _field(entry, name).path, value)


def _copy(one: SimpleNamespace, other: SimpleNamespace) -> None:
    vars(other).update(deepcopy(vars(one)))
