"""The records of the section `ram`: block list, pages, marks.

Layouts: QEMU `migration/ram.c`, `ram_load_precopy` and `parse_ramblocks` (10.0). The state that
outlives a section lives here, because CONTINUE means the last block of the whole channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from . import spans
from .element import (
    Element,
    PageRun,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    RunElement,
    SectionType,
)
from .error import StreamError
from .mapped import MappedFile
from .reader import Context, Emit, Reader, Story
from .runs import Follower
from .structs import MAPPED_RAM, U32, U64, XBZRLE, XBZRLE_ENCODING
from .witness import Witness

BLOCKS_MAX = 4096
"""RAM blocks of one machine. QEMU has no bound. Machines have some ten, one for each DIMM (256 at
most: `ACPI_MAX_RAM_SLOTS`) and one for the ROM of each PCI device."""
COMPRESSED_PAGES_MAX = 2
"""Bytes of a compressed page, in pages: more than zlib's compressBound of any page."""
PAGE_BYTES = frozenset(1 << bits for bits in range(8, 24))
"""Target page sizes: that of avr, 256 bytes, is the least (`TARGET_PAGE_BITS` in QEMU `target/`,
7.2 to 11.1), and no architecture has more than 8 MiB."""
UNSTATED_BYTES = tuple(1 << bits for bits in range(8, 17))
"""Those that a stream may have without saying so, avr's to hexagon's 64 KiB. It says so only where
an architecture has several (arm), and not if it is the least of them (`vmstate_target_page_bits`
in QEMU `migration/savevm.c`): arm's machines that are none of the newer ones have 1 KiB."""
INSIDE = "RAM record"

AFTER_EOS = frozenset(SectionType) - {SectionType.EOF}
"""What the first byte after a RAM section's records can be, but for a 0, which is anywhere."""
MARKS = {int(flag): flag for flag in (RamFlag.EOS, RamFlag.HOOK, RamFlag.MULTIFD_FLUSH)}
PAGES = {
    int(flags): flags
    for kind in (RamFlag.ZERO, RamFlag.PAGE, RamFlag.XBZRLE, RamFlag.COMPRESS_PAGE)
    for flags in (kind, kind | RamFlag.CONTINUE)
}
_ZERO, _PAGE, _XBZRLE = int(RamFlag.ZERO), int(RamFlag.PAGE), int(RamFlag.XBZRLE)
_CONTINUE = int(RamFlag.CONTINUE)
_DATA = _PAGE | _ZERO


class _Short(Exception):
    """The record needs that many bytes from its first one on, at least."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


@dataclass(slots=True)
class Ram:
    """What a channel knows of RAM; `page_bytes` is the target page size, a power of two.

    As long as it is not `is_sure`, nothing has told that size but zero pages, if there were any.
    """

    page_bytes: int
    has_addresses: bool = False  # x-ignore-shared: each block carries its GPA
    in_runs: bool = False  # page records, as far as they can
    by_name: bool = False  # no list is known: any name is a block's
    is_sure: bool = False  # of the page size
    has_pair: bool = False  # two records that follow each other were looked at for it
    blocks: dict[bytes, RamBlock] = field(default_factory=dict)
    last: RamBlock | None = None
    mapped: MappedFile | None = None  # mapped-ram: each page has its place in the file
    runs: Follower = field(default_factory=Follower)  # what it expects of the next one
    witness: Witness | None = None

    def set_page_bytes(self, page_bytes: int) -> bool:
        """Take over the target page size that the stream states; false if it cannot be one."""
        if page_bytes not in PAGE_BYTES:
            return False
        self.page_bytes, self.is_sure = page_bytes, True
        return True

    def candidates(self) -> Iterator[int]:
        """The target page sizes that can be, the likely one first.

        Each block is some pages long: QEMU rounds it up (`qemu_ram_alloc_internal`).
        """
        lengths = 0
        for block in self.blocks.values():
            lengths |= block.used_bytes
        for size in (self.page_bytes, *UNSTATED_BYTES):
            if not lengths & (size - 1):
                yield size

    def fits(self, word: int, pages: Mapping[int, RamFlag]) -> bool:
        """Take over the largest page size with which that be64 is a page record; false if none."""
        for size in sorted(set(self.candidates()), reverse=True):
            if word & (size - 1) in pages:
                self.page_bytes = size
                return True
        return False

    def recovered(self) -> Ram:
        """The state that another connection begins with: no last block.

        Its pages are as large as is known by now: a destination may wait for a single one of them,
        and what follows it would come too late to tell. Postcopy has stated it (`ADVISE`).
        """
        return Ram(
            self.page_bytes,
            self.has_addresses,
            self.in_runs,
            self.by_name,
            is_sure=True,
            blocks=dict(self.blocks),
            witness=self.witness,
        )

    def block(self, idstr: bytes) -> RamBlock | None:
        """The block of that name; None if there cannot be one."""
        block = self.blocks.get(idstr)
        if block is None and self.by_name and idstr and len(self.blocks) < BLOCKS_MAX:
            block = self.blocks[idstr] = RamBlock(idstr.decode("latin-1"), 0)
        return block


class RamSection:
    """Reads the records of one RAM section, up to and including EOS.

    `emit` makes an element of the next bytes; pages go straight to `out`.
    """

    pages: Mapping[int, RamFlag] = PAGES
    marks: Mapping[int, RamFlag] = MARKS
    has_block_list = True

    def __init__(
        self, ram: Ram, reader: Reader, emit: Emit, out: list[Element], context: Context
    ) -> None:
        self._ram, self._reader, self._emit, self._out = ram, reader, emit, out
        self._context = context
        self._ahead = 0  # bytes from a record on that would tell the page size

    def story(self) -> Story[None]:
        """Emit the records of the section, each as soon as it is complete.

        Raises:
            StreamError: a combination of flags, a block or a length that cannot be.
        """
        while True:
            short = self._pages()
            if self._ahead:
                yield from self._reader.wait(self._ahead)
                self._ahead = 0
                continue
            yield from self._reader.need(short, INSIDE)
            if short > U64.size:  # the rest of a page record
                continue
            word = yield from self._reader.u64(INSIDE)
            flags = word & (self._ram.page_bytes - 1)
            if flags in self.pages:
                continue
            if flags == RamFlag.MEM_SIZE and self.has_block_list:
                yield from self._block_list(word - flags)
            elif word in self.marks:
                self._emit(RamMark(self.marks[word]), U64.size, spans.RECORD)
                if word == RamFlag.EOS:
                    return
            elif self._ram.is_sure or not self._ram.fits(word, self.pages):
                raise self._reader.wrong(INSIDE, "flags of a record", f"{word:#018x}")

    def _pages(self) -> int:
        """Emit the page records in hand; return the bytes needed to go on.

        This is the loop that all memory of a guest passes through. In runs, a package has none.
        """
        reader, ram, append = self._reader, self._ram, self._out.append
        section, in_package = self._context.section, self._context.in_package
        data, stop, low = reader.data, reader.stop, ram.page_bytes - 1
        unpack, pages, page_spans = U64.unpack_from, self.pages, spans.page
        pos, base = reader.pos, reader.offset - reader.pos
        witness = ram.witness
        runs = ram.runs.over(data, stop, ram.page_bytes) if ram.in_runs else None
        unsure, learned_at = not ram.is_sure, -1
        try:
            while stop - pos >= 8:
                (word,) = unpack(data, pos)
                bits = word & low
                flags = pages.get(bits)
                if flags is None:
                    return 8
                if unsure and learned_at != pos and bits & (_PAGE if ram.has_pair else _DATA):
                    try:
                        self._learn(word, pos, stop)
                    except _Short as short:
                        if not self._gives_up(stop):
                            self._ahead = short.count
                            return 8
                    unsure, learned_at, low = not ram.is_sure, pos, ram.page_bytes - 1
                    runs = ram.runs.over(data, stop, ram.page_bytes) if ram.in_runs else None
                    continue
                head = 8 if bits & _CONTINUE else self._head(pos, stop)
                if ram.last is None:
                    raise self._wrong("a page record with its block", f"{word:#018x}", pos)
                at = pos + head
                prefix, size = self._body(bits & ~_CONTINUE, at, stop, head)
                end = at + prefix + size
                if end > stop:
                    return end - pos
                if runs is not None and not prefix:
                    words, end = runs.follow(word, end, only_zeros=unsure)
                    run = PageRun(ram.last.idstr, words, ram.page_bytes, head)
                    if witness is not None:
                        witness.run(run, data, pos)
                    append(RunElement(base + pos, b"", run, (), section, length=end - pos))
                    pos = end
                    continue
                page = RamPage(ram.last.idstr, word & ~low, flags, data[at + prefix : end])
                if witness is not None:
                    witness.page(page)
                append(
                    Element(
                        base + pos,
                        data[pos:end],
                        page,
                        page_spans(head, prefix, size),
                        section,
                        1,
                        in_package,
                    )
                )
                pos = end
        except _Short as short:
            return short.count
        finally:
            reader.pos = pos
        return 8

    def _learn(self, word: int, pos: int, stop: int) -> None:
        """Find out the target page size by what follows the page record at `pos`, if that tells.

        Of zero pages it is the distance to the next one, though a page may have been left out. A
        page with data ends where another record begins.

        Raises:
            _Short: bytes are missing that may tell. A record always follows in the same section.
        """
        ram = self._ram
        head = 8 if word & _CONTINUE else self._head(pos, stop)
        if word & _ZERO:
            if stop < pos + head + 9:
                raise _Short(head + 9)
            (following,) = U64.unpack_from(self._reader.data, pos + head + 1)
            for size in ram.candidates():
                flags = following & (size - 1)
                if (
                    flags & _CONTINUE
                    and flags in self.pages
                    and following - flags == size + (word & ~(size - 1))
                ):
                    ram.page_bytes = size
                    break
            ram.has_pair = True
            return
        for size in ram.candidates():
            if word & (size - 1) not in self.pages:
                continue
            try:
                found = self._follows(word, pos, head + size, size, stop)
            except _Short:
                if self._gives_up(stop):
                    continue
                raise
            if found:
                ram.page_bytes, ram.is_sure = size, True
                return

    def _gives_up(self, stop: int) -> bool:
        """True if no more bytes come that could tell a page size."""
        reader = self._reader
        return reader.ended or reader.silent or stop == reader.limit_at

    def _follows(self, word: int, pos: int, length: int, page_bytes: int, stop: int) -> bool:
        """Whether a record stands `length` bytes behind that one, with pages of that size.

        Raises:
            _Short: bytes of it are missing.
        """
        at = pos + length
        if stop < at + 8:
            raise _Short(length + 8)
        (following,) = U64.unpack_from(self._reader.data, at)
        flags = following & (page_bytes - 1)
        if flags not in self.pages:
            behind = int(self._reader.data[at + 8]) if stop > at + 8 else None
            return following == RamFlag.EOS and (behind is None or behind in AFTER_EOS)
        if flags & _CONTINUE:
            return bool(following - flags > word & ~(page_bytes - 1))
        if stop < at + 9:
            raise _Short(length + 9)
        end = at + 9 + self._reader.data[at + 8]
        if stop < end:
            raise _Short(end - pos)
        return bytes(self._reader.data[at + 9 : end]) in self._ram.blocks

    def _wrong(self, expected: str, got: str, at: int) -> StreamError:
        return self._reader.wrong(INSIDE, expected, got, skip=at - self._reader.pos)

    def _head(self, pos: int, stop: int) -> int:
        """Size of be64 and idstr of the record at `pos`; its block becomes the last one."""
        data = self._reader.data
        if stop < pos + 9:
            raise _Short(9)
        head = 9 + data[pos + 8]
        if stop < pos + head:
            raise _Short(head)
        idstr = data[pos + 9 : pos + head]
        self._ram.last = self._ram.block(idstr)
        if self._ram.last is None:
            raise self._wrong("a RAM block of the list", repr(idstr), pos)
        return head

    def _body(self, kind: int, at: int, stop: int, head: int) -> tuple[int, int]:
        """Sizes of what precedes the data of a record at `at`, and of the data."""
        if kind == _PAGE:
            return 0, self._ram.page_bytes
        if kind == _ZERO:
            return 0, 1
        if kind == _XBZRLE:
            if stop < at + XBZRLE.size:
                raise _Short(head + XBZRLE.size)
            encoding, size = XBZRLE.unpack_from(self._reader.data, at)
            if encoding != XBZRLE_ENCODING or size > self._ram.page_bytes:
                raise self._wrong("an XBZRLE page", f"encoding {encoding}, {size} bytes", at)
            return XBZRLE.size, size
        if stop < at + U32.size:
            raise _Short(head + U32.size)
        (size,) = U32.unpack_from(self._reader.data, at)
        if size > COMPRESSED_PAGES_MAX * self._ram.page_bytes:
            raise self._wrong("a compressed page", f"{size} bytes", at)
        return U32.size, size

    def _block_list(self, total_bytes: int) -> Story[None]:
        """Emit the record MEM_SIZE and the blocks that it announces."""
        self._emit(RamTotal(total_bytes), U64.size, spans.RECORD)
        self._ram.blocks.clear()
        if self._ram.witness is not None:
            self._ram.witness.begins()
        rest = total_bytes
        while rest > 0:
            block = yield from self._block(rest)
            rest -= block.used_bytes
            if rest < 0 or len(self._ram.blocks) > BLOCKS_MAX:
                raise self._reader.wrong(
                    "block list",
                    f"at most {BLOCKS_MAX} blocks of {total_bytes} bytes in all",
                    f"{len(self._ram.blocks)} blocks of {total_bytes - rest}",
                )
            if self._ram.mapped is not None:
                yield from self._ram.mapped.regions(self._reader, self._emit, block)

    def _block(self, rest_bytes: int) -> Story[RamBlock]:
        reader, inside = self._reader, "block list"
        length = yield from reader.u8(inside)
        if not length:
            raise reader.wrong(inside, "a block's idstr", "one of length 0")
        idstr = yield from reader.peek(length, inside, skip=1)
        used_bytes = yield from reader.u64(inside, skip=1 + length)
        head = 1 + length + U64.size
        extra: list[int] = []
        mapped = None
        if self._ram.mapped is None:
            extra = yield from self._extra(head, is_last=used_bytes >= rest_bytes)
        elif self._ram.has_addresses:
            extra = [(yield from reader.u64(inside, skip=head))]
        size = head + U64.size * len(extra)
        if self._ram.mapped is not None:
            mapped = yield from self._ram.mapped.header(reader, size)
            states = mapped.page_bytes == self._ram.page_bytes or not self._ram.is_sure
            if not states or not self._ram.set_page_bytes(mapped.page_bytes):
                expected = f"page size {self._ram.page_bytes}"
                raise reader.wrong("mapped-ram", expected, f"{mapped.page_bytes}", skip=size)
            size += MAPPED_RAM.size
        address = extra.pop() if self._ram.has_addresses and extra else None
        page_bytes = extra.pop() if extra else None
        block = RamBlock(idstr.decode("latin-1"), used_bytes, page_bytes, address, mapped)
        self._ram.blocks[idstr] = block
        if self._ram.witness is not None:
            self._ram.witness.block(block)
        shape = spans.ram_block(
            length, page_bytes is not None, address is not None, mapped is not None
        )
        self._emit(block, size, shape)
        return block

    def _extra(self, head: int, *, is_last: bool) -> Story[list[int]]:
        """The be64s after `used_length`: page size where it differs, address with ignore-shared.

        Nothing announces them. Before another block the next byte would be a length, which is
        never 0; after the last one the next be64 would be a record, which has flag bits.
        """
        reader, inside = self._reader, "block list"
        extra: list[int] = []
        for _ in range(1 + self._ram.has_addresses):
            skip = head + U64.size * len(extra)
            if is_last:
                is_record = (yield from reader.u64(inside, skip=skip)) & (self._ram.page_bytes - 1)
            else:
                is_record = yield from reader.u8(inside, skip=skip)
            if is_record:
                break
            extra.append((yield from reader.u64(inside, skip=skip)))
        return extra
