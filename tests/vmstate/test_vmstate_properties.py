"""Any declaration saves what it loads; any bytes end in a state or in a failure."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vmstate_helpers import (
    DMA,
    FW_CFG,
    I8254,
    ISA_FDC,
    MC146818RTC,
    TIMER,
    VMMOUSE,
    blank,
    hpet,
    loaded,
)

from testbed.vmstate import Field, Manner, VmState, VmStateFailed, device_node, save, vmdesc
from testbed.vmstate import fields as f
from testbed.wire import Layout

SCALARS: list[tuple[Callable[..., Field], st.SearchStrategy[Any]]] = [
    (f.boolean, st.booleans()),
    (f.int8, st.integers(-(1 << 7), (1 << 7) - 1)),
    (f.int16, st.integers(-(1 << 15), (1 << 15) - 1)),
    (f.int32, st.integers(-(1 << 31), (1 << 31) - 1)),
    (f.int64, st.integers(-(1 << 63), (1 << 63) - 1)),
    (f.uint8, st.integers(0, (1 << 8) - 1)),
    (f.uint16, st.integers(0, (1 << 16) - 1)),
    (f.uint32, st.integers(0, (1 << 32) - 1)),
    (f.uint64, st.integers(0, (1 << 64) - 1)),
    (f.float64, st.floats(allow_nan=False)),
    (f.cpudouble, st.floats(allow_nan=False)),
    (f.timer, st.none() | st.integers(0, (1 << 63) - 1)),
]


def make(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**values)


@st.composite
def declared(draw: st.DrawFn, name: str = "dev", depth: int = 2) -> tuple[VmState, Any, Any]:
    """A VMSD, a state, and what there is before it is loaded."""
    version_id = draw(st.integers(0, 3))
    fields: list[Field] = []
    state, before = make(), make()
    for number in range(draw(st.integers(0, 4))):
        field_version = draw(st.integers(0, version_id))
        field, value, empty = draw(member(f"v{number}", field_version, depth))
        fields += [f.uint8(f"n{number}"), field]
        vars(state).update({f"n{number}": len_of(value), f"v{number}": value})
        setattr(before, f"v{number}", empty)
    subsections = []
    for number in range(draw(st.integers(0, 2)) if depth else 0):
        needed = draw(st.booleans())
        # Their values are attributes of the same state, so their names have to differ.
        path = f"s{number}"
        sub, inner, empty = draw(declared(f"{name}/{number}", 0))
        part = f.struct(path, VmState(f"part {number}", 3, 0, sub.fields))
        subsections.append(
            VmState(f"{name}/{number}", 1, 1, (part,), needed=lambda _, needed=needed: needed)
        )
        if needed:
            setattr(state, path, inner)
            setattr(before, path, empty)
    return VmState(name, version_id, 0, tuple(fields), tuple(subsections)), state, before


def len_of(value: Any) -> int:
    return len(value) if isinstance(value, list | bytes) else 5


@st.composite
def member(draw: st.DrawFn, name: str, version_id: int, depth: int) -> tuple[Field, Any, Any]:
    """A field whose count or size is in `n` of the same number, a value, and what is before it."""
    count = f"n{name[1:]}"
    kind = draw(st.sampled_from(["one", "array", "varray", "vbuffer", "bitmap", "struct", "list"]))
    if kind in ("one", "array", "varray"):
        constructor, values = draw(st.sampled_from(SCALARS))
        field = constructor(name, version_id=version_id)
        if kind == "one":
            return field, draw(values), None
        found = draw(st.lists(values, max_size=4))
        field = f.array(field, len(found)) if kind == "array" else f.varray(field, count)
        return field, found, None
    if kind == "vbuffer":
        return f.vbuffer(name, count, version_id=version_id), draw(st.binary(max_size=9)), None
    if kind == "bitmap":
        return f.bitmap(name, count, version_id=version_id), draw(st.integers(0, 31)), None
    if not depth:
        return f.uint8(name), 1, None
    inner, state, before = draw(declared(name.upper(), 0))
    if kind == "struct":
        return f.struct(name, inner, version_id=version_id), state, before
    # A list's elements are loaded as of the field's version, so theirs must be no other.
    inner = VmState(inner.name, version_id, 0, tuple(map(ageless, inner.fields)))
    repeat = draw(st.integers(0, 2))
    return f.qlist(name, inner, make, version_id=version_id), [state] * repeat, []


def ageless(field: Field) -> Field:
    return Field(**{n: getattr(field, n) for n in Field.__slots__} | {"version_id": 0})


@given(declared(), st.sampled_from(Manner), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_what_is_saved_is_loaded_again_and_described_to_the_byte(
    drawn: tuple[VmState, Any, Any], manner: Manner, step: int
) -> None:
    vmstate, state, before = drawn
    saved = save(vmstate, state, manner=manner)
    # A 5 behind a struct has the loader look for a subsection's name: more has to follow.
    stream = saved.data + b"\x7e" + bytes(300)
    source = loaded(vmstate, before, vmstate.version_id, stream, step=step, ended=False)
    assert source.offset == len(saved.data)
    assert before == state
    whole = vmdesc([device_node("dev", 0, saved.node)], page_size=4096, manner=manner)
    layout = Layout.parse(whole.encode())
    assert layout.size("dev", 0) == len(saved.data)
    end = 0
    for field in layout.fields("dev", 0):
        assert field.start == end
        end = field.end
    assert end == len(saved.data)


def ends(vmstate: VmState, state: Any, version_id: int, data: bytes, step: int | None) -> bool:
    """Whether loading ends as it may; other errors than the room's own are raised."""
    try:
        source = loaded(vmstate, state, version_id, data, step=step)
    except VmStateFailed as failed:
        return failed.ret < 0
    return source.offset <= len(data)


DEVICES = [TIMER, I8254, MC146818RTC, ISA_FDC, hpet("n"), FW_CFG, VMMOUSE, DMA]


@pytest.mark.parametrize("vmstate", DEVICES, ids=lambda vmstate: vmstate.name)
@given(data=st.binary(max_size=6000), version_id=st.integers(0, 4), step=st.integers(1, 999))
@settings(max_examples=30, deadline=None)
def test_any_bytes_end_in_a_state_or_a_failure(
    vmstate: VmState, data: bytes, version_id: int, step: int
) -> None:
    state = blank(vmstate, queue_size=1024, n=3)  # what a version may not have
    if vmstate is ISA_FDC:
        state.state.num_floppies, state.state.fifo_size = 2, 512
    assert ends(vmstate, state, version_id, data, step)


@given(data=st.binary(max_size=64), insides=st.sampled_from(["list", "tree", "array", "buffer"]))
@settings(max_examples=200, deadline=None)
def test_any_counts_end_in_a_state_or_a_failure(data: bytes, insides: str) -> None:
    empty = VmState("e", 0, 0)
    field = {
        "list": f.qtailq("v", empty, make),
        "tree": f.gtree("v", empty, make),
        "array": f.varray(f.struct("v", empty, make=make), "n"),
        "buffer": f.vbuffer("v", "n", multiply=3),
    }[insides]
    vmstate = VmState("dev", 0, 0, (f.uint32("n"), field))
    state = make(v={} if insides == "tree" else [])
    assert ends(vmstate, state, 0, data, None)


def test_a_payload_is_loaded_the_same_whatever_the_steps() -> None:
    payload = save(I8254, i8254()).data
    for step in (1, 5, len(payload)):
        state = blank(I8254)
        loaded(I8254, state, 3, payload + b"\x7e", step=step, ended=False)
        assert state == i8254()


def i8254() -> SimpleNamespace:
    state = blank(I8254)
    loaded(I8254, state, 3, bytes(range(108)) + b"\x7e")
    return state
