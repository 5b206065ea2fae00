"""The bytes of a stream that is being loaded, as they come: a `Source`."""

from __future__ import annotations

from .declare import Story
from .failure import EIO


class Incoming:
    """What came and was not read yet; at the end of the stream `error` becomes -EIO.

    As in QEMU's `migration/qemu-file.c` it is reading or peeking beyond the last byte that sets
    the error, not the end as such.
    """

    def __init__(self, data: bytes = b"", *, ended: bool = False) -> None:
        self.error = 0
        self.offset = 0
        """Bytes read so far."""
        self._data = bytearray(data)
        self._at = 0  # of the next byte to read, in `_data`
        self._ended = ended

    @property
    def available(self) -> int:
        """Bytes in hand."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Append what came."""
        del self._data[: self._at]
        self._at = 0
        self._data += data

    def end(self) -> None:
        """Say that nothing more will come."""
        self._ended = True

    def in_hand(self) -> memoryview:
        """What came and was not read yet, uncopied; to be released before anything else is done."""
        return memoryview(self._data)[self._at :]

    def skip(self, count: int) -> None:
        """Have read the next `count` of the bytes in hand."""
        self._at += count
        assert self._at <= len(self._data), "what is skipped is there"
        self.offset += count

    def read(self, count: int) -> Story[bytes]:
        """The next `count` bytes; fewer only at the end of the stream."""
        end = self._at + count
        if end <= len(self._data):
            found = bytes(self._data[self._at : end])
        else:
            found = yield from self.peek(count)
            end = self._at + len(found)
        self.offset += end - self._at
        self._at = end
        return found

    def peek(self, count: int, *, skip: int = 0) -> Story[bytes]:
        """`count` bytes from `skip` bytes ahead, without reading them; fewer only at the end."""
        while self.available < skip + count:
            if self._ended:
                self.error = self.error or EIO
                break
            yield
        start = self._at + skip
        return bytes(self._data[start : start + count])
