"""A channel read to its end: elements as they come, both directions of a connection together.

A regular file is read ahead and looked at in place: no more of it is in memory than some windows,
however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge

from testbed.wire.channel import Channel
from testbed.wire.element import Element

from .channels import Chunk, SourceChannel, SourceError
from .item import FORWARD, RETURN_PATH
from .readahead import HEADROOM_BYTES, windows


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
    if channel.fd is not None and channel.total_bytes is not None:
        yield from _file(channel.fd, channel.total_bytes, parser, direction)
    else:
        yield from _carried(channel.chunks(), parser, direction)


def _file(fd: int, size_bytes: int, parser: Channel, direction: str) -> Iterator[Batch]:
    lost: str | None = None
    try:
        for buffer, end in windows(fd, size_bytes):
            elements = parser.feed_window(buffer, HEADROOM_BYTES, end)
            yield Batch(elements, None, direction, parser.fed)
    except OSError as error:
        lost = f"the file cannot be read after {parser.fed} bytes: {error.strerror}"
    if lost is None and parser.fed < size_bytes:
        lost = f"the file was cut to {parser.fed} bytes while it was read"
    yield Batch(parser.end(), None, direction, parser.fed, lost)


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
