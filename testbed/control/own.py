"""A proxy that the API made: it runs while it is enabled."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from testbed.fault.engine import FaultEngine
from testbed.log import Event, Log
from testbed.proxy import Proxy
from testbed.proxy.address import UNIX, Address, parse_address
from testbed.proxy.connection import Connection

from . import errors
from .hosted import Hosted
from .proxied import Proxied

Came = Callable[[Connection], None]
Opens = Callable[[Address, Address, FaultEngine, Log, Came], AbstractAsyncContextManager[Proxy]]
"""Starts a proxy: where it listens and goes on to, its engine, its log, its `on_connection`."""


class OwnProxied(Proxied):
    """One that the API made: it runs while it is enabled.

    Args:
        group: whose tasks run it.
        log: where its events go, with its name.
        opens: starts it.
    """

    def __init__(
        self,
        name: str,
        listen: str,
        upstream: str,
        *,
        seed: int,
        group: asyncio.TaskGroup,
        log: Log,
        opens: Opens,
    ) -> None:
        super().__init__(name, listen, upstream, seed=seed)
        self._group = group
        self._opens = opens
        self._hosted: Hosted[Proxy] | None = None
        self._events = Log(keeps=False)
        self._log = log
        self._events.listen(self._event)

    @property
    def enabled(self) -> bool:
        """It listens."""
        return self._hosted is not None

    async def start(self) -> None:
        """Run it."""
        if self._hosted is not None:
            return
        opened = self._opens(
            parse_address(self.listen),
            parse_address(self.upstream),
            self._engine(),
            self._events,
            self._came,
        )
        try:
            self._hosted, self._proxy = await Hosted.enter(self._group, opened)
        except OSError as error:
            raise errors.failed(_not_listening(self.listen, error)) from error
        self.listen = str(self._proxy.address)

    async def stop(self) -> None:
        """End it."""
        hosted, self._hosted, self._proxy = self._hosted, None, None
        if hosted is not None:
            await hosted.leave()

    async def move(self, listen: str, upstream: str) -> None:
        """End it, and have other addresses."""
        await self.stop()
        self.listen = self.asked = listen
        self.upstream = upstream

    async def close(self) -> None:
        """End it."""
        await self.stop()

    async def release(self) -> None:
        """End it."""
        await self.stop()

    def _event(self, event: Event) -> None:
        """Count an event, and pass it on with the proxy's name."""
        self._log.write(event.actor, event.kind, **{"proxy": self.name, **event.facts})
        super()._event(event)


def _not_listening(address: str, error: OSError) -> str:
    """Why, in Toxiproxy's words, which clients may look for."""
    network = "unix" if address.startswith(UNIX) else "tcp"
    if isinstance(error, socket.gaierror) or not error.errno:
        return f"listen {network}: {address}: {error}"
    return f"listen {network} {address}: bind: {os.strerror(error.errno).lower()}"
