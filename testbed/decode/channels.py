"""What a source of bytes is made of: channels, each of bytes at hand or of chunks that come."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

PIECE_BYTES = 1 << 20
"""Of bytes at hand that `SourceChannel.chunks` gives at once, and of unpacked ones."""


class SourceError(Exception):
    """What was named cannot be read: `what` tells people the source, the place and the reason."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Chunk(NamedTuple):
    """Bytes of a channel, one after another; `data` is empty where the last ones are missing."""

    at_s: float | None  # seconds after the capture's first packet; None: nothing tells the time
    data: bytes
    missing_bytes: int = 0  # lost on the way to us before `data`: a parser must not go on over it


@dataclass(frozen=True, slots=True)
class SourceChannel:
    """One direction of one connection, or what a file holds of it."""

    name: str  # "-", a file's name, "10.77.0.1:40000 -> 10.77.0.2:4444"
    total_bytes: int | None  # with those that are missing; None: not known before its end
    data: mmap.mmap | bytes | None = None  # all of it at once, if it is at hand
    carried: Callable[[], Iterator[Chunk]] | None = None  # else how it comes
    return_path: SourceChannel | None = None  # what the destination sent back, in a capture
    fd: int | None = None  # of a regular file that is all of it, from its first byte on
    ended: str | None = None  # "FIN" or "RST"; None: the capture ended first, or it is none

    def chunks(self) -> Iterator[Chunk]:
        """Its bytes in order; from a pipe or a packed file once, else as often as asked.

        Raises:
            SourceError: where the bytes cannot be read any further; those before it were given.
        """
        if self.carried is not None:
            yield from self.carried()
        elif self.data is not None:
            for start in range(0, len(self.data), PIECE_BYTES):
                yield Chunk(None, self.data[start : start + PIECE_BYTES])


@dataclass(frozen=True, slots=True)
class Source:
    """Where bytes come from; its channels may be read until its block ends."""

    name: str  # "-" or a file's name, fit to be printed
    channels: tuple[SourceChannel, ...]  # in the order of their first packets
    notes: tuple[str, ...] = ()  # what people should know: passed over, cut short, lost
    began_at_s: float | None = None  # of a capture: its first packet, seconds since 1970
