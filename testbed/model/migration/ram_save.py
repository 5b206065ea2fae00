"""Saves RAM: pass after pass over the pages that are dirty, those that are asked for first.

Source: QEMU `migration/ram.c`, `ram_save_setup`, `ram_save_iterate`, `ram_save_complete`,
`ram_find_and_save_block`, `save_xbzrle_page`, `migration_bitmap_sync`,
`ram_postcopy_send_discard_bitmap`, `ram_save_queue_pages`, `ram_dirty_bitmap_reload`; 2.9 and 7.2.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from testbed.model.profile import Profile
from testbed.wire import build, encode, xbzrle
from testbed.wire.element import Command, Message, RamBlock, RamFlag, RamMark
from testbed.wire.structs import BITMAP_END_MARK, U64, XBZRLE, XBZRLE_ENCODING

from .memory import Block, Memory, united, unpacked
from .page_runs import records

DISCARDS_MAX = 12
"""Ranges of one command: `MAX_DISCARDS_PER_COMMAND`."""
WORD_BYTES = 8
RUN_PAGES_MAX = 256
"""Pages that are sent at once: they fit into a cache, and nobody waits for them for long."""
EOS = encode(RamMark(RamFlag.EOS))
COMPLETE_BYTES = 1 << 20
"""Of each piece of the last stage, which sends all that is left: a third of a second's worth."""


@dataclass(slots=True)
class Counters:
    """What `query-migrate` tells of RAM."""

    normal: int = 0  # pages sent whole
    duplicate: int = 0  # pages of zeros
    dirty_sync_count: int = 0
    postcopy_requests: int = 0
    xbzrle_pages: int = 0  # sent as their difference
    xbzrle_bytes: int = 0
    xbzrle_cache_miss: int = 0
    xbzrle_overflow: int = 0  # their difference would have been longer than the page


@dataclass(slots=True)
class Made:
    """A payload that grows."""

    size_bytes: int = 0
    _pieces: list[bytes] = field(default_factory=list)

    def add(self, *pieces: bytes) -> None:
        """Append these."""
        self._pieces += pieces
        self.size_bytes += sum(map(len, pieces))

    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


class RamSave:
    """The source's side of RAM.

    Args:
        memory: to be sent, while the guest writes to it.
        profile: whose stream.
    """

    def __init__(self, memory: Memory, profile: Profile) -> None:
        self.memory, self._profile = memory, profile
        self.sends_page_sizes = False
        """The capability postcopy-ram."""
        self.xbzrle_cache_bytes = 0
        """The parameter xbzrle-cache-size; 0 without the capability xbzrle."""
        self._zeros = bytes(memory.target_page_bytes)
        self._forget()

    def _forget(self) -> None:
        self.counters = Counters()
        self._blocks: list[Block] = []
        self._dirty: dict[Block, bytearray] = {}  # by target page: to be sent
        self._left = 0  # pages of all that are dirty
        self._next = 0, 0  # where the search goes on: index of the block, page
        self._last: Block | None = None  # of the record before
        self._first_pass = True
        self._in_postcopy = False
        self._cache: dict[tuple[Block, int], bytes] = {}
        self._requests: dict[tuple[Block, int], None] = {}  # first target page of a host page
        self._requested: Block | None = None  # of the last request

    def setup(self) -> bytes:
        """The payload of START: the blocks, all of whose pages are dirty."""
        self._forget()
        self._blocks = self.memory.migratable
        for block in self._blocks:
            self._dirty[block] = bytearray(b"\1") * block.pages
        self.sync()
        values = build.block_list([self._listed(block) for block in self._blocks])
        return b"".join(map(encode, values)) + EOS

    def _listed(self, block: Block) -> RamBlock:
        listed = self.sends_page_sizes and self._profile.lists_page_sizes
        differs = block.page_bytes != self.memory.host_page_bytes
        page_bytes = block.page_bytes if listed and differs else None
        return RamBlock(block.idstr, block.used_bytes, page_bytes)

    def iterate(self, most_bytes: int) -> tuple[bytes, bool]:
        """The payload of PART, of about so many bytes; true if no dirty page is left."""
        if not self._in_postcopy and not self._left:
            self.sync()
        made, left = Made(), True
        while left and made.size_bytes < most_bytes:
            left = self._send_next(made, most_bytes - made.size_bytes, last_stage=False)
        made.add(EOS)
        return made.whole(), not left

    def complete(self, *, postcopy: bool) -> Iterator[bytes]:
        """The payload of END, in pieces: every page that is dirty."""
        if not postcopy:
            self.sync()
        left = True
        while left:
            made = Made()
            while left and made.size_bytes < COMPLETE_BYTES:
                most = COMPLETE_BYTES - made.size_bytes
                left = self._send_next(made, most, last_stage=True)
            yield made.whole()
        yield EOS

    def pending_bytes(self, enough_bytes: float = math.inf) -> int:
        """All pages that are dirty now, those included that this pass does not know yet.

        If those that it knows are enough, they are what it says: to look for others takes time.
        """
        pages, size = self._left, self.memory.target_page_bytes
        if self._in_postcopy or pages * size >= enough_bytes:
            return pages * size
        for block, dirty in self._dirty.items():
            if 1 in block.written:
                both = united(dirty, block.written[: len(dirty)])
                pages += both.count(1) - dirty.count(1)
        return pages * size

    def cleanup(self) -> None:
        """The migration is over; what was counted is kept until the next one."""
        counters = self.counters
        self._forget()
        self.counters = counters

    def sync(self) -> None:
        """`migration_bitmap_sync`: another pass, with what the guest wrote since the last."""
        self.counters.dirty_sync_count += 1
        for block, dirty in self._dirty.items():
            if 1 in block.written:
                self._dirty[block] = united(dirty, block.written[: len(dirty)])
                block.written = bytearray(len(block.written))
        self._count()

    def _count(self) -> None:
        self._left = sum(dirty.count(1) for dirty in self._dirty.values())

    # Pages

    def _send_next(self, made: Made, most_bytes: int, *, last_stage: bool) -> bool:
        """Send what is dirty of one host page, or of some more; false if there is none.

        Those are no more than would be sent one by one until there are `most_bytes` of them.
        """
        requested = self._next_request()
        found = requested or self._next_dirty()
        if found is None:
            return False
        index, page = found
        block, size = self._blocks[index], self.memory.target_page_bytes
        dirty = self._dirty[block]
        end = block.whole_pages(page, 1)[1]
        if self._differs or requested or block is not self._last:
            while page >= 0:
                dirty[page] = 0
                self._left -= 1
                self._send(made, block, page, last_stage=last_stage)
                page = dirty.find(1, page + 1, end)
        else:
            if block.page_bytes == size:
                end = min(page + -(-most_bytes // (U64.size + size)), block.pages)
            self._send_runs(made, block, page, end)
        self._next = index, end
        return True

    @property
    def _differs(self) -> bool:
        """Pages are sent as their difference to what the destination has, if they can be."""
        return self.xbzrle_cache_bytes > 0 and not (self._first_pass or self._in_postcopy)

    def _send_runs(self, made: Made, block: Block, page: int, end: int) -> None:
        """Send the dirty pages from `page` on to before `end`, of the block of the last record."""
        dirty, size = self._dirty[block], self.memory.target_page_bytes
        while page >= 0:
            clean = dirty.find(0, page, min(end, page + RUN_PAGES_MAX))
            stop = min(end, page + RUN_PAGES_MAX) if clean < 0 else clean
            pieces, zero_pages = records(block.data, page * size, stop - page, size)
            made.add(*pieces)
            dirty[page:stop] = bytes(stop - page)
            self._left -= stop - page
            self.counters.duplicate += zero_pages
            self.counters.normal += stop - page - zero_pages
            page = dirty.find(1, stop, end)

    def _next_request(self) -> tuple[int, int] | None:
        """The first page asked for that was not sent since; the search goes on behind it."""
        while self._requests:
            block, page = next(iter(self._requests))
            del self._requests[block, page]
            found = self._dirty[block].find(1, page, block.whole_pages(page, 1)[1])
            if found >= 0:
                return self._blocks.index(block), found
        return None

    def _next_dirty(self) -> tuple[int, int] | None:
        index, page = self._next
        for _ in range(len(self._blocks) + 1 if self._blocks else 0):
            found = self._dirty[self._blocks[index]].find(1, page)
            if found >= 0:
                return index, found
            index, page = index + 1, 0
            if index == len(self._blocks):
                index, self._first_pass = 0, False
        return None

    def _send(self, made: Made, block: Block, page: int, *, last_stage: bool) -> None:
        size = self.memory.target_page_bytes
        at = page * size
        data = block.data[at : at + size]
        differs = self._differs
        if data == self._zeros:
            self.counters.duplicate += 1
            if differs:  # what the cache has of it would be stale
                self._keep(block, page, data)
            self._head(made, block, at + RamFlag.ZERO)
            made.add(b"\0")
            return
        if differs and self._send_difference(made, block, page, data, last_stage=last_stage):
            return
        self.counters.normal += 1
        self._head(made, block, at + RamFlag.PAGE)
        made.add(data)

    def _head(self, made: Made, block: Block, word: int) -> None:
        # A sum of address and flags is a number; `|` would make a flag of it, and keep that.
        if block is self._last:
            made.add(U64.pack(word + RamFlag.CONTINUE))
            return
        idstr = block.idstr.encode("latin-1")
        made.add(U64.pack(word), bytes([len(idstr)]), idstr)
        self._last = block

    def _send_difference(
        self, made: Made, block: Block, page: int, data: bytes, *, last_stage: bool
    ) -> bool:
        """Send a page as its difference to what the destination has; false if that cannot be."""
        before = self._cache.get((block, page))
        if before is None:
            self.counters.xbzrle_cache_miss += 1
            if not last_stage:
                self._keep(block, page, data)
            return False
        difference = xbzrle.encode(before, data)
        if difference == b"":
            return True  # it has become again what it was
        self._keep(block, page, data)
        if difference is None:
            self.counters.xbzrle_overflow += 1
            return False
        self.counters.xbzrle_pages += 1
        self.counters.xbzrle_bytes += len(difference)
        self._head(made, block, page * len(data) + RamFlag.XBZRLE)
        made.add(XBZRLE.pack(XBZRLE_ENCODING, len(difference)), difference)
        return True

    def _keep(self, block: Block, page: int, data: bytes) -> None:
        """Remember what the destination has; if there is no room, forget what is oldest."""
        most = self.xbzrle_cache_bytes // self.memory.target_page_bytes
        if (block, page) not in self._cache and len(self._cache) >= most:
            del self._cache[next(iter(self._cache))]
        self._cache[block, page] = data

    # Postcopy

    def discards(self) -> list[Command]:
        """POSTCOPY_RAM_DISCARD of all that is dirty; from here on nothing becomes so."""
        self.sync()
        self._in_postcopy = True
        self._begin_again()
        commands = []
        for block, dirty in self._dirty.items():
            ranges = self._whole_ranges(block, dirty)
            for at in range(0, len(ranges), DISCARDS_MAX):
                commands.append(build.discard(block.idstr, ranges[at : at + DISCARDS_MAX]))
        self._count()
        return commands

    def _begin_again(self) -> None:
        """The search begins anew, and the next record names its block."""
        self._next, self._last = (0, 0), None
        self._cache.clear()

    def _whole_ranges(self, block: Block, dirty: bytearray) -> list[tuple[int, int]]:
        """Start and length of what is dirty, in bytes; all of a host page is, if a part is."""
        size, page = self.memory.target_page_bytes, dirty.find(1)
        while block.page_bytes > size and page >= 0:
            start, end = block.whole_pages(page, 1)
            end = min(end, len(dirty))
            dirty[start:end] = b"\1" * (end - start)
            page = dirty.find(1, end)
        ranges, start = [], dirty.find(1)
        while start >= 0:
            clean = dirty.find(0, start)
            end = len(dirty) if clean < 0 else clean
            ranges.append((start * size, (end - start) * size))
            start = dirty.find(1, end)
        return ranges

    def request(self, block: str | None, offset_bytes: int, size_bytes: int) -> str | None:
        """Have these pages sent before others; None as the block: that of the last request.

        Returns why that cannot be, in QEMU's words; None if it can.
        """
        unit, name = self.memory.host_page_bytes, "ram_save_queue_pages"
        if offset_bytes % unit or size_bytes % unit:
            said = f"Misaligned page request, start: {offset_bytes:x} len: {size_bytes}"
            return f"migrate_handle_rp_req_pages: {said}"
        self.counters.postcopy_requests += 1
        found = self._requested if block is None else self.memory.find(block)
        if found is None:
            return f"{name} no previous block" if block is None else f"{name} no block '{block}'"
        self._requested = found
        if (offset_bytes + size_bytes - 1) % (1 << 64) >= found.used_bytes:
            said = f"start={offset_bytes:x} len={size_bytes:x} blocklen={found.used_bytes:x}"
            return f"{name} request overrun {said}"
        self._queue(found, offset_bytes, size_bytes)
        return None

    def _queue(self, block: Block, offset_bytes: int, size_bytes: int) -> None:
        size = self.memory.target_page_bytes
        first, count = offset_bytes // size, size_bytes // size
        dirty = self._dirty.get(block, bytearray())
        page = dirty.find(1, first, first + count)
        while page >= 0:  # what was sent need not be kept: so there are as many as pages at most
            start, end = block.whole_pages(page, 1)
            self._requests[block, start] = None
            page = dirty.find(1, end, first + count)

    # Recovery

    def requests_bitmaps(self) -> list[Command]:
        """RECV_BITMAP for each block, for a recovery."""
        self._begin_again()
        return [build.recv_bitmap(block.idstr) for block in self._blocks]

    def bitmap_bytes(self, message: Message) -> int | None:
        """Of the bitmap of the block that a RECV_BITMAP names; None: there is no such block."""
        block = self.memory.find(_idstr(message))
        return None if block is None else bitmap_bytes(block.pages)

    def reload_bitmap(self, message: Message) -> str | None:
        """Take as dirty what the destination has not received; why it cannot be, or None.

        A bitmap that was cut short is refused, too: what is missing of its size reads as zeros.
        """
        idstr = _idstr(message)
        block = self.memory.find(idstr)
        if block is None:
            return f"migrate_handle_rp_recv_bitmap: invalid block name '{idstr}'"
        name = f"ram_dirty_bitmap_reload: ramblock '{idstr}'"
        size = int.from_bytes(message.bitmap[:8].ljust(8, b"\0"), "big")
        ours = bitmap_bytes(block.pages)
        if size != ours:
            return f"{name} bitmap size mismatch ({size:#x} != {ours:#x})"
        if len(message.bitmap) < 8 + ours + 8:
            got = min(len(message.bitmap) - 8, ours)
            said = f"read bitmap failed for ramblock '{idstr}': {-errno.EIO}"
            return f"ram_dirty_bitmap_reload: {said} (size {ours:#x}, got: {got:#x})"
        mark = int.from_bytes(message.bitmap[-8:], "big")
        if mark != BITMAP_END_MARK:
            return f"{name} end mark incorrect: {mark:#x}"
        received = unpacked(message.bitmap[8:-8], block.pages)
        self._dirty[block] = received.translate(INVERTED)
        self._count()
        return None


def _idstr(message: Message) -> str:
    """The name of the block in a RECV_BITMAP."""
    return message.payload[1:].split(b"\0")[0].decode("latin-1")


INVERTED = bytes([1, 0, *range(2, 256)])


def bitmap_bytes(pages: int) -> int:
    """Of a bitmap of so many pages, in whole words."""
    return -(-pages // (8 * WORD_BYTES)) * WORD_BYTES
