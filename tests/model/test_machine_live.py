"""Machines of the model and real ones: the same sections, and guests that move between them."""

import pytest
from machine_helpers import (
    PIECE_BYTES,
    QEMU_OF,
    SPEC,
    memory_report,
    modelled,
    put_guest,
    real,
    run_guest,
    said,
    saved,
    sections_of,
    send_to,
    stamps_beyond,
)
from thoroughness import usually

from testbed.guest import boot_image, check_memory
from testbed.log import Log
from testbed.model.guest.guest import Guest
from testbed.model.machines.machine import Nic
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Became, GuestMayRun, Say

pytestmark = pytest.mark.live

MACHINES = sorted(QEMU_OF)
NEWEST = ["pc-i440fx-7.2"]


@pytest.mark.parametrize("machine", MACHINES)
async def test_a_guest_of_the_model_runs_on_in_qemu(machine):
    hardware = modelled(machine)
    guest = run_guest(hardware, 3.0)
    put_guest(hardware, guest)
    before = check_memory(hardware.main_block.data, SPEC)
    assert before.intact
    assert before.stamps > 5000
    log = Log()
    async with real(machine, log, incoming=True) as qemu:
        await send_to(qemu, log, hardware.outgoing.whole(PIECE_BYTES))
        assert await qemu.run_state() == "running"
        await stamps_beyond(log, "destination", before.stamps + 1000)
        held, _ = await saved(qemu)
    assert said(log, "destination") == []
    report = memory_report(held)
    assert report.intact, report
    assert report.stamps > before.stamps + 1000
    assert report.ticks > before.ticks


@pytest.mark.parametrize("machine", MACHINES)
async def test_a_guest_of_qemu_is_loaded_and_sent_back_byte_for_byte(machine):
    log = Log()
    async with real(machine, log, side="source") as qemu:
        await stamps_beyond(log, "source", 1000)
        held, stream = await saved(qemu)
    report = memory_report(held)
    assert report.intact
    hardware = modelled(machine)
    destination = Destination(hardware.incoming, hardware.profile)
    effects = destination.begin() + destination.feed(stream) + destination.end()
    assert [effect.line for effect in effects if isinstance(effect, Say)] == []
    assert [effect.status for effect in effects if isinstance(effect, Became)][-1] == "completed"
    assert any(isinstance(effect, GuestMayRun) for effect in effects)
    for idstr, data in held.blocks.items():
        block = hardware.memory.find(idstr)
        assert block.used_bytes == len(data), idstr
        assert block.data[: block.used_bytes] == bytes(data), idstr
    assert hardware.run_state == "paused"
    again = b"".join(hardware.outgoing.whole(PIECE_BYTES))
    ours, theirs = sections_of(again), sections_of(stream)
    assert ours == theirs


@pytest.mark.parametrize("machine", ["pc-i440fx-7.2", "pc-q35-7.2"])
async def test_a_guest_moves_from_qemu_to_the_model_and_back(machine):
    log = Log()
    async with real(machine, log, side="source") as qemu:
        await stamps_beyond(log, "source", 1000)
        held, stream = await saved(qemu)
    hardware = modelled(machine)
    destination = Destination(hardware.incoming, hardware.profile)
    destination.begin()
    destination.feed(stream)
    assert destination.status == "completed"
    guest = Guest(hardware.memory)
    guest.loaded()
    guest.resume(0.0)
    for tick in range(1, 300):
        guest.advance(tick / 100)
    put_guest(hardware, guest)
    before = check_memory(hardware.main_block.data, SPEC)
    assert before.intact
    assert before.stamps > memory_report(held).stamps + 3000
    async with real(machine, log, incoming=True) as qemu:
        await send_to(qemu, log, hardware.outgoing.whole(PIECE_BYTES))
        await stamps_beyond(log, "destination", before.stamps + 1000)
        held, _ = await saved(qemu)
    assert memory_report(held).intact


async def test_a_guest_that_has_not_filled_its_pages_begins_anew():
    hardware = modelled("pc-i440fx-7.2")
    guest = Guest(hardware.memory)
    guest.boot(boot_image(SPEC))
    guest.resume(0.0)
    guest.advance(0.0)
    hardware.put_start()
    hardware.run_state = "running"
    log = Log()
    async with real("pc-i440fx-7.2", log, incoming=True) as qemu:
        await send_to(qemu, log, hardware.outgoing.whole(PIECE_BYTES))
        await stamps_beyond(log, "destination", 1000)
        held, _ = await saved(qemu)
    assert memory_report(held).intact
    lines = [event.facts["line"] for event in log.find("serial", "destination")]
    assert lines[0] == "guest started"


async def test_a_machine_without_a_guest_halts():
    hardware = modelled("pc-i440fx-7.2", disk=False)
    hardware.put_halted()
    hardware.run_state = "running"
    log = Log()
    async with real("pc-i440fx-7.2", log, incoming=True, boot=None) as qemu:
        await send_to(qemu, log, hardware.outgoing.whole(PIECE_BYTES))
        assert await qemu.run_state() == "running"
        registers = await qemu.command("human-monitor-command", {"command-line": "info registers"})
        assert "HLT=1" in registers
        held, _ = await saved(qemu)
    assert not any(held.guest_ram()[1])


DIFFERS = {
    *("timer", "cpu", "cpu_common", "apic", "i8259", "mc146818rtc", "i8254", "serial"),
    *("ide", "ich9_ahci", "virtio-net", "kvm-tpr-opt"),
}
"""Times, registers, an interrupt on its way, addresses that firmware gave to a machine of another
size or with more NICs, the state of the option ROM."""
SHAPES = {
    "one CPU": {},
    "two CPUs": {"cpus": 2},
    "sixteen CPUs, two NICs": {"cpus": 16, "nics": 2},
    "no NIC": {"nics": 0},
    "no disk": {"disk": False, "nics": 0},
    "four NICs": {"nics": 4},
}


def further_nics(count):
    """Arguments for NICs beside the first one."""
    for number in range(1, count):
        yield from ("-netdev", f"hubport,id=net{number},hubid={number}")
        nic = f"virtio-net-pci,id=nic{number},netdev=net{number},mac={mac(number)},romfile="
        yield from ("-device", nic)


def mac(number):
    return f"52:54:00:12:34:{0x56 + number:02x}"


TELLING = ("two CPUs", "no disk")
"""Shapes that each machine has; the newest has all, and with ALL_EXAMPLES=1 each."""
SHAPED = [
    (machine, shape)
    for machine in MACHINES
    for shape in SHAPES
    if shape in TELLING or machine in usually(NEWEST, thoroughly=MACHINES)
]


@pytest.mark.parametrize(("machine", "shape"), SHAPED)
async def test_sections_are_those_of_a_real_machine_of_that_shape(machine, shape):
    given = {"cpus": 1, "nics": 1, "disk": True} | SHAPES[shape]
    nics, disk = given.pop("nics"), given.pop("disk")
    log = Log()
    arguments = tuple(further_nics(nics))
    boot = {} if disk else {"boot": None}
    async with real(
        machine,
        log,
        side="source",
        nic=nics > 0,
        shape=given | {"arguments": arguments},
        **boot,
    ) as qemu:
        if disk:
            await stamps_beyond(log, "source", 0)
        _, stream = await saved(qemu)
    hardware = modelled(
        machine, nics=[Nic(mac(number)) for number in range(nics)], disk=disk, **given
    )
    again = b"".join(hardware.outgoing.whole(PIECE_BYTES))
    headers, payloads, blocks = sections_of(again)
    their_headers, their_payloads, their_blocks = sections_of(stream)
    assert headers == their_headers
    assert blocks == their_blocks
    sizes = {key: len(data) for key, data in payloads.items()}
    their_sizes = {key: len(data) for key, data in their_payloads.items()}
    if not disk:  # its firmware is still at work
        del sizes["cpu", 0], their_sizes["cpu", 0]
    assert sizes == their_sizes
    differ = {key[0] for key, data in payloads.items() if data != their_payloads[key]}
    kinds = {idstr.split("/")[-1] for idstr in differ}
    assert not disk or kinds <= DIFFERS, kinds - DIFFERS
    destination = Destination(hardware.incoming, hardware.profile)
    effects = destination.begin() + destination.feed(stream)
    assert [effect.line for effect in effects if isinstance(effect, Say)] == []
    assert sections_of(b"".join(hardware.outgoing.whole(PIECE_BYTES))) == sections_of(stream)


@pytest.mark.parametrize("machine", MACHINES)
async def test_a_machine_that_never_ran_is_loaded(machine):
    log = Log()
    shape = {"paused": True}
    async with real(machine, log, side="source", shape=shape) as qemu:
        _, stream = await saved(qemu)
    hardware = modelled(machine)
    destination = Destination(hardware.incoming, hardware.profile)
    effects = destination.begin() + destination.feed(stream)
    assert [effect.line for effect in effects if isinstance(effect, Say)] == []
    assert destination.status == "completed"
    assert hardware.run_state == "prelaunch"
    assert sections_of(b"".join(hardware.outgoing.whole(PIECE_BYTES))) == sections_of(stream)


async def test_four_cpus_are_loaded_by_qemu():
    hardware = modelled("pc-q35-7.2", cpus=4)
    put_guest(hardware, run_guest(hardware, 1.0))
    log = Log()
    async with real("pc-q35-7.2", log, incoming=True, shape={"cpus": 4}) as qemu:
        await send_to(qemu, log, hardware.outgoing.whole(PIECE_BYTES))
        await stamps_beyond(log, "destination", 1000)
        cpus = await qemu.command("query-cpus-fast")
        held, _ = await saved(qemu)
    assert len(cpus) == 4
    assert memory_report(held).intact
