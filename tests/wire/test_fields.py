"""What the bytes of a field say, by its type; held against QEMU's own analyze-migration.py."""

import json
import lzma
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_helpers import DATA, parse, recorded

from testbed.wire import MainChannel, StreamError, fields
from testbed.wire.element import Element, Payload, SectionType
from testbed.wire.fields import CODINGS, LIST_MARK, SUBSECTION, Field, FieldValue, value, values
from testbed.wire.layout import Layout

ROWS = [
    # type, bytes, what they say
    ("uint8", "ff", 255),
    ("int8", "ff", -1),
    ("uint16", "fffe", 65534),
    ("int16", "fffe", -2),
    ("uint32", "80000000", 1 << 31),
    ("int32", "80000000", -(1 << 31)),
    ("uint64", "ffffffffffffffff", (1 << 64) - 1),
    ("int64", "ffffffffffffffff", -1),
    ("int32 equal", "ffffffff", -1),
    ("uint8 equal", "80", 128),
    ("int32 le", "00000102", 0x102),
    ("bool", "00", False),
    ("bool", "02", True),
    ("timer", "00000000d3f9ca41", 0xD3F9CA41),
    ("timer", "ffffffffffffffff", -1),
    ("CPU_Double_U", "3ff8000000000000", 1.5),
    ("CPU_Double_U", "7ff0000000000000", "7ff0000000000000"),
    ("float64", "7ff8000000000001", "7ff8000000000001"),
    ("nullptr", "30", None),
    ("nullptr", "00", "00"),
    ("bitmap", "0000000000000000", ""),
    ("bitmap", "000000000000020f", "0-3,9"),
    ("bitmap", "8000000000000000 0000000000000003", "63-65"),
    ("bitmap", "0102", "0102"),
    ("buffer", "00ff", "00ff"),
    ("unused_buffer", "00", "00"),
    ("struct", "0001", "0001"),
    ("qtailq", "00", "00"),
    ("virtio", "7e", "7e"),
    ("uint32", "0102", "0102"),
    (SUBSECTION, "05 03 612f62 00000007", 7),
    (SUBSECTION, "05 04 612f62 00000007", "0504612f6200000007"),
    (SUBSECTION, "05", "05"),
    (LIST_MARK, "01", 1),
]


@pytest.mark.parametrize(("kind", "data", "said"), ROWS)
def test_a_field_says_what_its_type_means(kind: str, data: str, said: FieldValue) -> None:
    found = value(kind, bytes.fromhex(data))
    assert found == said
    assert type(found) is type(said)
    assert json.loads(json.dumps(found, allow_nan=False)) == said


def test_an_array_says_a_list() -> None:
    run = (Field("a", "uint16", 1, 2, 3), Field("b", "buffer", 7, 1, 2), Field("c", "bool", 9, 1))
    assert values(run, bytes.fromhex("ff 0001 0002 fffe aa bb 01")) == [
        [1, 2, 0xFFFE],
        ["aa", "bb"],
        True,
    ]


def test_fields_may_be_picked_from_a_section() -> None:
    picked = (Field("b", "uint8", 2, 1), Field("d", "uint16", 5, 2))
    assert values(picked, bytes(range(9))) == [2, 0x0506]
    assert values((), b"any") == []


def test_a_payload_that_ends_too_early_is_an_error() -> None:
    with pytest.raises(StreamError, match="in field a: expected a payload of 4 bytes, got 3"):
        values((Field("a", "uint32", 0, 4),), bytes(3))


def test_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "ARRAY_VALUES_MAX", 3)
    run = Field("a", "uint16", 0, 2, 4), Field("b", "buffer", 8, 1, 4), Field("c", "uint8", 12, 1)
    assert values(run, bytes(12) + b"\1") == ["00" * 8, "00" * 4, 1]
    monkeypatch.setattr(fields, "BITMAP_BYTES_MAX", 8)
    assert value("bitmap", bytes(16)) == "00" * 16


KINDS = sorted({kind for kind, _ in CODINGS} | {SUBSECTION, "bitmap", "buffer", "nonsense"})


@given(st.sampled_from(KINDS), st.binary(max_size=40), st.integers(1, 4))
def test_any_bytes_are_a_value_that_json_can_say(kind: str, data: bytes, array_len: int) -> None:
    field = Field("f", kind, 0, len(data) // array_len, array_len)
    json.dumps([value(kind, data), values((field,), data)], allow_nan=False)


# Against analyze-migration.py -d state, run once over each of these streams.

STREAMS = [
    *(f"qemu{version}-{what}.c0" for version in ("7.2", "10.0") for what in ("precopy", "xbzrle")),
    *("qemu7.2-devices-net", "qemu10.0-devices-storage", "qemu10.0-devices-memory"),
    *(  # `s390x` of 7.2 has a wrong vmdesc, which that program cannot read either
        f"targets/{name}"
        for name in ("qemu10.0-aarch64-virt", "qemu7.2-ppc64-pseries", "qemu10.0-s390x")
    ),
    *(f"targets/qemu7.2-{name}" for name in ("riscv64-virt", "microvm", "isapc")),
]


@pytest.mark.parametrize("name", STREAMS)
def test_every_field_agrees_with_analyze_migration(name: str) -> None:
    state = json.loads(lzma.decompress((DATA / f"{name}.state.json.xz").read_bytes()))
    channel = MainChannel()
    elements = parse(channel, [recorded(f"{name}.fwd")])
    layout = channel.layout
    assert layout is not None
    compared = 0
    for element in elements:
        if isinstance(element.value, Payload) and element.section is not None:
            assert element.section.type is SectionType.FULL
            theirs = dict(
                leaves(state.pop(f"{element.section.idstr} ({element.section.section_id})"), "")
            )
            ours = {name: found for name, *found in own_leaves(element, layout)}
            compared += len(theirs)
            for path, said in theirs.items():
                if path in ours:
                    assert_same(said, *ours.pop(path))
                else:  # a `tmp` or the like, which that program does not look into
                    inside = [key for key in ours if key.startswith((f"{path}.", f"{path}["))]
                    assert inside or not said  # nor do we name what has no bytes
                    raw = b"".join(ours.pop(key)[2] for key in inside)
                    assert raw.hex(" ") == said
            assert {kind for kind, _, _ in ours.values()} <= {SUBSECTION}
    # Memory, live sections that it only reads over, and sections without a byte.
    assert [key for key in state if not key.startswith("ram ") and state[key]] == []
    assert compared > 400


def own_leaves(element: Element, layout: Layout) -> Iterator[tuple[str, str, FieldValue, bytes]]:
    """Name, type, value and bytes of each field, an array's elements alone."""
    assert element.section is not None
    section = element.section.idstr, element.section.instance_id, element.occurrence
    run = layout.fields(*section)
    for field, said in zip(run, values(run, element.raw), strict=True):
        for index, one in enumerate(said if isinstance(said, list) else [said]):
            start = field.start + index * field.size_bytes
            raw = element.raw[start : start + field.size_bytes]
            name = field.name if field.array_len is None else f"{field.name}[{index}]"
            yield name, field.type, one, raw


def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    match node:
        case dict():
            for key, child in node.items():
                yield from leaves(child, f"{path}.{key}" if path else key)
        case list():
            for index, child in enumerate(node):
                yield from leaves(child, f"{path}[{index}]")
        case _:
            yield path, node


def assert_same(theirs: Any, kind: str, ours: FieldValue, raw: bytes) -> None:
    """Theirs is a bool, a number as `0xffff (-1)`, or bytes in hex."""
    if isinstance(theirs, bool):
        assert ours is theirs
    elif number := re.fullmatch(r"(0x[0-9a-f]+)(?: \((-\d+)\))?", theirs):
        assert isinstance(ours, int)
        assert ours % (1 << 8 * len(raw)) == int(number[1], 16)
        if number[2]:
            # It takes `uint8 equal` for signed.
            assert ours == int(number[2]) or kind.startswith("uint")
    else:
        assert theirs == ("nullptr" if kind == "nullptr" else raw.hex(" "))
        match kind:
            case "nullptr":
                assert ours is None
            case "timer":
                assert ours == int.from_bytes(raw, "big", signed=True)
            case "bitmap":
                assert isinstance(ours, str)
            case _:
                assert ours == raw.hex()
