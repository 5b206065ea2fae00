"""Claims of a hostile peer: lengths, counts, nesting. An error with its place, or a value.

Each claim is made to the real bounds, which are read from the code, not lowered.
"""

import json
from collections.abc import Callable

import pytest
from hostile_helpers import TO_DEVICES, listed, mapped, multifd_packet
from wire_helpers import head, opaque, parse, ram_part, ram_start, steps

from testbed.wire import (
    Layout,
    MainChannel,
    MultifdChannel,
    Phase,
    PreemptChannel,
    ReturnPath,
    StreamError,
    build_command,
    build_message,
    build_section,
)
from testbed.wire import vmdesc as vmdesc_module
from testbed.wire.channel import Channel
from testbed.wire.element import (
    CommandType,
    MappedGap,
    MessageType,
    Opaque,
    RamBlock,
    RamFlag,
    RamMark,
    SectionHeader,
    SectionType,
)
from testbed.wire.main_channel import SECTIONS_MAX
from testbed.wire.ram import BLOCKS_MAX
from testbed.wire.return_path import BITMAP_BYTES_MAX
from testbed.wire.structs import U32, U64
from testbed.wire.successor import VMDESC_BYTES_MAX

BEHIND_HEAD = len(head())
CLAIMS = [
    # the parser, what it reads, where the error is, what it says
    pytest.param(
        MainChannel,
        TO_DEVICES + b"\0\6" + U32.pack(0xFFFFFFFF) + b'{"',
        len(TO_DEVICES) + 1,
        f"in vmdesc: expected at most {VMDESC_BYTES_MAX} bytes, got 4294967295",
        id="vmdesc-of-4-GiB",
    ),
    pytest.param(
        MainChannel,
        head() + build_command(CommandType.PING, b"\0\0\0\1", length=0xFFFF),
        BEHIND_HEAD,
        "in payload of command PING: expected 65540 bytes, got the end of the channel after 9",
        id="command-length",
    ),
    pytest.param(
        MainChannel,
        head() + build_command(CommandType.PACKAGED, b"\xff\xff\xff\xff") + b"\x55",
        BEHIND_HEAD + 9,
        "in section type: expected 0x00 to 0x04 or 0x08, got 0x55",
        id="package-of-4-GiB",
    ),
    pytest.param(
        MainChannel,
        head() + b"\1\0\0\0\2\xffram",
        BEHIND_HEAD,
        "in header of a START section: expected 269 bytes, got the end of the channel after 9",
        id="idstr-length",
    ),
    pytest.param(
        MainChannel,
        listed((1 << 64) - 1024, b"\xffpc.ram"),
        len(listed(0)),
        "in block list: expected 256 bytes, got the end of the channel after 7",
        id="block-idstr-length",
    ),
    pytest.param(
        MainChannel,
        listed(1024, b"\6pc.ram" + U64.pack((1 << 64) - 1) + bytes(7) + b"\x10"),
        len(listed(0)) + 15,
        "at most 4096 blocks of 1024 bytes in all, got 1 blocks of 18446744073709551615",
        id="block-of-2^64",
    ),
    pytest.param(
        MultifdChannel,
        multifd_packet(0xFFFFFFFF, 0xFFFFFFFF, 0, 0),
        64,
        "in multifd packet: expected pages_alloc of at most 128, got 4294967295",
        id="multifd-pages-alloc",
    ),
    pytest.param(
        MultifdChannel,
        multifd_packet(128, 0xFFFFFFFF, 0, 0),
        64,
        "expected normal_pages of at most 128, got 4294967295",
        id="multifd-pages",
    ),
    pytest.param(
        MultifdChannel,
        multifd_packet(128, 128, 0, 0xFFFFFFFF),
        64,
        "expected zero_pages of at most 0, got 4294967295",
        id="multifd-zero-pages",
    ),
    pytest.param(
        ReturnPath,
        build_message(MessageType.RECV_BITMAP, b"\6pc.ram", bitmap=U64.pack((1 << 64) - 1)),
        11,
        f"expected at most {BITMAP_BYTES_MAX} bytes, got 18446744073709551615",
        id="bitmap-of-2^64",
    ),
    pytest.param(
        ReturnPath,
        build_message(MessageType.PONG, length=0xFFFF),
        0,
        "in payload of message PONG: expected at most 512 bytes, got 65535",
        id="message-length",
    ),
    pytest.param(
        PreemptChannel,
        U64.pack(RamFlag.PAGE) + b"\0",
        0,
        "expected a RAM block of the list, got b''",
        id="preempt-without-name",
    ),
    pytest.param(
        MainChannel,
        mapped(len(mapped(0, 0)), 16) + bytes(8),
        len(mapped(0, 0)) + 8,
        "expected an offset behind what was read, got one "
        f"{len(mapped(0, 0)) + 8 - 16} bytes before it",
        id="mapped-ram-points-back",
    ),
    pytest.param(
        MainChannel,
        mapped(len(mapped(0, 0)), 1 << 20, 1 << 63),
        len(mapped(0, 0)),
        "expected a bitmap of at most 1073741824 bytes, got 281474976710656",
        id="mapped-ram-bitmap",
    ),
]


@pytest.mark.parametrize(("make", "data", "offset", "why"), CLAIMS)
def test_a_claim_beyond_its_bound_is_an_error_at_its_place(
    make: Callable[[], Channel], data: bytes, offset: int, why: str
) -> None:
    for step in (1, 1 << 20):
        first = opaque(parse(make(), steps(data, step)))[0]
        assert isinstance(first.value, Opaque)
        assert f"offset {offset:#x}, " in first.value.why
        assert why in first.value.why


def test_pages_2_to_63_bytes_ahead_in_a_mapped_ram_file_are_waited_for_in_pieces() -> None:
    channel = MainChannel()
    start = mapped(len(mapped(0, 0)), 1 << 63)
    elements = parse(channel, [start + bytes(8)], end=False)
    for _ in range(64):
        elements += channel.feed(bytes(1 << 16))
        assert channel.pending <= 1 << 20
    assert sum(isinstance(element.value, MappedGap) for element in elements) == 4
    (cut,) = channel.end()
    assert "cut short" in str(cut.value)
    assert "in mapped-ram, between two regions" in str(cut.value)


def test_a_package_of_4_gib_is_read_as_it_comes_and_nothing_waits_for_its_end() -> None:
    data = head() + build_command(CommandType.PACKAGED, b"\xff\xff\xff\xff")
    channel = MainChannel()
    parse(channel, [data], end=False)
    (ping,) = channel.feed(build_command(CommandType.PING, b"\0\0\0\1"))
    assert ping.in_package
    assert channel.pending == 0
    (cut,) = channel.end()
    assert "expected 1 byte, got the end of the channel after 0" in str(cut.value)


def test_a_package_in_a_package_is_opaque_up_to_the_end_of_the_outer_one() -> None:
    inner = build_command(CommandType.PACKAGED, U32.pack(1)) + b"\0"
    outer = head() + ram_start() + build_command(CommandType.PACKAGED, U32.pack(len(inner))) + inner
    channel = MainChannel()
    elements = parse(channel, [outer + ram_part()], end=False)
    (inside,) = opaque(elements)
    assert inside.raw == inner[9:]
    at = len(outer) - 1
    assert f"offset {at:#x}, in package: expected no package inside it" in str(inside.value)
    assert channel.phase is Phase.POSTCOPY
    assert isinstance(elements[-2].value, RamMark)


def test_blocks_of_many_names_end_at_the_bound() -> None:
    names = (b"\7" + b"%07d" % number + U64.pack(1024) for number in range(1_000_000))
    channel = MainChannel()
    data = b"".join([listed(1_000_000 << 10), *names])
    elements = parse(channel, steps(data, 1 << 16), end=False)
    blocks = [element for element in elements if isinstance(element.value, RamBlock)]
    assert len(blocks) == BLOCKS_MAX + 1
    at = len(listed(0)) + 16 * len(blocks)
    assert f"offset {at:#x}, in block list: expected at most {BLOCKS_MAX} blocks" in str(
        elements[-1].value
    )
    assert channel.pending == 0


def test_a_block_named_again_and_again_is_one_block() -> None:
    """It is no more than bytes: nothing is kept of it."""
    channel = MainChannel()
    count = 20_000
    elements = parse(channel, [listed(1024) + (b"\6pc.ram" + bytes(8)) * count], end=False)
    assert sum(isinstance(element.value, RamBlock) for element in elements) >= count - 2
    assert len(channel.ram().blocks) == 1


def test_sections_of_many_ids_end_at_the_bound() -> None:
    count = SECTIONS_MAX - 1  # one more was announced before them: ram
    sections = (
        build_section(SectionType.START, number + 3, "dirty-bitmap", 0, 1, b"\1")
        for number in range(count + 1000)
    )
    channel = MainChannel()
    data = b"".join([head() + ram_start(), *sections])
    elements = parse(channel, steps(data, 1 << 16), end=False)
    headers = [element for element in elements if isinstance(element.value, SectionHeader)]
    assert len(headers) == 1 + count
    assert f"expected at most {SECTIONS_MAX} sections, got one more" in str(elements[-1].value)
    assert channel.phase is Phase.OPAQUE


def nested(depth: int, open_: bytes, close: bytes, inner: bytes = b"1") -> bytes:
    return b'{"devices": ' + open_ * depth + inner + close * depth + b"}"


@pytest.mark.parametrize(
    ("open_", "close"),
    [
        pytest.param(b"[", b"]", id="arrays"),
        pytest.param(b'{"fields":', b"}", id="objects"),
        pytest.param(
            b'[{"name":"a","instance_id":0,"vmsd_name":"a","type":"struct","size":1,"fields":',
            b"}]",
            id="devices",
        ),
    ],
)
def test_a_vmdesc_nested_100_000_deep_is_no_vmdesc(open_: bytes, close: bytes) -> None:
    text = nested(100_000, open_, close)
    with pytest.raises(StreamError, match="expected"):
        Layout.parse(text)
    channel = MainChannel()
    elements = parse(channel, [TO_DEVICES + b"\0\6" + U32.pack(len(text)) + text])
    assert opaque(elements) == []
    assert not channel.confirmed
    assert "bytes long, cannot be read" in channel.corrections[0]


def test_a_vmdesc_of_structs_in_each_other_is_held_to_a_depth() -> None:
    node: dict[str, object] = {"name": "x", "type": "uint8", "size": 1}
    for _ in range(vmdesc_module.DEPTH_MAX + 2):
        node = {"name": "s", "type": "struct", "size": 1, "struct": {"fields": [node]}}
    root = {"name": "dev", "instance_id": 0, "vmsd_name": "dev", "fields": [node]}
    with pytest.raises(StreamError, match=f"a depth of at most {vmdesc_module.DEPTH_MAX}"):
        Layout.parse(json.dumps({"devices": [root]}).encode())


def test_what_is_wrong_is_told_even_if_nothing_follows_it() -> None:
    """Found by reading a file of mapped-ram whose offsets point back."""
    for data, offset, why in (
        (b"QEVM\0\0\0\4", 8, "in file header: expected version 3, got 4"),
        (mapped(len(mapped(0, 0)), 16) + bytes(8), len(mapped(0, 0)) + 8, "an offset behind"),
    ):
        channel = MainChannel()
        elements = parse(channel, steps(data, 1))
        assert channel.phase is Phase.OPAQUE
        assert elements[-1].raw == b""
        assert f"offset {offset:#x}, " in str(elements[-1].value)
        assert why in str(elements[-1].value)
        assert sum(isinstance(element.value, Opaque) for element in elements) == 1


def test_what_is_wrong_at_the_very_end_of_a_package_is_told() -> None:
    """A package that never runs, and one that ends with the announcement of another one."""
    for inside, why in (
        (build_command(CommandType.POSTCOPY_LISTEN), "in section type: expected 1 byte"),
        (build_command(CommandType.PACKAGED, bytes(4)), "expected no package inside it"),
    ):
        start = head() + ram_start() + build_command(CommandType.PACKAGED, U32.pack(len(inside)))
        channel = MainChannel()
        elements = parse(channel, [start + inside + ram_part()], end=False)
        (told,) = opaque(elements)
        assert told.in_package
        assert told.raw == b""
        assert told.offset == len(start + inside)
        assert why in str(told.value)
        assert isinstance(elements[-2].value, RamMark)
        assert channel.phase is Phase.POSTCOPY
