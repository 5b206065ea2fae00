"""The listener: takes the source's connections, finds out what each is, connects it onward.

Connecting to a waiting QEMU is not harmless: a bare connection ends it or blocks its main loop.
So the first connection of an attempt goes onward only with its first bytes in hand, in one write.
Source: QEMU `migration/channel.c`, `migration_channel_read_peek`, 8.0 to 11.1; seen on 11.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from testbed.fault.engine import FaultEngine, Relay
from testbed.fault.plan import Side
from testbed.log import Log
from testbed.tasks import beside

from .connection import Connection
from .side import SideSocket

FIRST_BYTES = 4
CONNECTIONS_MAX = 256
"""Open at one time; a source opens three and as many as it has multifd channels."""
Address = tuple[str, int]


class OpensSockets(Protocol):
    """Where the proxy's sockets live: a network namespace, or the `socket` module."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket there."""


class Proxy:
    """Every migration connection of a run passes here; made by `Proxy.start`."""

    def __init__(
        self, namespace: OpensSockets, upstream: Address, engine: FaultEngine, log: Log
    ) -> None:
        self.upstream = upstream
        self.engine = engine
        self._namespace = namespace
        self._log = log
        self._opened = 0
        self._in_attempt = 0
        self._waiting: set[SideSocket] = set()  # accepted, not connected onward yet
        self._live: set[Connection] = set()
        self._group: asyncio.TaskGroup

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        namespace: OpensSockets,
        listen: Address,
        upstream: Address,
        engine: FaultEngine,
        log: Log,
    ) -> AsyncIterator[Proxy]:
        """Listen until the block ends; what is still open then is reset.

        Args:
            namespace: opens the sockets of both sides.
            listen: IPv4 address and port for the source.
            upstream: where the destination listens.
            engine: says what happens to what passes.
            log: where connections and faults go.

        Raises:
            OSError: the address cannot be listened on.
        """
        proxy = cls(namespace, upstream, engine, log)
        with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(listen)
            listener.listen(CONNECTIONS_MAX)
            listener.setblocking(False)
            async with beside(proxy._accept(listener)):
                try:
                    yield proxy
                finally:
                    proxy._abort()

    def next_attempt(self) -> None:
        """What comes now is another migration; what is left of the last one is reset."""
        self._abort()
        self._in_attempt = 0
        self.engine.next_attempt()

    def observed(self, side: Side, event: str, status: str | None = None) -> None:
        """Tell the engine what QMP reported; what it answers happens at once."""
        for connection in tuple(self._live):
            connection.observed(side, event, status)

    def _abort(self) -> None:
        for source in self._waiting:
            source.reset()
        for connection in tuple(self._live):
            connection.abort()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                accepted, _ = await loop.sock_accept(listener)
                if len(self._live) + len(self._waiting) >= CONNECTIONS_MAX:
                    accepted.close()
                    continue
                self._opened += 1
                self._in_attempt += 1
                group.create_task(
                    self._connection(SideSocket(accepted), self._opened, self._in_attempt == 1)
                )

    async def _connection(self, source: SideSocket, number: int, is_first: bool) -> None:
        """One connection from accept to end."""
        self._log.write(
            "proxy", "connection-opened", connection=number, attempt=self.engine.attempt
        )
        try:
            # A later connection goes onward at once: the destination may wait for it to be there.
            self._waiting.add(source)
            first = await self._first_bytes(source) if is_first else b""
            if source.gone or (is_first and not first):
                return  # reset by us; or it never spoke, and a destination must not see it
            destination = await self._connect(number)
            self._waiting.discard(source)
            if destination is None:
                source.reset()
                return
            if source.gone:
                destination.reset()
                return
            sides = {Side.SOURCE: source, Side.DESTINATION: destination}
            connection = Connection(number, sides, partial(self._identify, number), self._log)
            self._live.add(connection)
            try:
                await connection.run(first)
            finally:
                self._live.discard(connection)
        finally:
            self._waiting.discard(source)
            source.close()

    def _identify(self, number: int, first: bytes) -> Relay | None:
        channel = _channel(first)
        self._log.write("proxy", "connection-identified", connection=number, channel=channel)
        return self.engine.connection() if channel == "main" else None

    async def _first_bytes(self, source: SideSocket) -> bytes:
        first = b""
        while len(first) < FIRST_BYTES and (more := await source.read()):
            first += more
        return first

    async def _connect(self, number: int) -> SideSocket | None:
        opened = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(opened, self.upstream)
        except OSError as error:
            opened.close()
            name = errno.errorcode.get(error.errno or 0, "")
            self._log.write(
                "proxy",
                "upstream-refused",
                connection=number,
                address="{}:{}".format(*self.upstream),
                error=f"{name} {os.strerror(error.errno or 0)}".strip(),
            )
            return None
        except BaseException:
            opened.close()
            raise
        return SideSocket(opened)


def _channel(first: bytes) -> str:
    """What a connection is, by its first bytes; none: a preempt channel that had no work."""
    if first.startswith(b"\x11\x22\x33\x44"):
        return "multifd"
    if first.startswith(b"\x16\x03"):
        return "tls"
    if not first or first.startswith(b"\x00\x00"):
        return "preempt"
    return "main"
