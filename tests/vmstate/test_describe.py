"""Descriptions: arrays in each manner, lists with keys that repeat, the text of old and new."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from vmstate_helpers import CONFIGURATION

from testbed.vmstate import (
    Manner,
    VmState,
    device_node,
    old_style_node,
    save,
    text,
    vmdesc,
)
from testbed.vmstate.fields import (
    array,
    array_of_pointers,
    qlist,
    struct,
    uint8,
    uint16,
    validate,
)
from testbed.wire import Layout

POINT = VmState("point", 2, 1, (uint8("x"),))
OPTIONAL = VmState(
    "optional", 1, 1, (uint8("x"),), (VmState("optional/y", needed=lambda _: False),)
)
OLD, MID, NEW = Manner.QEMU_2_9, Manner.QEMU_7_2, Manner.QEMU_10_0
P = SimpleNamespace(x=1)
STRUCT = {"type": "struct", "size": 1}


def described(field: Any, value: Any, manner: Manner = MID) -> list[dict[str, Any]]:
    """The fields of a VMSD with one field, structs reduced to their name."""
    saved = save(VmState("dev", fields=(field,)), SimpleNamespace(v=value), manner=manner)
    nodes = json.loads(text(saved.node))["fields"]
    for node in nodes:
        assert node.pop("name") == "v"
        if "struct" in node:
            node["struct"] = node["struct"].get("vmsd_name")
    return nodes


def points(kind: VmState, count: int) -> Any:
    return array(struct("v", kind), count)


@pytest.mark.parametrize(
    ("field", "value", "manner", "expected"),
    [
        (array(uint16("v"), 3), [1, 2, 3], MID, [{"array_len": 3, "type": "uint16", "size": 2}]),
        (array(uint16("v"), 1), [1], MID, [{"type": "uint16", "size": 2}]),
        (array(uint16("v"), 0), [], MID, []),
        (points(POINT, 2), [P, P], OLD, [{"array_len": 2, "struct": "point", **STRUCT}]),
        (
            points(OPTIONAL, 3), [P, P, P], MID,
            [{"index": index, "struct": "optional", **STRUCT} for index in range(3)],
        ),
        (  # since 10.0 the last one has no index
            points(OPTIONAL, 3), [P, P, P], NEW,
            [
                *({"index": index, "struct": "optional", **STRUCT} for index in range(2)),
                {"struct": "optional", **STRUCT},
            ],
        ),
        (
            array(uint8("v", exists=lambda *_: True), 2), [1, 2], MID,
            [{"index": index, "type": "uint8", "size": 1} for index in range(2)],
        ),
    ],
)  # fmt: skip
def test_equal_elements_are_described_once_and_others_one_by_one(
    field: Any, value: Any, manner: Manner, expected: list[dict[str, Any]]
) -> None:
    assert described(field, value, manner) == expected


def test_a_struct_with_a_test_in_it_is_not_described_once() -> None:
    inner = VmState("in", fields=(uint8("x"), validate("sane", lambda *_: True)))
    assert [node["index"] for node in described(points(inner, 2), [P, P])] == [0, 1]


NULLS = array_of_pointers(points(POINT, 5))


def test_until_9_the_first_element_describes_an_array_of_pointers_whatever_it_is() -> None:
    assert described(NULLS, [None, P, P, None, P]) == [
        {"array_len": 5, "type": "struct", "struct": None, "size": 1}
    ]


def test_since_10_null_pointers_are_described_apart() -> None:
    value = [None, None, P, P, None]
    expected = [
        {"array_len": 2, "type": "nullptr", "size": 1},
        {"array_len": 2, "type": "struct", "struct": "point", "size": 1},
        {"type": "nullptr", "size": 1},
    ]
    assert described(NULLS, value, NEW) == expected
    saved = save(VmState("dev", fields=(NULLS,)), SimpleNamespace(v=value), manner=NEW)
    whole = vmdesc([device_node("dev", 0, saved.node)], page_size=4096, manner=NEW)
    assert Layout.parse(whole.encode()).size("dev", 0) == len(saved.data) == 5


def test_null_pointers_among_structs_that_differ() -> None:
    field = array_of_pointers(points(OPTIONAL, 4))
    assert described(field, [P, None, None, P], NEW) == [
        {"struct": "optional", **STRUCT},
        {"array_len": 2, "type": "nullptr", "size": 1},
        {"struct": "optional", **STRUCT},
    ]


def test_each_element_of_a_list_repeats_the_keys() -> None:
    vmstate = VmState("dev", fields=(qlist("v", POINT, SimpleNamespace, version_id=1),))
    saved = save(VmState("dev", 1, 0, vmstate.fields), SimpleNamespace(v=[P, P]))
    element = (
        '"vmsd_name": "point", "version": 2, "fields": [{"name": "x", "type": "uint8", "size": 1}]'
    )
    assert text(saved.node) == (
        '{"vmsd_name": "dev", "version": 1, "fields": '
        f'[{{"name": "v", "type": "qlist", {element}, {element}, "size": 5}}]}}'
    )
    layout = Layout.parse(vmdesc([device_node("dev", 0, saved.node)], page_size=1).encode())
    names = [(field.name, field.start) for field in layout.fields("dev", 0)]
    assert names == [("v[0]", 0), ("v[0].x", 1), ("v[1]", 2), ("v[1].x", 3), ("v[end]", 4)]


def test_the_text_of_old_has_blanks() -> None:
    saved = save(VmState("dev", 1, 1, (uint8("v"),)), SimpleNamespace(v=1))
    devices = [device_node("0000:00:02.0/dev", 3, saved.node)]
    assert vmdesc(devices, page_size=4096, manner=OLD) == (
        '{ "page_size" : 4096, "devices" : [ { "name" : "0000:00:02.0/dev", "instance_id" : 3, '
        '"vmsd_name" : "dev", "version" : 1, "fields" : [ { "name" : "v", "type" : "uint8", '
        '"size" : 1 } ] } ] }'
    )


def test_the_text_of_new_begins_with_the_configuration() -> None:
    name = b"pc-i440fx-10.0"
    saved = save(CONFIGURATION, SimpleNamespace(len=len(name), name=name), manner=NEW)
    whole = vmdesc(
        [old_style_node("slirp", 0, 7)], page_size=4096, configuration=saved.node, manner=NEW
    )
    assert whole == (
        '{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": '
        '[{"name": "len", "type": "uint32", "size": 4}, '
        '{"name": "name", "type": "buffer", "size": 14}]}, "page_size": 4096, "devices": '
        '[{"name": "slirp", "instance_id": 0, "size": 7, "fields": '
        '[{"name": "data", "size": 7, "type": "buffer"}]}]}'
    )
