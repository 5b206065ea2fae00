"""The bytes of a direction that have not gone on yet, by their offset.

Of the chunk that came last nothing is copied: what goes on of it is a view, valid until the next
one comes. What is left of it then is kept: the beginning of an element, as a rule. Where a chunk
has room in front of it, that goes there, and both go on as one piece.
"""

from __future__ import annotations


class Kept:
    """What is left of earlier chunks, and the last one behind it."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._rest_at = 0
        self._chunk: bytes | memoryview = b""
        self._chunk_at = 0

    def came(self, data: bytes | memoryview, start: int, offset: int) -> None:
        """Have the chunk `data[start:]`, whose first byte is at that offset."""
        size = len(self._rest)
        if isinstance(data, memoryview) and 0 < size <= start:
            data[start - size : start] = self._rest
            self._rest.clear()
            start, offset = start - size, offset - size
        self._chunk, self._chunk_at = data[start:], offset
        if not self._rest:
            self._rest_at = offset

    def parts(self, start: int, end: int) -> list[bytes | memoryview]:
        """The bytes from `start` to `end`: what is left of earlier ones, then a piece of the chunk.

        The first is a copy, for it will move.
        """
        at = self._chunk_at
        if start >= at:
            return [self._chunk[start - at : end - at]]
        before = self._before(start, min(end, at))
        return [before, self._chunk[: end - at]] if end > at else [before]

    def take(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, copied."""
        return b"".join(self.parts(start, end))

    def drop(self, offset: int) -> None:
        """Forget what is before that offset; keep the rest, as a copy."""
        if offset >= self._chunk_at:
            self._rest.clear()
            self._rest += self._chunk[offset - self._chunk_at :]
        else:
            del self._rest[: offset - self._rest_at]
            self._rest += self._chunk
        self._rest_at = offset
        self._chunk_at += len(self._chunk)
        self._chunk = b""

    def _before(self, start: int, end: int) -> bytes:
        assert start >= self._rest_at, "bytes that have gone on"
        return bytes(self._rest[start - self._rest_at : end - self._rest_at])
