"""Guest memory: blocks of pages, which of them were written, which came in a migration.

Whatever is by page is a bytearray with a byte for each target page: 0 or 1. To set one is an index,
to find the next one a search, to count them a count, all at C's speed and without any import.

Source: QEMU `softmmu/physmem.c` (`exec.c` in 2.9), `include/exec/ramblock.h`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from mmap import MADV_DONTNEED, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from typing import NamedTuple

BLOCK_BYTES_MAX = 1 << 40
"""Of one block: what was never written takes no room, but has a byte for each page."""
HOST_AT = 0x7F00_0000_0000
"""Where the first block is, in the texts that tell addresses of the host's."""
HOST_ALIGNMENT = 1 << 21


@dataclass(slots=True, eq=False)
class Block:
    """A RAMBlock."""

    idstr: str
    used_bytes: int
    max_bytes: int
    page_bytes: int
    """Of what backs it: the host's pages, or huge ones."""
    target_page_bytes: int
    host_at: int
    is_migratable: bool
    is_resizable: bool
    data: mmap = field(init=False)
    """All of `max_bytes`."""
    written: bytearray = field(init=False)
    """By target page: the guest wrote to it since this was last asked."""
    received: bytearray = field(init=False)
    """By target page: it came in a migration, and was not discarded since."""

    def __post_init__(self) -> None:
        """Make its memory, all zero."""
        self.data = mmap(-1, self.max_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        with suppress(OSError):  # not every kernel has them
            self.data.madvise(MADV_HUGEPAGE)  # as QEMU does: faults page by page cost more
        self.written = bytearray(self.max_bytes // self.target_page_bytes)
        self.received = bytearray(self.max_bytes // self.target_page_bytes)

    @property
    def pages(self) -> int:
        """Target pages in use."""
        return self.used_bytes // self.target_page_bytes

    def whole_pages(self, start: int, count: int) -> tuple[int, int]:
        """The target pages that share a page of what backs them with any of `count` from `start`.

        Returns the first one, and the one behind the last.
        """
        unit = self.page_bytes // self.target_page_bytes
        return start // unit * unit, -(-(start + count) // unit) * unit

    def place(self, offset_bytes: int, data: bytes | bytearray) -> None:
        """Put what came at its place."""
        end = offset_bytes + len(data)
        self.data[offset_bytes:end] = data
        self._received(offset_bytes, len(data), 1)

    def drop(self, offset_bytes: int, size_bytes: int) -> None:
        """Have a range, of whole pages of what backs it, be zero and not received."""
        if offset_bytes % PAGESIZE or size_bytes % PAGESIZE:
            self.data[offset_bytes : offset_bytes + size_bytes] = bytes(size_bytes)
        elif size_bytes:
            self.data.madvise(MADV_DONTNEED, offset_bytes, size_bytes)
        self._received(offset_bytes, size_bytes, 0)

    def _received(self, offset_bytes: int, size_bytes: int, mark: int) -> None:
        first, count = offset_bytes // self.target_page_bytes, size_bytes // self.target_page_bytes
        self.received[first : first + count] = bytes((mark,)) * count


class Missing(NamedTuple):
    """A page that has not come yet: who wants it waits until it has."""

    block: str
    offset_bytes: int
    size_bytes: int


class Memory:
    """The blocks of a machine, and the guest's way to them."""

    def __init__(self, *, target_page_bytes: int = 4096, host_page_bytes: int = 4096) -> None:
        self.target_page_bytes = target_page_bytes
        self.host_page_bytes = host_page_bytes
        self.waits = False
        """Postcopy: a page that was not received is missing."""
        self._blocks: list[Block] = []
        self._host_at = HOST_AT

    def __iter__(self) -> Iterator[Block]:
        """Every block, as QEMU's list has them: by `max_bytes`, the largest first."""
        return iter(self._blocks)

    @property
    def migratable(self) -> list[Block]:
        """Those that are in a stream."""
        return [block for block in self._blocks if block.is_migratable]

    @property
    def page_sizes(self) -> int:
        """Those of all blocks, or-ed."""
        sizes = 0
        for block in self._blocks:
            sizes |= block.page_bytes
        return sizes

    def add(
        self,
        idstr: str,
        used_bytes: int,
        *,
        max_bytes: int | None = None,
        page_bytes: int | None = None,
        is_migratable: bool = True,
    ) -> Block:
        """Another block, all zero.

        Args:
            idstr: as `Registry.register_ram` gives it.
            used_bytes: a multiple of its page size.
            max_bytes: what it can be resized to; without it, it cannot.
            page_bytes: of what backs it, where those are not the host's pages.
            is_migratable: it is in a stream.
        """
        unit = page_bytes or self.host_page_bytes
        most = used_bytes if max_bytes is None else max_bytes
        assert self.find(idstr) is None, f"two blocks {idstr}"
        assert 0 < used_bytes <= most <= BLOCK_BYTES_MAX, f"a block of {used_bytes} bytes"
        assert used_bytes % unit == most % unit == 0, "a block has whole pages"
        sizes = used_bytes, most, unit, self.target_page_bytes
        made = Block(idstr, *sizes, self._host_at, is_migratable, max_bytes is not None)
        self._host_at += -(-most // HOST_ALIGNMENT) * HOST_ALIGNMENT
        at = next((n for n, each in enumerate(self._blocks) if each.max_bytes < most), None)
        self._blocks.insert(len(self._blocks) if at is None else at, made)
        return made

    def find(self, idstr: str) -> Block | None:
        """The block of that name."""
        return next((block for block in self._blocks if block.idstr == idstr), None)

    # The guest's access

    def read(self, block: Block, offset_bytes: int, size_bytes: int) -> bytes | Missing:
        """What the guest reads there; or the first page that it has to wait for."""
        missing = self.missing(block, offset_bytes, size_bytes)
        return missing or block.data[offset_bytes : offset_bytes + size_bytes]

    def write(self, block: Block, offset_bytes: int, data: bytes) -> Missing | None:
        """Write as the guest does; if it has to wait for a page, nothing is written."""
        size_bytes = len(data)
        missing = self.missing(block, offset_bytes, size_bytes)
        if missing is None:
            block.data[offset_bytes : offset_bytes + size_bytes] = data
            unit = self.target_page_bytes
            for page in range(offset_bytes // unit, -(-(offset_bytes + size_bytes) // unit)):
                block.written[page] = 1
        return missing

    def missing(self, block: Block, offset_bytes: int, size_bytes: int) -> Missing | None:
        """The first page of a range that has not come yet; None if all of it can be used."""
        if not self.waits or not block.is_migratable:
            return None
        unit = self.target_page_bytes
        first, end = offset_bytes // unit, -(-(offset_bytes + size_bytes) // unit)
        start, stop = block.whole_pages(first, end - first)
        found = block.received.find(0, start, stop)
        if found < 0:
            return None
        at = block.whole_pages(found, 1)[0] * unit
        return Missing(block.idstr, at, block.page_bytes)


def united(one: bytearray, other: bytearray) -> bytearray:
    """What is set in either of two that are by page."""
    both = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return bytearray(both.to_bytes(len(one), "little"))


TO_DIGITS = bytes([ord("0"), ord("1"), *range(2, 256)])
FROM_DIGITS = bytes.maketrans(b"01", b"\0\1")


def packed(pages: bytearray) -> bytes:
    """As a bitmap: page 0 is the lowest bit of the first byte."""
    bits = int(pages[::-1].translate(TO_DIGITS) or b"0", 2)
    return bits.to_bytes(-(-len(pages) // 8), "little")


def unpacked(bitmap: bytes, count: int) -> bytearray:
    """The first `count` pages of a bitmap."""
    bits = int.from_bytes(bitmap, "little") & ((1 << count) - 1)
    return bytearray(f"{bits:0{count}b}".encode()[::-1].translate(FROM_DIGITS))
