"""Versions, hooks, subsections and errors of loading, in QEMU's words."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest
from vmstate_helpers import CONFIGURATION, blank, loaded

from testbed.vmstate import Incoming, VmState, VmStateFailed, load, save
from testbed.vmstate import declare as declare_module
from testbed.vmstate import load as load_function
from testbed.vmstate.fields import (
    array,
    bitmap,
    gtree,
    int32_equal,
    int32_le,
    qlist,
    qtailq,
    struct,
    uint8,
    uint8_equal,
    uint16,
    uint32,
    uint64_equal,
    validate,
    varray,
    vbuffer,
)

EINVAL, EIO, ENOENT = -errno.EINVAL, -errno.EIO, -errno.ENOENT
POINT = VmState("point", 2, 1, (uint8("x"), uint8("y", version_id=2)))


def point() -> SimpleNamespace:
    return SimpleNamespace(x=0, y=0)


def failure(vmstate: VmState, state: Any, data: bytes, version_id: int = 0) -> tuple[int, ...]:
    """What a failed load returns, and says."""
    with pytest.raises(VmStateFailed) as caught:
        loaded(vmstate, state, version_id, data)
    return caught.value.ret, *caught.value.lines


# Versions

RANGE = VmState(
    "dev",
    3,
    2,
    (
        uint8("always"),
        uint8("since_3", version_id=3),
        uint8("only_2", exists=lambda _, version_id: version_id == 2),
        uint8("if_odd", exists=lambda state, _: state.always % 2 == 1, version_id=9),
    ),
)


@pytest.mark.parametrize(
    ("version_id", "data", "expected"),
    [
        (3, b"\2\5", {"always": 2, "since_3": 5}),
        (2, b"\2\5", {"always": 2, "only_2": 5}),
        (3, b"\1\5\7", {"always": 1, "since_3": 5, "if_odd": 7}),
        (2, b"\1\5\7", {"always": 1, "only_2": 5, "if_odd": 7}),
    ],
)
def test_a_section_has_the_fields_of_its_version_or_those_that_a_test_finds(
    version_id: int, data: bytes, expected: dict[str, int]
) -> None:
    state = SimpleNamespace()
    source = loaded(RANGE, state, version_id, data + b"\x7e", ended=False)
    assert vars(state) == expected
    assert source.offset == len(data)


@pytest.mark.parametrize(
    ("version_id", "line"),
    [
        (4, "dev: incoming version_id 4 is too new for local version_id 3"),
        (1, "dev: incoming version_id 1 is too old for local minimum version_id  2"),
        (0xFFFFFFFF, "dev: incoming version_id -1 is too old for local minimum version_id  2"),
    ],
)
def test_a_version_out_of_range_is_refused_before_anything_is_read(
    version_id: int, line: str
) -> None:
    source = Incoming()
    with pytest.raises(VmStateFailed) as caught:
        next(load(RANGE, SimpleNamespace(), version_id, source))
    assert (caught.value.ret, *caught.value.lines) == (EINVAL, line)
    assert source.offset == 0


def test_a_struct_is_of_its_own_version_whatever_the_section_is_of() -> None:
    vmstate = VmState("dev", 9, 0, (struct("p", POINT),))
    state = SimpleNamespace(p=point())
    loaded(vmstate, state, 0, b"\1\2\x7e", ended=False)
    assert state.p == SimpleNamespace(x=1, y=2)


# Hooks


def test_hooks_run_before_the_first_byte_and_after_the_last() -> None:
    told: list[Any] = []
    inner = VmState(
        "dev/sub",
        1,
        1,
        (uint8("b"),),
        pre_load=lambda _: told.append("sub pre"),
        post_load=lambda state, version_id: told.append(("sub post", state.b, version_id)),
    )
    vmstate = VmState(
        "dev",
        3,
        1,
        (uint8("a"),),
        (inner,),
        pre_save=lambda _: told.append("pre_save"),
        post_save=lambda _: told.append("post_save"),
        pre_load=lambda _: told.append("pre"),
        post_load=lambda state, version_id: told.append(("post", state.a, version_id)),
    )
    state = SimpleNamespace(a=7, b=8)
    data = save(vmstate, state).data
    assert data == b"\7\5\7dev/sub\0\0\0\1\10"
    assert told == ["pre_save", "post_save"]
    told.clear()
    source = Incoming()
    story = load(vmstate, SimpleNamespace(), 2, source)
    next(story)
    assert told == ["pre"]
    source.feed(data)
    next(story)
    # A byte behind the payload has to tell that no other subsection follows.
    assert told == ["pre", "sub pre"]
    source.feed(b"\x7e")
    with pytest.raises(StopIteration):
        next(story)
    assert told == ["pre", "sub pre", ("sub post", 8, 1), ("post", 7, 2)]


def refuse(*_: Any) -> None:
    raise VmStateFailed(-1, "not with me")


def test_a_hook_that_refuses_fails_its_parents_too_but_subsections_name_no_field() -> None:
    inner = VmState("in", fields=(uint8("a"),), post_load=refuse)
    outer = VmState("out", fields=(struct("part", inner),))
    state = SimpleNamespace(part=SimpleNamespace())
    expected = (-1, "not with me", "Failed to load out:part")
    assert failure(outer, state, b"\1\x7e") == expected
    early = VmState("dev", fields=(uint8("a"),), pre_load=refuse)
    assert failure(early, SimpleNamespace(), b"") == (-1, "not with me")
    sub = VmState("dev", subsections=(VmState("dev/s", pre_load=refuse),))
    assert failure(sub, SimpleNamespace(), b"\5\5dev/s\0\0\0\0") == (-1, "not with me")


def test_a_hook_that_refuses_to_save_is_told_by_every_level() -> None:
    ends: list[str] = []
    inner = VmState("in", pre_save=refuse, post_save=lambda _: ends.append("in"))
    outer = VmState("out", fields=(struct("p", inner),), post_save=lambda _: ends.append("out"))
    with pytest.raises(VmStateFailed) as caught:
        save(outer, SimpleNamespace(p=None))
    assert caught.value.lines == (
        "not with me",
        "pre-save failed: in",
        "Save of field out/p failed",
    )
    assert ends == ["out"]


def test_a_state_that_is_not_valid_is_neither_loaded_nor_saved() -> None:
    vmstate = VmState("dev", 1, 1, (uint8("n"), validate("n in range", lambda s, _: s.n < 4)))
    state = SimpleNamespace()
    loaded(vmstate, state, 1, b"\3\x7e", ended=False)
    assert save(vmstate, state).data == b"\3"
    state = SimpleNamespace()
    assert failure(vmstate, state, b"\4", 1) == (-1, "Input validation failed: dev/n in range")
    with pytest.raises(VmStateFailed, match="Output state validation failed: dev/n in range"):
        save(vmstate, state)


# Subsections

NESTED = VmState("dev/b/c", 1, 1, (uint8("c"),), needed=lambda state: hasattr(state, "c"))
SUBSECTIONS = (
    VmState("dev/a", 3, 2, (uint8("a"),), needed=lambda state: hasattr(state, "a")),
    VmState("dev/b", 1, 1, (uint8("b"),), (NESTED,), needed=lambda state: hasattr(state, "b")),
)
DEV = VmState("dev", 1, 1, (uint8("v"),), SUBSECTIONS)
A = b"\5\5dev/a\0\0\0\3\x0a"
B = b"\5\5dev/b\0\0\0\1\x0b"
C = b"\5\7dev/b/c\0\0\0\1\x0c"


@pytest.mark.parametrize("step", [1, 2, None])
@pytest.mark.parametrize(
    ("values", "data"),
    [
        ({}, b""),
        ({"a": 10}, A),
        ({"b": 11}, B),
        ({"a": 10, "b": 11, "c": 12}, A + B + C),
    ],
)
def test_subsections_that_are_needed_follow_the_fields(
    values: dict[str, int], data: bytes, step: int | None
) -> None:
    state = SimpleNamespace(v=1, **values)
    saved = save(DEV, state)
    assert saved.data == b"\1" + data
    assert ("subsections" in dict(saved.node)) == bool(data)
    other = SimpleNamespace()
    source = loaded(DEV, other, 1, b"\1" + data + b"\x7e", step=step, ended=False)
    assert source.offset == 1 + len(data)
    assert other == state


@pytest.mark.parametrize(
    ("data", "values", "left"),
    [
        pytest.param(A + A, {"a": 10}, 0, id="twice"),
        pytest.param(B + A, {"a": 10, "b": 11}, 0, id="in-another-order"),
        pytest.param(b"\5\5dev/a\xff\xff\xff\2\x0a", {"a": 10}, 0, id="version-modulo-256"),
        pytest.param(b"\5\10dev/a\0zz\0\0\0\3\x0a", {"a": 10}, 0, id="name-ends-at-a-nul"),
        pytest.param(b"\5\5xyz/a\0\0\0\3\x0a", {}, 12, id="of-another"),
        pytest.param(b"\5\3dev", {}, 5, id="name-too-short"),
        pytest.param(b"\5\0", {}, 2, id="no-name"),
        pytest.param(B + C[:2] + b"xyz/b/c", {"b": 11}, 9, id="of-another-behind-one"),
    ],
)
def test_what_is_taken_for_a_subsection_and_what_is_left_to_others(
    data: bytes, values: dict[str, int], left: int
) -> None:
    state = SimpleNamespace()
    stream = b"\1" + data
    source = loaded(DEV, state, 1, stream + b"\x7e", ended=False)
    assert vars(state) == {"v": 1, **values}
    assert source.offset == len(stream) - left


def test_a_struct_takes_subsections_that_begin_with_its_own_name() -> None:
    """As the keyboard controller, a `pckbd` in a `pckbd`: the inner one is asked first."""
    inner = VmState("dev", fields=(uint8("v"),))
    outer = VmState("dev", fields=(struct("part", inner),), subsections=SUBSECTIONS)
    state = SimpleNamespace(part=SimpleNamespace())
    assert failure(outer, state, b"\1" + A) == (ENOENT, "Failed to load dev:part")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\5\5dev/x\0\0\0\3\x0a", (ENOENT,)),
        (
            b"\5\5dev/a\0\0\0\4\x0a",
            (EINVAL, "dev/a: incoming version_id 4 is too new for local version_id 3"),
        ),
        (
            b"\5\5dev/a\0\0\0\1\x0a",
            (EINVAL, "dev/a: incoming version_id 1 is too old for local minimum version_id  2"),
        ),
        (A[:-1], (EIO, "Failed to load dev/a:a")),
        (
            A[:-3],  # what is missing of its version reads as zeros
            (EINVAL, "dev/a: incoming version_id 0 is too old for local minimum version_id  2"),
        ),
        (B + C[:-1], (EIO, "Failed to load dev/b/c:c")),
    ],
)
def test_a_subsection_that_cannot_be_loaded(data: bytes, expected: tuple[Any, ...]) -> None:
    assert failure(DEV, SimpleNamespace(), b"\1" + data, 1) == expected


@pytest.mark.parametrize("length", range(1, 7))
def test_a_stream_that_ends_in_a_subsection_s_name_fails_whoever_reads_on(length: int) -> None:
    source = loaded(DEV, SimpleNamespace(), 1, b"\1" + A[:length])
    assert source.offset == 1
    assert source.error == EIO


def test_a_struct_at_the_end_of_a_stream_fails_for_its_peek() -> None:
    """A device's last field may be whole: that nothing follows is found by looking for more."""
    vmstate = VmState("dev", fields=(struct("p", POINT),))
    state = SimpleNamespace(p=point())
    assert failure(vmstate, state, b"\1\2") == (EIO, "Failed to load dev:p")
    source = loaded(POINT, point(), 2, b"\1\2")
    assert source.error == EIO


def test_names_that_could_not_be_loaded_are_not_declared() -> None:
    with pytest.raises(AssertionError, match="does not begin with"):
        VmState("dev", subsections=(VmState("other/a"),))
    with pytest.raises(AssertionError, match="does not begin with"):
        VmState("dev", subsections=(VmState("dev"),))
    with pytest.raises(AssertionError, match="too long"):
        VmState("dev", subsections=(VmState("dev/" + 252 * "x"),))


# Values

VALUES = [
    pytest.param(
        uint8_equal("v"), {"v": 2}, b"\3", (EINVAL, "2 != 3", "Failed to load dev:v"), id="u8"
    ),
    pytest.param(
        int32_equal("v"), {"v": -1}, b"\0\0\0\x1f",
        (EINVAL, "ffffffff != 1f", "Failed to load dev:v"), id="i32",
    ),
    pytest.param(
        uint64_equal("v"), {"v": 1 << 60}, bytes(8),
        (EINVAL, "1000000000000000 != 0", "Failed to load dev:v"), id="u64",
    ),
    pytest.param(  # what is missing reads as zeros, and is compared before it is missed
        uint8_equal("v"), {"v": 2}, b"", (EINVAL, "2 != 0", "Failed to load dev:v"), id="cut"
    ),
    pytest.param(
        uint8_equal("v"), {"v": 0}, b"", (EIO, "Failed to load dev:v"), id="cut-zero"
    ),
    pytest.param(
        int32_le("v"), {"v": 4}, b"\0\0\0\5",
        (EINVAL, "Invalid value 5 expecting positive value <= 4", "Failed to load dev:v"),
        id="above",
    ),
    pytest.param(
        int32_le("v"), {"v": 4}, b"\xff\xff\xff\xff",
        (EINVAL, "Invalid value -1 expecting positive value <= 4", "Failed to load dev:v"),
        id="negative",
    ),
    pytest.param(
        gtree("v", POINT, point, version_id=2), {"v": {}}, b"\0\0\0\2\1" + bytes(10) + b"\0",
        (EINVAL, "v inconsistent stream when loading the gtree", "Failed to load dev:v"),
        id="tree-too-few",
    ),
    pytest.param(
        gtree("v", POINT, point, version_id=2), {"v": {}}, b"\0\0\0\0\1" + bytes(10) + b"\0",
        (EINVAL, "v inconsistent stream when loading the gtree", "Failed to load dev:v"),
        id="tree-too-many",
    ),
    pytest.param(
        gtree("v", POINT, point, version_id=2), {"v": {}}, b"\0\0\0\1",
        (EINVAL, "v inconsistent stream when loading the gtree", "Failed to load dev:v"),
        id="tree-cut",
    ),
    pytest.param(
        qtailq("v", POINT, point), {"v": []}, b"",
        (EINVAL, "point too old", "Failed to load dev:v"), id="list-too-old",
    ),
    pytest.param(
        qlist("v", POINT, point, version_id=3), {"v": []}, b"",
        (EINVAL, "point too new", "Failed to load dev:v"), id="list-too-new",
    ),
    pytest.param(
        varray(struct("v", POINT), "n"), {"v": [], "n": 1}, b"\1\2",
        (EINVAL, "1 elements for an array of 0", "Failed to load dev:v"), id="array-too-short",
    ),
    pytest.param(
        varray(uint8("v"), "n"), {"n": 0x7FFFFFFF}, b"",
        (EINVAL, "2147483647 elements; at most 1048576", "Failed to load dev:v"), id="array-bound",
    ),
    pytest.param(
        vbuffer("v", "n"), {"n": 0x7FFFFFFF}, b"",
        (EINVAL, "a field of 2147483647 bytes; at most 67108864", "Failed to load dev:v"),
        id="buffer-bound",
    ),
    pytest.param(
        bitmap("v", "n"), {"n": 0x80000000}, b"",
        (EINVAL, "a field of -268435456 bytes; at most 67108864", "Failed to load dev:v"),
        id="bitmap-negative",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("field", "values", "data", "expected"), VALUES)
def test_a_value_that_may_not_be(
    field: Any, values: dict[str, Any], data: bytes, expected: tuple[Any, ...]
) -> None:
    vmstate = VmState("dev", 3, 0, (field,))
    assert failure(vmstate, SimpleNamespace(**values), data, 3) == expected


def test_a_list_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.vmstate.lists.ELEMENTS_MAX", 3)
    vmstate = VmState("dev", 2, 0, (qlist("v", POINT, point, version_id=2),))
    state = SimpleNamespace(v=[])
    expected = (EINVAL, "4 elements; at most 3", "Failed to load dev:v")
    assert failure(vmstate, state, b"\1ab" * 5, 2) == expected


def test_a_count_of_2_to_the_31_is_none_at_all() -> None:
    vmstate = VmState("dev", fields=(uint32("n"), varray(uint16("v"), "n")))
    state = SimpleNamespace()
    loaded(vmstate, state, 0, b"\x80\0\0\0\x7e", ended=False)
    assert state.v == []


def test_each_level_says_which_field_failed() -> None:
    middle = VmState("mid", fields=(array(struct("points", POINT), 2),))
    outer = VmState("out", fields=(struct("part", middle),))
    state = blank(outer)
    assert failure(outer, state, b"\1\2\3") == (
        EIO,
        "Failed to load point:y",
        "Failed to load mid:points",
        "Failed to load out:part",
    )


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (0, (EIO, "Failed to load configuration:len")),
        (3, (EIO, "Failed to load configuration:len")),
        (4, (EIO, "Failed to load configuration:name")),
        (16, (EIO, "Failed to load configuration:name")),
    ],
)
def test_the_configuration_fails_as_a_real_one_does(cut: int, expected: tuple[Any, ...]) -> None:
    """Texts measured on 5.2 to 10.0."""
    data = b"\0\0\0\x0dpc-i440fx-7.2"
    assert failure(CONFIGURATION, SimpleNamespace(), data[:cut]) == expected
    state = SimpleNamespace()
    loaded(CONFIGURATION, state, 0, data + b"\1", ended=False)
    assert (state.len, state.name) == (13, b"pc-i440fx-7.2")


def test_the_source_keeps_the_first_error() -> None:
    source = Incoming(b"\3", ended=True)
    vmstate = VmState("dev", fields=(uint8_equal("v"),))
    with pytest.raises(VmStateFailed):
        list(load_function(vmstate, SimpleNamespace(v=2), 0, source))
    assert source.error == EINVAL
    with pytest.raises(StopIteration):
        next(source.peek(1))
    assert source.error == EINVAL


def test_an_int_of_c_wraps_around() -> None:
    assert [declare_module.int32(n) for n in (0, (1 << 31) - 1, 1 << 31, (1 << 32) + 5)] == [
        0,
        (1 << 31) - 1,
        -(1 << 31),
        5,
    ]


def test_what_is_in_hand_can_be_seen_and_skipped():
    source = Incoming(b"abcdef")
    with source.in_hand() as view:
        assert bytes(view) == b"abcdef"
    source.skip(2)
    assert (source.offset, source.available) == (2, 4)
    source.feed(b"g")
    with source.in_hand() as view:
        assert bytes(view) == b"cdefg"
