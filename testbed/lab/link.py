"""The way of the migration's connections: source, proxy, destination.

A run may lead them out of its own networks behind the proxy, through something outside that
leads them back in.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Side
from testbed.log import Log
from testbed.netns.doorway import Doorway
from testbed.netns.topology import DESTINATION_ADDRESS, PROXY_SOURCE_ADDRESS, Topology
from testbed.proxy import Proxy
from testbed.proxy.address import TcpAddress

MIGRATION_PORT = 4444
"""In namespaces of the run's own, so no other program can hold it."""


class WayOut(Protocol):
    """Where connections leave the run, and where they come back in."""

    @property
    def doorway(self) -> Doorway:
        """Connects to what they pass outside."""

    @property
    def listener(self) -> socket.socket:
        """Takes them back: a socket that was opened outside, and listens."""


class MigrationLink:
    """Made by `migration_link`; `uri` is what the source is told to migrate to."""

    uri = f"tcp:{PROXY_SOURCE_ADDRESS}:{MIGRATION_PORT}"

    def __init__(self, proxy: Proxy, last: Proxy) -> None:
        self.proxy = proxy
        self._last = last  # which connects to the destination

    def lead_to(self, port: int = MIGRATION_PORT) -> str:
        """Have connections to come go to that port of the destination; the URI to listen at."""
        self._last.upstream = TcpAddress(DESTINATION_ADDRESS, port)
        return f"tcp:{DESTINATION_ADDRESS}:{port}"


@asynccontextmanager
async def migration_link(
    net: Topology,
    engine: FaultEngine,
    log: Log,
    on_signal: Callable[[Side, str], str | None],
    out: WayOut | None = None,
) -> AsyncIterator[MigrationLink]:
    """Have the way until the block ends.

    Args:
        net: the run's networks.
        engine: strikes on the proxy between them.
        log: the run's.
        on_signal: sends a signal to an endpoint, or says why it would change nothing.
        out: where connections leave the run behind the proxy; None: they do not.

    Raises:
        OSError: the proxy's address cannot be listened on.
    """
    destination = TcpAddress(DESTINATION_ADDRESS, MIGRATION_PORT)
    async with AsyncExitStack() as stack:
        last: Proxy | None = None
        if out is not None:
            # Only the proxy itself writes to the log: what comes back in is the same connections.
            last = await stack.enter_async_context(
                Proxy.start(
                    namespace=net.proxy,
                    listen=out.listener,
                    upstream=destination,
                    engine=FaultEngine(),
                    log=Log(keeps=False),
                )
            )
        proxy = await stack.enter_async_context(
            Proxy.start(
                namespace=net.proxy,
                listen=TcpAddress(PROXY_SOURCE_ADDRESS, MIGRATION_PORT),
                upstream=destination,
                engine=engine,
                log=log,
                on_signal=on_signal,
                connect=None if out is None else out.doorway.connect,
            )
        )
        yield MigrationLink(proxy, last or proxy)
