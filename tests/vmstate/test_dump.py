"""The dump of declarations, compared with what real QEMUs dump of the same devices."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from vmstate_helpers import (
    DATA,
    DMA,
    FW_CFG,
    I8254,
    ISA_FDC,
    MC146818RTC,
    VMMOUSE,
    hpet,
)

from testbed.vmstate import VmState, dump, dump_text
from testbed.vmstate.fields import (
    array,
    array_of_pointers,
    bitmap,
    qlist,
    struct,
    struct_pointer,
    tmp,
    uint8,
    uint32,
    unused,
    validate,
    varray,
    vbuffer,
)

DEVICES = {
    "isa-pit": I8254,
    "mc146818rtc": MC146818RTC,
    "isa-fdc": ISA_FDC,
    "hpet": hpet("num_timers"),
    "fw_cfg_io": FW_CFG,
    "vmmouse": VMMOUSE,
    "i8257": DMA,
}
SIZES_CHANGED = {"isa-fdc", "hpet"}
"""Of C structs, from 7.2 to 10.0."""


def test_a_dump_is_letter_for_letter_that_of_7_2() -> None:
    recorded = (DATA / "qemu7.2-vmstate.json").read_text()
    assert dump_text(dump("pc-i440fx-7.2", DEVICES)) == recorded


def test_a_dump_with_the_length_of_arrays_is_that_of_10_0() -> None:
    recorded = json.loads((DATA / "qemu10.0-vmstate.json").read_text())
    devices = {name: device for name, device in DEVICES.items() if name not in SIZES_CHANGED}
    for name in SIZES_CHANGED:
        del recorded[name]
    ours = dump("pc-i440fx-10.0", devices, with_num=True)
    assert json.dumps(ours) == json.dumps(recorded)


POINT = VmState("point", 2, 1, (uint8("x"), uint32("y", version_id=2)))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (array(uint32("v"), 3), {"num": 3, "size": 4}),
        (varray(uint32("v"), "n"), {"size": 4}),
        (varray(uint32("v"), "n", multiply=2), {"size": 4}),
        (unused(7), {"field": "unused", "size": 7}),
        (vbuffer("v", "n"), {"size": 0}),
        (bitmap("v", "n"), {"size": 0}),
        (uint8("v", exists=lambda *_: True), {"field_exists": True, "size": 1}),
        (uint8("v", version_id=2), {"version_id": 2, "size": 1}),
        (struct("v", POINT), {"size": 5, "Description": "point"}),
        (struct("v", POINT, size=8), {"size": 8, "Description": "point"}),
        (struct_pointer("v", POINT), {"size": 8, "Description": "point"}),
        (array_of_pointers(array(uint32("v"), 2)), {"num": 2, "size": 8}),
        (tmp(POINT, SimpleNamespace), {"field": "tmp", "size": 13, "Description": "point"}),
        (qlist("v", POINT, SimpleNamespace), {"size": 5, "Description": "point"}),
    ],
    ids=lambda value: getattr(value, "type_name", ""),
)
def test_a_field_is_dumped_as_this(field: Any, expected: dict[str, Any]) -> None:
    vmstate = VmState("dev", 2, 1, (validate("sane", lambda *_: True), field))
    (found,) = dump("pc", {"dev": vmstate}, with_num=True)["dev"]["Description"]["Fields"]
    if "Description" in found:
        found["Description"] = found["Description"]["name"]
    assert found == {"field": "v", "version_id": 0, "field_exists": False} | expected


def test_a_device_without_fields_has_none_in_the_dump() -> None:
    (described,) = [dump("pc", {"d": VmState("dev", unmigratable=True)})["d"]["Description"]]
    assert described == {"name": "dev", "version_id": 0, "minimum_version_id": 0}
