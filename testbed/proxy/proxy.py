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
from typing import Protocol

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Side
from testbed.fault.relay import Passing
from testbed.log import Log
from testbed.tasks import beside
from testbed.wire import ChannelKind, channel_of

from .connection import FIRST_BYTES, Connection
from .side import SideSocket

CONNECTIONS_MAX = 256
"""Open at one time; a source opens three and as many as it has multifd channels."""
CONNECT_S = 10.0
"""For the destination to take a connection: it is one hop away."""
Address = tuple[str, int]


class OpensSockets(Protocol):
    """Where the proxy's sockets live: a network namespace, or the `socket` module."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket there."""


HERE: OpensSockets = socket


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
        self._is_first = True  # no connection of this attempt has gone onward, or is about to
        self._waiting: set[SideSocket] = set()  # accepted, not connected onward yet
        self._live: set[Connection] = set()
        self._main: Connection | None = None

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        namespace: OpensSockets | None = None,
        listen: Address,
        upstream: Address,
        engine: FaultEngine,
        log: Log,
    ) -> AsyncIterator[Proxy]:
        """Listen until the block ends; what is still open then is reset.

        Args:
            namespace: opens the sockets of both sides; None: this process's own.
            listen: IPv4 address and port for the source.
            upstream: where the destination listens.
            engine: says what happens to what passes.
            log: where connections and faults go.

        Raises:
            OSError: the address cannot be listened on.
        """
        namespace = namespace or HERE
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
        self._is_first = True
        self._main = None
        self.engine.next_attempt()

    def observed(self, side: Side, event: str, status: str | None = None) -> None:
        """Tell the engine what QMP reported; what it answers happens at once."""
        for _, commands in self.engine.observed(side, event, status):
            if self._main is not None:
                self._main.act(commands)

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
                is_first, self._is_first = self._is_first, False
                group.create_task(self._connection(SideSocket(accepted), self._opened, is_first))

    async def _connection(self, source: SideSocket, number: int, is_first: bool) -> None:
        """One connection from accept to end."""
        attempt = self.engine.attempt
        self._log.write("proxy", "connection-opened", connection=number, attempt=attempt)
        self._waiting.add(source)
        try:
            # A later connection goes onward at once: the destination may wait for it to be there.
            first = await source.read_first(FIRST_BYTES) if is_first else b""
            silent = is_first and not first  # a waiting destination must not see it
            destination = None if silent or source.gone else await self._connect(number)
            if destination is None:
                self._is_first |= is_first and attempt == self.engine.attempt
                self._refuse(source, number, silent=silent)
                return
            if source.gone:
                destination.reset()
                return
            self._waiting.discard(source)
            await self._relay(number, source, destination, first)
        finally:
            self._waiting.discard(source)
            source.close()

    def _refuse(self, source: SideSocket, number: int, *, silent: bool) -> None:
        """End a connection that never went onward."""
        ended_by = "source" if silent and not source.gone else "proxy"
        how = "FIN" if ended_by == "source" and not source.reset_seen else "RST"
        if not silent:
            source.reset()
        self._log.write(
            "proxy",
            "connection-ended",
            connection=number,
            ended_by=ended_by,
            how=how,
            bytes_forward=0,
            bytes_back=0,
        )

    async def _relay(
        self, number: int, source: SideSocket, destination: SideSocket, first: bytes
    ) -> None:
        def identify(first: bytes) -> Passing:
            channel = _carried(first)
            self._log.write("proxy", "connection-identified", connection=number, channel=channel)
            if channel in (ChannelKind.MAIN, ChannelKind.RECOVERY):
                self._main = connection
            return self.engine.connection(number, channel)

        sides = {Side.SOURCE: source, Side.DESTINATION: destination}
        connection = Connection(number, sides, identify, self._log)
        self._live.add(connection)
        try:
            await connection.run(first)
        finally:
            self._live.discard(connection)

    async def _connect(self, number: int) -> SideSocket | None:
        opened = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(opened, self.upstream)
        except OSError as error:
            opened.close()
            code = error.errno or errno.ETIMEDOUT
            self._log.write(
                "proxy",
                "upstream-refused",
                connection=number,
                address="{}:{}".format(*self.upstream),
                error=f"{errno.errorcode[code]} {os.strerror(code)}",
            )
            return None
        except BaseException:
            opened.close()
            raise
        return SideSocket(opened)


def _carried(first: bytes) -> ChannelKind:
    """What a connection carries, by its first bytes from the source."""
    if not first:
        return ChannelKind.PREEMPT  # one that had no work
    match channel_of(first):
        case None | ChannelKind.RETURN_PATH:  # of a source's: a main channel that begins badly
            return ChannelKind.MAIN
        case kind:
            return kind
