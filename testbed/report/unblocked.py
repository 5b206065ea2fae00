"""Standard output that never makes a run wait, whoever stops reading it.

A terminal can be stopped (Ctrl-S), and the reader of a pipe can sleep; whoever writes there waits
then. While a run is under way its events must be read, so what does not go out at once is kept and
tried again. There is no thread for that: the process forks (`netns/sandbox.py`).
"""

from __future__ import annotations

import io
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

KEPT_BYTES_MAX = 4 << 20
"""Of what waits; a scenario tells some kilobytes. Beyond it pieces are dropped, and counted."""
PIECE_BYTES_MAX = 4096
"""Written at once: where poll(2) says that a pipe has room, there is room for so much (pipe(7))."""


class Unblocked(io.TextIOBase):
    """A text file over a descriptor; made by `unblocked`.

    Writing does not wait; `finish` does. `waits` if something was not taken yet. What a write
    fails of is raised as `failed` makes it.
    """

    def __init__(self, out: TextIO, fd: int, failed: Callable[[OSError], OSError]) -> None:
        super().__init__()
        self._failed = failed
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self._kind = stat.S_IFMT(os.fstat(fd).st_mode)
        self._socket = socket.socket(fileno=os.dup(fd)) if self._kind == stat.S_IFSOCK else None
        self._fd = fd if self._socket else _own_description(fd)
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._dropped = 0

    @property
    def encoding(self) -> str:  # type: ignore[override] # the base has an attribute
        """Of the file that it is over."""
        return self._encoding

    @property
    def waits(self) -> bool:
        """Something that was written has not been taken yet."""
        return bool(self._kept)

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._out.isatty()

    def fileno(self) -> int:
        """The descriptor of the file that it is over."""
        return self._out.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Write what is taken now, and keep the rest.

        Raises:
            OSError: it cannot be written.
        """
        data = text.encode(self._encoding, "replace")
        if self._kept_bytes + len(data) > KEPT_BYTES_MAX:
            self._dropped += 1
        else:
            for start in range(0, len(data), PIECE_BYTES_MAX):
                self._kept.append(data[start : start + PIECE_BYTES_MAX])
            self._kept_bytes += len(data)
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is taken now of what was kept."""
        while self._kept and self._is_ready(0):
            if not self._write_piece():
                return

    def finish(self) -> None:
        """Wait until all that was written is taken."""
        if self._dropped:
            note = f"{self._dropped} pieces were left out here: nobody read them in time\n"
            self._kept.append(note.encode(self._encoding, "replace"))
            self._kept_bytes += len(note)
            self._dropped = 0
        while self._kept:
            self._is_ready(None)
            self._write_piece()

    def close(self) -> None:
        """Close what is its own; the file that it is over stays open."""
        if self.closed:
            return
        super().close()  # which flushes
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._out.fileno():
            os.close(self._fd)

    def _is_ready(self, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._socket or self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _write_piece(self) -> bool:
        """Write of the first piece what is taken; false if nothing is."""
        piece = self._kept.popleft()
        try:
            if self._socket is not None:
                count = self._socket.send(piece, socket.MSG_DONTWAIT)
            else:
                count = os.write(self._fd, piece)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._kept.clear()  # whoever closes it must not fail of the same again
            self._kept_bytes = 0
            raise self._failed(error) from None
        if count < len(piece):
            self._kept.appendleft(piece[count:])
        self._kept_bytes -= count
        return count > 0


def unblocked(
    out: TextIO, failed: Callable[[OSError], OSError] = lambda error: error
) -> TextIO | Unblocked:
    """The same output, unblocked; as it is if it has no descriptor, as in tests.

    Args:
        out: a text file, such as standard output.
        failed: makes the error that is raised of one that a write failed with.
    """
    try:
        fd = out.fileno()
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return out
    out.flush()
    return Unblocked(out, fd, failed)


def _own_description(fd: int) -> int:
    """A non-blocking descriptor of the same terminal or pipe.

    O_NONBLOCK belongs to the open file, which the shell and others share: hence one of our own. It
    cannot always be had (a pipe of another user, no /proc); poll(2) alone is nearly as good: only
    a reader that stops within a write is waited for. A regular file never blocks, and has a
    position that is to be shared.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)
    return fd
