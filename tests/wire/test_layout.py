"""The vmdesc: sizes, fields, and JSON that means harm."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import usually

from testbed.wire import Layout, StreamError
from testbed.wire import layout as layout_module
from testbed.wire import vmdesc as vmdesc_module
from testbed.wire.element import Span
from testbed.wire.fields import LIST_MARK, Field, values


def describe(*fields: dict[str, Any], **more: Any) -> bytes:
    device = {"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": fields}
    return json.dumps({"page_size": 4096, "devices": [device | more]}).encode()


def uint(name: str, size: int = 4, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "uint32", "size": size, **more}


def struct(name: str, size: int, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    inner = {"vmsd_name": "inner", "version": 1, "fields": fields}
    return {"name": name, "type": "struct", "struct": inner, "size": size, **more}


ROWS = [
    pytest.param(describe(uint("a"), uint("b", 1)), [("a", 0, 4), ("b", 4, 1)], id="flat"),
    pytest.param(
        describe(uint("a", 2, array_len=3)),
        [("a[0]", 0, 2), ("a[1]", 2, 2), ("a[2]", 4, 2)],
        id="array",
    ),
    pytest.param(
        describe(uint("a", index=0), uint("a", index=1)),
        [("a[0]", 0, 4), ("a[1]", 4, 4)],
        id="indexed",
    ),
    pytest.param(
        describe(struct("s", 5, uint("x"), uint("y", 1), array_len=2), uint("z")),
        [("s[0].x", 0, 4), ("s[0].y", 4, 1), ("s[1].x", 5, 4), ("s[1].y", 9, 1), ("z", 10, 4)],
        id="array-of-structs",
    ),
    pytest.param(
        describe(
            {"name": "t", "type": "tmp", "vmsd_name": "x", "fields": [uint("m", 8)], "size": 8}
        ),
        [("t.m", 0, 8)],
        id="tmp",
    ),
    pytest.param(
        describe(
            {"name": "q", "type": "qtailq", "vmsd_name": "x", "fields": [uint("m")], "size": 11}
        ),
        [("q", 0, 11)],
        id="list-has-only-its-size",
    ),
    pytest.param(
        describe(
            uint("a"),
            subsections=[{"vmsd_name": "dev/sub", "version": 1, "fields": [uint("b", 2)]}],
        ),
        [("a", 0, 4), ("dev/sub", 4, 13), ("dev/sub.b", 17, 2)],
        id="subsection",
    ),
    pytest.param(
        describe(uint("a", index=0), uint("a", index=1), uint("a"), uint("b")),
        [("a[0]", 0, 4), ("a[1]", 4, 4), ("a[2]", 8, 4), ("b", 12, 4)],
        id="last-element-without-index",  # as 10.0 has it
    ),
    pytest.param(
        describe(
            {"name": "p", "type": "nullptr", "size": 1},
            struct("p", 2, uint("x", 2), array_len=2),
            {"name": "p", "type": "nullptr", "size": 1, "array_len": 2},
        ),
        [("p[0]", 0, 1), ("p[1].x", 1, 2), ("p[2].x", 3, 2), ("p[3]", 5, 1), ("p[4]", 6, 1)],
        id="array-of-pointers",
    ),
    pytest.param(describe(), [], id="empty"),
    pytest.param(describe(uint("a", array_len=0), uint("b")), [("b", 0, 4)], id="empty-array"),
]


@pytest.mark.parametrize(("text", "spans"), ROWS)
def test_fields_and_sizes(text: bytes, spans: list[tuple[str, int, int]]) -> None:
    layout = Layout.parse(text)
    assert list(layout.spans("dev", 0)) == [Span(*span) for span in spans]
    assert layout.size("dev", 0) == sum(size for _, _, size in spans)
    assert layout.size("dev", 1) is None
    assert layout.spans("other", 0) == ()


def test_old_style_device_states_its_size() -> None:
    text = json.dumps(
        {
            "devices": [
                {
                    "name": "slirp",
                    "instance_id": 3,
                    "size": 131,
                    "fields": [{"name": "data", "size": 131, "type": "buffer"}],
                }
            ]
        }
    )
    layout = Layout.parse(text.encode())
    assert layout.size("slirp", 3) == 131
    assert layout.spans("slirp", 3) == (Span("data", 0, 131),)


def in_list(kind: str, size: int, *elements: str) -> bytes:
    """A list as QEMU describes it: the keys come again for each element."""
    keys = ",".join(f'"vmsd_name":"x","version":1,"fields":[{element}]' for element in elements)
    field = f'{{"name":"q","type":"{kind}",{keys}{"," * bool(keys)}"size":{size}}}'
    return describe().replace(b'"fields": []', f'"fields":[{field}]'.encode())


M = json.dumps(uint("m"))
LISTS = [
    ("qtailq", 1, [], [("q[end]", LIST_MARK, 0, 1)]),
    (
        "qlist",
        6,
        [M],
        [("q[0]", LIST_MARK, 0, 1), ("q[0].m", "uint32", 1, 4), ("q[end]", LIST_MARK, 5, 1)],
    ),
    (
        "qtailq",
        11,
        [M, M],
        [
            ("q[0]", LIST_MARK, 0, 1),
            ("q[0].m", "uint32", 1, 4),
            ("q[1]", LIST_MARK, 5, 1),
            ("q[1].m", "uint32", 6, 4),
            ("q[end]", LIST_MARK, 10, 1),
        ],
    ),
    (
        "gtree",
        31,
        [M, M],
        [
            ("q", "uint32", 0, 4),
            ("q[0]", LIST_MARK, 4, 1),
            ("q[0].key", "uint64", 5, 8),
            ("q[0].m", "uint32", 13, 4),
            ("q[1]", LIST_MARK, 17, 1),
            ("q[1].key", "uint64", 18, 8),
            ("q[1].m", "uint32", 26, 4),
            ("q[end]", LIST_MARK, 30, 1),
        ],
    ),
    # What does not add up is one field.
    ("qtailq", 12, [M, M], [("q", "qtailq", 0, 12)]),
    ("gtree", 15, [M, M], [("q", "gtree", 0, 15)]),
]


@pytest.mark.parametrize(("kind", "size", "elements", "fields"), LISTS)
def test_lists_are_taken_apart(
    kind: str, size: int, elements: list[str], fields: list[tuple[str, str, int, int]]
) -> None:
    layout = Layout.parse(in_list(kind, size, *elements))
    assert layout.size("dev", 0) == size
    assert [field[:4] for field in layout.fields("dev", 0)] == fields


def test_a_run_is_one_field() -> None:
    layout = Layout.parse(describe(uint("a"), uint("b", 2, array_len=5)))
    assert layout.fields("dev", 0) == (
        Field("a", "uint32", 0, 4),
        Field("b", "uint32", 4, 2, 5),
    )
    assert layout.fields("dev", 1) == ()


def test_names_that_are_no_text_have_a_length_all_the_same() -> None:
    sub = {"vmsd_name": "\ud800", "version": 1, "fields": []}
    assert Layout.parse(describe(subsections=[sub])).size("dev", 0) == 9


def test_an_old_style_device_has_its_stated_size() -> None:
    device = {"name": "x", "instance_id": 0, "size": 9, "fields": [uint("wrong")]}
    layout = Layout.parse(json.dumps({"devices": [device]}).encode())
    assert layout.fields("x", 0) == (Field("data", "buffer", 0, 9),)


def nested(depth: int) -> bytes:
    field = uint("x")
    for _ in range(depth):
        field = struct("s", 4, field)
    return describe(field)


HOSTILE = [
    pytest.param(b"", "JSON", id="empty"),
    pytest.param(b"\xff\xfe{", "JSON", id="no-text"),
    pytest.param(b"[" * 200_000, "JSON", id="deep-lists"),
    pytest.param(b'{"devices":' + b"9" * 10_000 + b"}", "JSON", id="endless-number"),
    pytest.param(b"[]", "an object, got a list", id="list"),
    pytest.param(b"{}", "a list of objects as `devices`, got nothing", id="no-devices"),
    pytest.param(b'{"devices":[1]}', "a list of objects as `devices`", id="no-object"),
    pytest.param(b'{"devices":[{}]}', "as `name`, got nothing", id="no-name"),
    pytest.param(nested(200), "a depth of at most 48", id="depth"),
    pytest.param(describe(uint("a", -1)), "as `size`, got -1", id="negative"),
    pytest.param(describe(uint("a", True)), "as `size`, got True", id="bool"),
    pytest.param(describe(uint("a", 1 << 40)), "as `size`", id="size"),
    pytest.param(describe(uint("a", 1 << 20, array_len=1 << 20)), "at most 4294967296", id="array"),
    pytest.param(describe(*[uint("a", 1 << 31)] * 3), "at most 4294967296", id="sum"),
    pytest.param(describe(uint("a" * 2000)), "at most 1000 characters", id="name"),
    pytest.param(
        describe(uint("deep"), uint("deep")).replace(b'"deep"', b"[" * 900 + b"]" * 900),
        "as `name`, got a list",
        id="deep-names",
    ),
    pytest.param(
        describe(uint("a")).replace(b'"size": 4', b'"size": ' + b"[" * 900 + b"]" * 900),
        "as `size`, got a list",
        id="deep-size",
    ),
    pytest.param(describe(struct("a" * 999, 4, struct("b", 4, uint("c")))), "1000", id="path"),
]


@pytest.mark.parametrize(("text", "why"), HOSTILE)
def test_hostile_vmdesc_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(StreamError) as caught:
        Layout.parse(text)
    assert why in str(caught.value)


def test_text_nodes_and_spans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.parse(describe(uint("a", 1, array_len=1 << 31)))
    monkeypatch.setattr(layout_module, "SPANS_MAX", 10)
    assert len(layout.spans("dev", 0)) == 10
    monkeypatch.setattr(vmdesc_module, "NODES_MAX", 10)
    with pytest.raises(StreamError, match="at most 10 fields"):
        Layout.parse(describe(*[uint("a")] * 11))
    with pytest.raises(StreamError, match="at most 10 fields"):
        Layout.parse(describe(uint("a"), uint("a", array_len=1 << 30)))
    monkeypatch.setattr(vmdesc_module, "TEXT_BYTES_MAX", 10)
    with pytest.raises(StreamError, match="at most 10 bytes"):
        Layout.parse(describe(uint("a")))


def test_arrays_of_nothing_have_no_fields() -> None:
    layout = Layout.parse(describe(struct("s", 0, uint("x", 0), array_len=1 << 32)))
    assert layout.spans("dev", 0) == ()


KEYS = [
    *("name", "size", "fields", "struct", "index", "array_len"),
    *("subsections", "vmsd_name", "instance_id", "devices", "type"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
)


SIZES = st.sampled_from([0, 1, 2, 4, 5, 8, 1 << 32])
NAMES = st.sampled_from(["a", "a", "b"])
LEAVES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "type": st.sampled_from(["uint32", "timer", "nullptr", "buffer", "qtailq", "bool"]),
        "size": SIZES,
    },
    optional={"array_len": st.sampled_from([0, 1, 3, 1 << 20]), "index": st.integers(0, 3)},
)


def structs(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.lists(inner, max_size=4)
    subsections = st.lists(
        st.fixed_dictionaries({"vmsd_name": st.text(max_size=3), "fields": fields}), max_size=2
    )
    members = {"vmsd_name": st.just("v"), "fields": fields}
    return st.builds(
        lambda leaf, kind, struct: (
            leaf
            | {"type": kind, "size": total(struct)}
            | (struct if kind == "tmp" else {"struct": struct})
        ),
        LEAVES,
        st.sampled_from(["struct", "tmp", "qlist"]),
        st.fixed_dictionaries(members, optional={"subsections": subsections}),
    )


def total(node: dict[str, Any]) -> int:
    """Bytes of fields and subsections, often too few or many for what is made of them."""
    size = sum(each["size"] * each.get("array_len", 1) for each in node["fields"])
    inner = node.get("subsections", ())
    return size + sum(6 + len(each["vmsd_name"].encode()) + total(each) for each in inner)


@settings(max_examples=usually(60, thoroughly=200), deadline=None)
@given(st.lists(st.recursive(LEAVES, structs, max_leaves=12), max_size=4))
def test_whatever_is_described_the_fields_tile_the_section(described: list[Any]) -> None:
    text = describe(*described)
    try:
        layout = Layout.parse(text)
    except StreamError:
        return
    fields, end = layout.fields("dev", 0), 0
    for field in fields:
        assert field.start == end
        assert field.end > end
        end = field.end
    assert end == layout.size("dev", 0) or len(fields) == vmdesc_module.FIELDS_MAX
    spans = layout.spans("dev", 0)
    assert len(spans) <= layout_module.SPANS_MAX
    if end < 10_000:
        said = values(fields, bytes(end))
        arrays = [1 if field.array_len is None else field.array_len for field in fields]
        assert [len(each) if isinstance(each, list) else 1 for each in said] == arrays
        assert len(spans) == sum(arrays)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_is_a_layout_or_an_error(value: Any) -> None:
    text = json.dumps({"devices": value if isinstance(value, list) else [value]}).encode()
    try:
        layout = Layout.parse(text)
    except StreamError:
        return
    for device in layout.devices:
        layout.spans(device.idstr, device.instance_id)
        if device.size_bytes < 1000:
            values(device.fields(), bytes(device.size_bytes))
