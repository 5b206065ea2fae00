"""Page records in bulk: whole runs of them at once, their pages never touched.

For who reads gigabytes and needs no element for each page. Records of equal size lie at equal
distances, so their be64s are one strided array; where pages and zero pages mix, records are
followed one by one. Same stream, same rules as `ram.py`, which reads all other records.
"""

from __future__ import annotations

from mmap import mmap

import numpy as np
import numpy.typing as npt

from .element import PageRun, RamFlag
from .structs import U64

RECORDS_MAX = 1 << 16
"""Of one run; what follows is another one."""
ATTEMPT = 16
"""Records of equal size that are looked for first; four times as many after each success."""
FOLLOWED = 512
"""Records that are followed one by one before equal ones are looked for again."""

Words = npt.NDArray[np.uint64]


def offsets_bytes(run: PageRun) -> Words:
    """Of the run's pages, within their block."""
    return run.records & ~np.uint64(run.page_bytes - 1)


def zeros(run: PageRun) -> npt.NDArray[np.bool_]:
    """Which of the run's pages are zero pages."""
    return (run.records & np.uint64(RamFlag.ZERO)).astype(np.bool_)


def data_at(run: PageRun) -> npt.NDArray[np.int64]:
    """Where the data of each record begins, in bytes from the run's first one."""
    sizes = np.where(zeros(run), 9, 8 + run.page_bytes).astype(np.int64)
    return np.cumsum(sizes) - sizes + run.head_bytes


class Follower:
    """Follows the page records with CONTINUE in `data[:stop]`; those complete in it."""

    def __init__(self, data: bytes | mmap, stop: int, page_bytes: int) -> None:
        self._data, self._stop, self._low = data, stop, page_bytes - 1
        self._steps = {
            int(RamFlag.PAGE | RamFlag.CONTINUE): U64.size + page_bytes,
            int(RamFlag.ZERO | RamFlag.CONTINUE): U64.size + 1,
        }

    def follow(self, first: int, pos: int) -> tuple[Words, int]:
        """The be64s of a run that begins with `first`, and where it ends; `pos` is after that."""
        found = [np.array([first], np.uint64)]
        left = RECORDS_MAX - 1
        while left:
            words, pos = self._equal(pos, left)
            if len(words) < ATTEMPT:
                found.append(words)
                left -= len(words)
                words, pos = self._one_by_one(pos, min(left, FOLLOWED))
            if not len(words):
                break
            found.append(words)
            left -= len(words)
        return np.concatenate(found), pos

    def _equal(self, pos: int, most: int) -> tuple[Words, int]:
        """The be64s of at most so many records that have the flags of the one at `pos`."""
        found = [np.empty(0, np.uint64)]
        flags = self._flags(pos)
        step = self._steps.get(flags)
        if step is None:
            return found[0], pos
        most = min(most, (self._stop - pos) // step)
        size = ATTEMPT
        while most:
            count = min(size, most)
            strided = np.ndarray((count,), ">u8", self._data, pos, (step,))
            words = strided.astype(np.uint64)
            same = (words & np.uint64(self._low)) == flags
            if not same.all():
                words = words[: int(same.argmin())]
                most = 0
            found.append(words)
            pos += step * len(words)
            most -= min(most, count)
            size *= 4
        return np.concatenate(found), pos

    def _one_by_one(self, pos: int, most: int) -> tuple[Words, int]:
        data, stop, low, steps = self._data, self._stop, self._low, self._steps
        unpack = U64.unpack_from
        words: list[int] = []
        while len(words) < most and pos + U64.size <= stop:
            (word,) = unpack(data, pos)
            step = steps.get(word & low)
            if step is None or pos + step > stop:
                break
            words.append(word)
            pos += step
        return np.array(words, np.uint64), pos

    def _flags(self, pos: int) -> int:
        """Of the record at `pos`; 0, which is none, where none is complete."""
        if pos + U64.size > self._stop:
            return 0
        return int(U64.unpack_from(self._data, pos)[0]) & self._low
