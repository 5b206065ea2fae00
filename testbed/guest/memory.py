"""The rule by which the guest stamps its pages, and the check of a memory against it.

Word i (u32, little-endian) of page p holds `p * FILL_START + seed + i * FILL_STEP`, but for words
0 to 2: the pass that last stamped the page, p, and a check word of both. One word of the guest's
memory counts all stamps, so at any instant pages before `index` carry the current pass, all others
the one before; a page that does not is stale, lost or damaged. `boot.asm` is the other half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .image import FIRST_PAGE, PAGE_BYTES, GuestSpec

STAMPS_AT = 0x10000
FILL_START = 0x9E3779B1
FILL_STEP = 0x01000193
CHECK_FACTOR = 0x85EBCA6B
WORDS = PAGE_BYTES // 4
PASS_WORD, PAGE_WORD, CHECK_WORD = 0, 1, 2
FINDINGS_MAX = 8


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

    `stamps` counts all that the guest had written; of two snapshots of one guest the newer has
    more. `stale` pages carry an older pass than they must, `damaged` ones are no page of the rule.
    """

    pages: int
    stamps: int
    pass_number: int
    index: int
    stale: int = 0
    damaged: int = 0
    findings: tuple[PageFinding, ...] = ()

    @property
    def intact(self) -> bool:
        """Every page is as the rule says."""
        return not self.stale and not self.damaged


def check_memory(ram: bytes | bytearray | memoryview, spec: GuestSpec) -> MemoryReport:
    """Check the whole of a stopped guest's memory.

    Args:
        ram: the machine's main memory block from its first byte on.
        spec: what the guest was started with.

    Returns:
        The report; its findings name the first pages that are wrong, at most `FINDINGS_MAX`.

    Raises:
        ValueError: `ram` is shorter than the guest's area.
    """
    import numpy as np  # a tenth of a second to import, for the one who checks

    count = spec.page_count
    end = (FIRST_PAGE + count) * PAGE_BYTES
    if len(ram) < end:
        raise ValueError(f"memory of {len(ram)} bytes, the guest's area ends at {end}")
    stamps = int.from_bytes(ram[STAMPS_AT : STAMPS_AT + 4], "little")
    pass_number, index = stamps // count + 1, stamps % count
    numbers = np.arange(FIRST_PAGE, FIRST_PAGE + count, dtype=np.uint32)
    passes = np.where(np.arange(count) < index, pass_number, pass_number - 1).astype(np.uint32)
    start = numbers * np.uint32(FILL_START) + np.uint32(spec.seed & 0xFFFFFFFF)
    held = np.frombuffer(ram, dtype="<u4", count=count * WORDS, offset=FIRST_PAGE * PAGE_BYTES)
    held = held.reshape(count, WORDS)
    steps = np.arange(WORDS, dtype=np.uint32) * np.uint32(FILL_STEP)

    # The stamp under way: its pass may be written and its check or count not yet.
    if held[index, PASS_WORD] == passes[index] + 1:
        passes[index] += 1
    pattern = np.empty(count, dtype=bool)
    for first in range(0, count, WORDS):  # some pages at a time: memory of the check stays small
        part = slice(first, first + WORDS)
        pattern[part] = (held[part, 3:] == start[part, None] + steps[None, 3:]).all(axis=1)
    own = held[:, PAGE_WORD] == numbers
    check = start ^ (held[:, PASS_WORD] * np.uint32(CHECK_FACTOR))
    sealed = held[:, CHECK_WORD] == check
    if not sealed[index]:
        sealed[index] = held[index, CHECK_WORD] == int(
            start[index] ^ ((passes[index] - np.uint32(1)) * np.uint32(CHECK_FACTOR))
        )
    whole = pattern & own & sealed
    current = held[:, PASS_WORD] == passes
    wrong = np.flatnonzero(~(whole & current))
    findings = tuple(
        _finding(held[at], int(start[at]), int(passes[at]), int(numbers[at]))
        for at in wrong[:FINDINGS_MAX]
    )
    stale = int((whole & ~current).sum())
    return MemoryReport(count, stamps, pass_number, index, stale, len(wrong) - stale, findings)


def _finding(held: Any, start: int, pass_number: int, number: int) -> PageFinding:
    expected = [(start + word * FILL_STEP) & 0xFFFFFFFF for word in range(WORDS)]
    expected[PASS_WORD] = pass_number
    expected[PAGE_WORD] = number
    expected[CHECK_WORD] = start ^ (pass_number * CHECK_FACTOR & 0xFFFFFFFF)
    word = next(word for word in range(WORDS) if int(held[word]) != expected[word])
    if word == PASS_WORD:
        return PageFinding(number, 0, f"pass {pass_number}", f"pass {int(held[PASS_WORD])}")
    return PageFinding(number, word * 4, f"{expected[word]:#010x}", f"{int(held[word]):#010x}")
