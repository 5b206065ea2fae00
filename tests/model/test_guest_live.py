"""The guest without a CPU and the one in a real QEMU: the same memory, the same words."""

import pytest
from guest_helpers import machine

from testbed.guest import GuestSpec, boot_image, check_memory
from testbed.guest.rule import FIRST_PAGE, IMAGE_AT, PAGE_BYTES, STATE, STATE_AT, STATE_MAGIC
from testbed.model.guest.guest import IMAGE_BYTES, Guest
from testbed.model.migration.memory import Memory

pytestmark = pytest.mark.live

MEMORY_BYTES = 4 << 20


def modelled(spec):
    memory = Memory()
    return memory.add("pc.ram", spec.memory_bytes), Guest(memory)


def advanced(guest, until_s):
    """What it says up to then."""
    said = b""
    while guest.next_at_s <= until_s:
        said += guest.advance(guest.next_at_s).serial
    return said.decode().splitlines()


async def test_it_fills_and_says_what_the_real_one_does(tmp_path):
    spec = GuestSpec(MEMORY_BYTES, None, 0, seed=0xFEDCBA98)
    async with machine(spec) as real:
        lines = [await real.said("guest started"), await real.line(), await real.line()]
        held = await real.memory(spec, tmp_path)
    ram, guest = modelled(spec)
    guest.boot(boot_image(spec))
    guest.resume(0.0)
    assert advanced(guest, 0.0) == lines
    area = slice(FIRST_PAGE * PAGE_BYTES, (FIRST_PAGE + spec.page_count) * PAGE_BYTES)
    assert ram.data[area] == held[area]
    image = slice(IMAGE_AT, IMAGE_AT + IMAGE_BYTES)
    assert ram.data[image] == held[image]
    magic, index, pass_number, _ = STATE.unpack_from(held, STATE_AT)
    assert (magic, index, pass_number) == (STATE_MAGIC, 0, 1)
    assert STATE.unpack_from(ram.data, STATE_AT) == (STATE_MAGIC, 0, 1, 0)


@pytest.mark.parametrize("rate", [3333, 200_000])
async def test_it_goes_on_where_the_real_one_was_stopped(tmp_path, rate):
    spec = GuestSpec(MEMORY_BYTES, pages_per_second=rate)
    async with machine(spec) as real:
        await real.stamps(at_least=spec.page_count // 2)
        held = await real.memory(spec, tmp_path)
    left = check_memory(held, spec)
    assert left.intact
    ram, guest = modelled(spec)
    guest.boot(b"")
    ram.data[:] = held
    guest.loaded()
    at_rest = guest.registers()
    assert (at_rest.index, at_rest.pass_number) == (left.index, left.pass_number)
    guest.resume(0.0)
    lines = advanced(guest, 0.5001)
    report = check_memory(memoryview(ram.data), spec)
    assert report.findings == ()
    assert (report.ticks, report.stamps) == (left.ticks + 50, left.stamps + rate // 2)
    assert len(lines) == 5
