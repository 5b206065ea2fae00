"""XBZRLE: a page as its difference to what the destination has.

Zero-run length, non-zero-run length, that many bytes; again, until the page's end or the last byte
that differs. Lengths take one or two bytes. Source: QEMU `migration/xbzrle.c`, 2.8 to 11.1.
"""

from __future__ import annotations

import re

LONG = 0x80
"""Set in the first byte of a length that takes two."""
RUN_BYTES_MAX = 0x3FFF
"""Of one run: its length has 14 bits."""
_DIFFERENT = re.compile(rb"[^\0]+")


class XbzrleError(ValueError):
    """The data is no difference to a page of that size."""


def decode(page: bytes, data: bytes) -> bytes:
    """The page that `data` makes of `page`.

    Raises:
        XbzrleError: a run is empty, or reaches beyond the page or the data.
    """
    made = bytearray(page)
    at = filled = 0
    while at < len(data):
        skipped, at = _length(data, at)
        if not skipped and filled:
            raise XbzrleError(f"an empty zero run at byte {at - 1}")
        filled += skipped
        count, at = _length(data, at)
        if not count:
            raise XbzrleError(f"an empty run of bytes at byte {at - 1}")
        if at + count > len(data) or filled + count > len(page):
            raise XbzrleError(f"a run of {count} bytes at byte {at} that is not there")
        made[filled : filled + count] = data[at : at + count]
        at += count
        filled += count
    return bytes(made)


def encode(old: bytes, new: bytes) -> bytes | None:
    """What makes `new` of the page `old`, as QEMU encodes it; empty if they are the same.

    None if it would be longer than the page, or a run longer than a length can say: such a page
    is sent whole.

    Raises:
        ValueError: they are not of the same size.
    """
    if len(old) != len(new):
        raise ValueError(f"pages of {len(old)} and {len(new)} bytes")
    both = int.from_bytes(old, "big") ^ int.from_bytes(new, "big")
    made = bytearray()
    filled = 0
    for run in _DIFFERENT.finditer(both.to_bytes(len(new), "big")):
        start, end = run.span()
        if max(start - filled, end - start) > RUN_BYTES_MAX:
            return None
        made += _encoded(start - filled) + _encoded(end - start) + new[start:end]
        filled = end
    return bytes(made) if len(made) <= len(new) else None


def _encoded(length: int) -> bytes:
    if length < LONG:
        return bytes([length])
    return bytes([length & 0x7F | LONG, length >> 7])


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length at `at`, a small unsigned LEB128, and where the next byte is."""
    if at >= len(data):
        raise XbzrleError(f"a length at byte {at} that is not there")
    low = data[at]
    if not low & LONG:
        return low, at + 1
    if at + 1 >= len(data) or data[at + 1] & LONG:
        raise XbzrleError(f"a length of more than two bytes at byte {at}")
    return low & ~LONG | data[at + 1] << 7, at + 2
