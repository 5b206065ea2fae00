"""The bytes of one channel that are not an element yet, and the waiting for more of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from mmap import mmap
from typing import TypeVar

from .element import SectionHeader, Span, Value
from .error import Cut, StreamError

T = TypeVar("T")
Story = Generator[None, None, T]
"""A part of a parser: reads top to bottom, yields where bytes are missing, returns a `T`."""

Emit = Callable[[Value, int, tuple[Span, ...]], None]
"""Makes an element of that value, size in bytes, and fields from the bytes that come next."""


@dataclass(slots=True)
class Context:
    """What an element lies in; as in `Element`."""

    section: SectionHeader | None = None
    occurrence: int = 1
    in_package: bool = False


class Reader:
    """A window on the channel: `data[pos:]` is in hand, `held` was read but is no element yet.

    What is fed while a known number of bytes is awaited is set aside in one buffer and joined to
    the window once, so feeding byte by byte costs no more than a constant factor.
    """

    __slots__ = (
        "_base",
        "_end",
        "_late",
        "_wanted",
        "data",
        "ended",
        "fed",
        "held",
        "limit",
        "pos",
        "silent",
    )

    def __init__(self) -> None:
        self.data: bytes | mmap = b""
        self.pos = 0
        self._end = 0  # of what may be read of `data`
        self.fed = 0
        self.held = bytearray()
        self.limit: int | None = None
        """Offset that reading may not cross: the end of a package."""
        self.ended = False
        self.silent = False
        self._base = 0  # offset of data[0]
        self._late = bytearray()
        self._wanted = 1

    @property
    def offset(self) -> int:
        """Offset in the channel of the next byte to read."""
        return self._base + self.pos

    @property
    def limit_at(self) -> int | None:
        """Index in `data` of the limit."""
        return None if self.limit is None else self.limit - self._base

    @property
    def stop(self) -> int:
        """Index in `data` that reading may go up to: what is in hand, cut at the limit."""
        if self.limit is None:
            return self._end
        return min(self._end, self.limit - self._base)

    @property
    def available(self) -> int:
        """Bytes that may be read at once."""
        return self.stop - self.pos

    def feed(self, chunk: bytes) -> bool:
        """Append what the channel carried; true if it is enough for whoever waits."""
        self.fed += len(chunk)
        in_hand = self._end - self.pos
        if self._late or in_hand + len(chunk) < self._wanted:
            self._late += chunk
            if in_hand + len(self._late) < self._wanted:
                return False
            self.merge()
        else:
            self._join(chunk)
        return True

    def window(self, data: mmap, start: int, end: int) -> bool:
        """Go on in another buffer, in place; true if it is enough for whoever waits.

        What is in hand goes in front of `start`. If there is no room, the window is fed.
        """
        in_hand = self._end - self.pos
        if self._late or in_hand > start:
            if isinstance(self.data, mmap):
                self._join(b"")  # its buffer will be another window's
            return self.feed(data[start:end])
        data[start - in_hand : start] = self.data[self.pos : self._end]
        self._base = self.offset - (start - in_hand)
        self.data, self.pos, self._end = data, start - in_hand, end
        self.fed += end - start
        return self._end - self.pos >= self._wanted

    def merge(self) -> None:
        """Join what was set aside to the window."""
        if self._late:
            self._join(bytes(self._late))
            self._late = bytearray()

    def _join(self, chunk: bytes) -> None:
        self._base += self.pos
        # An empty side costs no copy of the other.
        self.data = self.data[self.pos : self._end] + chunk
        self.pos = 0
        self._end = len(self.data)

    def wait(self, count: int) -> Story[None]:
        """Wait until `count` bytes are in hand, the channel ended, or it fell silent; once."""
        self._wanted = count
        yield
        self._wanted = 1

    def need(self, count: int, inside: str) -> Story[None]:
        """Wait until `count` bytes are in hand; nothing is read yet.

        Raises:
            StreamError: the package ends before them.
            Cut: the channel ended before them.
        """
        while self.available < count:
            if self.limit is not None and self.offset + count > self.limit:
                raise StreamError(
                    offset=self.offset,
                    inside=inside,
                    expected=f"{count} bytes",
                    got=f"the end of the package after {self.limit - self.offset}",
                )
            if self.ended:
                raise Cut(
                    offset=self.offset,
                    inside=inside,
                    expected=_bytes(count),
                    got=f"the end of the channel after {self.available}",
                )
            yield from self.wait(count)

    def more(self) -> Story[bool]:
        """Wait for a byte; false if the channel ended without one."""
        while not self.available:
            if self.ended:
                return False
            yield from self.wait(1)
        return True

    def peek(self, count: int, inside: str, *, skip: int = 0) -> Story[bytes]:
        """Return `count` bytes from `skip` bytes ahead, without reading them."""
        if self.available < skip + count:
            yield from self.need(skip + count, inside)
        start = self.pos + skip
        return self.data[start : start + count]

    def u8(self, inside: str, *, skip: int = 0) -> Story[int]:
        """Return the byte `skip` bytes ahead, without reading it."""
        return (yield from self.peek(1, inside, skip=skip))[0]

    def u32(self, inside: str, *, skip: int = 0) -> Story[int]:
        """Return the be32 `skip` bytes ahead, without reading it."""
        return int.from_bytes((yield from self.peek(4, inside, skip=skip)), "big")

    def u64(self, inside: str, *, skip: int = 0) -> Story[int]:
        """Return the be64 `skip` bytes ahead, without reading it."""
        return int.from_bytes((yield from self.peek(8, inside, skip=skip)), "big")

    def wrong(self, inside: str, expected: str, got: str, *, skip: int = 0) -> StreamError:
        """The error to raise for what is `skip` bytes ahead."""
        return StreamError(offset=self.offset + skip, inside=inside, expected=expected, got=got)

    def hold(self, count: int) -> None:
        """Read `count` bytes that are in hand into `held`."""
        self.held += memoryview(self.data)[self.pos : self.pos + count]
        self.pos += count

    def put_back(self) -> None:
        """Have what is held to read again."""
        offset = self.offset - len(self.held)
        self.data = bytes(self.held) + self.data[self.pos : self._end]
        self.pos, self._base, self._end = 0, offset, len(self.data)
        self.held = bytearray()
        assert self.offset == offset

    def take(self, count: int) -> bytes:
        """Read what is held and `count` bytes more, all in hand: the bytes of an element."""
        start, self.pos = self.pos, self.pos + count
        raw = self.data[start : self.pos]
        if self.held:
            raw = bytes(self.held) + raw
            self.held = bytearray()
        return raw


def _bytes(count: int) -> str:
    return f"{count} byte{'s' if count != 1 else ''}"
