"""Pipes, in which the kernel carries bytes from one socket to another that nobody needs to see."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from .side import SideSocket

PIPE_BYTES = 1 << 20
"""As much as anybody may have (`/proc/sys/fs/pipe-max-size`)."""
PIPES_MAX = 16
"""Of all connections together; each is two descriptors."""


class Pipe:
    """A pipe between two sockets; see splice(2)."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # a user's pipes have a bound together; smaller ones do as well
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.held_bytes = 0

    def fill(self, side: SideSocket) -> int | None:
        """Take what that side has sent; 0: it has ended; None: nothing came. The pipe is empty."""
        assert not self.held_bytes, "else a full pipe looks as an empty socket does"
        count = side.splice_to(self._in, PIPE_BYTES)
        self.held_bytes = count or 0
        return count

    def drain(self, side: SideSocket) -> int:
        """Have that side take what is in the pipe; one that is gone takes all of it."""
        took = 0
        while self.held_bytes and side.takes:
            count = side.splice_from(self._out, self.held_bytes)
            if not count and side.takes:
                break
            took += count
            self.held_bytes -= count
        if self.held_bytes and not side.takes:
            self._drop()
        return took

    def close(self) -> None:
        """Give both ends back."""
        os.close(self._out)
        os.close(self._in)

    def _drop(self) -> None:
        while self.held_bytes:
            self.held_bytes -= len(os.read(self._out, self.held_bytes))


class PipePool:
    """All pipes; there are `PIPES_MAX` at most."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._made = 0

    def take(self) -> Pipe | None:
        """A pipe, until it is given back; None if all are taken, or descriptors are short."""
        if self._free:
            return self._free.pop()
        if self._made >= PIPES_MAX:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self._made += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Nobody fills or drains it any more; what is left in it is lost."""
        if pipe.held_bytes:
            pipe.close()
            self._made -= 1
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close those that were given back."""
        for pipe in self._free:
            pipe.close()
        self._made -= len(self._free)
        self._free.clear()
