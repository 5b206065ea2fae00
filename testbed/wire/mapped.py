"""mapped-ram: a file in which each page of RAM has its place, instead of page records.

After the entry of each block come its bitmap and the place of its pages, as long as the block; the
list goes on behind them. Pages that the bitmap does not name were never written: they are zero.
Source: QEMU `migration/ram.c`, `mapped_ram_setup_ramblock` and `parse_ramblock_mapped_ram`, 9.0 to
10.0.
"""

from __future__ import annotations

from .element import MappedBitmap, MappedGap, MappedPages, MappedRam, RamBlock
from .reader import Emit, Reader, Story
from .structs import MAPPED_RAM

VERSION = 1
PIECE_BYTES = 1 << 20
"""Of pages, or of the space between them, in one element."""
BITMAP_BYTES_MAX = 1 << 30
"""One bit a page, so 32 TiB of RAM in one block, the most that hosts have."""
WORD_BYTES = 8
"""The bitmap is an array of them, in the byte order of the host that wrote it."""
INSIDE = "mapped-ram"


class MappedFile:
    """Where the regions of all blocks of one file are."""

    def __init__(self) -> None:
        self._base: int | None = None  # in the file, of the channel's first byte

    def header(self, reader: Reader, skip: int) -> Story[MappedRam]:
        """Return the header `skip` bytes ahead.

        Raises:
            StreamError: it is of another version.
        """
        raw = yield from reader.peek(MAPPED_RAM.size, INSIDE, skip=skip)
        header = MappedRam(*MAPPED_RAM.unpack(raw))
        if header.version != VERSION:
            raise reader.wrong(INSIDE, f"version {VERSION}", f"{header.version}", skip=skip)
        return header

    def regions(self, reader: Reader, emit: Emit, block: RamBlock) -> Story[None]:
        """Emit bitmap and pages of a block whose entry has just been read.

        Raises:
            StreamError: they lie where something else is.
        """
        header, idstr, used_bytes = block.mapped, block.idstr, block.used_bytes
        assert header is not None, "read with its entry"
        if not header.bitmap_offset and not header.pages_offset:
            return  # a shared block with x-ignore-shared: it has none
        if self._base is None:
            # A source writes the bitmap right behind the header, and `file:` has an offset.
            self._base = max(header.bitmap_offset - reader.offset, 0)
        words = -(-(used_bytes // header.page_bytes) // (8 * WORD_BYTES))
        size = words * WORD_BYTES
        if size > BITMAP_BYTES_MAX:
            raise reader.wrong(INSIDE, f"a bitmap of at most {BITMAP_BYTES_MAX} bytes", f"{size}")
        yield from self._gap(reader, emit, header.bitmap_offset)
        if size:
            bitmap = yield from reader.peek(size, f"{INSIDE}'s bitmap of {idstr}")
            emit(MappedBitmap(idstr, bitmap), size, ())
        yield from self._gap(reader, emit, header.pages_offset)
        for offset in range(0, used_bytes, PIECE_BYTES):
            size = min(PIECE_BYTES, used_bytes - offset)
            data = yield from reader.peek(size, f"{INSIDE}'s pages of {idstr}")
            emit(MappedPages(idstr, offset, data), size, ())

    def _gap(self, reader: Reader, emit: Emit, upto: int) -> Story[None]:
        """Emit what lies before an offset of the file."""
        assert self._base is not None, "set with the first block"
        rest = upto - self._base - reader.offset
        if rest < 0:
            got = f"one {-rest} bytes before it"
            raise reader.wrong(INSIDE, "an offset behind what was read", got)
        while rest:
            size = min(PIECE_BYTES, rest)
            data = yield from reader.peek(size, f"{INSIDE}, between two regions")
            emit(MappedGap(data), size, ())
            rest -= size
