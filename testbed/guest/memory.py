"""The check of a memory against the rule by which the guest stamps its pages: `rule.py` states it.

numpy compares, and is slow to import: who needs only the rule imports that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .image import GuestSpec, loaded_image
from .rule import (
    CHECK_FACTOR,
    CHECK_WORD,
    FILL_START,
    FILL_STEP,
    FIRST_PAGE,
    IMAGE_AT,
    PAGE_BYTES,
    PAGE_WORD,
    PASS_WORD,
    PATTERN_WORD,
    STATE,
    STATE_AT,
    STATE_MAGIC,
    WORDS,
)

FINDINGS_MAX = 8
PAGES_AT_ONCE = 64  # of the comparison: 256 KiB stay in a CPU's cache

Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class PageFinding:
    """A page that is not as the rule says: `byte` is the first that differs, from its start."""

    page: int
    byte: int
    expected: str
    got: str

    def __str__(self) -> str:
        return f"page {self.page}, byte {self.byte}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a memory was found to be.

    `pages` says how many of the workload were checked: all, or none where the state page does not
    say what they must be. `stale` ones are whole, but as another pass left them; `damaged` ones
    are not the rule's. The image and the state page count as damaged pages where they are.
    `findings` names the first of each, `FINDINGS_MAX` at most.
    """

    pages: int
    pass_number: int  # that is being written, from 1
    index: int  # pages that have it
    ticks: int  # of the guest's clock, `TICKS_PER_SECOND`
    stale: int
    damaged: int
    findings: tuple[PageFinding, ...]

    @property
    def intact(self) -> bool:
        """Every page is as the rule says."""
        return not self.stale and not self.damaged

    @property
    def stamps(self) -> int:
        """How many the guest had written; of two memories of one guest the newer has more."""
        return max(self.pass_number - 1, 0) * self.pages + self.index


def check_memory(ram: bytes | bytearray | memoryview, spec: GuestSpec) -> MemoryReport:
    """Check the whole of a stopped guest's memory.

    Args:
        ram: the machine's main memory block from its first byte on.
        spec: what the guest was started with.

    Raises:
        ValueError: `ram` is shorter than the guest's area.
    """
    count = spec.page_count
    end = (FIRST_PAGE + count) * PAGE_BYTES
    if len(ram) < end:
        raise ValueError(f"memory of {len(ram)} bytes, the guest's area ends at {end}")
    own = _image_findings(ram, spec)
    magic, index, pass_number, ticks = STATE.unpack_from(ram, STATE_AT)
    if magic != STATE_MAGIC or index >= count or pass_number == 0:
        expected = f"{STATE_MAGIC!r}, an index below {count} and a pass from 1 on"
        got = f"{magic!r}, {index} and {pass_number}"
        own.append(PageFinding(STATE_AT // PAGE_BYTES, 0, expected, got))
        return MemoryReport(0, 0, 0, 0, 0, len(own), tuple(own))

    held = np.frombuffer(ram, dtype="<u4", count=count * WORDS, offset=FIRST_PAGE * PAGE_BYTES)
    pages = _Pages(held.reshape(count, WORDS), spec.seed & 0xFFFFFFFF, index, pass_number)
    current, whole = pages.current(), pages.whole()
    wrong = np.flatnonzero(~(current & whole))
    stale = int(np.count_nonzero(whole & ~current))
    found = (pages.finding(int(at)) for at in wrong[: FINDINGS_MAX - len(own)])
    damaged = len(own) + len(wrong) - stale
    return MemoryReport(count, pass_number, index, ticks, stale, damaged, (*own, *found))


def _image_findings(ram: bytes | bytearray | memoryview, spec: GuestSpec) -> list[PageFinding]:
    expected = loaded_image(spec)
    got = bytes(ram[IMAGE_AT : IMAGE_AT + len(expected)])
    if got == expected:
        return []
    at = next(at for at, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1])
    page, byte = divmod(IMAGE_AT + at, PAGE_BYTES)
    return [PageFinding(page, byte, f"the image's {expected[at]:#04x}", f"{got[at]:#04x}")]


class _Pages:
    """The workload's pages as words, a row each, and what the rule says of them.

    All arithmetic is modulo 2^32, as the guest's.
    """

    def __init__(self, held: Words, seed: int, index: int, pass_number: int) -> None:
        count = len(held)
        self._held, self._index, self._pass = held, index, pass_number
        self._numbers = np.arange(FIRST_PAGE, FIRST_PAGE + count, dtype=np.uint32)
        self._starts = self._numbers * np.uint32(FILL_START) + np.uint32(seed)
        self._steps = np.arange(WORDS, dtype=np.uint32) * np.uint32(FILL_STEP)
        self._passes = np.full(count, pass_number - 1, dtype=np.uint32)
        self._passes[:index] = pass_number
        if held[index, PASS_WORD] == pass_number:  # written, and the state does not say so yet
            self._passes[index] = pass_number

    def current(self) -> NDArray[np.bool_]:
        """Which carry the pass that they must."""
        return np.asarray(self._held[:, PASS_WORD] == self._passes)

    def whole(self) -> NDArray[np.bool_]:
        """Which are the rule's own for the pass that they carry."""
        sealed = self._held[:, CHECK_WORD] == self._checks(self._held[:, PASS_WORD])
        at = self._index
        if self._held[at, PASS_WORD] == self._pass:  # its check word may not be written yet
            before = self._checks(np.full_like(self._numbers, self._pass - 1))[at]
            sealed[at] |= self._held[at, CHECK_WORD] == before
        same = np.empty(len(sealed), dtype=bool)
        for first in range(0, len(same), PAGES_AT_ONCE):
            part = slice(first, first + PAGES_AT_ONCE)
            expected = self._starts[part, None] + self._steps[None, PATTERN_WORD:]
            same[part] = (self._held[part, PATTERN_WORD:] == expected).all(axis=1)
        return np.asarray(sealed & same & (self._held[:, PAGE_WORD] == self._numbers))

    def finding(self, at: int) -> PageFinding:
        """What is wrong with the page at that index."""
        held, number, must = self._held[at], int(self._numbers[at]), int(self._passes[at])
        expected = self._starts[at] + self._steps
        expected[PASS_WORD], expected[PAGE_WORD] = must, number
        expected[CHECK_WORD] = self._checks(self._passes)[at]
        differs = np.flatnonzero(held.view(np.uint8) != expected.view(np.uint8))
        byte = int(differs[0])
        if not held.any():
            return PageFinding(number, byte, f"pass {must}", "a page of zeroes")
        if byte // 4 == PASS_WORD:
            return PageFinding(number, byte, f"pass {must}", f"pass {int(held[PASS_WORD])}")
        if byte // 4 == PAGE_WORD:
            return PageFinding(number, byte, f"page {number}", f"page {int(held[PAGE_WORD])}")
        got = held.view(np.uint8)[byte]
        return PageFinding(number, byte, f"{expected.view(np.uint8)[byte]:#04x}", f"{got:#04x}")

    def _checks(self, passes: Words) -> Words:
        return self._starts ^ (passes * np.uint32(CHECK_FACTOR))
