"""One direction of a TCP connection put together from segments, as an index into the capture.

No payload is held: what is kept of a segment is where its bytes lie. Sequence numbers are
unwrapped to positions, which never wrap.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from .channels import Chunk, SourceError
from .packets import FIN, NO_STAMP, RST, SYN, Buffer, Segment

INDEXED_MAX = 16 << 20
"""Segments of migration connections in one capture: 384 MiB of index, 22 GiB at an MTU of 1500."""
PARKED_MAX = 1 << 18
"""Segments of one capture that wait for bytes before them."""
PARKED_BYTES_MAX = 64 << 20
"""Of one direction: so much lies behind a hole until the hole is taken for a loss.

No receiver takes more out of order than its window, 6 MiB unless it was tuned."""
PARKED_UNBEGUN_MAX = 1024
"""Segments that a direction without SYN may show in any order before its first byte is decided."""
SEQ_MODULUS = 1 << 32
MISSING = -1


@dataclass(slots=True)
class Bounds:
    """What all directions of a capture hold together."""

    name: str  # of the source, for errors
    indexed: int = 0
    parked: int = 0


class Half:
    """One direction: takes segments in the capture's order, keeps bytes in the sender's.

    Of bytes that came twice the first ones count, as they did for the receiver.
    """

    __slots__ = (
        "_bounds",
        "_fin",
        "_index",
        "_next",
        "_parked",
        "_parked_bytes",
        "_start",
        "ended",
        "isn",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._index = array("q")  # where or MISSING, bytes, at_ns; of each piece
        self._parked: list[tuple[int, int, int, int, int]] = []  # position, then as in `_place`
        self._parked_bytes = 0
        self._start: int | None = None  # position of the first byte, once decided
        self._next = 0  # position of the next byte
        self._fin: int | None = None  # position after the last byte
        self.isn: int | None = None  # of its SYN, if the capture has it
        self.ended: str | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes so far in one piece, the missing ones counted."""
        return self._next - self._start if self._start is not None else 0

    @property
    def pieces(self) -> int:
        """Segments that it holds, in order and parked."""
        return len(self._index) // 3 + len(self._parked)

    @property
    def missing_bytes(self) -> int:
        """Of `total_bytes`, those that the capture lacks."""
        return sum(size for where, size, _ in self._entries() if where == MISSING)

    def take(self, segment: Segment) -> None:
        """Take what one segment tells of this direction.

        Raises:
            SourceError: the capture has more of them than `INDEXED_MAX`.
        """
        position = self._unwrap(segment.seq)
        if segment.flags & SYN:
            self.isn = segment.seq
            position += 1
            if self._start is None:
                self._begin(position)
        end = position + segment.length
        if segment.length and (self._fin is None or position < self._fin):
            self._payload(position, segment)
        if segment.flags & FIN:
            self.ended = self.ended or "FIN"
            if self._start is not None or self._parked:  # else its position is anybody's guess
                self._fin = end
        if segment.flags & RST:
            self.ended = "RST"

    def could_begin(self, seq: int) -> bool:
        """Whether a SYN may be this direction's, not that of a later connection."""
        if self.isn is not None:
            return self.isn == seq
        if self._start is not None:
            return False
        if not self._parked:
            return True
        return 0 < self._parked[0][0] - self._unwrap(seq) <= PARKED_BYTES_MAX

    def flush(self) -> None:
        """No more comes: holes are losses."""
        if self._start is None and self._parked:
            self._begin(self._parked[0][0])
        while self._parked:
            self._lose()
        if self._fin is not None and self._start is not None and self._fin > self._next:
            self._append(MISSING, self._fin - self._next, NO_STAMP)

    def forget(self) -> None:
        """Let go of all bytes: nobody wants them."""
        self._bounds.parked -= len(self._parked)
        self._bounds.indexed -= len(self._index) // 3
        self._parked, self._parked_bytes, self._index = [], 0, array("q")
        self._start = self._next

    def head(self, buffer: Buffer, count: int) -> bytes:
        """The first `count` bytes, or as many as there are in one piece; none after a loss."""
        data = bytearray()
        for where, size, _ in self._entries():
            if where == MISSING or len(data) >= count:
                break
            data += buffer[where : where + min(size, count - len(data))]
        return bytes(data)

    def chunks(self, buffer: Buffer, began_ns: int) -> Iterator[Chunk]:
        """Its bytes in order; the time of each is when the receiver could first read it."""
        at_s: float | None = None
        missing = 0
        for where, size, at_ns in self._entries():
            if where == MISSING:
                missing += size
                continue
            if at_ns != NO_STAMP:
                stamp_s = (at_ns - began_ns) / 1e9
                at_s = stamp_s if at_s is None else max(at_s, stamp_s)
            yield Chunk(at_s, buffer[where : where + size], missing)
            missing = 0
        if missing:
            yield Chunk(at_s, b"", missing)

    def _entries(self) -> Iterator[tuple[int, int, int]]:
        index = iter(self._index)
        return zip(index, index, index, strict=True)

    def _unwrap(self, seq: int) -> int:
        """The position of a sequence number: the one nearest to where the direction is."""
        if self._start is not None:
            near = self._next
        elif self._parked:
            near = self._parked[0][0]
        else:
            return seq + SEQ_MODULUS
        ahead = (seq - near) % SEQ_MODULUS
        return near + ahead - (SEQ_MODULUS if ahead >= SEQ_MODULUS // 2 else 0)

    def _begin(self, position: int) -> None:
        self._start = self._next = position
        self._catch_up()

    def _payload(self, position: int, segment: Segment) -> None:
        _, _, _, _, where, kept, length = segment
        if self._start is not None and position <= self._next:
            self._place(position, where, kept, length, segment.at_ns)
            if self._parked:
                self._catch_up()
            return
        heappush(self._parked, (position, where, kept, length, segment.at_ns))
        self._parked_bytes += length
        self._bounds.parked += 1
        full = self._bounds.parked > PARKED_MAX
        if self._start is None:
            if full or len(self._parked) >= PARKED_UNBEGUN_MAX:
                self._begin(self._parked[0][0])
        elif full or self._parked_bytes > PARKED_BYTES_MAX:
            self._lose()

    def _lose(self) -> None:
        """Go on at the first byte that is parked, and all that follows it without a hole."""
        position = self._parked[0][0]
        if position > self._next:
            self._append(MISSING, position - self._next, NO_STAMP)
        self._catch_up()

    def _catch_up(self) -> None:
        """Place what is parked up to the next hole."""
        while self._parked and self._parked[0][0] <= self._next:
            position, where, kept, length, at_ns = heappop(self._parked)
            self._parked_bytes -= length
            self._bounds.parked -= 1
            self._place(position, where, kept, length, at_ns)

    def _place(self, position: int, where: int, kept: int, length: int, at_ns: int) -> None:
        """Append what is new of a segment; what the capture cut off of it is missing."""
        old = self._next - position
        if kept > old:
            self._append(where + old, kept - old, at_ns)
        if position + length > self._next:
            self._append(MISSING, position + length - self._next, NO_STAMP)

    def _append(self, where: int, size: int, at_ns: int) -> None:
        self._bounds.indexed += 1
        if self._bounds.indexed > INDEXED_MAX:
            raise SourceError(
                f"{self._bounds.name}: more than {INDEXED_MAX} segments of migration connections "
                "in one capture; cut it into several (editcap -c)"
            )
        self._index.extend((where, size, at_ns))
        self._next += size
