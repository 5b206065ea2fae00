"""Beginnings of streams that make claims."""

from struct import pack

from wire_helpers import head, ram_part, ram_start

from testbed.wire import build_section, encode
from testbed.wire.element import (
    Configuration,
    ConfigurationSubsection,
    FileHeader,
    RamTotal,
    SectionType,
)
from testbed.wire.structs import (
    MULTIFD_INIT,
    MULTIFD_MAGIC,
    MULTIFD_PACKET,
    MULTIFD_VERSION,
    U64,
)

TO_DEVICES = head() + ram_start() + ram_part(kind=SectionType.END)


def listed(total_bytes: int, *blocks: bytes) -> bytes:
    """A stream up to and including a list of RAM blocks."""
    start = build_section(SectionType.START, 2, "ram", 0, 4, b"", footer=False)
    return head() + start + encode(RamTotal(total_bytes)) + b"".join(blocks)


def multifd_packet(alloc: int, normal: int, following: int, zero: int) -> bytes:
    init = MULTIFD_INIT.pack(MULTIFD_MAGIC, MULTIFD_VERSION, bytes(16), 0, bytes(39))
    counts = alloc, normal, following, 0, zero
    packet = MULTIFD_PACKET.pack(MULTIFD_MAGIC, MULTIFD_VERSION, 0, *counts, bytes(28), b"pc.ram")
    return init + packet + bytes(8 * 128)


def mapped(
    bitmap_offset: int, pages_offset: int, used_bytes: int = 0x1000, *, page_bytes: int = 0x1000
) -> bytes:
    """A file of mapped-ram up to the entry of its only block."""
    capabilities = ConfigurationSubsection(
        "configuration/capabilities", 1, b"\0\0\0\1\x0amapped-ram"
    )
    start = build_section(SectionType.START, 2, "ram", 0, 4, b"", footer=False)
    values = FileHeader(0x5145564D, 3), Configuration("pc"), capabilities
    entry = b"\6pc.ram" + U64.pack(used_bytes)
    offsets = pack(">IQQQ", 1, page_bytes, bitmap_offset, pages_offset)
    return b"".join(map(encode, values)) + start + encode(RamTotal(used_bytes)) + entry + offsets
