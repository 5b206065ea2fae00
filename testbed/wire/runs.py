"""Page records in bulk: whole runs of them at once, their pages never touched.

For who reads gigabytes and needs no element for each page. Records of equal size lie at equal
distances; where their pages follow each other in memory, too, all of their be64s are known from
the first one. So they are compared at once, as one large integer. What follows no such rule is
read record by record. Same stream, same rules as `ram.py`, which reads all other records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from mmap import mmap

from .element import PageRun, RamFlag
from .structs import U64

RECORDS_MAX = 1 << 16
"""Of one run; what follows is another one."""
AT_ONCE_MAX = 2048
"""Records that are compared at once: their be64s fit into the first-level cache."""
ATTEMPT = 16
"""Records that are compared at first, and after a failure; four times as many after a success."""
FOLLOWED_MAX = 4096
"""Records of a run that are read one by one: each is an integer in a list."""

ZERO_RECORD_BYTES = U64.size + 1
_CONTINUE = int(RamFlag.CONTINUE)
_ZERO = int(RamFlag.ZERO)
_PAGE_CONTINUE = int(RamFlag.PAGE | RamFlag.CONTINUE)
_ZERO_CONTINUE = int(RamFlag.ZERO | RamFlag.CONTINUE)


def offsets_bytes(run: PageRun) -> Sequence[int]:
    """Of the run's pages, within their block."""
    records = run.records
    if isinstance(records, range):
        flags = records.start & (run.page_bytes - 1)
        return range(records.start - flags, records.stop - flags, records.step)
    mask = ~(run.page_bytes - 1)
    return [record & mask for record in records]


def zeros(run: PageRun) -> int:
    """How many of the run's pages are zero pages."""
    records = run.records
    if isinstance(records, range):
        return len(records) if records.start & _ZERO else 0
    return sum(record & _ZERO for record in records) // _ZERO


def pages(run: PageRun) -> Iterator[tuple[int, bool, int]]:
    """Of each page: its offset in the block, if it is a zero page, and where its data begins.

    That place counts in bytes from the run's first one.
    """
    at, mask = run.head_bytes, ~(run.page_bytes - 1)
    for record in run.records:
        zero = bool(record & _ZERO)
        yield record & mask, zero, at
        at += ZERO_RECORD_BYTES if zero else U64.size + run.page_bytes


class Follower:
    """Follows the page records with CONTINUE that are complete in what is in hand.

    How many are compared at once outlives a run: most go on where the window before ended.
    """

    def __init__(self) -> None:
        self._data: bytes | mmap = b""
        self._stop = self._page_bytes = 0
        self._attempt = ATTEMPT

    def over(self, data: bytes | mmap, stop: int, page_bytes: int) -> Follower:
        """The same, now that `data[:stop]` is in hand."""
        self._data, self._stop, self._page_bytes = data, stop, page_bytes
        return self

    def follow(self, first: int, pos: int, *, only_zeros: bool) -> tuple[Sequence[int], int]:
        """The records of a run that begins with `first`, without CONTINUE, and where it ends.

        `pos` is behind the first one. With `only_zeros`, a page with data ends the run.
        """
        first &= ~_CONTINUE
        count, end = self._alike(first, pos)
        if count >= ATTEMPT:
            size = self._page_bytes
            return range(first, first + (count + 1) * size, size), end
        return self._one_by_one(first, pos, only_zeros=only_zeros)

    def _alike(self, first: int, pos: int) -> tuple[int, int]:
        """How many records continue `first` page by page, of the same kind, and where they end."""
        size = self._page_bytes
        word = (first | _CONTINUE) + size
        step = ZERO_RECORD_BYTES if word & _ZERO else U64.size + size
        last = ((1 << 64) - 1 - word) // size  # no address goes round
        left = min(RECORDS_MAX - 1, (self._stop - pos) // step, last)
        done = 0
        while left:
            count = min(self._attempt, left)
            same = self._same(pos, step, word + done * size, count)
            done += same
            pos += same * step
            left = left - count if same == count else 0
            if same < count:
                self._attempt = ATTEMPT
            elif count == self._attempt:  # fewer are no reason to expect more
                self._attempt = min(count * 4, AT_ONCE_MAX)
        return done, pos

    def _same(self, pos: int, step: int, word: int, count: int) -> int:
        """How many of `count` records from `pos` on are what `word` makes expect."""
        unit = ZERO_RECORD_BYTES if step == ZERO_RECORD_BYTES else U64.size
        ones, climb = _pattern(unit, self._page_bytes)
        beyond = 8 * unit * (AT_ONCE_MAX - count)
        ones >>= beyond
        expected = ones * word + (climb >> beyond)
        data = memoryview(self._data)[pos : pos + count * step]
        if unit == step:
            got = int.from_bytes(data, "big") & ones * ((1 << 72) - 0x100)
            expected <<= 8  # the byte that fills the page is any
        else:
            got = int.from_bytes(data.cast("Q")[:: step // U64.size].tobytes(), "big")
        differ = (got ^ expected).bit_length()
        return count - -(-differ // (8 * unit))

    def _one_by_one(self, first: int, pos: int, *, only_zeros: bool) -> tuple[list[int], int]:
        """Until a record is none of these, or so many were alike that they are compared at once."""
        data, stop, size = self._data, self._stop, self._page_bytes
        unpack, low = U64.unpack_from, size - 1
        steps = {_PAGE_CONTINUE: U64.size + size, _ZERO_CONTINUE: ZERO_RECORD_BYTES}
        if only_zeros:
            del steps[_PAGE_CONTINUE]
        records, expected, alike = [first], first + size, 0
        while pos + U64.size <= stop and len(records) < FOLLOWED_MAX:
            (word,) = unpack(data, pos)
            step = steps.get(word & low)
            if step is None or pos + step > stop:
                break
            pos += step
            word -= _CONTINUE
            records.append(word)
            alike = alike + 1 if word == expected else 0
            if alike == ATTEMPT:
                break
            expected = word + size
        return records, pos


@lru_cache(64)
def _pattern(unit: int, step: int) -> tuple[int, int]:
    """`AT_ONCE_MAX` numbers of `unit` bytes as one: each of them 1; and 0, step, 2 * step, ..."""
    ones = int.from_bytes((1).to_bytes(unit, "big") * AT_ONCE_MAX, "big")
    climb = b"".join((number * step).to_bytes(unit, "big") for number in range(AT_ONCE_MAX))
    return ones, int.from_bytes(climb, "big")
