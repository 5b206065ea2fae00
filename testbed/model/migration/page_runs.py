"""Page records in bulk, for pages of one block that follow each other: nearly all of a stream.

Same records as `ram_save.py` writes and `ram_load.py` reads one by one, and the same effects; what
is no plain and no zero page of the last block, or needs a closer look, is theirs.

Source: QEMU `migration/ram.c`, `save_page_header`, `save_zero_page`, `ram_load_precopy`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from mmap import mmap

from testbed.wire.element import RamFlag
from testbed.wire.structs import U64

from .memory import Block

PLAIN_AGAIN = int(RamFlag.PAGE | RamFlag.CONTINUE)
ZERO_AGAIN = int(RamFlag.ZERO | RamFlag.CONTINUE)
ZERO_RECORD = struct.Struct(">Qx")
"""The be64, and the byte that fills the page."""
ATTEMPT = 8
"""So many records have to follow each other before as many are compared at once; twice as many
after each success."""
AT_ONCE_MAX = 64
"""Records that are compared at once: their pages fit into the second-level cache."""
ZERO_BYTES = 1 << 16
"""Memory that is compared with zeros at once."""
KEPT = 256
"""So many formats, each of a number of records, are kept; a run to be saved has no more."""


def records(memory: mmap, first_bytes: int, count: int, size: int) -> tuple[list[bytes], int]:
    """The records of `count` pages of `size` bytes, in pieces, and how many are zero pages.

    None of them names its block: they follow a record that does.
    """
    zeros, begins = _zeros(size), range(first_bytes, first_bytes + count * size, size)
    if _is_zero(memory, first_bytes, count * size):
        words = range(first_bytes + ZERO_AGAIN, begins.stop + ZERO_AGAIN, size)
        return [_zero_records(count).pack(*words)], count
    pages = [memory[begin : begin + size] for begin in begins]
    zero_pages = pages.count(zeros)
    plain, zero = U64.pack, ZERO_RECORD.pack
    pieces: list[bytes] = []
    if not zero_pages:
        pieces = [b""] * (2 * count)
        pieces[::2] = [plain(begin | PLAIN_AGAIN) for begin in begins]
        pieces[1::2] = pages
        return pieces, 0
    for begin, page in zip(begins, pages, strict=True):
        if page == zeros:
            pieces.append(zero(begin | ZERO_AGAIN))
        else:
            pieces.append(plain(begin | PLAIN_AGAIN))
            pieces.append(page)
    return pieces, zero_pages


def _is_zero(memory: mmap, begin: int, size_bytes: int) -> bool:
    """Whether all of it is; `startswith` looks at it where it is, without a copy."""
    zeros, end = _zeros(ZERO_BYTES), begin + size_bytes
    with memoryview(memory) as view:
        pieces = (view[at : min(at + ZERO_BYTES, end)] for at in range(begin, end, ZERO_BYTES))
        return all(map(zeros.startswith, pieces))


def place(view: memoryview, block: Block, *, once: bool) -> int:
    """Place the pages of `block` that `view` begins with, of records that are there as a whole.

    Args:
        view: what is in hand of a stream, from a record on.
        block: that of the record before.
        once: a page that was received is not placed again; the record before it is the last one.

    Returns:
        Bytes of `view` that were taken.
    """
    data, received, used = block.data, block.received, block.used_bytes
    size, unpack = block.target_page_bytes, U64.unpack_from
    low, zeros, end = size - 1, bytes(size), len(view)
    at, alike, expected = _place_run(view, block, once=once), 0, -1
    while at + U64.size < end:
        (word,) = unpack(view, at)
        kind = word & low
        begin = word - kind
        if begin >= used or (once and received[begin // size]):
            break
        start = at + U64.size
        if kind == PLAIN_AGAIN and start + size <= end:
            at = start + size
            data[begin : begin + size] = view[start:at]
        elif kind == ZERO_AGAIN and not view[start]:
            at = start + 1
            if data[begin : begin + size] != zeros:
                data[begin : begin + size] = zeros
        else:
            break
        received[begin // size] = 1
        alike = alike + 1 if word == expected else 0
        expected = word + size
        if alike == ATTEMPT:
            at += _place_run(view[at:], block, once=once)
            alike = 0
    return at


def _place_run(view: memoryview, block: Block, *, once: bool) -> int:
    """The same, of records that continue the first one page by page."""
    received, size, done, attempt = block.received, block.target_page_bytes, 0, ATTEMPT
    if len(view) < U64.size:
        return 0
    (word,) = U64.unpack_from(view)
    kind = word & (size - 1)
    if kind not in (PLAIN_AGAIN, ZERO_AGAIN):
        return 0
    step = U64.size + size if kind == PLAIN_AGAIN else ZERO_RECORD.size
    while True:
        first = word // size
        count = min(attempt, (len(view) - done) // step, block.pages - first)
        if count < ATTEMPT or (once and received.find(1, first, first + count) >= 0):
            return done
        run, words = view[done : done + count * step], range(word, word + count * size, size)
        if kind == PLAIN_AGAIN:
            same = _place_plain(run, block.data, words, size)
        else:
            same = _place_zeros(run, block.data, words, size)
        if not same:
            return done
        received[first : first + count] = b"\1" * count
        done += count * step
        word += count * size
        attempt = min(2 * attempt, AT_ONCE_MAX)


def _place_plain(run: memoryview, data: mmap, words: range, size: int) -> bool:
    """Place pages if their records begin with those words; false if they do not."""
    step = U64.size + size
    if run.cast("Q")[:: step // U64.size].tobytes() != struct.pack(f">{len(words)}Q", *words):
        return False
    begin = words[0] - PLAIN_AGAIN
    for start in range(U64.size, len(run), step):
        data[begin : begin + size] = run[start : start + size]
        begin += size
    return True


def _place_zeros(run: memoryview, data: mmap, words: range, size: int) -> bool:
    """The same, for zero pages: memory that is zero is not touched."""
    count = len(words)
    if bytes(run) != _zero_records(count).pack(*words):
        return False
    begin, size_bytes = words[0] - ZERO_AGAIN, count * size
    if not _is_zero(data, begin, size_bytes):
        data[begin : begin + size_bytes] = bytes(size_bytes)
    return True


@lru_cache(KEPT)
def _zero_records(count: int) -> struct.Struct:
    """So many `ZERO_RECORD`s."""
    return struct.Struct(f">{'Qx' * count}")


@lru_cache(8)
def _zeros(size_bytes: int) -> bytes:
    """To compare with: mostly of few sizes."""
    return bytes(size_bytes)
