"""The connection that a migration goes over: bytes out in order, bytes in as they come.

A socket, the two pipes of a command, or a file: whatever has one or two descriptors. asyncio, one
thread; nothing here blocks but regular files, which do nowhere.

Source: QEMU `io/channel-socket.c`, `io/channel-command.c`, `io/channel-file.c` (7.2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .allocator import keep_freed_memory

READ_BYTES = 1 << 18
"""Read at once: small enough for the allocator to use the same memory again."""
QUEUED_BYTES_HIGH = 1 << 20
"""A peer that leaves so much unread is not read from until it reads."""
BUFFERS_MAX = 512
"""Written by one call; Linux takes 1024."""


class Channel:
    """A connection that is there.

    Args:
        name: what QEMU calls it: `socket`, `command`, `file`.
        reading: descriptor to read from; None: there is nothing to read.
        writing: descriptor to write to; may be the same; None: there is nothing to write to.
    """

    def __init__(self, name: str, *, reading: int | None, writing: int | None) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._reading, self._writing = reading, writing
        self._on_data: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._queue: deque[memoryview] = deque()
        self._queued_bytes = 0
        self._error: OSError | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._watched = self._waits_to_write = self._closes = self.closed = False
        for fd in self._descriptors:
            os.set_blocking(fd, False)
        keep_freed_memory()

    @classmethod
    def over_socket(cls, connected: socket.socket) -> Channel:
        """The channel of a connected socket, which is the channel's own from now on."""
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = connected.detach()
        return cls("socket", reading=fd, writing=fd)

    @classmethod
    def over_descriptor(cls, fd: int, *, outgoing: bool) -> Channel:
        """The channel of a descriptor that somebody passed: a socket, a pipe, a file."""
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            return cls.over_socket(socket.socket(fileno=fd))
        reading, writing = (None, fd) if outgoing else (fd, None)
        return cls("file", reading=reading, writing=writing)

    # Out

    def write(self, *pieces: bytes) -> None:
        """Send bytes, after all that came before, at once or as soon as the system takes them.

        What is written to a channel that is closed or has failed is lost: `flush` tells.
        """
        if self.closed or self._error is not None or not any(pieces):
            return
        if self._writing is None:
            self._error = OSError(errno.EBADF, os.strerror(errno.EBADF))
            return
        self._queue += [memoryview(piece) for piece in pieces if piece]
        self._queued_bytes += sum(map(len, pieces))
        if not self._waits_to_write:
            self._send()

    async def flush(self) -> None:
        """Wait until the system has taken everything.

        Raises:
            OSError: it did not; the channel is of no further use.
        """
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._error is not None:
            raise self._error
        if self._queue:
            self._flushed = self._loop.create_future()
            await self._flushed

    def _send(self) -> None:
        assert self._writing is not None
        try:
            while self._queue:
                batch = [self._queue[n] for n in range(min(len(self._queue), BUFFERS_MAX))]
                self._sent(os.writev(self._writing, batch))
        except BlockingIOError:
            self._wait_to_write(True)
            return
        except OSError as error:
            self._fail(error)
            return
        self._wait_to_write(False)
        self._tell_flushed(None)
        if self._closes:
            self.close()

    def _sent(self, count: int) -> None:
        self._queued_bytes -= count
        while count:
            first = self._queue.popleft()
            if len(first) > count:
                self._queue.appendleft(first[count:])
                return
            count -= len(first)

    def _fail(self, error: OSError) -> None:
        self._error = error
        self._queue.clear()
        self._queued_bytes = 0
        self._wait_to_write(False)
        self._tell_flushed(error)

    def _tell_flushed(self, error: OSError | None) -> None:
        if self._flushed is not None and not self._flushed.done():
            if error is None:
                self._flushed.set_result(None)
            else:
                self._flushed.set_exception(error)
        self._flushed = None

    def _wait_to_write(self, wait: bool) -> None:
        if wait == self._waits_to_write or self._writing is None:
            return
        self._waits_to_write = wait
        if wait:
            self._loop.add_writer(self._writing, self._send)
        else:
            self._loop.remove_writer(self._writing)
        self._watch()

    # In

    def read(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Have `on_data` called with bytes as they come, and `on_end` once after the last ones.

        A connection that breaks ends like one that is closed: who reads can do no more about it.
        """
        self._on_data, self._on_end = on_data, on_end
        if self._reading is None:
            self._loop.call_soon(on_end)
        self._watch()

    def _watch(self) -> None:
        """Read while somebody wants it, and the peer reads what it is sent."""
        wanted = (
            not self.closed
            and self._on_data is not None
            and self._reading is not None
            and not (self._waits_to_write and self._queued_bytes > QUEUED_BYTES_HIGH)
        )
        if wanted is self._watched or self._reading is None:
            return
        self._watched = wanted
        try:
            if wanted:
                self._loop.add_reader(self._reading, self._receive)
            else:
                self._loop.remove_reader(self._reading)
        except PermissionError:  # a regular file: it can always be read
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._watched:
            self._receive()
            self._loop.call_soon(self._read_on)

    def _receive(self) -> None:
        assert self._reading is not None
        try:
            data = os.read(self._reading, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        on_data, on_end = self._on_data, self._on_end
        if data:
            assert on_data is not None
            on_data(data)
        else:
            self._on_data = None
            self._watch()
            on_end()

    # The end

    def finish(self) -> None:
        """Read no more, and close it once all is sent."""
        self._on_data = None
        self._watch()
        if self._queue:
            self._closes = True
        else:
            self.close()

    def close(self) -> None:
        """Close it at once, in both directions; what was not sent is lost."""
        if self.closed:
            return
        self.closed = True
        self._watch()
        self._fail(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        for fd in self._descriptors:
            with suppress(OSError):
                os.close(fd)

    @property
    def _descriptors(self) -> set[int]:
        return {fd for fd in (self._reading, self._writing) if fd is not None}
