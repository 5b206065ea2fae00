"""Fixed buffers that a busy direction reads into, again and again.

Fresh memory costs more than all else that the proxy does with a byte: with a new bytes object for
each MiB it was half as fast. So few buffers are made, and kept. What comes slowly needs none.
"""

from __future__ import annotations

from mmap import mmap

WINDOW_BYTES = 2 << 20
ROOM_BYTES = 64 << 10
"""In front of a window, for what the parser has left over of the one before."""
PAIRS_MAX = 16
"""Of all connections together, some 66 MiB: eight multifd channels, and as many others."""


class Window:
    """A buffer, and the part of it to read into."""

    def __init__(self) -> None:
        self.buffer = mmap(-1, ROOM_BYTES + WINDOW_BYTES)
        self.room = memoryview(self.buffer)[ROOM_BYTES:]


class Pair:
    """Two windows in turns: the parser still needs the one before when the next is filled."""

    def __init__(self) -> None:
        self.current, self._other = Window(), Window()

    def turn(self) -> None:
        """Have the other one as `current`."""
        self.current, self._other = self._other, self.current


class WindowPool:
    """All pairs of windows; there are `PAIRS_MAX` at most."""

    def __init__(self) -> None:
        self._free: list[Pair] = []
        self._made = 0

    def take(self) -> Pair | None:
        """A pair, until it is given back; None if all are taken."""
        if self._free:
            return self._free.pop()
        if self._made >= PAIRS_MAX:
            return None
        self._made += 1
        return Pair()

    def give_back(self, pair: Pair) -> None:
        """Nobody looks into it any more."""
        self._free.append(pair)
