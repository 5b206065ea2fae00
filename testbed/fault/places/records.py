"""The page records of a run, each by its number: a run is split where a fault strikes in it."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from testbed.wire import spans
from testbed.wire.element import Element, PageRun, RamFlag, RamPage, RunElement
from testbed.wire.structs import U64

_ZERO = int(RamFlag.ZERO)


class Records:
    """The records of one run.

    `words` are their be64s without CONTINUE; a record's place counts in bytes from the first one.
    """

    def __init__(self, element: RunElement, run: PageRun) -> None:
        self.element = element
        self.block = run.block
        self.page_bytes = run.page_bytes
        self.words = run.records
        self._head_bytes = run.head_bytes
        self._starts: list[int] | None = None  # where they are not equally long

    def __len__(self) -> int:
        return len(self.words)

    def page(self, index: int) -> int:
        """The number of the page within its block."""
        return self.words[index] // self.page_bytes

    def start(self, index: int) -> int:
        """Where a record begins; that of `len(self)` is where the run ends."""
        if not index:
            return 0
        if isinstance(self.words, range):
            data = self._data_bytes(self.words.start)
            return self._head_bytes + data + (index - 1) * (U64.size + data)
        return self._all_starts()[index]

    def at(self, byte: int) -> int:
        """Which record that byte of the run lies in."""
        if isinstance(self.words, range):
            data = self._data_bytes(self.words.start)
            return max(byte - self._head_bytes + U64.size, 0) // (U64.size + data)
        return bisect_right(self._all_starts(), byte) - 1

    def pages_from(self, page: int, index: int) -> list[int]:
        """Which of the records from `index` on are of that page."""
        size = self.page_bytes
        if isinstance(self.words, range):
            found = page - self.words.start // size
            return [found] if index <= found < len(self.words) else []
        rest = enumerate(self.words[index:] if index else self.words, index)
        return [at for at, word in rest if word // size == page]

    def between(self, start: int, stop: int) -> RunElement:
        """Some of the records, which pass as they came."""
        run = self.element
        if stop - start == len(self):
            return run
        first = self.start(start)
        length = self.start(stop) - first
        return RunElement(run.offset + first, b"", run.value, (), run.section, length=length)

    def single(self, index: int, raw: bytes) -> Element:
        """A record as an element of its own; `raw` are its bytes."""
        head = self._head_bytes if not index else U64.size
        word, low = self.words[index], self.page_bytes - 1
        flags = RamFlag(word & low)
        if head == U64.size:
            flags |= RamFlag.CONTINUE
        value = RamPage(self.block, word & ~low, flags, raw[head:])
        shape = spans.page(head, 0, len(raw) - head)
        offset = self.element.offset + self.start(index)
        return Element(offset, raw, value, shape, self.element.section)

    def _data_bytes(self, word: int) -> int:
        return 1 if word & _ZERO else self.page_bytes

    def _all_starts(self) -> list[int]:
        if self._starts is None:
            sizes = [U64.size + self._data_bytes(word) for word in self.words]
            sizes[0] += self._head_bytes - U64.size
            self._starts = list(accumulate(sizes, initial=0))
        return self._starts
