"""Rate and time of what goes toward one side of a connection: stages in a row, sans-IO.

Who owns the socket asks `is_clear`. A clear line is bypassed; else what would be written is pushed,
and what is due is written when its time has come. Same events, times and seed: same writes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import assert_never

from .stages import (
    Bandwidth,
    Close,
    Fin,
    Held,
    Holding,
    Latency,
    LimitData,
    Passing,
    Reset,
    ResetPeer,
    Slicer,
    SlowClose,
    Stage,
    Timeout,
    Write,
    holding,
)

__all__ = [
    "Bandwidth",
    "Close",
    "Fin",
    "Latency",
    "LimitData",
    "Line",
    "Passing",
    "Reset",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Stage",
    "Timeout",
    "Write",
]

PIECES_MAX = 1024
"""Waiting before one stage; the stage before it holds back then."""
DUE_MAX = 64
"""Given at one time, so that one connection's small pieces do not keep all others waiting."""
PIECE_BYTES = 128
"""What holding a piece costs beside its bytes, about."""


class Line:
    """What goes toward one side of one connection.

    A line has one writer: what `due` gave must be written before anything else is, even if the line
    is clear by then.

    Args:
        stages: in the order in which bytes pass them.
        rng: for jitter and for the sizes of slices.
        now: monotonic seconds, as in all other calls.
    """

    def __init__(
        self, stages: Sequence[Stage] = (), *, rng: random.Random, now: float = 0.0
    ) -> None:
        self._rng = rng
        self._stages: dict[str, tuple[Stage, ...]] = {}  # by who set them
        self._row: list[tuple[tuple[str, Stage] | None, Holding]] = [(None, Holding())]
        self._finished = False
        self._over = False
        self.set(stages, now)

    @property
    def is_clear(self) -> bool:
        """No stage, nothing held, nothing ended: bytes may be written at once."""
        return len(self._row) == 1 and not (self._row[0][1].queue or self._finished or self._over)

    @property
    def held_bytes(self) -> int:
        """What is held costs so much memory: beyond a bound, read nothing more for this line."""
        return sum(held.bytes + PIECE_BYTES * len(held.queue) for _, held in self._row)

    def set(self, stages: Sequence[Stage], now: float, *, owner: str = "") -> None:
        """Have these stages instead of those that this owner set before.

        A stage of the same kind and name goes on where it was, with its new figures: what it
        holds is scheduled anew, and what it counted counts. What a stage that is gone held leaves
        it now. Stages of the owner who came first are passed first.
        """
        self._stages[owner] = tuple(stages)
        wanted = [(owner, stage) for owner, those in self._stages.items() for stage in those]
        old = deque(self._row[:-1])
        row: list[tuple[tuple[str, Stage] | None, Holding]] = []
        gone: list[tuple[Holding, int]] = []  # and before which of the new row it was
        for setting in wanted:
            if not any(_same(setting, before) for before, _ in old):
                row.append((setting, holding(setting[1], rng=self._rng, now=now)))
                continue
            while not _same(setting, old[0][0]):
                gone.append((old.popleft()[1], len(row)))
            before, kept = old.popleft()
            if before != setting:
                kept.changed(setting[1], now)
            row.append((setting, kept))
        row.append(self._row[-1])
        gone.extend((left, len(row) - 1) for _, left in old)
        self._row = row
        for left, index in reversed(gone):  # what is further on its way goes first
            self._follow(index, left.removed(now))

    def push(self, now: float, data: bytes) -> None:
        """Bytes came; they are kept as they are, so nobody may change them."""
        if data and not (self._finished or self._over):
            self._row[0][1].arrive(Held(Write(memoryview(data)), now))

    def finish(self, now: float) -> None:
        """The sender's FIN came: nothing more will."""
        self._row[0][1].arrive(Held(Fin(), now))

    def due(self, now: float) -> list[Passing]:
        """What must be done now, in order; `DUE_MAX` at most: `next_at` says if there is more."""
        due: list[Passing] = []
        while len(due) < DUE_MAX and not self._over:
            index = self._ready(now)
            if index is None:
                break
            held = self._row[index][1].leave(now)
            if index + 1 < len(self._row):
                self._row[index + 1][1].arrive(held)
            else:
                due += self._out(held.what)
        return due

    def next_at(self) -> float | None:
        """When `due` has something to give, or to move on; maybe in the past. None: never."""
        times = [at for index in range(len(self._row)) if (at := self._next_at(index)) is not None]
        return None if self._over else min(times, default=None)

    def _ready(self, now: float) -> int | None:
        """The stage furthest on from which something leaves by now."""
        for index in range(len(self._row) - 1, -1, -1):
            if (at := self._next_at(index)) is not None and at <= now:
                return index
        return None

    def _next_at(self, index: int) -> float | None:
        following = self._row[index + 1][1] if index + 1 < len(self._row) else None
        if following is not None and len(following.queue) >= PIECES_MAX:
            return None
        return self._row[index][1].next_at()

    def _out(self, what: Passing) -> list[Passing]:
        """It has passed all stages; nothing but the end of the whole follows a FIN."""
        match what:
            case Write():
                return [] if self._finished else [what]
            case Fin():
                first, self._finished = not self._finished, True
                return [what] if first else []
            case Close() | Reset():
                self._over = True
                for _, stopped in self._row:
                    stopped.stop()
                return [what]
            case _:
                assert_never(what)

    def _follow(self, index: int, released: list[Held]) -> None:
        for held in released:
            self._row[index][1].arrive(held)


def _same(one: tuple[str, Stage], other: tuple[str, Stage] | None) -> bool:
    """Both are one stage of one owner, maybe with other figures."""
    return (
        other is not None
        and one[0] == other[0]
        and type(one[1]) is type(other[1])
        and one[1].name == other[1].name
    )
