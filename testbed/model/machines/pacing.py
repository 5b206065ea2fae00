"""What a machine's devices make of the guest of the testbed: by their state, as it was loaded.

A section that never came leaves its device as it was powered on, so what is lost shows here. The
guest is driven by its timer alone (`testbed/guest/boot.asm`): the 8254 raises IRQ 0, the 8259 gives
it a vector, the local APIC passes it on (LINT0), and a CPU that is in the guest's code takes it.

Seen on QEMU 7.2.22 with each section of `pc` lost in turn: without `cpu` or `apic` the guest is
silent, without `i8259` it resets and boots again, without `i8254` it ticks at 18.2 Hz, and without
`timer` it waits for as long as its source ran, as its clock was set back. No other section matters.

Source: QEMU `hw/timer/i8254.c`, `hw/intc/i8259.c`, `hw/intc/apic.c`, `target/i386/cpu.h`.
"""

from __future__ import annotations

from testbed.guest.rule import IMAGE_AT
from testbed.model.guest.guest import IMAGE_BYTES, TICK_S, Pace

from .hardware import APIC, CPU, CPU_COMMON, Hardware

PIT, PIC, CLOCK = ("i8254", 0), ("i8259", 0), ("timer", 0)
"""Idstr and instance_id; of the two 8259 the one that has IRQ 0."""
PIT_HZ = 1193182
PIT_DIVISOR = 11932
"""As `boot.asm` sets it: 100 Hz."""
PERIODIC = (2, 3)
"""Modes of an 8254's channel: rate generator, and square wave, in which it is powered on."""
TIMER_VECTOR = 0x20
"""The only one that the guest has a handler for."""
IRQ_0 = 1
"""Its bit in the 8259's mask."""
LINT0 = 3
"""Index in the APIC's local vector table: where the 8259 is connected."""
LVT_MASKED = 1 << 16
INTERRUPTS_ON = 1 << 9
"""EFLAGS.IF."""


def pace(hardware: Hardware) -> Pace:
    """What the machine makes of its guest; of what it does not have, nothing follows."""
    vectors = hardware.value(APIC, "lvt")
    deaf = vectors is not None and bool(vectors[LINT0] & LVT_MASKED)
    masked = bool((hardware.value(PIC, "imr") or 0) & IRQ_0)
    return Pace(
        tick_s=None if deaf or masked else _tick_s(hardware),
        first_tick_s=_first_tick_s(hardware),
        executes=_executes(hardware),
        deaf=deaf,
        ends_by_tick=hardware.value(PIC, "irq_base") not in (None, TIMER_VECTOR),
    )


def _executes(hardware: Hardware) -> bool:
    at, flags = hardware.value(CPU, "env.eip"), hardware.value(CPU, "env.eflags")
    if at is None or flags is None:
        return True
    halted = hardware.value(CPU_COMMON, "halted")
    if halted and not flags & INTERRUPTS_ON:
        return False
    # At the reset vector is firmware, which the model does not have.
    return bool(IMAGE_AT <= at < IMAGE_AT + IMAGE_BYTES)


def _first_tick_s(hardware: Hardware) -> float:
    """Until the 8254's next interrupt, by the clock that came with it."""
    channel, clock_ns = (
        hardware.value(PIT, "channels", 0),
        hardware.value(CLOCK, "cpu_clock_offset"),
    )
    if channel is None or clock_ns is None:
        return TICK_S
    next_ns: int = channel["next_transition_time"]
    return max(0.0, float(next_ns - clock_ns) / 1e9)


def _tick_s(hardware: Hardware) -> float | None:
    channel = hardware.value(PIT, "channels", 0)
    if channel is None:
        return TICK_S
    if channel["mode"] not in PERIODIC:
        return None
    count = channel["count"] or 1 << 16
    return TICK_S if count == PIT_DIVISOR else float(count) / PIT_HZ
