"""Edited streams: what is named changes, what depends on it is mended or not, nothing else does."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    DATA,
    opaque,
    parse,
    postcopy,
    precopy,
    recorded,
)

from testbed.wire import (
    EditError,
    MainChannel,
    MultifdChannel,
    ReturnPath,
    Stream,
    encode,
)
from testbed.wire.channel import Channel
from testbed.wire.element import (
    Command,
    Element,
    Message,
    Opaque,
    PageRun,
    Payload,
    RamBlock,
    RamTotal,
    SectionHeader,
    VmDescription,
)
from testbed.wire.identify import FIRST_BYTES, ChannelKind, channel_of
from testbed.wire.packet import MultifdDeviceState, MultifdPacket, MultifdPayload
from testbed.wire.preempt import PreemptChannel

RECORDED = sorted(path.name.removesuffix(".bin.xz") for path in DATA.glob("*.bin.xz"))
BUILT = {"precopy": precopy(), "postcopy": postcopy()}


def channel_for(name: str, data: bytes) -> Channel:
    if ".ret" in name:
        return ReturnPath()
    if name == "qemu7.2-preempt.c1.fwd":
        return PreemptChannel()
    if ".rec." in name:
        return MainChannel(recovery=True)
    kind = channel_of(data[:FIRST_BYTES])
    return MultifdChannel() if kind is ChannelKind.MULTIFD else MainChannel()


@lru_cache(2)
def elements_of(name: str) -> list[Element]:
    data = BUILT.get(name) or recorded(name)
    return parse(channel_for(name, data), [data])


def built(name: str) -> Stream:
    return Stream(elements_of(name))


def index_of(name: str, kind: type, nth: int = 0) -> int:
    found = [at for at, each in enumerate(elements_of(name)) if isinstance(each.value, kind)]
    return found[nth]


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_read_is_written_as_it_was(name: str) -> None:
    elements = elements_of(name)
    for element in elements:
        if not isinstance(element.value, Opaque | PageRun):
            assert encode(element.value) == element.raw
    assert bytes(Stream(elements)) == recorded(name)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RECORDED), st.data())
def test_edits_undo_each_other(name: str, data: st.DataObject) -> None:
    elements = elements_of(name)
    stream, whole = Stream(elements), recorded(name)
    at = data.draw(st.integers(0, len(stream) - 1), label="index")
    piece = stream[at]
    stream.delete(at)
    assert len(bytes(stream)) == len(whole) - len(piece.raw)
    if piece.in_package == (stream[min(at, len(stream) - 1)].in_package if len(stream) else False):
        stream.insert(at, piece)
        assert bytes(stream) == whole
    stream = Stream(elements)
    stream.duplicate(at)
    assert len(bytes(stream)) == len(whole) + len(piece.raw)
    stream.delete(at)
    assert bytes(stream) == whole
    if at + 1 < len(stream) and stream[at + 1].in_package == piece.in_package:
        stream.swap(at)
        assert bytes(stream)[: elements[at].offset] == whole[: elements[at].offset]
        assert bytes(stream)[elements[at + 1].end :] == whole[elements[at + 1].end :]
        stream.swap(at)
        assert bytes(stream) == whole


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*BUILT, "qemu7.2-multifd.c1.fwd", "qemu7.2-recover.c0.ret"]), st.data())
def test_a_field_that_is_set_is_all_that_changes(name: str, data: st.DataObject) -> None:
    elements = elements_of(name)
    at = data.draw(st.sampled_from([n for n, e in enumerate(elements) if e.spans]), label="index")
    element = elements[at]
    span = data.draw(st.sampled_from([each for each in element.spans if each.size_bytes]))
    value = data.draw(st.binary(min_size=span.size_bytes, max_size=span.size_bytes))
    stream = Stream(elements)
    before = bytes(stream)
    stream.set(at, span.name, value, mend=False)
    first = element.offset + span.start
    last = first + span.size_bytes
    assert bytes(stream) == before[:first] + value + before[last:]
    assert stream[at].field(span.name) == int.from_bytes(value, "big")


SIZED = [
    ("precopy", Command, "payload"),
    ("precopy", VmDescription, "text"),
    ("precopy", SectionHeader, "idstr"),
    ("postcopy", Command, "payload"),
    ("qemu7.2-recover.rec.c0.ret", Message, "bitmap"),
    ("qemu7.2-recover.c0.ret", Message, "payload"),
]


@pytest.mark.parametrize(("name", "kind", "field"), SIZED)
@pytest.mark.parametrize("size", [0, 1, 8, 200])
def test_a_field_of_another_size_brings_its_length_along(
    name: str, kind: type, field: str, size: int
) -> None:
    at = index_of(name, kind)
    value = b"{" * size
    mended, left = built(name), built(name)
    mended.resize(at, field, value)
    left.resize(at, field, value, mend=False)
    raw, old = mended[at].raw, left[at].raw
    span = mended[at].span(field)
    assert raw[span.start : span.start + span.size_bytes] == value
    ends = [each.start + each.size_bytes for each in mended[at].spans]
    assert ends[-1] == len(raw)
    assert sum(each.size_bytes for each in mended[at].spans) == len(raw)
    # What is not mended differs in the length alone, if at all.
    length = mended[at].span(
        {"idstr": "idstr_length", "bitmap": "bitmap_size"}.get(field, "length")
    )
    assert mended[at].field(length.name) == size
    assert left[at].field(length.name) == Stream(elements_of(name))[at].field(length.name)
    end = length.start + length.size_bytes
    assert (raw[: length.start], raw[end:]) == (old[: length.start], old[end:])


def test_an_idstr_of_another_size_is_read_again() -> None:
    stream = built("precopy")
    at = next(
        n
        for n, each in enumerate(elements_of("precopy"))
        if isinstance(each.value, SectionHeader) and each.value.idstr == "timer"
    )
    stream.resize(at, "idstr", b"another name")
    found = parse(MainChannel(), [bytes(stream)])
    assert opaque(found) == []
    assert found[at].section is not None
    assert found[at].section.idstr == "another name"


@pytest.mark.parametrize("how", ["delete", "duplicate", "insert", "resize"])
def test_a_package_is_as_long_as_what_is_in_it(how: str) -> None:
    elements = elements_of("postcopy")
    at = next(n for n, e in enumerate(elements) if e.in_package and isinstance(e.value, Payload))
    head = max(n for n in range(at) if not elements[n].in_package)
    changes = []
    for mend in (True, False):
        stream = Stream(elements)
        before = stream[head].field("payload")
        match how:
            case "delete":
                stream.delete(at, mend=mend)
            case "duplicate":
                stream.duplicate(at, mend=mend)
            case "insert":
                stream.insert(at, b"eleven more", mend=mend)
            case "resize":
                stream.resize(at - 1, "idstr", b"x" * 40, mend=mend)
        inside = sum(len(stream[n].raw) for n in range(len(stream)) if stream[n].in_package)
        assert (stream[head].field("payload") == inside) is mend
        changes.append(stream[head].field("payload") - before)
    assert changes[0] != 0
    assert changes[1] == 0


@pytest.mark.parametrize("mend", [True, False])
def test_a_block_list_s_total_is_the_sum_of_its_blocks(mend: bool) -> None:
    elements = elements_of("precopy")
    total, block = index_of("precopy", RamTotal), index_of("precopy", RamBlock)
    stream = Stream(elements)
    before = stream[total].field("record")
    stream.set(block, "used_length", 0x40000, mend=mend)
    assert stream[total].field("record") - before == (0x20000 if mend else 0)
    stream.duplicate(block, mend=mend)
    assert stream[total].field("record") - before == (0x60000 if mend else 0)
    stream.delete(block, mend=mend)
    if mend:
        found = parse(MainChannel(), [bytes(stream)])
        assert opaque(found) == []
        blocks = [each.value for each in found if isinstance(each.value, RamBlock)]
        assert [each.used_bytes for each in blocks] == [0x40000, 0x10000]


def test_a_multifd_header_says_how_long_its_payload_is() -> None:
    name = "qemu7.2-multifd.c1.fwd"
    elements = elements_of(name)
    at = next(
        n
        for n, e in enumerate(elements)
        if isinstance(e.value, MultifdPacket) and e.value.normal_pages
    )
    stream = Stream(elements)
    before = stream[at].field("next_packet_size")
    assert len(stream[at + 1].raw) == before
    stream.delete(at + 1)
    assert stream[at].field("next_packet_size") == 0
    state = MultifdDeviceState(0x40, "vfio", 0, 5)
    head, payload = (
        Element(0, encode(state), state, ()),
        Element(0, b"state", MultifdPayload(b"state")),
    )
    stream = Stream([head, payload])
    stream.duplicate(1, mend=False)
    assert bytes(stream) == encode(state) + b"statestate"


MISTAKES = [
    (lambda s: s.set(0, "foo", 1), "FileHeader: no field 'foo'; it has magic, version"),
    (lambda s: s.set(0, "version", 1 << 32), "0x100000000 does not fit into its 4 bytes"),
    (lambda s: s.set(0, "version", b"abc"), "3 bytes for field 'version', which has 4"),
    (lambda s: s.resize(1, "machine", bytes(5)) or s.set(1, "foo", 1), "it has type, length, mach"),
    (lambda s: s.delete(10_000), "there is no element 10000, only"),
    (lambda s: s.insert(10_000, b""), "there is no element 10000, only"),
    (lambda s: s.swap(len(s) - 1), "there is no next element"),
    (lambda s: (s.insert(0, b"x"), s.set(0, "a", 1)), "these bytes: no field 'a'; it has none"),
]


@pytest.mark.parametrize(("edit", "why"), MISTAKES)
def test_what_cannot_be_edited_is_said(edit, why: str) -> None:
    with pytest.raises(EditError, match=why):
        edit(built("precopy"))


def test_nothing_is_exchanged_across_the_end_of_a_package() -> None:
    elements = elements_of("postcopy")
    at = next(n for n, each in enumerate(elements) if each.in_package)
    stream = Stream(elements)
    with pytest.raises(EditError, match="a package begins or ends between"):
        stream.swap(at - 1)
    assert bytes(stream) == BUILT["postcopy"]


def test_a_field_of_a_device_is_set_by_its_name() -> None:
    name = "qemu7.2-precopy.c0.fwd"
    channel = MainChannel()
    elements = parse(channel, [recorded(name)])
    stream = Stream(elements, channel.layout)
    at = next(
        n
        for n, each in enumerate(elements)
        if isinstance(each.value, Payload) and each.section and each.section.idstr == "timer"
    )
    stream.set(at, "cpu_clock_offset", -1)
    changed = parse(MainChannel(), [bytes(stream)])
    assert changed[at].raw != elements[at].raw
    assert changed[at].raw.endswith(b"\xff" * 8)
    with pytest.raises(EditError, match="Payload: no field 'foo'; it has cpu_ticks_offset, "):
        stream.set(at, "foo", 0)
