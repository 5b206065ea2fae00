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

from testbed.guest import check_memory
from testbed.log import Log
from testbed.model.destination import Destination
from testbed.model.effects import Became, GuestMayRun, Say

pytestmark = pytest.mark.live

MACHINES = sorted(QEMU_OF)


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
