"""Each kind of field: its bytes, its description, and what a stream that ends in it says."""

import errno
import json
from types import SimpleNamespace
from typing import Any

import pytest
from vmstate_helpers import loaded

from testbed.vmstate import (
    Element,
    Field,
    Info,
    Loader,
    Saver,
    Story,
    VmState,
    VmStateFailed,
    device_node,
    fields,
    save,
    text,
    timer_get,
    timer_put,
    vmdesc,
)
from testbed.vmstate.fields import (
    array,
    array_of_pointers,
    bitmap,
    boolean,
    buffer,
    cpudouble,
    float64,
    gtree,
    int8,
    int16,
    int32,
    int64,
    pointer,
    qlist,
    qtailq,
    single,
    struct,
    struct_pointer,
    timer,
    tmp,
    uint8,
    uint16,
    uint32,
    uint64,
    unused,
    varray,
    vbuffer,
    vstruct,
)
from testbed.wire import Layout

POINT = VmState("point", 2, 1, (uint8("x"), uint8("y", version_id=2)))


def point(x: int = 0, y: int = 0) -> SimpleNamespace:
    return SimpleNamespace(x=x, y=y)


class Point(SimpleNamespace):
    """A key of a tree."""

    def __hash__(self) -> int:
        return hash((self.x, self.y))


class Capability(Info):
    """An open-coded value: a counted string."""

    name = "capability"
    uses_current = False

    def put(self, saver: Saver, element: Element) -> None:
        saver.data.append(len(element.value))
        saver.data += element.value.encode()

    def get(self, loader: Loader, _element: Element) -> Story[Any]:
        (length,) = yield from loader.read(1)
        return (yield from loader.read(length)).decode()


def double_it(state: Any) -> None:
    state.doubled = state.parent.n * 2


def halve_it(state: Any, _version_id: int) -> None:
    state.parent.n = state.doubled // 2


COMPUTED = VmState("computed", 0, 0, (uint16("doubled"),), pre_save=double_it, post_load=halve_it)


def row(
    field: Field, value: Any, wire: str, kind: str, size: int | None = None, **more: Any
) -> Any:
    """A field, what the state has, its bytes, its description; `more` are other attributes."""
    return pytest.param(field, value, bytes.fromhex(wire), kind, size, more, id=kind)


SCALARS = [
    row(boolean("v"), True, "01", "bool"),
    row(int8("v"), -2, "fe", "int8"),
    row(int16("v"), -2, "fffe", "int16"),
    row(int32("v"), -2, "fffffffe", "int32"),
    row(int64("v"), -2, "fffffffffffffffe", "int64"),
    row(uint8("v"), 0xFE, "fe", "uint8"),
    row(uint16("v"), 0xFE01, "fe01", "uint16"),
    row(uint32("v"), 0xFE010203, "fe010203", "uint32"),
    row(uint64("v"), 0xFE01020304050607, "fe01020304050607", "uint64"),
    row(float64("v"), 1.5, "3ff8000000000000", "float64"),
    row(cpudouble("v"), -2.0, "c000000000000000", "CPU_Double_U"),
    row(timer("v"), 1_000_000_000, "000000003b9aca00", "timer"),
    row(timer("v"), None, "ffffffffffffffff", "timer"),
    row(fields.uint8_equal("v"), 0xFE, "fe", "uint8 equal"),
    row(fields.uint16_equal("v"), 0xFE01, "fe01", "uint16 equal"),
    row(fields.int32_equal("v"), -2, "fffffffe", "int32 equal"),
    row(fields.uint32_equal("v"), 3, "00000003", "uint32 equal"),
    row(fields.uint64_equal("v"), 3, "0000000000000003", "int64 equal"),
    row(fields.int32_le("v"), 3, "00000003", "int32 le"),
    row(buffer("v", 3), b"abc", "616263", "buffer"),
    row(vbuffer("v", "n"), b"abc", "616263", "buffer", n=3),
    row(vbuffer("v", "n", multiply=2), b"abcd", "61626364", "buffer", n=2),
    row(vbuffer("v", "n"), b"", "", "buffer", n=0),
    row(bitmap("v", "n"), 0b1001, "0000000000000009", "bitmap", n=5),
    row(bitmap("v", "n"), 1 << 64 | 2, "0000000000000002 0000000000000001", "bitmap", n=65),
    row(unused(3), None, "000000", "unused_buffer"),
    row(pointer(uint16("v")), 0xFE01, "fe01", "uint16"),
    row(single("v", Capability()), "xbzrle", "0678627a726c65", "capability"),
]
ARRAYS = [
    row(array(uint16("v"), 3), [1, 2, 3], "000100020003", "uint16", 2),
    row(array(uint16("v"), 1), [1], "0001", "uint16", 2),
    row(varray(uint16("v"), "n"), [1, 2], "00010002", "uint16", 2, n=2),
    row(varray(uint16("v"), "n"), [], "", "uint16", 2, n=0),
    row(varray(uint8("v"), "n", multiply=2), [1, 2, 3, 4], "01020304", "uint8", 1, n=2),
    row(array(buffer("v", 2), 2), [b"ab", b"cd"], "61626364", "buffer", 2),
    row(array(timer("v"), 2), [None, 1], f"{'ff' * 8} 0000000000000001", "timer", 8),
    row(array(fields.uint8_equal("v"), 2), [1, 2], "0102", "uint8 equal", 1),
    row(array(struct("v", POINT), 2), [point(1, 2), point(3, 4)], "01020304", "struct", 2),
]
COMPOUND = [
    row(struct("v", POINT), point(1, 2), "0102", "struct"),
    row(struct_pointer("v", POINT), point(1, 2), "0102", "struct"),
    row(vstruct("v", POINT, 1), point(1, 0), "01", "vstruct"),
    row(
        qtailq("v", POINT, point, version_id=1), [point(1, 0), point(3, 0)],
        "01 0100 01 0300 00", "qtailq",
    ),
    row(qlist("v", POINT, point, version_id=2), [point(1, 2)], "01 0102 00", "qlist"),
    row(qlist("v", POINT, point, version_id=2), [], "00", "qlist"),
    row(
        gtree("v", POINT, point, version_id=2), {7: point(1, 2)},
        "00000001 01 0000000000000007 0102 00", "gtree",
    ),
    row(
        gtree("v", POINT, point, key_vmstate=POINT, make_key=Point, version_id=2),
        {Point(x=3, y=4): point(1, 2)}, "00000001 01 0304 0102 00", "gtree",
    ),
    row(tmp(COMPUTED, SimpleNamespace), None, "000e", "tmp", n=7),
]  # fmt: skip
EMPTY = {list: [], dict: {}}


def before(field: Field, value: Any) -> Any:
    """What the state has before loading."""
    if field.type_name.endswith((" equal", " le")):
        return [*value] if isinstance(value, list) else value
    if isinstance(value, list) and field.is_struct:
        return [point() for _ in value]
    if isinstance(value, SimpleNamespace):
        return point()
    return EMPTY.get(type(value))


def load_state(field: Field, value: Any, more: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(v=before(field, value), **(more | {"n": more.get("n", 0)}))


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize(
    ("field", "value", "wire", "kind", "size", "more"), SCALARS + ARRAYS + COMPOUND
)
def test_a_field_has_these_bytes_and_describes_them(
    field: Field,
    value: Any,
    wire: bytes,
    kind: str,
    size: int | None,
    more: dict[str, Any],
    step: int | None,
) -> None:
    if kind in ("vstruct", "qtailq"):  # as of version 1, in which `y` is no field or no value
        field_version = 2
    else:
        field_version = field.version_id
    vmstate = VmState("dev", max(2, field_version), 0, (field,))
    state = SimpleNamespace(v=value, **more)
    saved = save(vmstate, state)
    assert saved.data == wire
    described = [node for key, nodes in saved.node if key == "fields" for node in nodes]
    if not field.is_array or value:
        (node,) = described
        expected = size or len(wire)
        assert dict(node) | {"type": kind, "size": expected} == dict(node)
        count = field.count(state)
        assert dict(node).get("array_len") == (count if field.is_array and count > 1 else None)
    device = device_node("dev", 0, saved.node)
    layout = Layout.parse(vmdesc([device], page_size=4096).encode())
    assert layout.size("dev", 0) == len(wire)
    if kind == "qtailq":
        return  # loaded as of version 1, it is not what was saved: see below
    other = load_state(field, value, more)
    source = loaded(vmstate, other, vmstate.version_id, wire + b"\x7e", step=step, ended=False)
    assert source.offset == len(wire)
    assert other.v == value
    if kind == "tmp":
        assert other.n == 7


CUT = [
    pytest.param(each.values[0], each.values[1], each.values[2], each.values[5], id=each.id)
    for each in SCALARS + ARRAYS + COMPOUND
    if each.values[3] not in ("qtailq", "gtree", "capability")
    and not str(each.values[3]).endswith((" equal", " le"))
]
"""Others find a wrong value in the zeros that they read behind the end: see test_vmstate_load."""


@pytest.mark.parametrize(("field", "value", "wire", "more"), CUT)
def test_a_stream_that_ends_in_a_field_is_an_input_error_that_names_the_field(
    field: Field, value: Any, wire: bytes, more: dict[str, Any]
) -> None:
    vmstate = VmState("dev", 2, 0, (field,))
    for length in range(len(wire)):
        state = load_state(field, value, more)
        with pytest.raises(VmStateFailed) as caught:
            loaded(vmstate, state, 2, wire[:length])
        assert caught.value.ret == -errno.EIO, length
        assert caught.value.lines[-1] == f"Failed to load dev:{field.name}"


def test_the_elements_of_a_list_are_loaded_as_of_the_version_of_the_field() -> None:
    """QEMU saves them as of their VMSD's version all the same: get_qtailq, put_qtailq."""
    vmstate = VmState("dev", 2, 0, (qtailq("v", POINT, point, version_id=1),))
    state = SimpleNamespace(v=[point(9, 9)])
    loaded(vmstate, state, 2, bytes.fromhex("01 01 01 03 00 7e"))
    assert state.v == [point(9, 9), point(1, 0), point(3, 0)]


@pytest.mark.parametrize(
    ("data", "expire_ns", "again"),
    [
        ("ffffffffffffffff", None, "ffffffffffffffff"),
        ("0000000000000000", 0, "0000000000000000"),
        ("7fffffffffffffff", (1 << 63) - 1, "7fffffffffffffff"),
        ("fffffffffffffffe", 0, "0000000000000000"),
    ],
)
def test_a_timer_is_armed_unless_it_is_all_ones_and_never_before_zero(
    data: str, expire_ns: int | None, again: str
) -> None:
    assert timer_get(bytes.fromhex(data)) == expire_ns
    assert timer_put(expire_ns).hex() == again


def test_any_byte_but_zero_is_true() -> None:
    state = SimpleNamespace()
    loaded(VmState("dev", fields=(boolean("v"),)), state, 0, b"\x80\x7e")
    assert state.v is True


def test_unused_room_may_hold_anything() -> None:
    vmstate = VmState("dev", fields=(unused(2), varray(unused(2), "n"), uint8("v")))
    state = SimpleNamespace(n=2)
    loaded(vmstate, state, 0, b"abcdef\7\x7e")
    assert state.v == 7
    assert save(vmstate, state).data == bytes(6) + b"\7"


def test_null_pointers_of_an_array_are_marked_and_have_to_be_null_here_too() -> None:
    pointers = array_of_pointers(array(struct("v", POINT), 3))
    vmstate = VmState("dev", fields=(pointers,))
    state = SimpleNamespace(v=[None, point(1, 2), None])
    assert save(vmstate, state).data == b"0\1\0020"
    other = SimpleNamespace(v=[None, point(), None])
    loaded(vmstate, other, 0, b"0\1\0020\x7e")
    assert other.v == state.v
    with pytest.raises(VmStateFailed) as caught:
        loaded(vmstate, SimpleNamespace(v=[None, None, None]), 0, b"0\1\0020\x7e")
    assert caught.value.ret == -errno.EINVAL
    assert caught.value.lines == (
        "vmstate: get_nullptr expected VMS_NULLPTR_MARKER",
        "Failed to load dev:v",
    )


def test_the_elements_of_an_array_are_made_where_that_is_declared() -> None:
    vmstate = VmState("dev", fields=(uint8("n"), varray(struct("v", POINT, make=point), "n")))
    state = SimpleNamespace()
    loaded(vmstate, state, 0, b"\2\1\2\3\4\x7e")
    assert state.v == [point(1, 2), point(3, 4)]


def test_a_name_is_a_path_as_in_c() -> None:
    paths = ("a.b", "p->c", "rows[1].x", "list[0]")
    vmstate = VmState("dev", fields=tuple(map(uint8, paths)))
    state = SimpleNamespace(
        a=SimpleNamespace(), p=SimpleNamespace(), rows=[None, point()], list=[None]
    )
    loaded(vmstate, state, 0, b"\1\2\3\4\x7e")
    assert (state.a.b, state.p.c, state.rows[1].x, state.list) == (1, 2, 3, [4])
    assert save(vmstate, state).data == b"\1\2\3\4"


def test_a_name_that_comes_twice_is_numbered_in_the_description() -> None:
    vmstate = VmState("dev", fields=(unused(1), uint8("v"), unused(2)))
    described = json.loads(text(save(vmstate, SimpleNamespace(v=1)).node))
    assert [node["name"] for node in described["fields"]] == ["unused[0]", "v", "unused[1]"]
