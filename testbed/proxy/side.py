"""One side of a proxied connection: a non-blocking socket and what may be done to it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

READ_BYTES = 1 << 18
LINGER_RESET = struct.pack("ii", 1, 0)


class SideSocket:
    """The socket of one side.

    Reading and writing are coroutines, so a reader that waits for its writer is the back-pressure;
    no more than `READ_BYTES` are held in each direction.
    """

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        with suppress(OSError):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._gone = asyncio.Event()
        self.finished = False  # we sent FIN
        self.reset_seen = False  # the peer reset it
        self.bytes_out = 0

    @property
    def gone(self) -> bool:
        """Closed or reset by us."""
        return self._gone.is_set()

    async def until_gone(self) -> None:
        """Wait until we have closed or reset it."""
        await self._gone.wait()

    async def read_first(self, count: int) -> bytes:
        """The first `count` bytes and what came with them; fewer if the peer ends before."""
        first = b""
        while len(first) < count and (more := await self.read()):
            first += more
        return first

    async def read(self) -> bytes:
        """What the peer sent next; empty at its FIN, its RST, and once this side is gone."""
        while not (self.gone or self.reset_seen):
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError:
                self.reset_seen = True
        return b""

    async def write(self, data: bytes) -> None:
        """Send all of it; a peer that is gone takes nothing more, and nothing is said of that."""
        left = memoryview(data)
        while left and not (self.gone or self.finished or self.reset_seen):
            try:
                sent = self._socket.send(left)
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError:
                self.reset_seen = True
            else:
                self.bytes_out += sent
                left = left[sent:]

    async def _ready(
        self, add: Callable[..., object], remove: Callable[[socket.socket], object]
    ) -> None:
        """Wait until the socket can be read or written, or is gone."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        add(self._socket, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self.gone:
                remove(self._socket)

    def finish(self) -> None:
        """FIN after what was written; the peer may go on sending."""
        if not self.finished and not self.gone:
            self.finished = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST at once, whatever is unsent or unread."""
        if not self.gone:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self.close()

    def close(self) -> None:
        """Give the socket back; who waits for it goes on."""
        if self.gone:
            return
        self._gone.set()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for waiter in self._waiters:
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
