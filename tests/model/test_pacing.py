"""What becomes of a guest whose devices did not all come, or came with other values."""

import pytest

from testbed.guest import GuestSpec, stamps_said
from testbed.guest.image import loaded_image
from testbed.model.guest.guest import TICK_S, Guest, Pace
from testbed.model.machines.machine import build, empty
from testbed.model.machines.pacing import PIT_HZ, pace
from testbed.model.profile import PROFILES

MEMORY_BYTES = 4 << 20
SPEC = GuestSpec(MEMORY_BYTES, 64 << 10, 1000, 1)
MACHINES = [("7.2", "pc"), ("7.2", "q35"), ("2.9", "pc"), ("2.9", "q35")]


def loaded(profile="7.2", machine="pc", *, without="", change=None):
    """A destination that loaded what a machine at rest sends, but for the sections of a device."""
    source = build(PROFILES[profile], machine, MEMORY_BYTES)
    source.put_registers(0, 1, 0, 0)
    destination = build(PROFILES[profile], machine, MEMORY_BYTES, waits=True)
    for (idstr, instance_id), payload in source.payloads.items():
        if idstr == without:
            continue
        if change is not None and idstr == change[0] and instance_id == 0:
            _, at, value = change
            payload = payload[:at] + value + payload[at + len(value) :]
        destination.put(idstr, instance_id, payload)
    return destination


@pytest.mark.parametrize(("profile", "machine"), MACHINES)
def test_a_guest_whose_machine_came_whole_goes_on(profile, machine):
    found = pace(loaded(profile, machine))
    assert found.executes
    assert not found.deaf
    assert not found.ends_by_tick
    assert found.tick_s == TICK_S
    assert 0 <= found.first_tick_s <= TICK_S


@pytest.mark.parametrize(("profile", "machine"), MACHINES)
@pytest.mark.parametrize("without", ["cpu_common", "serial", "mc146818rtc", "port92", "ioapic"])
def test_what_does_not_drive_it_may_be_lost(profile, machine, without):
    assert pace(loaded(profile, machine, without=without)) == pace(loaded(profile, machine))


@pytest.mark.parametrize(("profile", "machine"), MACHINES)
def test_what_drives_it_may_not(profile, machine):
    def without(idstr):
        return pace(loaded(profile, machine, without=idstr))

    assert not without("cpu").executes
    assert without("apic").deaf
    assert without("apic").tick_s is None
    assert without("i8259").ends_by_tick
    assert without("i8254").tick_s == (1 << 16) / PIT_HZ  # 18.2 Hz
    assert without("timer").first_tick_s > 0.5  # as its source ran before it was recorded


RESET_VECTOR = (0xFFF0).to_bytes(8, "big")
NO_INTERRUPTS = (2).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("change", "executes", "ticks"),
    [
        (("cpu", 16 * 8, RESET_VECTOR), False, True),
        (("cpu", 17 * 8, NO_INTERRUPTS), False, True),  # it is halted
        (("i8259", 2, b"\xff"), True, False),  # IRQ 0 is masked
    ],
)
def test_values_count_as_a_loss_does(change, executes, ticks):
    found = pace(loaded(change=change))
    assert (found.executes, found.tick_s is not None) == (executes, ticks)


def test_a_machine_without_such_devices_says_nothing_of_its_guest():
    assert pace(empty(PROFILES["7.2"])) == Pace()


def stamping():
    """A guest that has filled its pages and stamps them, and its time."""
    hardware = build(PROFILES["7.2"], "pc", MEMORY_BYTES)
    guest = Guest(hardware.memory)
    guest.boot(loaded_image(SPEC))
    guest.resume(0.0)
    now_s = 0.0
    while now_s < 1.0:
        now_s = guest.next_at_s
        guest.advance(now_s)
    guest.stop()
    return guest, now_s


def went_on(how):
    """How many pages it stamps in a second, what it says, and whether it resets."""
    guest, now_s = stamping()
    before = guest.registers()
    guest.loaded(how)
    began_s, said, resets = now_s, b"", False
    guest.resume(now_s)
    while guest.next_at_s is not None and guest.next_at_s <= began_s + 1.0:
        turn = guest.advance(guest.next_at_s)
        said, resets = said + turn.serial, resets or turn.resets
        if resets:
            return 0, said, True
    after = guest.registers() or before
    done = (after.pass_number - before.pass_number) * SPEC.page_count + after.index - before.index
    lines = [stamps_said(line) for line in said.decode().splitlines()]
    return done, len([each for each in lines if each is not None]), resets


def test_a_guest_goes_on_at_the_pace_of_its_machine():
    stamps, lines, _ = went_on(Pace())
    assert 980 <= stamps <= 1000
    assert 9 <= lines <= 10


@pytest.mark.parametrize("how", [Pace(executes=False), Pace(tick_s=None), Pace(first_tick_s=2.0)])
def test_a_guest_that_does_not_execute_or_is_not_woken_stamps_and_says_nothing(how):
    assert went_on(how) == (0, 0, False)


def test_a_timer_that_was_lost_ticks_more_slowly():
    stamps, lines, _ = went_on(Pace(tick_s=(1 << 16) / PIT_HZ))
    assert 170 <= stamps <= 190
    assert 1 <= lines <= 2


def test_an_interrupt_without_a_handler_resets_the_machine():
    _, said, resets = went_on(Pace(ends_by_tick=True))
    assert (said, resets) == (b"", True)
