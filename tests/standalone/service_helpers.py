"""A standalone proxy in this process, with a real socket at each end of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from proxy_helpers import LOOPBACK, WITHIN_S, Peer
from wire_helpers import precopy

from testbed.fault.plan import Fault
from testbed.log import Event, Log
from testbed.proxy.address import TcpAddress
from testbed.proxy.recording import FolderRecorder
from testbed.standalone.asked import Settings, Way
from testbed.standalone.service import Outcome, Service

STREAM = precopy()


class Destination:
    """A listening socket; what connects to it comes out of `next`."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        self.listener.setblocking(False)
        self.address = TcpAddress(*self.listener.getsockname())

    async def next(self) -> Peer:
        """The next connection that came onward."""
        async with asyncio.timeout(WITHIN_S):
            accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return Peer(self._stack.enter_context(accepted))


@dataclass
class Rig:
    """The running service, its log, and its ends."""

    service: Service
    log: Log
    destination: Destination
    storage: Destination
    addresses: dict[str, tuple[str, int]]
    running: asyncio.Task[Outcome]
    stack: AsyncExitStack

    async def source(self, who: str = "proxy") -> Peer:
        """A new connection to the proxy."""
        opened = self.stack.enter_context(socket.socket())
        peer = Peer(opened)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.get_running_loop().sock_connect(opened, self.addresses[who])
        return peer

    async def pair(self, first: bytes = STREAM[:4]) -> tuple[Peer, Peer]:
        """Both ends of a connection that has carried `first`."""
        source = await self.source()
        await source.send(first)
        destination = await self.destination.next()
        assert await destination.exactly(len(first)) == first
        return source, destination

    async def migrate(self, stream: bytes = STREAM) -> bytes:
        """Send a stream as a source does; what the destination got."""
        since = len(self.log)
        source = await self.source()
        await source.send(stream)
        source.finish()
        destination = await self.destination.next()
        got = await destination.rest()
        destination.finish()
        assert await source.rest() == b""
        await self.logged("connection-ended", since=since)
        return got

    async def logged(self, kind: str, *, since: int = 0, **facts: object) -> Event:
        return await self.log.wait(
            lambda event: event.kind == kind and facts.items() <= dict(event.facts).items(),
            what=f"{kind} {facts}",
            within_s=WITHIN_S,
            since=since,
        )

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(WITHIN_S):
            return await self.running


@asynccontextmanager
async def serving(
    *faults: Fault,
    once: bool = False,
    storage_faults: tuple[Fault, ...] = (),
    recorder: FolderRecorder | None = None,
    control: bool = False,
    unread: bool = False,
) -> AsyncIterator[Rig]:
    """A service that runs until the block ends, or until it is over."""
    log = Log()
    async with AsyncExitStack() as stack:
        destination, storage = Destination(stack), Destination(stack)
        anywhere = TcpAddress(LOOPBACK, 0)
        settings = Settings(
            Way(anywhere, destination.address, faults),
            Way(anywhere, storage.address, storage_faults),
            once=once,
            control=anywhere if control else None,
            unread=unread,
        )
        service = Service(settings, log, recorder)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        running = group.create_task(service.run())
        addresses = {}
        for who in ("proxy", "nbd"):
            event = await log.wait(
                lambda event, who=who: (event.kind, event.actor) == ("listening", who),
                what=f"{who} to listen",
                within_s=WITHIN_S,
            )
            host, _, port = event.facts["address"].rpartition(":")
            addresses[who] = host, int(port)
        try:
            yield Rig(service, log, destination, storage, addresses, running, stack)
        finally:
            for _ in range(2):
                service.stop()
