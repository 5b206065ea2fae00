"""Machines of the model, without a real one beside them."""

import pytest
from machine_helpers import MAC, MEMORY_BYTES, modelled, sections_of

from testbed.model.machines.machine import (
    MachineError,
    Nic,
    build,
    empty,
    machine_help,
    machines,
    resolve,
)
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Became, Say
from testbed.model.profile import PROFILES
from testbed.wire import MainChannel, build_section
from testbed.wire.element import RamBlock, SectionHeader, SectionType, VmDescription

PIECE_BYTES = 1 << 20
MACHINES = ["pc-i440fx-2.9", "pc-i440fx-7.2", "pc-q35-2.9", "pc-q35-7.2"]
REGISTERS = {1: 5, 3: 4, 6: 7, 7: 6}  # by their number in `env.regs`


def written(hardware):
    return b"".join(hardware.outgoing.whole(PIECE_BYTES))


@pytest.mark.parametrize(
    ("profile", "name", "is_called"),
    [
        ("7.2", "pc", "pc-i440fx-7.2"),
        ("7.2", "q35", "pc-q35-7.2"),
        ("7.2", "pc-q35-2.9", "pc-q35-2.9"),
        ("2.9", "pc", "pc-i440fx-2.9"),
        ("2.9", "q35", "pc-q35-2.9"),
    ],
)
def test_a_machine_has_its_versioned_name(profile, name, is_called):
    assert resolve(PROFILES[profile], name) == is_called
    assert build(PROFILES[profile], name, MEMORY_BYTES).name == is_called


@pytest.mark.parametrize("name", ["foo", "", "none", "pc-i440fx-7.2"])
def test_an_unknown_machine_is_refused_as_by_qemu(name):
    with pytest.raises(MachineError) as refused:
        build(PROFILES["2.9"], name, MEMORY_BYTES)
    first, second = str(refused.value).splitlines()
    assert first == "unsupported machine type"
    assert second == "Use -machine help to list supported machines"


def test_the_list_of_machines_says_what_is_an_alias_of_what():
    lines = machine_help(PROFILES["7.2"]).splitlines()
    assert lines == [
        "Supported machines are:",
        "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)",
        "pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)",
        "pc-i440fx-2.9        Standard PC (i440FX + PIIX, 1996)",
        "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)",
        "pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)",
        "pc-q35-2.9           Standard PC (Q35 + ICH9, 2009)",
    ]
    assert [name for name, _ in machines(PROFILES["2.9"])] == [
        *("pc", "pc-i440fx-2.9", "q35", "pc-q35-2.9")
    ]


def test_another_device_model_is_refused_as_by_qemu():
    with pytest.raises(MachineError) as refused:
        build(PROFILES["7.2"], "pc", MEMORY_BYTES, nics=[Nic(MAC, "foo")])
    assert str(refused.value) == "'foo' is not a valid device model name"


def test_a_fifth_nic_has_no_slot():
    with pytest.raises(MachineError) as refused:
        build(PROFILES["7.2"], "pc", MEMORY_BYTES, nics=[Nic(MAC)] * 5)
    said = "PCI: no slot/function available for virtio-net-pci, all in use or reserved"
    assert str(refused.value) == said


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("cpus", "count"), [(1, 0), (2, 1), (16, 4)])
def test_section_ids_are_given_in_order(machine, cpus, count):
    nics = [Nic(f"52:54:00:00:00:0{number}") for number in range(count)]
    headers, payloads, _ = sections_of(written(modelled(machine, cpus=cpus, nics=nics)))
    ids = [header.section_id for header in headers]
    assert ids == sorted(set(ids))
    assert 2 not in ids, "that of RAM"
    cpu = [header.instance_id for header in headers if header.idstr == "cpu"]
    assert cpu == list(range(cpus))
    assert [payloads["apic", number][4] for number in cpu] == cpu
    slots = [header.idstr for header in headers if header.idstr.endswith("/virtio-net")]
    first = 1 if "q35" in machine else 2
    assert slots == [f"0000:00:{first + number:02x}.0/virtio-net" for number in range(count)]
    for number, slot in enumerate(slots):
        assert bytes.fromhex(f"52540000000{number}") in payloads[slot, 0]


@pytest.mark.parametrize("machine", MACHINES)
def test_one_machine_loads_what_another_writes(machine):
    there, here = modelled(machine, cpus=2), modelled(machine, cpus=2)
    there.main_block.data[0x5000:0x5004] = b"here"
    there.put_registers(index=1, pass_number=2, ticks=3, owed=4)
    there.run_state = "running"
    stream = written(there)
    destination = Destination(here.incoming, here.profile)
    effects = destination.begin() + destination.feed(stream)
    assert not [effect for effect in effects if isinstance(effect, Say)]
    assert [effect.status for effect in effects if isinstance(effect, Became)][-1] == "completed"
    assert here.run_state == "running"
    assert here.main_block.data[0x5000:0x5004] == b"here"
    assert written(here) == stream


def test_registers_are_those_of_the_guest():
    hardware = modelled("pc-i440fx-7.2")
    at_rest = sections_of(written(hardware))[1]
    hardware.put_registers(index=4, pass_number=5, ticks=6, owed=7)
    sent = sections_of(written(hardware))[1]
    differ = {key for key, payload in sent.items() if payload != at_rest[key]}
    assert differ == {("cpu", 0)}
    registers = [sent["cpu", 0][at : at + 8] for at in range(0, 128, 8)]
    found = {number: int.from_bytes(value, "big") for number, value in enumerate(registers)}
    assert REGISTERS.items() <= found.items()


def test_a_guest_that_runs_here_is_sent_at_its_rest_whatever_came():
    """An interrupt that was on its way where it came from is none of this guest's."""
    there, here = modelled("pc-i440fx-7.2"), modelled("pc-i440fx-7.2")
    stream = written(there)
    rested = sections_of(stream)[1]["i8259", 0]
    taken = bytes([1]) + rested[1:2] + bytes([1]) + rested[3:]
    assert taken != rested
    changed = stream.replace(_i8259(stream, rested), _i8259(stream, taken))
    destination = Destination(here.incoming, here.profile)
    destination.begin()
    destination.feed(changed)
    assert sections_of(written(here))[1]["i8259", 0] == taken
    here.put_registers(index=0, pass_number=1, ticks=0, owed=0)
    assert sections_of(written(here))[1]["i8259", 0] == rested


def _i8259(stream, payload):
    header = next(each for each in sections_of(stream)[0] if each.idstr == "i8259")
    return build_section(SectionType.FULL, header.section_id, "i8259", 0, 1, payload)


def test_a_start_neither_halts_nor_takes_interrupts():
    hardware = modelled("pc-q35-7.2")
    hardware.put_start()
    payloads = sections_of(written(hardware))[1]
    cpu = payloads["cpu", 0]
    assert int.from_bytes(cpu[128:136], "big") == 0x7E00
    assert not int.from_bytes(cpu[136:144], "big") & 0x200
    assert payloads["cpu_common", 0] == bytes(8)


@pytest.mark.parametrize("name", ["running", "paused", "postmigrate"])
def test_the_run_state_is_in_the_stream(name):
    hardware = modelled("pc-i440fx-7.2")
    hardware.run_state = name
    payload = sections_of(written(hardware))[1]["globalstate", 0]
    size = len(name) + 1
    assert payload == size.to_bytes(4, "big") + name.encode().ljust(100, b"\0")
    assert hardware.run_state == name


@pytest.mark.parametrize("gib", [3, 4, 5])
@pytest.mark.parametrize("machine", ["pc-i440fx-7.2", "pc-q35-7.2"])
def test_firmware_is_told_of_memory_above_4_gib(machine, gib):
    hardware = modelled(machine, memory_bytes=gib << 30)
    cmos = sections_of(written_devices(hardware))[1]["mc146818rtc", 0][:128]
    low = 2 if "q35" in machine else 3
    assert int.from_bytes(cmos[0x5B:0x5E], "little") << 16 == (gib - low) << 30


@pytest.mark.parametrize("ran", [True, False])
def test_firmware_that_has_not_run_has_patched_no_table(ran):
    hardware = modelled("pc-i440fx-7.2")
    hardware.put_firmware(ran=ran)
    assert sections_of(written(hardware))[1]["acpi_build", 0] == bytes([ran])


def written_devices(hardware):
    """All but the pages, of which there are too many."""
    return (
        hardware.outgoing.header()
        + b"".join(hardware.outgoing.devices())
        + (hardware.outgoing.end())
    )


def test_a_machine_of_nothing_sends_as_much():
    """As `-M none` does: no block, no device."""
    headers, blocks = [], []
    hardware = empty(PROFILES["7.2"])
    elements = MainChannel().feed(written(hardware))
    for element in elements:
        match element.value:
            case SectionHeader(type=SectionType.FULL) as header:
                headers.append(header)
            case RamBlock() as block:
                blocks.append(block)
    assert (headers, blocks) == ([], [])
    assert isinstance(elements[-1].value, VmDescription)
    assert hardware.name == "none"
    assert hardware.run_state is None


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_not_loaded_is_as_it_was_powered_on(machine):
    """Or nobody would notice that a section never came."""
    ran, waits = modelled(machine, cpus=3), modelled(machine, cpus=3, waits=True)
    (headers, before, _), (_, after, blocks) = (sections_of(written(each)) for each in (waits, ran))
    assert before.keys() == after.keys()
    differs = {idstr.rpartition("/")[2] for idstr, _ in [k for k in after if before[k] != after[k]]}
    assert {"virtio-net", "cpu", "i8254", "serial", "globalstate"} <= differs
    assert waits.run_state is None

    destination = Destination(waits.incoming, waits.profile)
    effects = destination.begin() + destination.feed(written(ran)) + destination.end()
    assert [each.line for each in effects if isinstance(each, Say)] == []
    assert sections_of(written(waits)) == (headers, after, blocks)
