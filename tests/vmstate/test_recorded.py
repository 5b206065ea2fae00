"""Devices of real QEMUs: loaded, saved again, described as they describe themselves."""

import json

import pytest
from vmstate_helpers import (
    DMA,
    FW_CFG,
    GLOBALSTATE,
    I8254,
    ISA_FDC,
    MC146818RTC,
    PS2KBD,
    TIMER,
    VMMOUSE,
    blank,
    hpet,
    loaded,
    sections,
)

from testbed.vmstate import Manner, VmState, device_node, save, text
from testbed.vmstate import vmdesc as vmdesc_of
from testbed.wire import Layout

DEVICES: list[tuple[str, int, dict[str, VmState]]] = [
    ("timer", 0, {"7.2": TIMER, "10.0": TIMER}),
    ("i8254", 0, {"7.2": I8254, "10.0": I8254}),
    ("mc146818rtc", 0, {"7.2": MC146818RTC, "10.0": MC146818RTC}),
    ("fdc", 0, {"7.2": ISA_FDC, "10.0": ISA_FDC}),
    ("hpet", 0, {"7.2": hpet("num_timers"), "10.0": hpet("num_timers_save")}),
    ("fw_cfg", 0, {"7.2": FW_CFG, "10.0": FW_CFG}),
    ("vmmouse", 0, {"7.2": VMMOUSE, "10.0": VMMOUSE}),
    ("dma", 1, {"7.2": DMA, "10.0": DMA}),
    ("ps2kbd", 0, {"7.2": PS2KBD, "10.0": PS2KBD}),
    ("globalstate", 0, GLOBALSTATE),
]
MANNERS = {"7.2": Manner.QEMU_7_2, "10.0": Manner.QEMU_10_0}
FOOTER = b"\x7e\0\0\0\5"


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize("version", ["7.2", "10.0"])
@pytest.mark.parametrize(("idstr", "instance_id", "vmstates"), DEVICES, ids=lambda v: str(v)[:12])
def test_a_recorded_device_loads_and_saves_back_to_its_bytes_and_its_description(
    idstr: str, instance_id: int, vmstates: dict[str, VmState], version: str, step: int | None
) -> None:
    vmstate = vmstates[version]
    section = sections(f"qemu{version}-precopy.c0")[idstr, instance_id]
    state = blank(vmstate, queue_size=1024)
    if idstr == "fdc":
        state.state.num_floppies, state.state.fifo_size = 2, 512
    source = loaded(
        vmstate, state, section.version_id, section.payload + FOOTER, step=step, ended=False
    )
    assert source.offset == len(section.payload)
    saved = save(vmstate, state, manner=MANNERS[version])
    assert saved.data == section.payload
    node = device_node(idstr, instance_id, saved.node)
    assert text(node) == json.dumps(section.node)
    layout = Layout.parse(vmdesc_of([node], page_size=4096).encode())
    assert layout.size(idstr, instance_id) == len(section.payload)
    fields = layout.fields(idstr, instance_id)
    ends = [0, *(field.end for field in fields)]
    assert [field.start for field in fields] == ends[:-1]
    assert ends[-1] == len(section.payload)
