"""Runs of fields: to the same effects as field by field, and in use where they can be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vmstate_helpers import CHANNEL, DMA, I8254, blank, loaded

from testbed.vmstate import Field, Incoming, Manner, Node, VmState, VmStateFailed, load, save, text
from testbed.vmstate import compile as compiling
from testbed.vmstate import fields as f

PLAIN: list[Callable[[str], Field]] = [
    f.boolean,
    f.uint8,
    f.int32,
    f.uint64,
    f.timer,
    lambda name: f.array(f.uint16(name), 3),
    lambda name: f.array(f.timer(name), 2),
    lambda name: f.array(f.uint8(name), 0),
    lambda name: f.buffer(name, 5),
    lambda _: f.unused(3),
    lambda name: f.uint8(name, version_id=2),
    lambda name: f.struct(name, CHANNEL),
    lambda name: f.array(f.struct(name, CHANNEL), 2),
    lambda name: f.array(f.struct(name, VmState("empty", fields=(f.unused(2),))), 2),
    lambda name: f.array(f.struct(name, DMA), 2),
    lambda name: f.vstruct(name, VmState("aged", 3, 1, (f.uint8("v", version_id=3),)), 2),
]


def refuses_odd(state: Any, _version_id: int) -> None:
    if state.v % 2:
        raise VmStateFailed(-22, "odd")


def is_odd(state: Any, version_id: int) -> bool:
    return bool((state.first + version_id) % 2)


HOOKED = VmState("hooked", 1, 1, (f.uint8("v"),), post_load=refuses_odd)
PART = VmState("p/x", 1, 1, (f.uint8("v"),), needed=lambda state: state.v % 2)
PARTED = VmState("p", 1, 1, (f.uint8("v"),), (PART,))
OTHER: list[Callable[[str], Field]] = [
    lambda name: f.uint16(name, exists=is_odd),
    lambda name: f.array(f.struct(name, CHANNEL, exists=is_odd), 2),
    f.uint8_equal,
    lambda name: f.varray(f.uint16(name), "first"),
    lambda name: f.struct(name, HOOKED),
    lambda name: f.struct(name, PARTED),
    lambda name: f.vstruct(name, VmState("young", 1, 1, (f.uint8("v"),)), 2),
    lambda name: f.vstruct(name, VmState("old", 3, 2, (f.uint8("v"),)), 1),
    lambda name: f.validate(name, lambda state, _: state.first < 200),
    lambda name: f.array(f.buffer(name, 2), 2),
]


@st.composite
def declarations(draw: st.DrawFn) -> VmState:
    """VMSDs, in which there may be anything between what can be coded at once."""
    makers = draw(st.lists(st.sampled_from(PLAIN + PLAIN + OTHER), max_size=7))
    first = f.uint8("first")
    made = [maker(f"v{number}") for number, maker in enumerate(makers)]
    inside = draw(st.sampled_from(["flat", "struct", "array"]))
    whole = VmState("dev", 2, 1, (first, *made))
    if inside == "flat":
        return whole
    part = f.struct("part", replace(whole, name="part"))
    return VmState("dev", 2, 1, (first, f.array(part, 2) if inside == "array" else part))


def blank_of(vmstate: VmState) -> SimpleNamespace:
    """A state to load into, of which what has to be equal is 5."""
    state = blank(vmstate)
    for field in vmstate.fields:
        if field.info is not None and field.info.name == "uint8 equal":
            setattr(state, field.path, 5)
        elif field.vmstate is not None:
            made = [blank_of(field.vmstate) for _ in range(field.num or 1)]
            setattr(state, field.path, made if field.is_array else made[0])
    return state


def forget(vmstate: VmState) -> None:
    vmstate.plans.clear()
    for inner in (*(field.vmstate for field in vmstate.fields), *vmstate.subsections):
        if inner is not None:
            forget(inner)


@contextmanager
def field_by_field(vmstate: VmState) -> Iterator[None]:
    forget(vmstate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "RUN_BYTES_MAX", -1)
        assert all(step.run is None for step in compiling.plan(vmstate, 2))
        yield
    forget(vmstate)


def told(vmstate: VmState, version_id: int, data: bytes, steps: list[int]) -> list[Any]:
    """All that can be seen of a loading: when it waits, what is loaded then, how it ends."""
    pieces = [data[a:b] for a, b in pairwise([0, *steps, len(data)])]
    state, source, seen = blank_of(vmstate), Incoming(pieces.pop(0)), list[Any]()
    try:
        for _ in load(vmstate, state, version_id, source):
            seen.append((source.offset, source.error, deepcopy(state)))
            if pieces:
                source.feed(pieces.pop(0))
            else:
                source.end()
    except VmStateFailed as failed:
        seen.append(str(failed))
    return [*seen, source.offset, source.error, state]


SMALL = st.binary(max_size=120) | st.lists(st.sampled_from([0, 1, 2, 4, 5]), max_size=120).map(
    bytes
)


@given(declarations(), st.integers(1, 2), SMALL, st.data())
@settings(max_examples=200, deadline=None)
def test_loading_at_once_is_loading_field_by_field(
    vmstate: VmState, version_id: int, payload: bytes, data: st.DataObject
) -> None:
    steps = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    at_once = told(vmstate, version_id, payload, steps)
    again = told(vmstate, version_id, payload, steps)
    with field_by_field(vmstate):
        assert at_once == again == told(vmstate, version_id, payload, steps)


@pytest.mark.parametrize("vmstate", [I8254, DMA], ids=lambda vmstate: vmstate.name)
@pytest.mark.parametrize("fill", [0, 5, 0x85])
def test_loading_at_once_fails_where_field_by_field_does_at_every_cut(
    vmstate: VmState, fill: int
) -> None:
    size = len(save(vmstate, whole(vmstate)).data)
    payload = bytes(range(6, 6 + size)) + bytes([fill]) * 9
    for cut in range(len(payload) + 1):
        at_once = [told(vmstate, vmstate.version_id, payload[:cut], steps) for steps in ([], [9])]
        with field_by_field(vmstate):
            assert at_once == [
                told(vmstate, vmstate.version_id, payload[:cut], steps) for steps in ([], [9])
            ]


def whole(vmstate: VmState) -> SimpleNamespace:
    state = blank(vmstate)
    loaded(vmstate, state, vmstate.version_id, bytes(range(6, 206)), ended=True)
    return state


@given(declarations(), st.binary(min_size=1, max_size=60), st.sampled_from(Manner))
@settings(max_examples=200, deadline=None)
def test_saving_at_once_is_saving_field_by_field(
    vmstate: VmState, payload: bytes, manner: Manner
) -> None:
    state = blank_of(vmstate)
    try:
        for _ in load(vmstate, state, 2, Incoming(payload * 3000)):
            raise AssertionError("all of it is there")
    except VmStateFailed:
        return
    found = [saved(vmstate, state, manner) for _ in range(3)]
    with field_by_field(vmstate):
        expected = saved(vmstate, state, manner)
    assert found == [expected] * 3


def saved(vmstate: VmState, state: Any, manner: Manner) -> Any:
    try:
        done = save(vmstate, state, manner=manner)
    except VmStateFailed as failed:
        return str(failed)
    assert text(done.node, manner=manner) == text(plain(done.node), manner=manner)
    return done


def plain(node: Any) -> Any:
    """A description whose text nobody has made yet."""
    if isinstance(node, Node):
        return Node([(key, plain(value)) for key, value in node])
    return [plain(each) for each in node] if isinstance(node, list) else node


@pytest.mark.parametrize("name", ["pit channel/x", "pit channel", "pit channe", "other name, long"])
@pytest.mark.parametrize("at", range(2, 8))
@pytest.mark.parametrize("left", [0, 1, 2, 9, 99])
def test_what_looks_like_a_subsection_behind_a_struct_is_one(name: str, at: int, left: int) -> None:
    vmstate = VmState("dev", fields=(f.uint8("a"), f.array(f.struct("cells", CHANNEL), 3)))
    end = 1 + len(save(CHANNEL, whole(CHANNEL)).data) * (at // 2) - at % 2
    head = bytes([5, len(name)]) + name.encode()
    payload = (bytes(end) + head + bytes(200))[: end + left]
    at_once = told(vmstate, 0, payload, [])
    with field_by_field(vmstate):
        assert at_once == told(vmstate, 0, payload, [])
    if left == 99:
        assert isinstance(at_once[0], str) is (name == "pit channel/x" and not at % 2)


def test_nothing_is_loaded_behind_an_error() -> None:
    source, state = Incoming(bytes(200)), blank(I8254)
    source.error = -5
    with pytest.raises(VmStateFailed, match="irq_disabled"):
        list(load(I8254, state, 3, source))
    assert state == blank(I8254)


class Unread(Incoming):
    """Nothing is read from it field by field."""

    def read(self, count: int) -> Any:
        raise AssertionError(f"{count} bytes are read alone")


@pytest.mark.parametrize("vmstate", [I8254, DMA], ids=lambda vmstate: vmstate.name)
def test_a_device_of_plain_fields_is_one_run(vmstate: VmState) -> None:
    (step,) = compiling.plan(vmstate, vmstate.version_id)
    assert [field for field, _ in step.fields] == list(vmstate.fields)
    state = blank(vmstate)
    payload = save(vmstate, whole(vmstate)).data
    source = Unread(payload + b"\x7e")
    assert list(load(vmstate, state, vmstate.version_id, source)) == []
    assert state == whole(vmstate)
    assert source.available == 1


def test_text_of_what_does_not_change_is_made_once() -> None:
    vmstate = VmState("dev", fields=(f.uint8("a"), f.uint16("b")))
    nodes = [save(vmstate, SimpleNamespace(a=number, b=2)).node for number in range(3)]
    fields = [dict(node)["fields"] for node in nodes]
    assert fields[0] == fields[1]
    assert all(one is other for one, other in zip(fields[1], fields[2], strict=True))


ARRAY = VmState("dev", fields=(f.uint8("a"), f.array(f.struct("cells", CHANNEL), 3), f.uint8("z")))


def test_an_array_that_is_too_short_is_refused_as_ever() -> None:
    state = SimpleNamespace(a=1, z=2, cells=[whole(CHANNEL), whole(CHANNEL)])
    with pytest.raises(VmStateFailed, match="3 elements for an array of 2"):
        list(load(ARRAY, state, 0, Incoming(b"\x09" + bytes(200))))
    assert (state.a, state.z) == (9, 2)
    with pytest.raises(AssertionError, match="cells: 2 elements of 3"):
        save(ARRAY, state)


@pytest.mark.parametrize(
    ("field", "usual", "unusual"),
    [
        (f.buffer("v", 3), b"123", b"12"),
        (f.uint8("v"), 1, 256),
        (f.uint8("v"), 1, None),
        (f.timer("v"), None, -1),
        (f.array(f.uint8("v"), 2), [1, 2], [1]),
    ],
)
def test_a_value_that_is_not_as_declared_fails_as_ever(
    field: Field, usual: Any, unusual: Any
) -> None:
    vmstate = VmState("dev", fields=(f.uint8("a"), field))
    save(vmstate, SimpleNamespace(a=1, v=usual))
    with pytest.raises(Exception) as at_once:  # noqa: PT011 -- its kind is compared
        save(vmstate, SimpleNamespace(a=1, v=unusual))
    with field_by_field(vmstate), pytest.raises(Exception) as one_by_one:  # noqa: PT011
        save(vmstate, SimpleNamespace(a=1, v=unusual))
    assert (at_once.type, str(at_once.value)) == (one_by_one.type, str(one_by_one.value))


def test_an_array_that_is_longer_than_declared_is_cut() -> None:
    vmstate = VmState("dev", fields=(f.array(f.uint8("v"), 2),))
    for _ in range(2):
        assert save(vmstate, SimpleNamespace(v=[1, 2, 3])).data == b"\1\2"


def test_what_is_too_large_for_a_run_is_not_in_one() -> None:
    count = compiling.RUN_VALUES_MAX // len(CHANNEL.fields) + 1
    vmstate = VmState("dev", fields=(f.uint8("a"), f.array(f.struct("v", CHANNEL), count)))
    first, second = compiling.plan(vmstate, 0)
    assert (first.run is not None, second.run) == (True, None)
    huge = VmState("dev", fields=(f.buffer("v", compiling.RUN_BYTES_MAX + 1),))
    assert [step.run for step in compiling.plan(huge, 0)] == [None]


def test_plans_of_versions_that_a_peer_names_are_few() -> None:
    vmstate = VmState("dev", version_id=1 << 30, fields=(f.uint8("v"),))
    for version_id in range(5 * compiling.PLANS_MAX):
        loaded(vmstate, SimpleNamespace(), version_id, b"1234", ended=True)
        assert 0 < len(vmstate.plans) <= compiling.PLANS_MAX
