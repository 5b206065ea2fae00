"""What is built has QEMU's layout, and is read as what it was built from."""

import struct
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_helpers import RAM_ID, head, opaque, parse, ram_start, recorded, steps

from testbed.wire import (
    MainChannel,
    MultifdChannel,
    ReturnPath,
    build,
    build_section,
    encode,
    xbzrle,
)
from testbed.wire.channel import Channel
from testbed.wire.element import (
    Command,
    CommandType,
    Configuration,
    ConfigurationSubsection,
    Element,
    FileHeader,
    Message,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    SectionType,
    Value,
)
from testbed.wire.packet import MultifdInit, MultifdPacket, MultifdPages

OLD = bytes(range(256)) * 4
NEW = OLD[:100] + b"changed" + OLD[107:]

BUILT = [
    pytest.param(build.ping(0x42), "08 0002 0004 00000042", id="PING"),
    pytest.param(
        build.advise(0x1000 | 0x200000, 0x1000),
        "08 0003 0010 0000000000201000 0000000000001000",
        id="POSTCOPY_ADVISE",
    ),
    pytest.param(
        build.discard("pc.bios", [(0, 0x40000)]),
        "08 0006 001a 00 07 70632e62696f73 00 0000000000000000 0000000000040000",
        id="POSTCOPY_RAM_DISCARD",
    ),
    pytest.param(
        build.discard("a", [(1, 2), (3, 4)]),
        "08 0006 0024 00 01 61 00" + "".join(f"{n:016x}" for n in (1, 2, 3, 4)),
        id="POSTCOPY_RAM_DISCARD-ranges",
    ),
    pytest.param(
        build.recv_bitmap("pc.ram"), "08 000a 0007 06 70632e72616d", id="RECV_BITMAP-command"
    ),
    pytest.param(build.shut(0), "0001 0004 00000000", id="SHUT"),
    pytest.param(build.shut(1), "0001 0004 00000001", id="SHUT-error"),
    pytest.param(build.pong(3), "0002 0004 00000003", id="PONG"),
    pytest.param(
        build.request_pages(0x1000, 0x2000, "a"),
        "0003 000e 0000000000001000 00002000 01 61",
        id="REQ_PAGES_ID",
    ),
    pytest.param(
        build.request_pages(0x1000, 0x2000), "0004 000c 0000000000001000 00002000", id="REQ_PAGES"
    ),
    pytest.param(
        build.received_bitmap("a", b"\1"),
        "0005 0002 01 61 0000000000000008 0100000000000000 0123456789abcdef",
        id="RECV_BITMAP-message",
    ),
    pytest.param(build.resume_ack(), "0006 0004 00000001", id="RESUME_ACK"),
    pytest.param(build.switchover_ack(), "0007 0000", id="SWITCHOVER_ACK"),
    pytest.param(
        build.guest_uuid(bytes(range(16))),
        "05 12 636f6e66696775726174696f6e2f75756964 00000001 000102030405060708090a0b0c0d0e0f",
        id="uuid",
    ),
    pytest.param(
        build.capabilities(["x-ignore-shared"]),
        "05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001"
        "00000001 0f 782d69676e6f72652d736861726564",
        id="capabilities",
    ),
    pytest.param(
        build.target_page_bits(12),
        "05 1e 636f6e66696775726174696f6e2f7461726765742d706167652d62697473 00000001 0000000c",
        id="target-page-bits",
    ),
    pytest.param(
        build.page("pc.ram", 0x1000, bytes(1024)), "0000000000001002 06 70632e72616d 00", id="zero"
    ),
    pytest.param(
        build.page("pc.ram", 0x1000, OLD), "0000000000001008 06 70632e72616d" + OLD.hex(), id="page"
    ),
    pytest.param(
        build.page("pc.ram", 0x1000, OLD, same_block=True),
        "0000000000001028" + OLD.hex(),
        id="continue",
    ),
    pytest.param(
        build.xbzrle_page("pc.ram", 0x1000, OLD, NEW, same_block=True),
        "0000000000001060 01 0009 64 07 6368616e676564",
        id="xbzrle",
    ),
]


@pytest.mark.parametrize(("value", "wire"), BUILT)
def test_built_value_has_those_bytes(value: Value, wire: str) -> None:
    assert encode(value).hex() == wire.replace(" ", "")


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("value", [pytest.param(p.values[0], id=p.id) for p in BUILT])
def test_built_value_is_read_again(value: Value, step: int) -> None:
    values, elements = _read(value, step)
    assert opaque(elements) == []
    assert value in values


def _read(value: Value, step: int) -> tuple[list[Value], list[Element]]:
    """What is read of a channel that carries the value where it may stand."""
    channel: Channel = MainChannel()
    match value:
        case Message():
            channel, stream = ReturnPath(), encode(value)
        case ConfigurationSubsection():
            begin = encode(FileHeader(0x5145564D, 3)) + encode(Configuration("pc"))
            stream = begin + encode(value) + b"\0"
        case RamPage():
            first = build.page("pc.ram", 0, bytes(1024))
            records = b"".join(map(encode, (first, value, RamMark(RamFlag.EOS))))
            part = build_section(SectionType.PART, RAM_ID, "ram", 0, 4, records)
            stream = head() + ram_start() + part + b"\0"
        case _:
            stream = head() + encode(value) + b"\0"
    elements = parse(channel, steps(stream, step))
    return [element.value for element in elements], elements


def test_a_compressed_page_is_a_zlib_stream() -> None:
    value = build.compressed_page("pc.ram", 0x400, OLD, level=9)
    assert zlib.decompress(value.data) == OLD
    values, elements = _read(value, 1)
    assert opaque(elements) == []
    assert value in values


def test_a_package_announces_the_size_of_its_elements() -> None:
    inner = [Command(CommandType.POSTCOPY_LISTEN, b""), build.ping(3)]
    inner.append(Command(CommandType.POSTCOPY_RUN, b""))
    packaged = build.package(inner)
    assert packaged.startswith(bytes.fromhex("08 0007 0004 00000013"))
    elements = parse(MainChannel(), [head() + packaged + b"\0"])
    assert [element.value for element in elements if element.in_package] == inner
    assert opaque(elements) == []


def test_a_block_list_announces_the_sum_of_its_blocks() -> None:
    values = build.block_list([RamBlock("pc.ram", 0x20000), RamBlock("vga.vram", 0x10000)])
    assert encode(values[0]).hex() == "0000000000030004"
    payload = b"".join(map(encode, (*values, RamMark(RamFlag.EOS))))
    stream = head() + build_section(SectionType.START, RAM_ID, "ram", 0, 4, payload)
    elements = parse(MainChannel(), [stream + b"\0"])
    assert opaque(elements) == []
    assert [e.value for e in elements if isinstance(e.value, RamBlock)] == values[1:]


PACKETS = [
    pytest.param([], [], id="sync"),
    pytest.param([(0x2000, b"\1" * 4096)], [], id="one-page"),
    pytest.param([(0, b"\1" * 4096), (0x3000, b"\2" * 4096)], [0x1000, 0x2000], id="both"),
    pytest.param([], [0x1000], id="zero-pages-only"),
]


@pytest.mark.parametrize(("pages", "zeros"), PACKETS)
def test_a_multifd_packet_is_read_again(
    pages: Sequence[tuple[int, bytes]], zeros: Sequence[int]
) -> None:
    values = [MultifdInit(bytes(16), 1)]
    values += build.multifd_packet("pc.ram", pages, zeros, packet_num=7, flags=1)
    values += build.multifd_packet("pc.ram", packet_num=8)
    elements = parse(MultifdChannel(), [b"".join(map(encode, values))])
    assert [element.value for element in elements] == values
    header = elements[1].value
    assert isinstance(header, MultifdPacket)
    assert list(header.normal_offsets_bytes) == [offset for offset, _ in pages]
    assert list(header.zero_offsets_bytes) == zeros
    assert sum(isinstance(each, MultifdPages) for each in values) == bool(pages)


def test_a_multifd_packet_has_no_more_pages_than_fit() -> None:
    build.multifd_packet("pc.ram", zero_offsets=range(0, 128 << 12, 1 << 12))
    with pytest.raises(ValueError, match="129 pages: a packet has 128 at most"):
        build.multifd_packet("pc.ram", zero_offsets=range(0, 129 << 12, 1 << 12))


TOO_LARGE = [  # of numbers, Python's own words change from version to version
    pytest.param(lambda: encode(RamBlock("x" * 256, 0)), "a name of 256 bytes", id="idstr"),
    pytest.param(lambda: build.recv_bitmap("x" * 256), "a name of 256 bytes", id="block"),
    pytest.param(lambda: build.capabilities(["x" * 256]), "256 bytes: 255 at most", id="name"),
    pytest.param(lambda: build.ping(1 << 32), ".", id="ping"),
    pytest.param(lambda: build.request_pages(-1, 0), ".", id="offset"),
    pytest.param(lambda: encode(Command(2, bytes(1 << 16))), ".", id="payload"),
]


@pytest.mark.parametrize(("built", "message"), TOO_LARGE)
def test_what_does_not_fit_into_its_field_is_refused(built, message: str) -> None:
    with pytest.raises((ValueError, struct.error), match=message):
        built()


# XBZRLE

DIFFERENCES = [
    pytest.param(bytes(1024), bytes(1024), "", id="same"),
    pytest.param(bytes(1024), b"\1" + bytes(1023), "00 01 01", id="first-byte"),
    pytest.param(bytes(1024), bytes(1023) + b"\1", "ff07 01 01", id="last-byte"),
    pytest.param(bytes(1024), bytes(127) + b"ab" + bytes(895), "7f 02 6162", id="short-length"),
    pytest.param(bytes(1024), bytes(128) + b"ab" + bytes(894), "8001 02 6162", id="long-length"),
    pytest.param(
        bytes(1024), b"a\0b" + bytes(1021), "00 01 61 01 01 62", id="one-byte-between-two"
    ),
    pytest.param(b"\1" * 1024, b"\1" * 9 + bytes(1015), "09 f707" + "00" * 1015, id="zeroed"),
]


@pytest.mark.parametrize(("old", "new", "data"), DIFFERENCES)
def test_xbzrle_of_a_page(old: bytes, new: bytes, data: str) -> None:
    made = xbzrle.encode(old, new)
    assert made == bytes.fromhex(data)
    assert xbzrle.decode(old, made) == new


def test_a_page_that_would_grow_is_sent_whole() -> None:
    every_other = b"\1\0" * 512
    assert xbzrle.encode(bytes(1024), every_other) is None
    assert xbzrle.encode(bytes(1024), b"\1" * 1024) is None
    assert build.xbzrle_page("pc.ram", 0, bytes(1024), every_other) is None


def test_a_run_longer_than_a_length_can_say_is_sent_whole() -> None:
    page = bytes(1 << 16)
    longest = bytes(0x3FFF) + b"\1" + bytes((1 << 16) - 0x4000)
    assert xbzrle.encode(page, longest) == bytes.fromhex("ff7f 01 01")
    assert xbzrle.encode(page, b"\0" + longest[:-1]) is None


def test_pages_of_different_sizes_have_no_difference() -> None:
    with pytest.raises(ValueError, match="pages of 4 and 5 bytes"):
        xbzrle.encode(bytes(4), bytes(5))


CHANGES = st.lists(st.tuples(st.integers(0, 1023), st.binary(max_size=40)), max_size=30)


@given(CHANGES)
def test_what_xbzrle_encodes_it_decodes(changes: list[tuple[int, bytes]]) -> None:
    old = bytes(range(256)) * 4
    new = bytearray(old)
    for start, change in changes:
        new[start : start + len(change)] = change[: 1024 - start]
    made = xbzrle.encode(old, bytes(new))
    assert (made == b"") == (new == old)
    if made is not None:
        assert len(made) <= len(old)
        assert xbzrle.decode(old, made) == new


@pytest.mark.parametrize("version", ["qemu7.2", "qemu10.0"])
def test_xbzrle_makes_of_recorded_pages_what_qemu_made(version: str) -> None:
    pages: dict[tuple[str, int], bytes] = {}
    same = 0
    for element in MainChannel().feed(recorded(f"{version}-xbzrle.c0.fwd")):
        match element.value:
            case RamPage(block, offset_bytes, flags, data):
                old = pages.get((block, offset_bytes), bytes(4096))
                new = bytes(4096) if flags & RamFlag.ZERO else data
                if flags & RamFlag.XBZRLE:
                    new = xbzrle.decode(old, data)
                    assert xbzrle.encode(old, new) == data
                    same += 1
                pages[block, offset_bytes] = new
    assert same > 10
