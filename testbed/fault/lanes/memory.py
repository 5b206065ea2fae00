"""What has passed of guest memory, block by block: counts that can be looked at any time."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.wire.element import PageRun, RamBlock, RamFlag, RamPage
from testbed.wire.packet import MultifdPacket

BLOCKS_MAX = 500
"""Told apart; a peer can name others without end, which count as `OTHERS`."""
OTHERS = "(others)"


@dataclass(slots=True)
class BlockSeen:
    """Page records of one block.

    A pass begins where the address goes back. Within a run of pages nobody looks for that: a
    section begins a new one.
    """

    used_bytes: int | None = None  # None: no block list told
    pages: int = 0
    zero_pages: int = 0
    passes: int = 0
    _last: int = field(default=-1, repr=False, compare=False)

    def count(self, pages: int, zero_pages: int, first: int, last: int) -> None:
        """So many pages came, from the one at `first` to the one at `last`, bytes in the block."""
        self.pages += pages
        self.zero_pages += zero_pages
        if first <= self._last or not self.passes:
            self.passes += 1
        self._last = last


class Memory:
    """The blocks of one direction, and their pages as they pass."""

    def __init__(self) -> None:
        self.blocks: dict[str, BlockSeen] = {}
        self.page_bytes = 4096

    def block(self, block: RamBlock) -> None:
        """An entry of the block list."""
        self._of(block.idstr).used_bytes = block.used_bytes

    def page(self, page: RamPage) -> None:
        """A page record."""
        offset = page.offset_bytes
        self._of(page.block).count(1, bool(page.flags & RamFlag.ZERO), offset, offset)

    def run(self, run: PageRun, zero_pages: int) -> None:
        """The page records of a run; `zero_pages` of them are zero pages."""
        self.page_bytes = run.page_bytes
        records, mask = run.records, ~(run.page_bytes - 1)
        self._of(run.block).count(len(records), zero_pages, records[0] & mask, records[-1] & mask)

    def packet(self, packet: MultifdPacket) -> None:
        """A packet of a multifd channel; its pages are in no order that tells passes."""
        if not packet.normal_pages + packet.zero_pages:
            return  # it only synchronizes, and names no block
        seen = self._of(packet.block)
        seen.pages += packet.normal_pages + packet.zero_pages
        seen.zero_pages += packet.zero_pages

    def _of(self, name: str) -> BlockSeen:
        seen = self.blocks.get(name)
        if seen is None:
            if len(self.blocks) >= BLOCKS_MAX:
                name = OTHERS
            seen = self.blocks.setdefault(name, BlockSeen())
        return seen
