"""One side of a proxied connection: a non-blocking socket and what may be done to it."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from .poller import BROKEN, ENDED, READABLE, Poller

LINGER_RESET = struct.pack("ii", 1, 0)
NOTHING = b""
DRAIN_BYTES, DRAINS_MAX = 64 << 10, 64
PIECES_MAX = 64
"""Written at once; the kernel takes 1024 (`IOV_MAX`)."""

RESETS = frozenset({errno.ECONNRESET, errno.EPIPE})
"""What RST is told as: the second one where it met a write before. A peer whose host is gone is
told as ETIMEDOUT, EHOSTUNREACH or the like, and sent nothing."""

Heard = Callable[[int], None]


class SideSocket:
    """The socket of one side. Nothing here waits: `None` says that there is nothing yet.

    `heard` is called when something has changed at the socket, with the poller's events.
    """

    def __init__(self, opened: socket.socket, poller: Poller) -> None:
        opened.setblocking(False)
        if opened.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A peer whose host is gone must not hold its place for ever.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = opened
        self._poller = poller
        self.heard: Heard = _nobody
        self.gone = False  # closed or reset by us
        self.finished = False  # we sent FIN
        self.reset_seen = False  # the peer reset it, or is out of reach
        self.how = "RST"  # what `reset_seen` was: the error's name if it was no reset
        self.was_heard = False  # it has sent something, or ended
        self.is_broken = False  # both ways are over, says the kernel
        self.end_seen = False  # the peer sends nothing after what is there
        poller.watch(opened, self._changed)

    def _changed(self, events: int) -> None:
        self.was_heard |= bool(events & READABLE)
        self.is_broken |= bool(events & BROKEN)
        self.end_seen |= bool(events & ENDED)
        self.heard(events)

    @property
    def fd(self) -> int:
        """Its descriptor, while it is not gone."""
        return self._socket.fileno()

    @property
    def takes(self) -> bool:
        """Bytes for it go somewhere: nobody has ended it."""
        return not (self.gone or self.finished or self.reset_seen)

    def peek(self, count: int) -> bytes | None:
        """Look at what came first, up to `count` bytes, and leave it there; empty at its end."""
        return self.read(count, socket.MSG_PEEK)

    def read(self, count: int, flags: int = 0) -> bytes | None:
        """What the peer sent next; empty at its FIN, its RST, and once this side is gone.

        What it sent before an RST that a write has met is still there to be read.
        """
        if self.gone:
            return NOTHING
        try:
            return self._socket.recv(count, flags)
        except BlockingIOError:
            return NOTHING if self.reset_seen else None
        except OSError as error:
            self._lost(error)
            return NOTHING

    def read_into(self, room: memoryview) -> int | None:
        """Read into `room`; 0 at the peer's FIN, its RST, and once this side is gone."""
        if self.gone:
            return 0
        try:
            return self._socket.recv_into(room)
        except BlockingIOError:
            return 0 if self.reset_seen else None
        except OSError as error:
            self._lost(error)
            return 0

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Send what the socket takes now, and say how much that was; `PIECES_MAX` at most.

        A peer that is gone takes all, and nothing is said of that.
        """
        if self.takes:
            try:
                return self._socket.sendmsg(parts)
            except BlockingIOError:
                return 0
            except OSError as error:
                self._lost(error)
        return sum(len(part) for part in parts)

    def splice_to(self, pipe: int, count: int) -> int | None:
        """Have the kernel move what came into an empty pipe; as `read_into`."""
        if self.gone:
            return 0
        try:
            return os.splice(self.fd, pipe, count, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return 0 if self.reset_seen else None
        except OSError as error:
            self._lost(error)
            return 0

    def splice_from(self, pipe: int, count: int) -> int:
        """Have the kernel send what is in a pipe; what the socket took of it.

        A peer that is gone takes nothing.
        """
        try:
            return os.splice(pipe, self.fd, count, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lost(error)
            return 0

    def _lost(self, error: OSError) -> None:
        """The connection is no more: the peer reset it, or cannot be reached any more."""
        if not self.reset_seen:
            self.how = how_it_ended(error)
        self.reset_seen = True

    def learn_how(self) -> None:
        """Ask the kernel why the connection is broken, without reading what came before."""
        if not self.gone and (
            number := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        ):
            self._lost(OSError(number, os.strerror(number)))

    def finish(self) -> None:
        """FIN after what was written; the peer may go on sending."""
        if not self.finished and not self.gone:
            self.finished = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST at once, whatever is unsent or unread."""
        if not self.gone:
            set_to_reset(self._socket)
            self.close()

    def close_in_order(self) -> None:
        """FIN, and no RST for what came before it; there is one for what comes after."""
        self.finish()
        for _ in range(DRAINS_MAX):
            if not self.read(DRAIN_BYTES):
                break
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        if not self.gone:
            self.gone = True
            self._poller.forget(self._socket)
            self._socket.close()


def how_it_ended(error: OSError) -> str:
    """What the end of a connection that broke with an error is told as: `RST`, or its name."""
    if error.errno in RESETS:
        return "RST"
    return errno.errorcode.get(error.errno or 0, str(error))


def set_to_reset(opened: socket.socket) -> None:
    """Have the socket end with RST when it is closed."""
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def _nobody(_events: int) -> None:
    """Nobody listens yet."""
