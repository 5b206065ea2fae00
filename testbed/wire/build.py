"""Values to send, from what they mean: commands, messages, subsections, page records.

`encode` makes bytes of them. What no QEMU would send is made by hand, or by editing (`edit.py`).
Layouts: QEMU `migration/savevm.c`, `migration/migration.c`, `migration/ram.c`, 2.8 to 11.1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from struct import pack

from . import xbzrle
from .element import (
    Command,
    CommandType,
    ConfigurationSubsection,
    Message,
    MessageType,
    RamBlock,
    RamFlag,
    RamPage,
    RamTotal,
    Value,
)
from .encode import counted, encode
from .multifd import PAGES_BYTES
from .packet import MultifdPacket, MultifdPages
from .structs import BITMAP_END_MARK, U32, U64

DISCARD_VERSION = 0
WORD_BYTES = 8


def ping(value: int) -> Command:
    """PING, which asks for a PONG of that value."""
    return Command(CommandType.PING, U32.pack(value))


def advise(page_sizes: int, target_page_bytes: int) -> Command:
    """POSTCOPY_ADVISE: all page sizes of RAM blocks, or-ed, and that of the target, in bytes."""
    return Command(CommandType.POSTCOPY_ADVISE, pack(">QQ", page_sizes, target_page_bytes))


def discard(block: str, ranges: Iterable[tuple[int, int]]) -> Command:
    """POSTCOPY_RAM_DISCARD of ranges of a block, each start and length in bytes; QEMU sends 12."""
    listed = b"".join(pack(">QQ", start, length) for start, length in ranges)
    payload = bytes([DISCARD_VERSION]) + counted(block) + b"\0" + listed
    return Command(CommandType.POSTCOPY_RAM_DISCARD, payload)


def recv_bitmap(block: str) -> Command:
    """RECV_BITMAP: asks which pages of a block were received."""
    return Command(CommandType.RECV_BITMAP, counted(block))


def package(values: Sequence[Value]) -> bytes:
    """PACKAGED, and behind it what is in the package."""
    inside = b"".join(map(encode, values))
    return encode(Command(CommandType.PACKAGED, U32.pack(len(inside)))) + inside


def pong(value: int) -> Message:
    """PONG, the answer to a PING."""
    return Message(MessageType.PONG, U32.pack(value))


def shut(value: int) -> Message:
    """SHUT: the destination is done; 0 if all went well."""
    return Message(MessageType.SHUT, U32.pack(value))


def resume_ack(value: int = 1) -> Message:
    """RESUME_ACK, the answer to POSTCOPY_RESUME."""
    return Message(MessageType.RESUME_ACK, U32.pack(value))


def switchover_ack() -> Message:
    """SWITCHOVER_ACK: the destination's devices are ready for the switchover."""
    return Message(MessageType.SWITCHOVER_ACK, b"")


def request_pages(offset_bytes: int, size_bytes: int, block: str | None = None) -> Message:
    """REQ_PAGES of the block that was named last, or REQ_PAGES_ID with its name."""
    payload = pack(">QI", offset_bytes, size_bytes)
    if block is None:
        return Message(MessageType.REQ_PAGES, payload)
    return Message(MessageType.REQ_PAGES_ID, payload + counted(block))


def received_bitmap(block: str, bits: bytes) -> Message:
    """RECV_BITMAP, the answer to that command: a bit for each page, the first one the lowest.

    The bits are filled up to whole words of eight bytes.
    """
    words = bits.ljust(-(-len(bits) // WORD_BYTES) * WORD_BYTES, b"\0")
    bitmap = U64.pack(len(words)) + words + U64.pack(BITMAP_END_MARK)
    return Message(MessageType.RECV_BITMAP, counted(block), bitmap)


def target_page_bits(bits: int) -> ConfigurationSubsection:
    """The page size of the target, 2 ** bits, where it is not the smallest of its CPU."""
    return ConfigurationSubsection("configuration/target-page-bits", 1, U32.pack(bits))


def capabilities(names: Sequence[str]) -> ConfigurationSubsection:
    """The migration capabilities that source and destination must have alike."""
    listed = U32.pack(len(names)) + b"".join(map(counted, names))
    return ConfigurationSubsection("configuration/capabilities", 1, listed)


def guest_uuid(uuid: bytes) -> ConfigurationSubsection:
    """The guest's UUID, 16 bytes, with the capability validate-uuid."""
    return ConfigurationSubsection("configuration/uuid", 1, uuid)


def page(block: str, offset_bytes: int, data: bytes, *, same_block: bool = False) -> RamPage:
    """The record of a page: ZERO if it is all zero, else PAGE.

    Args:
        block: idstr.
        offset_bytes: within the block.
        data: of the page.
        same_block: the record before it is of the same block, so its idstr is left out.
    """
    if any(data):
        return RamPage(block, offset_bytes, _flags(RamFlag.PAGE, same_block), data)
    return RamPage(block, offset_bytes, _flags(RamFlag.ZERO, same_block), b"\0")


def xbzrle_page(
    block: str, offset_bytes: int, old: bytes, new: bytes, *, same_block: bool = False
) -> RamPage | None:
    """The record of a page as its difference to `old`, which the destination has.

    None if it must be sent whole; of a page that did not change, QEMU sends nothing.
    """
    data = xbzrle.encode(old, new)
    if data is None:
        return None
    return RamPage(block, offset_bytes, _flags(RamFlag.XBZRLE, same_block), data)


def compressed_page(
    block: str, offset_bytes: int, data: bytes, *, level: int = 1, same_block: bool = False
) -> RamPage:
    """The record of a page as a zlib stream of its own; `level` is `compress-level`."""
    packed = zlib.compress(data, level)
    return RamPage(block, offset_bytes, _flags(RamFlag.COMPRESS_PAGE, same_block), packed)


def block_list(blocks: Sequence[RamBlock]) -> list[Value]:
    """The record MEM_SIZE, and the blocks whose sum it says."""
    return [RamTotal(sum(block.used_bytes for block in blocks)), *blocks]


def multifd_packet(
    block: str,
    pages: Sequence[tuple[int, bytes]] = (),
    zero_offsets: Sequence[int] = (),
    *,
    packet_num: int = 0,
    flags: int = 0,
    page_bytes: int = 4096,
) -> list[Value]:
    """A multifd packet that is not compressed: its header, and its pages if it has any.

    Args:
        block: idstr, of all its pages.
        pages: offset within the block in bytes, and data, of each.
        zero_offsets: of the pages that are all zero, which have no data; since 9.0.
        packet_num: counts the packets of all channels.
        flags: `MultifdFlag`.
        page_bytes: target page size.

    Raises:
        ValueError: more pages than a packet has offsets for.
    """
    slots = PAGES_BYTES // page_bytes
    normal = tuple(offset for offset, _ in pages)
    offsets = *normal, *zero_offsets
    if len(offsets) > slots:
        raise ValueError(f"{len(offsets)} pages: a packet has {slots} at most")
    data = b"".join(data for _, data in pages)
    filled = b"".join(map(U64.pack, offsets)).ljust(U64.size * slots, b"\0")
    header = MultifdPacket(
        flags, slots, len(pages), len(data), packet_num, len(zero_offsets), block, filled
    )
    return [header, MultifdPages(block, normal, data)] if pages else [header]


def _flags(kind: RamFlag, same_block: bool) -> RamFlag:
    return kind | RamFlag.CONTINUE if same_block else kind
