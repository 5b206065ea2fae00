"""The interposed layer-2 link: frames copied between two TAPs, some of them not.

A `Rule` sees each frame and says what goes on in its place; without faults every frame passes as it
came, in order. Nothing is parsed here.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from .packet import FRAMES_PER_WAKE

FRAME_BYTES_MAX = 65_536
HELD_FRAMES_MAX = 1024
"""Delayed at one time; a further one is lost, as in a full queue."""

LOST = "Lost"


class Direction(StrEnum):
    """Which way a frame goes: from the first descriptor to the second, or back."""

    A_TO_B = "a-to-b"
    B_TO_A = "b-to-a"


@dataclass(frozen=True, slots=True)
class Pass:
    """The frame goes on at once."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The frame is lost."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame, and the TAP or packet socket that it is written to; None: it goes on as usual."""

    frame: bytes
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Instead:
    """These go on in the frame's place, in this order: it as it is or altered, copies, others.

    With `after_s` they go that many seconds later; others pass them meanwhile, equally delayed
    ones do not.
    """

    frames: tuple[Outgoing, ...]
    after_s: float = 0.0


Verdict = Pass | Drop | Instead
Rule = Callable[[Direction, bytes], Verdict]


class Interposer:
    """Copies frames between two TAP descriptors; made by `interposed`.

    `counts` says by direction how many frames met which verdict, and how many were `Lost`: held
    beyond the bound, or refused by the other TAP. `overflowed` were held beyond the bound.
    """

    def __init__(self, a_fd: int, b_fd: int, rule: Rule) -> None:
        self._fds = {Direction.A_TO_B: (a_fd, b_fd), Direction.B_TO_A: (b_fd, a_fd)}
        self._rule = rule
        self._held: list[tuple[float, int, Direction, Outgoing]] = []  # a heap; time, then order
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.counts: Counter[tuple[Direction, str]] = Counter()
        self.overflowed = 0

    def readable(self, direction: Direction) -> None:
        """Take the frames that wait in a direction and act on each."""
        source, _ = self._fds[direction]
        for _ in range(FRAMES_PER_WAKE):
            try:
                frame = os.read(source, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            self._act(direction, frame)

    def _act(self, direction: Direction, frame: bytes) -> None:
        verdict = self._rule(direction, frame)
        self.counts[direction, type(verdict).__name__] += 1
        match verdict:
            case Pass():
                self.send(direction, Outgoing(frame))
            case Instead(frames=frames, after_s=after_s):
                for each in frames:
                    self._hold(direction, each, after_s)
            case Drop():
                pass
            case _:
                assert_never(verdict)

    def _hold(self, direction: Direction, outgoing: Outgoing, for_s: float) -> None:
        if not for_s:
            self.send(direction, outgoing)
            return
        if len(self._held) >= HELD_FRAMES_MAX:
            self.counts[direction, LOST] += 1
            self.overflowed += 1
            return
        due = asyncio.get_running_loop().time() + for_s
        heapq.heappush(self._held, (due, next(self._order), direction, outgoing))
        self._release()

    def _release(self) -> None:
        """Send what is due, and come back for the next."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        while self._held and self._held[0][0] <= loop.time():
            _, _, direction, outgoing = heapq.heappop(self._held)
            self.send(direction, outgoing)
        self._timer = loop.call_at(self._held[0][0], self._release) if self._held else None

    def send(self, direction: Direction, outgoing: Outgoing) -> None:
        """Send a frame that no other gave rise to, or lose it where its device is down or full."""
        _, onward = self._fds[direction]
        try:
            os.write(onward if outgoing.fd is None else outgoing.fd, outgoing.frame)
        except OSError:
            # A TAP that is down or full loses frames, as a cable does.
            self.counts[direction, LOST] += 1

    def close(self) -> None:
        """Forget the frames that are still held."""
        if self._timer is not None:
            self._timer.cancel()
        self._held.clear()


@asynccontextmanager
async def interposed(a_fd: int, b_fd: int, rule: Rule) -> AsyncIterator[Interposer]:
    """Join two TAPs (non-blocking descriptors) by an interposer until the block ends."""
    interposer = Interposer(a_fd, b_fd, rule)
    loop = asyncio.get_running_loop()
    loop.add_reader(a_fd, interposer.readable, Direction.A_TO_B)
    loop.add_reader(b_fd, interposer.readable, Direction.B_TO_A)
    try:
        yield interposer
    finally:
        loop.remove_reader(a_fd)
        loop.remove_reader(b_fd)
        interposer.close()
