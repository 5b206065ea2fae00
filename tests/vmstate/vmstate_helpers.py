"""Devices of a PC, declared; states to load them into; what real QEMUs sent of them."""

import json
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from testbed.vmstate import Incoming, VmState, load
from testbed.vmstate.fields import (
    array,
    buffer,
    int32,
    int32_equal,
    int64,
    single,
    struct,
    timer,
    uint8,
    uint8_equal,
    uint16,
    uint32,
    uint64,
    unused,
    varray,
    vbuffer,
)
from testbed.vmstate.scalars import UINT16
from testbed.wire import MainChannel
from testbed.wire.element import Payload, SectionType, VmDescription

DATA = Path(__file__).parent.parent / "data"


def never(_state: Any) -> bool:
    return False


TIMER = VmState(
    "timer", 2, 1, (int64("cpu_ticks_offset"), unused(8), int64("cpu_clock_offset", version_id=2))
)
CHANNEL = VmState(
    "pit channel",
    2,
    2,
    (
        int32("count"),
        uint16("latched_count"),
        *map(
            uint8,
            "count_latched status_latched status read_state write_state write_latch rw_mode mode"
            " bcd gate".split(),
        ),
        int64("count_load_time"),
        int64("next_transition_time"),
    ),
)
I8254 = VmState(
    "i8254",
    3,
    2,
    (
        uint32("channels[0].irq_disabled", version_id=3),
        array(struct("channels", CHANNEL, version_id=2, size=56), 3),
        int64("channels[0].next_transition_time"),
    ),
)
MC146818RTC = VmState(
    "mc146818rtc",
    3,
    1,
    (
        buffer("cmos_data", 128),
        uint8("cmos_index"),
        unused(7 * 4),
        timer("periodic_timer"),
        int64("next_periodic_time"),
        unused(3 * 8),
        uint32("irq_coalesced", version_id=2),
        uint32("period", version_id=2),
        uint64("base_rtc", version_id=3),
        uint64("last_update", version_id=3),
        int64("offset", version_id=3),
        timer("update_timer", version_id=3),
        uint64("next_alarm_time", version_id=3),
    ),
    subsections=(
        VmState(
            "mc146818rtc/irq_reinject_on_ack_count",
            1,
            1,
            (uint16("irq_reinject_on_ack_count"),),
            needed=never,
        ),
    ),
)
FDRIVE = VmState(
    "fdrive",
    1,
    1,
    (uint8("head"), uint8("track"), uint8("sect")),
    (
        VmState("fdrive/media_changed", 1, 1, (uint8("media_changed"),), needed=never),
        VmState("fdrive/media_rate", 1, 1, (uint8("media_rate"),)),
        VmState("fdrive/perpendicular", 1, 1, (uint8("perpendicular"),), needed=never),
    ),
)
FDC = VmState(
    "fdc",
    2,
    2,
    (
        *map(uint8, "sra srb dor_vmstate tdr dsr msr status0 status1 status2".split()),
        varray(uint8("fifo"), "fifo_size"),
        uint32("data_pos"),
        uint32("data_len"),
        *map(uint8, "data_state data_dir eot timer0 timer1 precomp_trk config lock pwrd".split()),
        uint8_equal("num_floppies"),
        array(struct("drives", FDRIVE, version_id=1, size=48), 2),
    ),
    (
        VmState("fdc/reset_sensei", 1, 1, (int32("reset_sensei"),), needed=never),
        VmState("fdc/result_timer", 1, 1, (timer("result_timer"),), needed=never),
        VmState("fdc/phase", 1, 1, (uint8("phase"),), needed=never),
    ),
)
ISA_FDC = VmState("fdc", 2, 2, (struct("state", FDC, size=672),))
HPET_TIMER = VmState(
    "hpet_timer",
    1,
    1,
    (
        uint8("tn"),
        *map(uint64, ("config", "cmp", "fsb", "period")),
        uint8("wrap_flag"),
        timer("qemu_timer"),
    ),
)


def hpet(num_timers: str) -> VmState:
    """The name of one field changed in 10.0."""
    return VmState(
        "hpet",
        2,
        1,
        (
            *map(uint64, ("config", "isr", "hpet_counter")),
            uint8(num_timers, version_id=2),
            varray(struct("timer", HPET_TIMER, size=64), num_timers),
        ),
        (
            VmState("hpet/rtc_irq_level", 1, 1, (uint8("rtc_irq_level"),), needed=never),
            VmState("hpet/offset", 1, 1, (uint64("hpet_offset"),), needed=never),
        ),
    )


FW_CFG = VmState(
    "fw_cfg",
    2,
    1,
    (
        uint16("cur_entry"),
        single("cur_offset", UINT16, size=4, exists=lambda _, version_id: version_id == 1),
        uint32("cur_offset", version_id=2),
    ),
    (
        VmState("fw_cfg/dma", 0, 0, (uint64("dma_addr"),)),
        VmState(
            "fw_cfg/acpi_mr",
            1,
            1,
            tuple(map(uint64, ("table_mr_size", "linker_mr_size", "rsdp_mr_size"))),
        ),
    ),
)
VMMOUSE = VmState(
    "vmmouse",
    0,
    0,
    (
        int32_equal("queue_size"),
        array(uint32("queue"), 1024),
        uint16("nb_queue"),
        uint16("status"),
        uint8("absolute"),
    ),
)
DMA_REGS = VmState(
    "dma_regs",
    1,
    1,
    (
        array(int32("now"), 2),
        array(uint16("base"), 2),
        *map(uint8, ("mode", "page", "pageh", "dack", "eop")),
    ),
)
DMA = VmState(
    "dma",
    1,
    1,
    (
        *map(uint8, ("command", "mask", "flip_flop")),
        int32("dshift"),
        array(struct("regs", DMA_REGS, version_id=1, size=40), 4),
    ),
)
PS2 = VmState(
    "PS2 Common State",
    3,
    2,
    (
        *map(int32, ("write_cmd", "queue.rptr", "queue.wptr", "queue.count")),
        buffer("queue.data", 256),
    ),
)
PS2KBD = VmState(
    "ps2kbd",
    3,
    2,
    (
        struct("parent_obj", PS2),
        *map(int32, ("scan_enabled", "translate")),
        int32("scancode_set", version_id=3),
    ),
)
GLOBALSTATE = {
    "7.2": VmState("globalstate", 1, 1, (uint32("size"), buffer("runstate", 100))),
    "10.0": VmState(
        "globalstate",
        1,
        1,
        (
            uint32("size"),
            buffer("runstate", 32),
            uint8("has_vm_was_suspended"),
            uint8("vm_was_suspended"),
            buffer("unused", 66),
        ),
    ),
}
CONFIGURATION = VmState("configuration", 1, 0, (uint32("len"), vbuffer("name", "len")))


def blank(vmstate: VmState, **values: Any) -> SimpleNamespace:
    """A state that has the structs that a VMSD declares, and nothing in them."""
    state = SimpleNamespace()
    for field in vmstate.fields:
        *owners, name = field.path.split(".")
        owner = state
        for each in owners:
            if "[" not in each:
                vars(owner).setdefault(each, SimpleNamespace())
                owner = getattr(owner, each)
        if field.vmstate is not None:
            count = 8 if field.num is None else field.num
            made = [blank(field.vmstate) for _ in range(count)]
            setattr(owner, name, made if field.is_array else made[0])
    vars(state).update(values)
    return state


@dataclass(frozen=True)
class Section:
    """What a recorded stream has of one device."""

    version_id: int
    payload: bytes
    node: dict[str, Any]


@lru_cache(4)
def sections(name: str) -> dict[tuple[str, int], Section]:
    """The device sections of a recorded stream, by idstr and instance_id."""
    channel = MainChannel()
    elements = list(channel.feed(lzma.decompress((DATA / f"{name}.fwd.bin.xz").read_bytes())))
    elements += channel.end()
    (text,) = [e.value.text for e in elements if isinstance(e.value, VmDescription)]
    nodes = {(node["name"], node["instance_id"]): node for node in json.loads(text)["devices"]}
    found = {}
    for element in elements:
        header = element.section
        if isinstance(element.value, Payload) and header and header.type is SectionType.FULL:
            key = header.idstr, header.instance_id
            found[key] = Section(header.version_id, element.value.data, nodes[key])
    return found


def loaded(
    vmstate: VmState,
    state: Any,
    version_id: int,
    data: bytes,
    *,
    step: int | None = None,
    ended: bool = True,
) -> Incoming:
    """Load from bytes that come in steps; the source afterwards."""
    source = Incoming()
    chunks: Iterable[bytes] = [data]
    if step is not None:
        chunks = [data[at : at + step] for at in range(0, len(data), step)]
    pending = iter(chunks)
    for _ in load(vmstate, state, version_id, source):
        chunk = next(pending, None)
        if chunk is not None:
            source.feed(chunk)
        else:
            assert ended, "the story waits for more than there is"
            source.end()
    return source
