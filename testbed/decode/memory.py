"""What a stream says of guest memory, block by block: counts, however many pages pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from testbed.wire.element import MappedBitmap, PageRun, RamBlock, RamFlag, RamPage
from testbed.wire.packet import MultifdPacket
from testbed.wire.runs import offsets_bytes, zeros

FLAGS = {
    "zero": RamFlag.ZERO,
    "data": RamFlag.PAGE,
    "xbzrle": RamFlag.XBZRLE,
    "compressed": RamFlag.COMPRESS_PAGE,
}
KINDS = tuple(FLAGS)
BLOCKS_MAX = 4096
"""Told apart; a hostile stream can name others without end, which count as `OTHERS`."""
OTHERS = "(others)"


@dataclass(slots=True)
class BlockCounts:
    """Page records of one block.

    A run is pages that follow each other in memory; a pass begins where the offset goes back.
    """

    used_bytes: int | None = None  # None: no block list told
    pages: int = 0
    zero: int = 0
    data: int = 0
    xbzrle: int = 0
    compressed: int = 0
    runs: int = 0
    passes: int = 0
    _last: int = field(default=-1, repr=False)

    def page(self, page: RamPage, page_bytes: int) -> None:
        """Count one page record."""
        kind = next((name for name, flag in FLAGS.items() if page.flags & flag), None)
        if kind is not None:
            setattr(self, kind, getattr(self, kind) + 1)
        self.pages += 1
        self._moved(page.offset_bytes, page_bytes)
        self._last = page.offset_bytes

    def packet(self, normal: Sequence[int], zero: Sequence[int], page_bytes: int) -> None:
        """Count the pages of a multifd packet, by their offsets."""
        self.pages += len(normal) + len(zero)
        self.data += len(normal)
        self.zero += len(zero)
        for offset in sorted((*normal, *zero)):
            self._moved(offset, page_bytes)
            self._last = offset

    def bitmap(self, bits: int) -> None:
        """Count the pages of a mapped-ram file, one bit each; those that lack are zero."""
        self.pages += bits.bit_count()
        self.data += bits.bit_count()
        self.runs += (bits & ~(bits << 1)).bit_count()
        self.passes += 1

    def run(self, run: PageRun) -> None:
        """Count the records of a run."""
        offsets, zero, size = offsets_bytes(run), zeros(run), run.page_bytes
        self.pages += len(offsets)
        self.zero += zero
        self.data += len(offsets) - zero
        self._moved(offsets[0], size)
        if not isinstance(offsets, range):
            steps = [after - before for before, after in pairwise(offsets)]
            self.runs += len(steps) - steps.count(size)
            self.passes += sum(step <= 0 for step in steps)
        self._last = offsets[-1]

    def _moved(self, offset_bytes: int, page_bytes: int) -> None:
        first = self._last < 0
        self.runs += first or offset_bytes != self._last + page_bytes
        self.passes += first or offset_bytes <= self._last

    def facts(self) -> dict[str, Any]:
        """The counts by name, those of rare kinds where there are any."""
        rare = {name: getattr(self, name) for name in KINDS[2:]}
        return {
            "used_bytes": self.used_bytes,
            "pages": self.pages,
            "zero": self.zero,
            "data": self.data,
            **{name: count for name, count in rare.items() if count},
            "runs": self.runs,
            "passes": self.passes,
        }


class Memory:
    """Counts of all blocks, in the order in which they are named."""

    def __init__(self) -> None:
        self.blocks: dict[str, BlockCounts] = {}
        self.pages = 0
        self.zero = 0

    def add(self, value: object, page_bytes: int) -> None:
        """Count what an element says of memory."""
        match value:
            case PageRun():
                counts = self._block(value.block)
                before = counts.zero
                counts.run(value)
                self.pages += len(value.records)
                self.zero += counts.zero - before
            case RamPage():
                self._block(value.block).page(value, page_bytes)
                self.pages += 1
                self.zero += bool(value.flags & RamFlag.ZERO)
            case MultifdPacket():
                normal, zero = value.normal_offsets_bytes, value.zero_offsets_bytes
                if normal or zero:
                    self._block(value.block).packet(normal, zero, page_bytes)
                self.pages += len(normal) + len(zero)
                self.zero += len(zero)
            case MappedBitmap(block=block):
                counts = self._block(block)
                before = counts.pages
                counts.bitmap(value.bits)
                self.pages += counts.pages - before
            case RamBlock():
                self._block(value.idstr).used_bytes = value.used_bytes

    def _block(self, name: str) -> BlockCounts:
        if name not in self.blocks and len(self.blocks) >= BLOCKS_MAX:
            name = OTHERS
        return self.blocks.setdefault(name, BlockCounts())
