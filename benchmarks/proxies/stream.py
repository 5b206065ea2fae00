"""The bytes that pass: streams as QEMU writes them, in pieces that can be sent again and again.

A piece lies in memory once and is sent many times: what is measured is the way, not who makes
pages. It is larger than a CPU's caches, as guest memory is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.wire import build, encode
from testbed.wire.element import (
    Command,
    CommandType,
    Configuration,
    EndOfStream,
    FileHeader,
    RamBlock,
    RamFlag,
    RamMark,
    SectionFooter,
    SectionHeader,
    SectionType,
    Value,
)
from testbed.wire.packet import MultifdInit
from testbed.wire.structs import MAGIC, VERSION

PAGE_BYTES = 4096
BLOCK = "pc.ram"
BLOCK_BYTES = 1 << 30
MACHINE = "pc-i440fx-7.2"
RAM = 2
SECTION_PAGES = 4096
"""Of one PART: what QEMU sends in the 50 ms of an iteration at some 300 MB/s."""
SECTIONS = 4
PACKET_PAGES = 128
PACKETS = 32
PAGES_DONE = RamMark(RamFlag.EOS)
FOOTER = SectionFooter(RAM)


@dataclass(frozen=True, slots=True)
class Stream:
    """What one connection carries: `head`, then `body` so many times, then `tail`."""

    head: bytes
    body: bytes
    tail: bytes

    def size_bytes(self, repeats: int) -> int:
        """Of all of it, the body sent so often."""
        return len(self.head) + repeats * len(self.body) + len(self.tail)


def ram_stream(sections: int = SECTIONS) -> Stream:
    """A main channel full of random pages in order: PART sections of 16 MiB, then END and EOF."""
    body = b"".join(
        _section(SectionType.PART, range(first, first + SECTION_PAGES))
        for first in range(0, sections * SECTION_PAGES, SECTION_PAGES)
    )
    return Stream(_bytes(_opening()), body, _section(SectionType.END, ()) + _end())


def multifd_main() -> Stream:
    """A main channel beside multifd channels: sections without pages, as these go elsewhere."""
    head = _bytes(_opening())
    return Stream(head, _section(SectionType.PART, ()), _section(SectionType.END, ()) + _end())


def multifd_channel(number: int) -> Stream:
    """A multifd channel: packets of 128 random pages."""
    packets: list[Value] = []
    for packet in range(PACKETS):
        first = packet * PACKET_PAGES * PAGE_BYTES
        offsets = range(first, first + PACKET_PAGES * PAGE_BYTES, PAGE_BYTES)
        pages = [(offset, os.urandom(PAGE_BYTES)) for offset in offsets]
        packets += build.multifd_packet(BLOCK, pages, packet_num=packet)
    return Stream(encode(MultifdInit(bytes(16), number)), _bytes(packets), b"")


def postcopy_opening() -> bytes:
    """A main channel up to where pages are sent because they were asked for.

    After it comes one page record after the other: QEMU answers inside the section that is open.
    """
    inside = [Command(CommandType.POSTCOPY_LISTEN, b""), Command(CommandType.POSTCOPY_RUN, b"")]
    header, configuration, *ram = _opening()
    advise = build.advise(PAGE_BYTES, PAGE_BYTES)
    page = build.page(BLOCK, 0, os.urandom(PAGE_BYTES))
    return b"".join(
        (
            _bytes([header, configuration, advise, *ram]),
            _section(SectionType.PART, range(1)),
            build.package(inside),
            _bytes([_header(SectionType.PART), page]),
        )
    )


def page_record(offset_bytes: int) -> bytes:
    """A page record after another one of its block."""
    return encode(build.page(BLOCK, offset_bytes, os.urandom(PAGE_BYTES), same_block=True))


def page_request(offset_bytes: int) -> bytes:
    """REQ_PAGES_ID of one page."""
    return encode(build.request_pages(offset_bytes, PAGE_BYTES, BLOCK))


def _opening() -> list[Value]:
    blocks = build.block_list([RamBlock(BLOCK, BLOCK_BYTES)])
    return [
        FileHeader(MAGIC, VERSION),
        Configuration(MACHINE),
        *(_header(SectionType.START), *blocks, PAGES_DONE, FOOTER),
    ]


def _header(kind: SectionType) -> SectionHeader:
    return SectionHeader(kind, RAM, "ram", 0, 4)


def _section(kind: SectionType, pages: Sequence[int]) -> bytes:
    records = [
        build.page(BLOCK, page * PAGE_BYTES, os.urandom(PAGE_BYTES), same_block=page != pages[0])
        for page in pages
    ]
    return _bytes([_header(kind), *records, PAGES_DONE, FOOTER])


def _end() -> bytes:
    return encode(EndOfStream())


def _bytes(values: Sequence[Value]) -> bytes:
    return b"".join(map(encode, values))
