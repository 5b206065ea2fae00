"""What the guest fills its pages with, many words at once, without numpy, which is slow to import.

The words of a page behind its stamp are one large integer, with a lane of 32 bits for each. Lanes
are added without a carry from one into the next: their top bits apart from the others.
"""

from __future__ import annotations

import struct
from functools import cache

from testbed.guest.rule import FILL_START, FILL_STEP, PATTERN_WORD, WORDS

STAMP = struct.Struct("<III")
"""A page's first words: the pass, its number, the check word."""
U32 = 0xFFFFFFFF
LANES = WORDS - PATTERN_WORD
ONES = int.from_bytes(b"\1\0\0\0" * LANES, "little")
TOP = ONES << 31
REST = TOP - ONES
"""All bits of a lane but the top one."""


def _added(lanes: int, others: int) -> int:
    """The sum of each lane, modulo 2^32."""
    return ((lanes & REST) + (others & REST)) ^ ((lanes ^ others) & TOP)


@cache
def _steps() -> int:
    """The lanes of a pattern whose word 0 is 0."""
    words = (i * FILL_STEP & U32 for i in range(PATTERN_WORD, WORDS))
    return int.from_bytes(struct.pack(f"<{LANES}I", *words), "little")


def filled_pages(first_page: int, count: int, seed: int) -> bytes:
    """So many pages as the guest fills them, with the stamp of pass 0.

    Args:
        first_page: number of the first one.
        count: how many; each takes 4 KiB, and some microseconds.
        seed: of the pattern, a u32.
    """
    made = []
    start = (first_page * FILL_START + seed) & U32
    lanes, next_page = _added(_steps(), start * ONES), FILL_START * ONES
    for number in range(first_page, first_page + count):
        made.append(STAMP.pack(0, number, start))
        made.append(lanes.to_bytes(LANES * 4, "little"))
        start = (start + FILL_START) & U32
        lanes = _added(lanes, next_page)
    return b"".join(made)
