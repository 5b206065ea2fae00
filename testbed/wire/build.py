"""Values to send, from what they mean: commands, messages, subsections, page records.

`encode` makes bytes of them. What no QEMU would send is made by hand, or by editing (`edit.py`).
Layouts: QEMU `migration/savevm.c`, `migration/migration.c`, `migration/ram.c`, 2.8 to 11.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import pack

from .element import (
    Command,
    CommandType,
    ConfigurationSubsection,
    Message,
    MessageType,
    RamFlag,
    RamPage,
    Value,
)
from .encode import counted, encode
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
    flags = RamFlag.CONTINUE if same_block else RamFlag(0)
    if any(data):
        return RamPage(block, offset_bytes, flags | RamFlag.PAGE, data)
    return RamPage(block, offset_bytes, flags | RamFlag.ZERO, b"\0")
