"""A proxy on loopback with a real socket at each end of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault
from testbed.log import Event, Log
from testbed.proxy import Proxy
from testbed.proxy.address import TcpAddress

LOOPBACK = "127.0.0.1"
WITHIN_S = 10
QUIET_S = 0.3
"""So long nothing has to happen, where it must not happen at all."""


class Peer:
    """One end of a connection: a plain socket."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        self.socket = opened
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self._loop.sock_sendall(self.socket, data)

    async def receive(self, size: int = 1 << 16) -> bytes:
        """What comes next; empty at EOF; ConnectionResetError at RST."""
        async with asyncio.timeout(WITHIN_S):
            return await self._loop.sock_recv(self.socket, size)

    async def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (more := await self.receive(min(size - len(data), 1 << 20))):
            data += more
        return bytes(data)

    async def rest(self) -> bytes:
        """All until EOF."""
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    async def is_reset(self) -> bool:
        """True if what comes next is RST."""
        try:
            await self.receive()
        except ConnectionResetError:
            return True
        return False

    async def hears_nothing(self) -> bool:
        """True if neither bytes nor an end come for `QUIET_S`."""
        try:
            async with asyncio.timeout(QUIET_S):
                await self._loop.sock_recv(self.socket, 1)
        except TimeoutError:
            return True
        return False

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass
class Rig:
    """The proxy, and where a source connects to and a destination listens."""

    proxy: Proxy
    engine: FaultEngine
    log: Log
    listen: tuple[str, int]
    listener: socket.socket
    stack: AsyncExitStack

    async def source(self, address: tuple[str, int] | None = None) -> Peer:
        """A new connection to the proxy, or to another one at `address`."""
        opened = self.stack.enter_context(socket.socket())
        peer = Peer(opened)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.get_running_loop().sock_connect(opened, address or self.listen)
        return peer

    async def destination(self) -> Peer:
        """The next connection that the proxy opened onward."""
        async with asyncio.timeout(WITHIN_S):
            accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return Peer(self.stack.enter_context(accepted))

    async def pair(self, first: bytes) -> tuple[Peer, Peer]:
        """Both ends of a connection that has carried `first`."""
        source = await self.source()
        await source.send(first)
        destination = await self.destination()
        assert await destination.exactly(len(first)) == first
        return source, destination

    def nothing_arrived(self) -> bool:
        """True if no connection waits at the destination."""
        try:
            accepted, _ = self.listener.accept()
        except BlockingIOError:
            return True
        accepted.close()
        return False

    async def logged(self, kind: str, **facts: object) -> Event:
        return await self.log.wait(
            lambda e: e.kind == kind and facts.items() <= dict(e.facts).items(),
            what=kind,
            within_s=WITHIN_S,
        )


@asynccontextmanager
async def proxied(
    *faults: Fault, engine: FaultEngine | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """A proxy between a port for the source and a listening destination.

    `options` are those of `Proxy.start`.
    """
    engine, log = engine or FaultEngine(faults), Log()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        listener.setblocking(False)
        listen = (LOOPBACK, free_port())
        proxy = await stack.enter_async_context(
            Proxy.start(
                namespace=socket,
                listen=TcpAddress(*listen),
                upstream=TcpAddress(*listener.getsockname()),
                engine=engine,
                log=log,
                **options,
            )
        )
        yield Rig(proxy, engine, log, listen, listener, stack)


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
