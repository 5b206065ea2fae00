"""What precedes an edit says what follows now: packages, block lists, packets of pages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from wire_helpers import (
    elements_of,
    index_of,
    opaque,
    parse,
    stream_of,
)

from testbed.wire import (
    EditError,
    MainChannel,
    MultifdChannel,
    Stream,
    build,
    encode,
)
from testbed.wire.element import (
    Element,
    Payload,
    RamBlock,
    RamTotal,
    SectionHeader,
    Value,
)
from testbed.wire.mend import announces_package
from testbed.wire.packet import (
    MultifdDeviceState,
    MultifdInit,
    MultifdPacket,
    MultifdPayload,
)
from testbed.wire.piece import Piece


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


PAGES = [(page << 12, bytes([page + 1]) * 4096) for page in range(3)]
INIT = MultifdInit(bytes(16), 0)
SYNC = build.multifd_packet("pc.ram", flags=1)
PACKET = build.multifd_packet("pc.ram", PAGES, [0x9000], packet_num=1)
OTHER = build.multifd_packet("pc.ram", [(0x5000, b"\xee" * 4096)], packet_num=2)


def multifd(*values: Value) -> list[Element]:
    return parse(MultifdChannel(), [b"".join(map(encode, (INIT, *values)))])


def reread(stream: Stream) -> list[Value]:
    """The values of an edited multifd channel; it has nothing that cannot be read."""
    elements = parse(MultifdChannel(), [bytes(stream)])
    assert opaque(elements) == []
    return [element.value for element in elements]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_packet_says_which_pages_it_has(gone: int) -> None:
    stream = Stream(multifd(*PACKET, *OTHER))
    stream.resize(2, f"page[{gone}]", b"")
    left = [page for n, page in enumerate(PAGES) if n != gone]
    expected = build.multifd_packet("pc.ram", left, [0x9000], packet_num=1)
    assert reread(stream) == [INIT, *expected, *OTHER]
    stream.resize(2, f"page[{(gone + 1) % 3}]", b"")
    last = [page for n, page in enumerate(PAGES) if n == (gone + 2) % 3]
    expected = build.multifd_packet("pc.ram", last, [0x9000], packet_num=1)
    assert reread(stream) == [INIT, *expected, *OTHER]


def test_a_packet_without_its_payload_has_no_pages() -> None:
    stream = Stream(multifd(*PACKET, *OTHER))
    stream.delete(2)
    empty = build.multifd_packet("pc.ram", [], [0x9000], packet_num=1)
    assert reread(stream) == [INIT, *empty, *OTHER]
    stream.insert(1, PACKET[1], after=True)
    assert reread(stream) == [INIT, *PACKET, *OTHER]


def test_pages_that_come_twice_are_announced_twice() -> None:
    stream = Stream(multifd(*PACKET, *OTHER))
    stream.duplicate(2)
    doubled = build.multifd_packet("pc.ram", PAGES * 2, [0x9000], packet_num=1)
    assert reread(stream) == [INIT, *doubled, *OTHER]


@pytest.mark.parametrize("order", [(3, 3), (4, 3)])
@pytest.mark.parametrize("before", [PACKET, SYNC])
def test_a_packet_that_is_taken_out_leaves_the_one_before_it_alone(
    before: list[Value], order: tuple[int, int]
) -> None:
    first, second = (each - (before is SYNC) for each in order)
    stream = Stream(multifd(*before, *OTHER, *PACKET))
    stream.delete(first)
    stream.delete(second)
    assert reread(stream) == [INIT, *before, *PACKET]


def test_a_size_left_over_from_an_earlier_packet_counts_for_nothing() -> None:
    (sync,) = SYNC
    assert isinstance(sync, MultifdPacket)
    stream = Stream(multifd(replace(sync, next_packet_size=0x7000)))  # as before 9.0
    stream.insert(1, OTHER[1], after=True)
    assert stream[1].field("next_packet_size") == 4096
    assert reread(stream)[2] == OTHER[1]


def test_an_offset_that_was_set_stays_as_it_was_set() -> None:
    stream = Stream(multifd(*PACKET))
    stream.set(1, "offset[2]", 0xBAD000)
    stream.resize(2, "page[0]", b"")
    header = reread(stream)[1]
    assert isinstance(header, MultifdPacket)
    assert header.normal_offsets_bytes == (0x1000, 0xBAD000)
    assert header.zero_offsets_bytes == (0x9000,)


def test_a_header_of_device_state_says_how_long_that_is() -> None:
    values = MultifdDeviceState(0x40, "vfio", 0, 5), MultifdPayload(b"state")
    stream = Stream(multifd(*values))
    stream.duplicate(2)
    assert reread(stream)[2:] == [MultifdPayload(b"statestate")]
    stream.replace(3, b"")
    stream.replace(2, b"another")
    assert reread(stream)[2:] == [MultifdPayload(b"another")]
    stream.duplicate(2, mend=False)
    assert stream[1].field("next_packet_size") == 7


def test_a_size_that_was_set_wrong_stays_as_wrong() -> None:
    elements = elements_of("postcopy")
    head = next(n for n, each in enumerate(elements) if announces_package(Piece.of(each)))
    stream = Stream(elements)
    inside = stream[head].field("payload")
    stream.set(head, "payload", inside + 100)
    stream.insert(head, b"abc", after=True)
    assert stream[head].field("payload") == inside + 103
    assert stream[head + 1] == Piece(b"abc", in_package=True)


def test_a_package_ends_behind_what_is_put_behind_its_last_element() -> None:
    elements = elements_of("postcopy")
    last = max(n for n, each in enumerate(elements) if each.in_package)
    for after, where in ((True, last), (False, last + 1)):
        stream = Stream(elements)
        stream.insert(where, build.ping(9), after=after)
        found = parse(MainChannel(), [bytes(stream)])
        # Behind RUN nothing of a package is read, so what is in it is no element.
        assert (build.ping(9) in [each.value for each in found]) is not after
        assert bool(opaque(found)) is after
        assert stream[last + 1].in_package is after


REFUSED = [
    # a stream, an edit that cannot be mended, why
    ("postcopy", lambda s, at: s.resize(at, "idstr", b"x" * 256), "0x100 does not fit into its 1 "),
    ("postcopy", lambda s, at: s.delete(at), "Command: 'payload' would be -"),
    ("precopy", lambda s, at: s.resize(at, "idstr", b"x" * 300), "does not fit into its 1 byte"),
]


@pytest.mark.parametrize(("name", "edit", "why"), REFUSED)
def test_an_edit_that_cannot_be_mended_changes_nothing(name: str, edit, why: str) -> None:
    stream = stream_of(name)
    elements = elements_of(name)
    heads = [n for n in range(len(stream)) if announces_package(stream[n])]
    for head in heads:
        stream.set(head, "payload", 0)
    inside = [n for n, e in enumerate(elements) if e.in_package] or range(len(stream))
    at = next(n for n in inside if isinstance(elements[n].value, SectionHeader))
    before = bytes(stream)
    with pytest.raises(EditError, match=why):
        edit(stream, at)
    assert bytes(stream) == before


def test_what_would_be_flags_of_a_total_is_refused() -> None:
    stream = stream_of("precopy")
    at = index_of("precopy", RamBlock)
    with pytest.raises(EditError, match="'record' counts 1024 bytes each: not 1 more"):
        stream.set(at, "used_length", 0x20001)
    stream.set(at, "used_length", 0x20001, mend=False)
    assert stream[at].field("used_length") == 0x20001


def test_pages_that_a_header_cannot_name_are_refused() -> None:
    zeros = [page << 12 for page in range(126)]
    stream = Stream(multifd(*build.multifd_packet("pc.ram", PAGES[:2], zeros)))
    with pytest.raises(EditError, match="4 pages: the packet's header has room for 2"):
        stream.duplicate(2)
    with pytest.raises(EditError, match="5 bytes for 'page\\[0\\]': 4096, or none"):
        stream.resize(2, "page[0]", b"short")
    with pytest.raises(EditError, match="4096 bytes without fields: which pages are they"):
        stream.replace(2, bytes(4096))
