"""What each stage of a line does to what passes it: rate, time, and how a connection ends.

Pure: each stage is told the time, holds what came to it, and says when the first of it leaves.
`shaping.py` puts stages in a row. The behaviours are those of Toxiproxy's toxics of the same names
(Shopify/toxiproxy 2.12.0, `toxics/`), without the surprises that `docs/toxiproxy.md` lists.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

SLICE_S = 0.1
"""A paced stage sends what fits in so much time at once; it makes up for no more time lost."""


@dataclass(frozen=True, slots=True)
class Latency:
    """All comes later by `delay_s`, and up to `jitter_s` more or less; counted from its arrival.

    So it does not narrow the way: what came together leaves together. Order is kept.
    """

    delay_s: float
    jitter_s: float = 0.0
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """No more than so many bytes a second; with 0 none pass, and what comes is held."""

    bytes_per_s: float
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Slicer:
    """Writes of about `average_bytes`, each so many more or less, and a pause after each."""

    average_bytes: int
    variation_bytes: int = 0
    delay_s: float = 0.0
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class SlowClose:
    """The end of the stream comes later; its bytes do not."""

    delay_s: float
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Timeout:
    """All bytes are dropped; the connection is closed `after_s` after this began (0: never).

    Taken away, it closes the connection as well: the stream has a hole by then.
    """

    after_s: float
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class ResetPeer:
    """The connection is reset `after_s` after first bytes (or their end) came; they never pass.

    Without `awaits_bytes` it is counted from when this began: for a connection that is under way.
    """

    after_s: float
    awaits_bytes: bool = True
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class LimitData:
    """So many bytes pass, exactly; then the connection is closed. With 0, when the first comes."""

    bytes_max: int
    name: str = field(default="", kw_only=True)


Stage = Latency | Bandwidth | Slicer | SlowClose | Timeout | ResetPeer | LimitData


@dataclass(frozen=True, slots=True)
class Write:
    """Write these bytes, by themselves: the next ones go in a write of their own."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Fin:
    """Half-close: nothing more comes in this direction."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in order, on both sides."""


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with RST, on both sides."""


Passing = Write | Fin | Close | Reset


@dataclass(slots=True)
class Held:
    """Something on its way, and when it came to the stage that holds it."""

    what: Passing
    at: float


class Holding:
    """A stage at work. Without a stage it lets all pass at once; those below differ in that."""

    _stage: Stage | None

    def __init__(self, stage: Stage | None = None) -> None:
        self._stage = stage
        self.queue: deque[Held] = deque()
        self.bytes = 0
        self.over = False  # it has ended the connection: nothing passes it any more

    def arrive(self, held: Held) -> None:
        """Take something that came."""
        if not self.over:
            self.queue.append(held)
            if isinstance(held.what, Write):
                self.bytes += len(held.what.data)

    def next_at(self) -> float | None:
        """When the first leaves, maybe in the past; None: nothing does, as things are."""
        return self.queue[0].at if self.queue else None

    def leave(self, now: float) -> Held:
        """Give what leaves first; asked when its time has come."""
        at = self._due_at(now)
        return Held(self._take().what, at)

    def changed(self, stage: Stage, now: float) -> None:
        """From now on with other figures; `now` is for those that reckon with it."""
        del now
        self._stage = stage

    def removed(self, now: float) -> list[Held]:
        """Give what is held: it leaves now, whatever it waited for."""
        return [Held(held.what, now) for held in self.queue]

    def _due_at(self, now: float) -> float:
        at = self.next_at()
        assert at is not None
        assert at <= now
        return at

    def stop(self) -> None:
        """Nothing passes any more; what is held is dropped."""
        self.over = True
        self.queue.clear()
        self.bytes = 0

    def _end(self, what: Close | Reset, at: float) -> Held:
        self.stop()
        return Held(what, at)

    def _take(self, count: int | None = None) -> Held:
        """Take out the first, or so many bytes of it."""
        first = self.queue[0]
        if not isinstance(first.what, Write):
            return self.queue.popleft()
        data = first.what.data
        if count is None or count >= len(data):
            self.queue.popleft()
            self.bytes -= len(data)
            return first
        first.what = Write(data[count:])
        self.bytes -= count
        return Held(Write(data[:count]), first.at)


class _Latency(Holding):
    """Counted from arrival; the first may not be overtaken."""

    _stage: Latency

    def __init__(self, stage: Latency, rng: random.Random) -> None:
        super().__init__(stage)
        self._rng = rng
        self._luck: float | None = None  # of the first, from -1 to 1
        self._last_at = -math.inf

    def next_at(self) -> float | None:
        if not self.queue:
            return None
        if self._luck is None:
            self._luck = self._rng.uniform(-1.0, 1.0) if self._stage.jitter_s else 0.0
        delay = self._stage.delay_s + self._stage.jitter_s * self._luck
        return max(self._last_at, self.queue[0].at + max(0.0, delay))

    def leave(self, now: float) -> Held:
        at = self._due_at(now)
        self._last_at, self._luck = at, None
        return Held(self._take().what, at)


class _Bandwidth(Holding):
    """Bytes leave when they have gone through whole, in slices of `SLICE_S`."""

    _stage: Bandwidth

    def __init__(self, stage: Bandwidth) -> None:
        super().__init__(stage)
        self._free_at = -math.inf

    def next_at(self) -> float | None:
        if not self.queue:
            return None
        first = self.queue[0]
        start = max(self._free_at, first.at)
        if not isinstance(first.what, Write):
            return start
        if self._stage.bytes_per_s <= 0:
            return None
        return start + min(self._slice_bytes, len(first.what.data)) / self._stage.bytes_per_s

    def leave(self, now: float) -> Held:
        # Time in which nobody took anything is gone: no burst makes up for it.
        self._free_at = max(self._due_at(now), now - SLICE_S)
        return Held(self._take(self._slice_bytes).what, self._free_at)

    def changed(self, stage: Stage, now: float) -> None:
        super().changed(stage, now)
        self._free_at = now  # what was held at another rate has earned nothing at this one

    @property
    def _slice_bytes(self) -> int:
        return max(1, int(self._stage.bytes_per_s * SLICE_S))


class _Slicer(Holding):
    """Halves what came until the pieces are small enough; each is followed by a pause."""

    _stage: Slicer

    def __init__(self, stage: Slicer, rng: random.Random) -> None:
        super().__init__(stage)
        self._rng = rng
        self._lengths: list[int] = []  # of what the first is cut into, the next one last
        self._free_at = -math.inf

    def next_at(self) -> float | None:
        return max(self._free_at, self.queue[0].at) if self.queue else None

    def leave(self, now: float) -> Held:
        # A pause is after what really left: one that came late must not swallow the next.
        at = now if self._stage.delay_s else self._due_at(now)
        self._free_at = at + self._stage.delay_s
        what = self.queue[0].what
        if not isinstance(what, Write):
            return Held(self._take().what, at)
        if not self._lengths:
            self._lengths = [len(what.data)]
        return Held(self._take(self._next_length()).what, at)

    def changed(self, stage: Stage, now: float) -> None:
        super().changed(stage, now)
        self._lengths = []
        self._free_at = min(self._free_at, now)

    def _next_length(self) -> int:
        average, variation = max(1, self._stage.average_bytes), self._stage.variation_bytes
        length = self._lengths.pop()
        while length > 1 and length - average > variation:
            middle = length // 2
            if variation:
                middle += self._rng.randrange(-variation, variation)
            middle = min(max(middle, 1), length - 1)
            self._lengths.append(length - middle)
            length = middle
        return length


class _SlowClose(Holding):
    """Bytes pass at once; an end in order waits."""

    _stage: SlowClose

    def next_at(self) -> float | None:
        if not self.queue:
            return None
        waits = isinstance(self.queue[0].what, Fin | Close)
        return self.queue[0].at + (self._stage.delay_s if waits else 0.0)


class _Timeout(Holding):
    """Drops bytes as they come; ends pass."""

    def __init__(self, stage: Timeout, now: float) -> None:
        super().__init__(stage)
        self._close_at = _after(stage, now)

    def arrive(self, held: Held) -> None:
        if not isinstance(held.what, Write):
            super().arrive(held)

    def next_at(self) -> float | None:
        first = super().next_at()
        return first if first is not None or self.over else self._close_at

    def leave(self, now: float) -> Held:
        return super().leave(now) if self.queue else self._end(Close(), self._due_at(now))

    def changed(self, stage: Stage, now: float) -> None:
        super().changed(stage, now)
        assert isinstance(stage, Timeout)
        self._close_at = _after(stage, now)

    def removed(self, now: float) -> list[Held]:
        return [] if self.over else [*super().removed(now), Held(Close(), now)]


class _ResetPeer(Holding):
    """Holds what comes until the reset, so that it passes if this is taken away before."""

    _stage: ResetPeer

    def __init__(self, stage: ResetPeer, now: float) -> None:
        super().__init__(stage)
        self._begins_at = None if stage.awaits_bytes else now

    def arrive(self, held: Held) -> None:
        super().arrive(held)
        if self._begins_at is None:
            self._begins_at = held.at

    def next_at(self) -> float | None:
        if self.over or self._begins_at is None:
            return None
        return self._begins_at + self._stage.after_s

    def leave(self, now: float) -> Held:
        return self._end(Reset(), self._due_at(now))


class _LimitData(Holding):
    """Counts what passes, over changes of the limit too."""

    _stage: LimitData

    def __init__(self, stage: LimitData) -> None:
        super().__init__(stage)
        self._passed = 0
        self._closes_at: float | None = None

    def next_at(self) -> float | None:
        if self.over:
            return None
        return self._closes_at if self._closes_at is not None else super().next_at()

    def leave(self, now: float) -> Held:
        if self._closes_at is not None:
            return self._end(Close(), self._closes_at)
        first = self.queue[0]
        if not isinstance(first.what, Write):
            return super().leave(now)
        left = self._stage.bytes_max - self._passed
        if left <= 0:
            return self._end(Close(), first.at)
        self._passed += min(left, len(first.what.data))
        if self._passed >= self._stage.bytes_max:
            self._closes_at = first.at
        return self._take(left)

    def removed(self, now: float) -> list[Held]:
        if self._closes_at is not None and not self.over:
            return [Held(Close(), now)]
        return super().removed(now)


def _after(stage: Timeout, now: float) -> float | None:
    return now + stage.after_s if stage.after_s > 0 else None


def holding(stage: Stage, *, rng: random.Random, now: float) -> Holding:
    """Put a stage to work; it begins now."""
    match stage:
        case Latency():
            return _Latency(stage, rng)
        case Bandwidth():
            return _Bandwidth(stage)
        case Slicer():
            return _Slicer(stage, rng)
        case SlowClose():
            return _SlowClose(stage)
        case Timeout():
            return _Timeout(stage, now)
        case ResetPeer():
            return _ResetPeer(stage, now)
        case LimitData():
            return _LimitData(stage)
        case _:
            assert_never(stage)
