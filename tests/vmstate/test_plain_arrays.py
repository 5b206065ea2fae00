"""Arrays of structs of plain values: saved at once as they are one by one."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest

from testbed.vmstate import Manner, VmState, fields, save

module = import_module("testbed.vmstate.save")  # the package has a function of that name

STATUS = VmState(
    "status",
    version_id=1,
    fields=(fields.uint32("up"), fields.uint16("down", attribute="inner.down")),
)
COUNTED = VmState("counted", fields=(fields.uint8("n"), fields.uint8("since", version_id=9)))
NAMESAKES = VmState("namesakes", fields=(fields.uint8("n"), fields.uint8("n", attribute="up")))
NESTED = VmState("nested", fields=(fields.struct("inner", COUNTED),))
REFUSING = VmState(
    "refusing", fields=(fields.uint8("n"),), pre_save=lambda state: setattr(state, "n", 7)
)


def element(number):
    inner = SimpleNamespace(down=number + 1, n=number)
    return SimpleNamespace(up=number, n=number, inner=inner)


def array_of(vmstate, count):
    """Elements that may be there or not, so that QEMU describes each of them."""
    slots = fields.array(fields.struct("slots", vmstate), count)
    return replace(slots, exists=lambda *_: True)


def saved(vmstate, count, manner, monkeypatch, at_least):
    monkeypatch.setattr(module, "PLAIN_MIN", at_least)
    whole = VmState("whole", fields=(array_of(vmstate, count), fields.uint8("end")))
    return save(
        whole, SimpleNamespace(slots=list(map(element, range(count))), end=5), manner=manner
    )


@pytest.mark.parametrize("manner", Manner)
@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("vmstate", [STATUS, COUNTED, NAMESAKES, NESTED, REFUSING])
def test_at_once_is_one_by_one(vmstate, count, manner, monkeypatch):
    at_once = saved(vmstate, count, manner, monkeypatch, 0)
    one_by_one = saved(vmstate, count, manner, monkeypatch, 1000)
    assert at_once == one_by_one
    assert len(at_once.data) > count


def test_plain_is_what_one_code_is_enough_for():
    found = module.Plain.of(array_of(STATUS, 9))
    assert found is not None
    assert (found.code.size, found.paths) == (6, ("up", "inner.down"))
    for vmstate in (COUNTED, NAMESAKES, NESTED, REFUSING):
        assert module.Plain.of(array_of(vmstate, 9)) is None
