"""Multifd channels: recorded ones to their last byte, and what no recording has."""

import random
import zlib
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import usually
from wire_helpers import in_windows, opaque, parse, pieces, recorded, steps

from testbed.wire import MainChannel, MultifdChannel, encode
from testbed.wire.element import Element, Opaque, RamBlock, RamFlag, RamPage, Value
from testbed.wire.multifd import DEVICE_STATE_BYTES_MAX
from testbed.wire.packet import (
    MultifdDeviceState,
    MultifdFlag,
    MultifdInit,
    MultifdPacket,
    MultifdPages,
    MultifdPayload,
    MultifdPiece,
)

RECORDED = [f"{version}-multifd.c{n}.fwd" for version in ("qemu7.2", "qemu10.0") for n in (1, 2)]
SMALLEST = ["qemu10.0-multifd.c1.fwd"]
HEADER_BYTES = 1344
"""At a page of 4 KiB."""
INIT = MultifdInit(bytes(range(16)), 1)
PAGE = bytes(range(256)) * 16


def packet(
    *normal: int, zero: tuple[int, ...] = (), slots: int = 128, flags: int = 0, size: int = -1
) -> MultifdPacket:
    """A packet of pc.ram with those offsets."""
    offsets = pack(f">{slots}Q", *normal, *zero, *[0] * (slots - len(normal) - len(zero)))
    claimed = len(normal) * (512 << 10) // slots if size < 0 else size
    return MultifdPacket(flags, slots, len(normal), claimed, 5, len(zero), "pc.ram", offsets)


def wire(*values: Value) -> bytes:
    return b"".join(map(encode, values))


def values(data: bytes, **kwargs: int) -> list[Value]:
    return [element.value for element in parse(MultifdChannel(**kwargs), [data])]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_channel_decodes_to_its_end(name: str) -> None:
    data = recorded(name)
    elements = parse(MultifdChannel(), [data])
    assert opaque(elements) == []
    assert b"".join(encode(element.value) for element in elements) == data
    for element in elements:
        assert_tiled(element)


@pytest.mark.parametrize("name", RECORDED)
def test_pieces_change_nothing(name: str) -> None:
    data = recorded(name)
    whole = parse(MultifdChannel(), [data])
    assert parse(MultifdChannel(), pieces(data, seed=4)) == whole
    if name in usually(SMALLEST, thoroughly=RECORDED):
        assert parse(MultifdChannel(), steps(data, 1)) == whole


def assert_tiled(element: Element) -> None:
    """Fields lie back to back over the whole element."""
    end = 0
    for span in element.spans:
        assert span.start == end
        end = span.start + span.size_bytes
    assert end == len(element.raw)


@pytest.mark.parametrize("version", ["qemu7.2", "qemu10.0"])
def test_every_page_of_the_guest_came_over_one_of_its_channels(version: str) -> None:
    """Zero pages went over the main channel in 7.2, in the packets in 10.0."""
    main = [e.value for e in parse(MainChannel(), [recorded(f"{version}-multifd.c0.fwd")])]
    blocks = {v.idstr: v.used_bytes for v in main if isinstance(v, RamBlock)}
    sent: dict[str, set[int]] = {idstr: set() for idstr in blocks}
    for value in main:
        if isinstance(value, RamPage):
            assert value.flags & RamFlag.ZERO
            sent[value.block].add(value.offset_bytes)
    for n in (1, 2):
        for value in values(recorded(f"{version}-multifd.c{n}.fwd")):
            if isinstance(value, MultifdPages):
                assert len(value.data) == 4096 * len(value.offsets_bytes)
                sent[value.block].update(value.offsets_bytes)
            elif isinstance(value, MultifdPacket) and value.zero_pages:
                sent[value.block].update(value.zero_offsets_bytes)
    assert sent == {idstr: set(range(0, used, 4096)) for idstr, used in blocks.items()}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_packets_are_as_their_version_writes_them(name: str) -> None:
    packets = [v for v in values(recorded(name)) if isinstance(v, MultifdPacket)]
    assert packets[0].flags == MultifdFlag.SYNC
    if name.startswith("qemu10.0"):
        syncs = [each for each in packets if each.flags & MultifdFlag.SYNC]
        assert {(each.pages_alloc, each.normal_pages, each.block) for each in syncs} == {(0, 0, "")}
        assert any(each.zero_pages for each in packets)
    else:
        assert {each.pages_alloc for each in packets} == {128}
        stale = [each for each in packets if not each.normal_pages and each.next_packet_size]
        assert stale
        assert any(each.flags & MultifdFlag.SYNC and each.normal_pages for each in packets)


def test_fields_of_a_packet_have_names() -> None:
    header, pages = parse(
        MultifdChannel(), [wire(INIT, packet(0x1000, 0, zero=(0x3000,))), PAGE * 2]
    )[1:]
    assert [span.name for span in header.spans] == [
        "magic",
        "version",
        "flags",
        "pages_alloc",
        "normal_pages",
        "next_packet_size",
        "packet_num",
        "zero_pages",
        "reserved",
        "block",
        "offset[0]",
        "offset[1]",
        "zero_offset[0]",
        "unused_offsets",
    ]
    assert len(header.raw) == HEADER_BYTES
    found = {s.name: header.raw[s.start : s.start + s.size_bytes] for s in header.spans}
    assert found["zero_offset[0]"] == (0x3000).to_bytes(8, "big")
    assert found["normal_pages"] == b"\0\0\0\2"
    assert [span.name for span in pages.spans] == ["page[0]", "page[1]"]
    assert pages.value == MultifdPages("pc.ram", (0x1000, 0), PAGE * 2)


def test_a_packet_without_pages_has_no_payload() -> None:
    stale = packet(size=0x2E000)
    assert values(wire(INIT, stale, stale)) == [INIT, stale, stale]


def test_the_number_of_pages_tells_the_payload_that_is_not_compressed() -> None:
    """No destination reads `next_packet_size` then."""
    lying = packet(0x1000, size=0xFFFFFFFF)
    assert values(wire(INIT, lying) + PAGE)[1:] == [lying, MultifdPages("pc.ram", (0x1000,), PAGE)]


def test_a_compressed_payload_is_as_long_as_it_says() -> None:
    stream = zlib.compressobj()
    data = [stream.compress(PAGE) + stream.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)]
    expected: list[Value] = [INIT]
    for each in data:
        expected.append(packet(0x1000, flags=MultifdFlag.ZLIB, size=len(each)))
        expected.append(MultifdPayload(each))
    sync = packet(flags=MultifdFlag.SYNC, size=len(data[1]))
    assert values(wire(*expected, sync)) == [*expected, sync]


def test_device_state_has_a_short_header() -> None:
    header = MultifdDeviceState(MultifdFlag.DEVICE_STATE, "0000:00:04.0/vfio", 0, 5)
    last = packet()
    elements = parse(MultifdChannel(), [wire(INIT, header) + b"state" + wire(last)])
    assert [each.value for each in elements] == [INIT, header, MultifdPayload(b"state"), last]
    assert [len(each.raw) for each in elements] == [64, 276, 5, HEADER_BYTES]
    assert_tiled(elements[1])


@pytest.mark.parametrize("page_bytes", [1024, 4096, 16384, 65536])
def test_the_page_size_decides_how_long_a_header_is(page_bytes: int) -> None:
    slots = (512 << 10) // page_bytes
    value = packet(page_bytes, slots=slots)
    elements = parse(MultifdChannel(page_bytes=page_bytes), [wire(INIT, value), bytes(page_bytes)])
    assert [each.value for each in elements[:2]] == [INIT, value]
    assert len(elements[1].raw) == 320 + 8 * slots
    assert len(elements[2].raw) == page_bytes


def test_bytes_that_mean_nothing_come_back() -> None:
    odd = MultifdPacket(
        flags=0,
        pages_alloc=3,
        normal_pages=0,
        next_packet_size=7,
        packet_num=1 << 63,
        zero_pages=0,
        block="pc.ram\0left over",
        offsets=random.Random(1).randbytes(1024),
        reserved=b"reserved" + bytes(20),
    )
    init = MultifdInit(b"u" * 16, 255, b"reserved" + bytes(31))
    data = wire(init, odd)
    assert values(data) == [init, odd]
    assert wire(*values(data)) == data


def test_packets_are_counted() -> None:
    elements = parse(
        MultifdChannel(),
        [
            wire(
                INIT,
                packet(0),
            )
            + PAGE
            + wire(packet())
        ],
    )
    assert [each.occurrence for each in elements] == [1, 1, 1, 2]


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_channel_may_end_after_any_packet_and_in_none(step: int) -> None:
    data = wire(INIT, packet(0x1000)) + PAGE + wire(packet())
    ends = {64, 64 + HEADER_BYTES + len(PAGE), len(data)}
    inside = {0: "init packet", 64: "packet", 64 + HEADER_BYTES: "payload of multifd packet 5"}
    for cut in (0, 1, 4, 63, 64, 65, 80, 64 + HEADER_BYTES, 3000, *ends):
        elements = parse(MultifdChannel(), steps(data[:cut], step))
        if cut in ends:
            assert opaque(elements) == []
        else:
            (last,) = opaque(elements)
            assert last is elements[-1]
            assert "cut short at offset" in str(last.value)
            assert any(name in str(last.value) for at, name in inside.items() if at <= cut)


def altered(at: int, raw: bytes) -> bytes:
    data = bytearray(wire(INIT, packet(0x1000)) + PAGE)
    data[at : at + len(raw)] = raw
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            altered(0, b"QEVM"),
            "offset 0x0, in multifd init packet: expected magic 0x11223344, got 0x5145564d",
        ),
        (altered(4, b"\0\0\0\2"), "offset 0x0, in multifd init packet: expected version 1, got 2"),
        (
            altered(64, b"QEVM"),
            "offset 0x40, in multifd packet: expected magic 0x11223344, got 0x5145564d",
        ),
        (altered(68, bytes(4)), "offset 0x40, in multifd packet: expected version 1, got 0"),
        (altered(76, b"\0\0\0\x81"), "expected pages_alloc of at most 128, got 129"),
        (altered(76, bytes(4)), "expected normal_pages of at most 0, got 1"),
        (altered(96, b"\0\0\0\x80"), "expected zero_pages of at most 127, got 128"),
        (
            wire(INIT, packet(0, flags=MultifdFlag.ZSTD, size=0x100001)),
            "in payload of multifd packet 5: expected at most 1048576 bytes, got 1048577",
        ),
        (
            wire(INIT, MultifdDeviceState(0x40, "vfio", 0, DEVICE_STATE_BYTES_MAX + 1)),
            "in device state of vfio: expected at most 67108864 bytes, got 67108865",
        ),
    ],
)
def test_what_cannot_be_is_named_and_passed_on(data: bytes, why: str) -> None:
    elements = parse(MultifdChannel(), [data, b"more"])
    assert b"".join(element.raw for element in elements) == data + b"more"
    first, *rest = opaque(elements)
    assert why in str(first.value)
    assert elements[-1 - len(rest) :] == [first, *rest]
    assert elements[-1].raw.endswith(b"more")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(
        wire(INIT, packet(0x1000, zero=(0,), slots=512))
        + bytes(1024)
        + wire(MultifdDeviceState(MultifdFlag.DEVICE_STATE, "vfio", 0, 3))
        + b"abc"
        + wire(packet(0, slots=512, flags=MultifdFlag.QPL | MultifdFlag.SYNC, size=2))
        + b"xy"
    )
    for _ in range(draw(st.integers(1, 4))):
        # In the fields, which are few of the bytes.
        start = draw(st.sampled_from([0, 64, 64 + 4416 + 1024, 64 + 4416 + 1024 + 279]))
        at = start + draw(st.integers(0, 40))
        if draw(st.booleans()):
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        else:
            del data[at : at + draw(st.integers(1, 5))]
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(mutated() | st.binary(max_size=100), st.integers(0, 99))
def test_any_bytes_give_the_same_elements_in_any_pieces(data: bytes, seed: int) -> None:
    in_one = parse(MultifdChannel(page_bytes=1024), [data])
    in_pieces = parse(MultifdChannel(page_bytes=1024), pieces(data, seed))
    known = [element for element in in_one if not isinstance(element.value, Opaque)]
    assert known == [e for e in in_pieces if not isinstance(e.value, Opaque)]
    assert all(encode(element.value) == element.raw for element in known)


def test_an_idstr_longer_than_its_field_has_no_encoding() -> None:
    with pytest.raises(ValueError, match="257 bytes"):
        encode(MultifdDeviceState(0x40, "a" * 257, 0, 0))


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("sizes", [(300_000,), (1, 5000, 700)], ids=str)
def test_in_runs_payloads_go_by_and_all_else_is_the_same(name: str, sizes: tuple[int, ...]) -> None:
    data = recorded(name)[: 3 << 20]
    channel = MultifdChannel()
    channel.in_runs = True
    elements = in_windows(channel, data, headroom=1 << 12, sizes=sizes) + channel.end()
    tiled = 0
    for element in elements:
        assert element.offset == tiled
        tiled = element.end
    assert tiled == len(data)
    whole = parse(MultifdChannel(), [data])
    assert [e for e in elements if not isinstance(e.value, MultifdPiece | Opaque)] == [
        e for e in whole if not isinstance(e.value, MultifdPages | MultifdPayload | Opaque)
    ]
    assert any(isinstance(element.value, MultifdPiece) for element in elements)
