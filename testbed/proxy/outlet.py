"""What goes toward one side: written at once while it can be, else kept, delayed or dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never

from .shaping import Close, Fin, Line, Passing, Reset, Stage, Write
from .side import SideSocket

ADDED_BYTES_MAX = 1 << 20
"""Kept at most, of what a fault sends back to the sender, before the sender is not read any more. A
message of the return path is some bytes; the largest, RECV_BITMAP, 256 KiB for 8 GiB of guest."""


class Outlet:
    """The way toward one side, behind a line of rate and time.

    Args:
        side: where it leads.
        line: what shapes it.
        held_max: how many bytes the line may hold, asked each time.
        moved: called when time has moved it on; it may be free again.
        over: called when the line ends the connection: by RST, or in order.
        guarded: as in `pump.Host`.
    """

    def __init__(
        self,
        side: SideSocket,
        line: Line,
        *,
        held_max: Callable[[], int],
        moved: Callable[[], None],
        over: Callable[[bool], None],
        guarded: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.side = side
        self.line = line
        self.sent_bytes = 0
        self.is_dark = False  # what comes is dropped, and so are ends
        self._held_max = held_max
        self._moved = moved
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._kept: deque[Passing] = deque()  # due, and the socket is full
        self._added_bytes = 0  # since nothing was kept
        self._stalled_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._come_back = guarded(self._time_has_come)

    @property
    def is_clear(self) -> bool:
        """What comes now is written at once, as far as the socket takes it."""
        return not (self._kept or self.is_dark or self.is_stalled) and self.line.is_clear

    @property
    def keeps(self) -> bool:
        """Something is due that the socket has not taken."""
        return bool(self._kept)

    @property
    def is_idle(self) -> bool:
        """Nothing is under way in it, nor will be by itself."""
        if self.is_dark or not self.side.takes:
            return True
        return not (self._kept or self.line.held_bytes) and self.line.next_at() is None

    @property
    def is_stalled(self) -> bool:
        """A fault lets nothing pass for now; bytes for a side that is gone just go."""
        if not self._stalled_until:
            return False
        if self._stalled_until > self._loop.time() and not self.side.gone:
            return True
        self._stalled_until = 0.0
        return False

    @property
    def is_full(self) -> bool:
        """It keeps as much as it may of what others add to it: see `add`."""
        if not self._kept:
            self._added_bytes = 0
        held_max = self._held_max() + ADDED_BYTES_MAX
        return self._added_bytes > ADDED_BYTES_MAX or self.line.held_bytes > held_max

    @property
    def is_blocked(self) -> bool:
        """No more may be given to it now; its socket, or `moved`, tells when that changes."""
        if self.is_clear or self.is_dark or self.side.gone:
            return False
        return bool(self._kept) or self.is_stalled or self.line.held_bytes > self._held_max()

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write, or keep what cannot be written; not while it is blocked.

        A view must stay as it is until the outlet is not blocked any more.
        """
        if self.is_dark or not self.side.takes:
            return
        if self.line.is_clear:
            assert not self._kept, "it is blocked"
            self._write(parts)
            return
        for data in parts:
            self.line.push(self._loop.time(), bytes(data))
        self.move()

    def add(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write, or keep behind what is kept already; may be called while it is blocked.

        The parts must stay as they are.
        """
        if self.line.is_clear and (self._kept or self.is_stalled):
            if not self.is_dark and self.side.takes:
                self._kept.extend(Write(memoryview(part)) for part in parts)
                self._added_bytes += sum(map(len, parts))
        else:
            self.write(parts)

    def finish(self) -> None:
        """FIN, after all that was given to it."""
        if self.is_dark or not self.side.takes:
            return
        if not self.line.is_clear:
            self.line.finish(self._loop.time())
            self.move()
        elif self._kept or self.is_stalled:
            self._kept.append(Fin())
        else:
            self.side.finish()

    def darken(self) -> None:
        """Drop what is kept and all that comes, and the end as well."""
        self.is_dark = True
        self._kept.clear()

    def stall(self, for_s: float) -> None:
        """Let nothing pass for a time, not even an end."""
        self._stalled_until = max(self._stalled_until, self._loop.time() + for_s)
        self._set_timer()

    def set_stages(self, stages: Sequence[Stage], owner: str) -> None:
        """Have these stages in the line, in place of those that this owner set before."""
        self.line.set(stages, self._loop.time(), owner=owner)
        self.move()

    def spliced(self, count: int) -> None:
        """So many bytes have gone to the socket, past all this."""
        self.sent_bytes += count

    def move(self) -> None:
        """Write what was kept, and what is due by now."""
        if not self.is_stalled and self._write_kept():
            self._kept.extend(self.line.due(self._loop.time()))  # so much at a time: others wait
            self._write_kept()
        self._set_timer()

    def close(self) -> None:
        """Nothing goes this way any more."""
        self._kept.clear()
        self._cancel_timer()

    def _write(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Write; false if the socket is full, and the rest was kept, before all else."""
        took = self.side.write(parts)
        if not self.side.reset_seen:  # else they went nowhere
            self.sent_bytes += took
        rest = []
        for part in parts:
            if took < len(part):
                rest.append(Write(memoryview(part)[took:]))
            took = max(0, took - len(part))
        self._kept.extendleft(reversed(rest))
        return not rest

    def _write_kept(self) -> bool:
        """Write what was kept; false if the socket is full."""
        while self._kept:
            what = self._kept.popleft()
            match what:
                case Write() | Fin() if self.is_dark:
                    continue
                case Write(data=data):
                    if not self._write([data]):
                        return False
                case Fin():
                    self.side.finish()
                case Close() | Reset():
                    self._over(isinstance(what, Reset))
                case _:
                    assert_never(what)
        return True

    def _set_timer(self) -> None:
        """Come back when something is due, or a stall is over."""
        self._cancel_timer()
        if self.side.gone:
            return
        at = self._stalled_until or (None if self._kept else self.line.next_at())
        if at is not None:
            self._timer = self._loop.call_at(at, self._come_back)

    def _time_has_come(self) -> None:
        self._timer = None
        self.move()
        self._moved()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
