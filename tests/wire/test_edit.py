"""Edited streams: what is named changes, what depends on it is mended or not, nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    BUILT,
    RECORDED,
    channel_for,
    elements_of,
    index_of,
    opaque,
    parse,
    recorded,
    stream_of,
)

from testbed.wire import (
    EditError,
    MainChannel,
    Stream,
    encode,
)
from testbed.wire.element import (
    Command,
    Configuration,
    LiveRecord,
    Message,
    Opaque,
    PageRun,
    Payload,
    RamBlock,
    RamPage,
    RamTotal,
    SectionHeader,
    Span,
    VmDescription,
)
from testbed.wire.packet import (
    MultifdPages,
)
from testbed.wire.piece import LENGTHS, Piece


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_read_is_written_as_it_was(name: str) -> None:
    elements = elements_of(name)
    for element in elements:
        if not isinstance(element.value, Opaque | PageRun):
            assert encode(element.value) == element.raw
    assert bytes(Stream(elements)) == recorded(name)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RECORDED), st.booleans(), st.data())
def test_edits_undo_each_other(name: str, mend: bool, data: st.DataObject) -> None:
    elements = elements_of(name)
    stream, whole = Stream(elements), recorded(name)
    at = data.draw(st.integers(0, len(stream) - 1), label="index")
    piece = stream[at]
    # Of a packet's header, a page more takes up offsets without a use, and they may hold anything.
    mend = mend and not isinstance(piece.value, MultifdPages)
    stream.delete(at, mend=mend)
    assert len(bytes(stream)) == len(whole) - len(piece.raw)
    ends_package = at < len(stream) and stream[at].in_package != piece.in_package
    stream.insert(at - ends_package, piece, after=ends_package, mend=mend)
    assert bytes(stream) == whole
    assert stream[at] == piece
    stream.duplicate(at, mend=mend)
    assert len(bytes(stream)) == len(whole) + len(piece.raw)
    stream.delete(at, mend=mend)
    assert bytes(stream) == whole
    if at + 1 < len(stream) and stream[at + 1].in_package == piece.in_package:
        stream.swap(at)
        assert bytes(stream)[: elements[at].offset] == whole[: elements[at].offset]
        assert bytes(stream)[elements[at + 1].end :] == whole[elements[at + 1].end :]
        stream.swap(at)
        assert bytes(stream) == whole


@pytest.mark.parametrize("name", [*RECORDED, *BUILT])
def test_every_kind_of_field_can_be_set_and_resized_alone(name: str) -> None:
    seen: set[tuple[type, str]] = set()
    for element in elements_of(name):
        for span in element.spans:
            field = type(element.value), span.name.partition("[")[0]
            if field in seen:
                continue
            seen.add(field)
            first, last = span.start, span.start + span.size_bytes
            before, old, after = element.raw[:first], element.raw[first:last], element.raw[last:]
            other = bytes(byte ^ 0xFF for byte in old)
            piece = Piece.of(element)
            assert piece.set(span.name, other).raw == before + other + after
            for new in (b"", b"x", old + b"more"):
                resized = piece.resize(span.name, new, mend=False)
                assert resized.raw == before + new + after
                # Each field is where it was, as far from what changed.
                assert [each.name for each in resized.spans] == [
                    each.name for each in element.spans
                ]
                for each in element.spans:
                    if each.name != span.name and each.size_bytes:
                        assert resized.field(each.name) == piece.field(each.name)
                assert resized.resize(span.name, old, mend=False) == piece


@pytest.mark.parametrize("name", [*RECORDED, *BUILT])
def test_a_value_has_the_fields_that_it_is_read_with(name: str) -> None:
    for element in elements_of(name):
        if not isinstance(element.value, Opaque | LiveRecord):
            assert Piece.of_value(element.value) == Piece(element.raw, element.value, element.spans)


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
    mended, left = stream_of(name), stream_of(name)
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
    stream = stream_of("precopy")
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


READ_AGAIN = [
    ("precopy", Configuration, "machine", b"another-machine-9.9"),
    ("precopy", RamPage, "data", b"\1\2ab\3\4abcd"),
    ("precopy", VmDescription, "text", b'{"devices": []}'),
    ("postcopy", Command, "payload", b"of no size that it has"),
    ("qemu7.2-dirty-bitmaps.c0.fwd", LiveRecord, "node", b"another-node"),
    ("qemu7.2-dirty-bitmaps.c0.fwd", LiveRecord, "bitmap", b"another-bitmap"),
    ("qemu7.2-dirty-bitmaps.c0.fwd", LiveRecord, "data", b"\xff" * 800),
    ("qemu7.2-recover.rec.c0.ret", Message, "bitmap", bytes(800)),
    ("qemu7.2-recover.rec.c0.ret", Message, "payload", b"\3abc"),
]


@pytest.mark.parametrize(("name", "kind", "field", "new"), READ_AGAIN)
def test_what_has_another_size_is_read_again(name: str, kind: type, field: str, new: bytes) -> None:
    elements = elements_of(name)
    stream = Stream(elements)
    at = next(
        n
        for n, element in enumerate(elements)
        if isinstance(element.value, kind)
        and len({span.name for span in element.spans} & {*LENGTHS[field], field}) == 2
    )
    stream.resize(at, field, new)
    found = parse(channel_for(name, bytes(stream)), [bytes(stream)])
    assert opaque(found) == opaque(elements)
    assert len(found) == len(elements)
    assert found[at].raw == stream[at].raw
    span = found[at].span(field)
    assert span is not None
    assert span == stream[at].span(field)
    assert span.size_bytes == len(new)


def test_a_block_of_another_name_and_a_new_one_are_read_again() -> None:
    elements = elements_of("precopy")
    at = index_of("precopy", RamBlock)
    stream = Stream(elements)
    stream.insert(at, RamBlock("vga.vram", 0x1000))
    stream.resize(at, "idstr", b"0000:00:02.0/vga.vram")
    stream.set(at, "used_length", 0x2000)
    found = parse(MainChannel(), [bytes(stream)])
    assert opaque(found) == []
    assert found[at].value == RamBlock("0000:00:02.0/vga.vram", 0x2000)
    assert found[at - 1].value == RamTotal(0x32000)


def test_a_device_s_payload_is_replaced() -> None:
    at = index_of("precopy", Payload)
    stream = stream_of("precopy")
    stream.replace(at, b"a longer state of it")
    found = parse(MainChannel(), [bytes(stream)])
    assert opaque(found) == []
    assert found[at].value == Payload(b"a longer state of it")


def test_fields_of_a_device_have_no_length_whatever_their_names_are() -> None:
    spans = Span("size", 0, 4), Span("data", 4, 2)
    piece = Piece(b"\0\0\0\5ab", Payload(b"\0\0\0\5ab"), spans)
    assert piece.resize("data", b"abcd").raw == b"\0\0\0\5abcd"


def test_a_hashed_page_table_s_length_counts_entries() -> None:
    raw = bytes(4) + b"\0\1\0\0" + bytes(16)
    spans = Span("index", 0, 4), Span("n_valid", 4, 2), Span("n_invalid", 6, 2), Span("data", 8, 16)
    piece = Piece(raw, LiveRecord("CHUNK", raw), spans)
    assert piece.resize("data", bytes(48)).field("n_valid") == 3
    with pytest.raises(EditError, match="17 bytes for field 'data': 'n_valid' counts 16 each"):
        piece.resize("data", bytes(17))


def test_a_run_of_pages_cannot_be_edited() -> None:
    elements = parse(MainChannel(in_runs=True), [recorded("qemu7.2-precopy.c0.fwd")])
    with pytest.raises(EditError, match="read the stream without runs"):
        Stream(elements)


MISTAKES = [
    (lambda s: s.set(0, "foo", 1), "FileHeader: no field 'foo'; it has magic, version"),
    (lambda s: s.set(0, "version", 1 << 32), "0x100000000 does not fit into its 4 bytes"),
    (lambda s: s.set(0, "version", b"abc"), "3 bytes for field 'version', which has 4"),
    (lambda s: s.resize(1, "machine", bytes(5)) or s.set(1, "foo", 1), "it has type, length, mach"),
    (lambda s: s.delete(10_000), "there is no element 10000, only"),
    (lambda s: s.insert(10_000, b""), "there is no element 10000, only"),
    (lambda s: s.insert(-1, b""), "there is no element -1, only"),
    (lambda s: s.swap(-1), "there is no element -1, only"),
    (lambda s: s.replace(10_000, b""), "there is no element 10000, only"),
    (lambda s: s.swap(len(s) - 1), "there is no next element"),
    (lambda s: (s.insert(0, b"x"), s.set(0, "a", 1)), "these bytes: no field 'a'; it has none"),
]


@pytest.mark.parametrize(("edit", "why"), MISTAKES)
def test_what_cannot_be_edited_is_said(edit, why: str) -> None:
    with pytest.raises(EditError, match=why):
        edit(stream_of("precopy"))


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
