"""A channel read to its end: elements as they come, both directions of a connection together.

A mapped file is walked in windows: nothing of it is copied, and no more of it is in memory than a
window, however long it is.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge

from testbed.wire.channel import Channel
from testbed.wire.element import Element

from .channels import Chunk, SourceChannel, SourceError
from .item import FORWARD, RETURN_PATH

WINDOW_BYTES = 8 << 20
POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14: one system call instead of a fault for every 16 pages."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Elements that came together. `lost` is why no more come, where that is no end of theirs."""

    elements: list[Element]
    at_s: float | None = None
    direction: str = FORWARD
    fed_bytes: int = 0
    lost: str | None = None


def read(channel: SourceChannel, parser: Channel, back: Channel | None = None) -> Iterator[Batch]:
    """All elements of a channel, and of its return path where there is one and a parser for it.

    With time stamps both directions come in their order, else the return path comes last.
    """
    forward = _direction(channel, parser, FORWARD)
    if channel.return_path is None or back is None:
        yield from forward
        return
    backward = _direction(channel.return_path, back, RETURN_PATH)
    yield from merge(forward, backward, key=_when)


def _when(batch: Batch) -> tuple[float, bool]:
    at_s = float("inf") if batch.at_s is None else batch.at_s
    return at_s, batch.direction == RETURN_PATH


def _direction(channel: SourceChannel, parser: Channel, direction: str) -> Iterator[Batch]:
    if isinstance(channel.data, mmap.mmap):
        yield from _mapped(channel.data, parser, direction)
    else:
        yield from _carried(channel.chunks(), parser, direction)


def _mapped(data: mmap.mmap, parser: Channel, direction: str) -> Iterator[Batch]:
    parser.map(data)
    for start in range(0, len(data), WINDOW_BYTES):
        size = min(WINDOW_BYTES, len(data) - start)
        with suppress(OSError):  # an older kernel: slower, and the same
            data.madvise(POPULATE_READ, start, size)
        yield Batch(parser.grant(size), None, direction, parser.fed)
        # An element that began in the window before may have brought some of it back.
        before = max(0, start - WINDOW_BYTES)
        data.madvise(mmap.MADV_DONTNEED, before, start + size - before)
    yield Batch(parser.end(), None, direction, parser.fed)


def _carried(chunks: Iterator[Chunk], parser: Channel, direction: str) -> Iterator[Batch]:
    at_s: float | None = None
    lost: str | None = None
    try:
        for chunk in chunks:
            at_s = chunk.at_s
            if chunk.missing_bytes:
                # Nobody knows what was there: the stream ends here for us.
                lost = f"{chunk.missing_bytes} bytes are missing in the capture"
                break
            yield Batch(parser.feed(chunk.data), at_s, direction, parser.fed)
    except SourceError as error:
        lost = error.what
    yield Batch(parser.end(), at_s, direction, parser.fed, lost)
