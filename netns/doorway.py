"""A way out of a sandbox: connections of the command's own network, handed in one by one.

A sandbox has networks of its own and no route out of them. What is to be reached outside, the
command reaches for it: asked over a socket pair, it connects, and hands the connected socket in.
The address is the command's to say, so that what runs inside reaches nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket

ASK = b"c"
CONNECTED = b"ok"
CONNECT_S = 5.0
"""For the command to connect; nothing else of the run is read meanwhile."""


class Doorway:
    """Made before the sandbox; the command answers, what runs inside asks.

    `fds` must be kept in the sandbox.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._command, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inside.setblocking(False)
        self._asking = asyncio.Lock()
        self._owed = 0  # answers that have not come yet

    @property
    def fds(self) -> tuple[int, ...]:
        """What leads out."""
        return (self._inside.fileno(),)

    def fileno(self) -> int:
        """The command's descriptor, to wait for a question."""
        return self._command.fileno()

    def answer(self) -> None:
        """Connect for whoever asked; the command calls it when it can be read."""
        self._command.recv(len(ASK))
        try:
            with socket.create_connection(self.address, CONNECT_S) as opened:
                socket.send_fds(self._command, [CONNECTED], [opened.fileno()])
        except OSError as error:
            self._command.send(str(error.errno or 0).encode())

    async def connect(self) -> socket.socket:
        """Ask for a connection, inside; it is non-blocking.

        Raises:
            OSError: the command could not connect, or has ended.
        """
        async with self._asking:
            await asyncio.get_running_loop().sock_sendall(self._inside, ASK)
            self._owed += 1
            while self._owed:  # who gave up waiting has left an answer behind
                await self._readable()
                message, fds, _, _ = socket.recv_fds(self._inside, len(CONNECTED) + 16, 1)
                self._owed -= 1
                if self._owed and fds:
                    os.close(fds[0])
        if not fds:
            number = int(message or 0)
            raise OSError(number, os.strerror(number) if number else "there is no way out")
        opened = socket.socket(fileno=fds[0])
        opened.setblocking(False)
        return opened

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._inside, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._inside)

    def close(self) -> None:
        """Close both ends."""
        self._command.close()
        self._inside.close()


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
