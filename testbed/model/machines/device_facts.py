"""What is known of a PC's devices beyond what a recording shows.

Which subsections a stream has depends on what the guest just does. They are described as a vmdesc
does it, by the VMSD that they belong to, in the order in which they are saved; one without fields
is known from the recording if it comes at all. A test compares all with `-dump-vmstate`.

Source: QEMU 7.2 `hw/char/serial.c`, `hw/input/pckbd.c`, `hw/input/ps2.c`, `hw/ide/core.c`,
`hw/block/fdc.c`, `hw/rtc/mc146818rtc.c`, `hw/timer/hpet.c`, `hw/isa/piix3.c`, `hw/isa/lpc_ich9.c`,
`hw/intc/ioapic_common.c`, `softmmu/cpu-timers.c`, `target/i386/machine.c`.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
SIZES = {
    "bool": 1,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "uint16": 2,
    "uint8": 1,
    "timer": 8,
}
FIFO_BYTES = 16
IO_BUFFER_BYTES = 256 * 512 + 4
"""Of an IDE drive: `IDE_DMA_BUF_SECTORS`, and what it reads beyond."""


def _sub(name: str, version: int = 1, **types: str) -> Json:
    fields = [
        {"name": field.replace("__", "."), "type": kind, "size": SIZES[kind]}
        for field, kind in types.items()
    ]
    return {"vmsd_name": name, "version": version, "fields": fields}


def _recorded(name: str) -> Json:
    return {"vmsd_name": name}


def _fifo(name: str, field: str) -> Json:
    sizes = {"data": FIFO_BYTES, "head": 4, "num": 4}
    inner = [
        {"name": key, "type": "buffer" if key == "data" else "uint32", "size": size}
        for key, size in sizes.items()
    ]
    struct = {"vmsd_name": "Fifo8", "version": 1, "fields": inner}
    whole = {"name": field, "type": "struct", "struct": struct, "size": sum(sizes.values())}
    return {"vmsd_name": name, "version": 1, "fields": [whole]}


def _pio_state() -> Json:
    made = _sub(
        "ide_drive/pio_state",
        req_nb_sectors="int32",
        io_buffer="uint8",
        cur_io_buffer_offset="int32",
        cur_io_buffer_len="int32",
        end_transfer_fn_idx="uint8",
        elementary_transfer_size="int32",
        packet_transfer_size="int32",
    )
    made["fields"][1]["array_len"] = IO_BUFFER_BYTES
    return made


SUBSECTIONS: dict[str, tuple[Json, ...]] = {
    "serial": (
        _sub("serial/thr_ipending", thr_ipending="int32"),
        _sub("serial/tsr", tsr_retry="uint32", thr="uint8", tsr="uint8"),
        _fifo("serial/recv_fifo", "recv_fifo"),
        _fifo("serial/xmit_fifo", "xmit_fifo"),
        _sub("serial/fifo_timeout_timer", fifo_timeout_timer="timer"),
        _sub("serial/timeout_ipending", timeout_ipending="int32"),
        _sub("serial/poll", poll_msl="int32", modem_status_poll="timer"),
    ),
    "mc146818rtc": (
        _sub("mc146818rtc/irq_reinject_on_ack_count", irq_reinject_on_ack_count="uint16"),
    ),
    "pckbd": (_sub("pckbd_outport", outport="uint8"), _recorded("pckbd/extended_state")),
    "ps2kbd": (
        _sub("ps2kbd/ledstate", 3, ledstate="int32"),
        _sub("ps2kbd/need_high_bit", need_high_bit="bool"),
        _sub("ps2kbd/command_reply_queue", 0, parent_obj__queue__cwptr="int32"),
    ),
    "hpet": (
        _sub("hpet/rtc_irq_level", rtc_irq_level="uint8"),
        _sub("hpet/offset", hpet_offset="uint64"),
    ),
    "fdc": (
        _sub("fdc/reset_sensei", reset_sensei="int32"),
        _sub("fdc/result_timer", result_timer="timer"),
        _sub("fdc/phase", phase="uint8"),
    ),
    "fdrive": (
        _sub("fdrive/media_changed", media_changed="uint8"),
        _sub("fdrive/media_rate", media_rate="uint8"),
        _sub("fdrive/perpendicular", perpendicular="uint8"),
    ),
    "ide_bus": (
        _sub(
            "ide_bus/error",
            2,
            error_status="int32",
            retry_sector_num="int64",
            retry_nsector="uint32",
            retry_unit="uint8",
        ),
    ),
    "ide_drive": (_pio_state(),),
    "PIIX3": (_sub("PIIX3/rcr", rcr="uint8"),),
    "ICH9LPC": (_sub("ICH9LPC/rst_cnt", rst_cnt="uint8"), _recorded("ICH9LPC/smi_feat")),
    "cpu": (
        _recorded("cpu/poll_control_msr"),
        _sub("cpu/fpop_ip_dp", env__fpop="uint16", env__fpip="uint64", env__fpdp="uint64"),
        _sub("cpu/msr_tsc_adjust", env__tsc_adjust="uint64"),
        _sub("cpu/msr_ia32_misc_enable", env__msr_ia32_misc_enable="uint64"),
        _recorded("cpu/msr_smi_count"),
    ),
}

MINIMUM_VERSIONS = {
    "PIIX3": 2,
    "cpu": 11,
    "hpet": 1,
    "i8254": 2,
    "ich9_ahci": 0,
    "ide": 0,
    "ioapic": 1,
    "mc146818rtc": 1,
    "ps2kbd": 2,
    "serial": 2,
    "timer": 1,
}
"""The oldest version of each VMSD that is loaded; of all others, its own alone."""
SINCE = {
    ("PIIX3", "pci_irq_levels_vmstate"): 3,
    ("cpu", "env.xcr0"): 12,
    ("cpu", "env.xmm_regs[1]"): 12,
    ("cpu", "env.xstate_bv"): 12,
    ("hpet", "num_timers"): 2,
    ("i8254", "channels[0].irq_disabled"): 3,
    ("ioapic", "irr"): 2,
    ("ioapic", "unused"): 2,
    ("mc146818rtc", "base_rtc"): 3,
    ("mc146818rtc", "irq_coalesced"): 2,
    ("mc146818rtc", "last_update"): 3,
    ("mc146818rtc", "next_alarm_time"): 3,
    ("mc146818rtc", "offset"): 3,
    ("mc146818rtc", "period"): 2,
    ("mc146818rtc", "update_timer"): 3,
    ("ps2kbd", "scancode_set"): 3,
    ("timer", "cpu_clock_offset"): 2,
}
"""The version that a field came with, by the VMSD and the field."""
