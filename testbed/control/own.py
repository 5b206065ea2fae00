"""A proxy that the API made: it runs while it is enabled."""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from testbed.fault.engine import FaultEngine
from testbed.log import Event, Log
from testbed.proxy import Proxy
from testbed.proxy.address import HERE, UNIX, Address, TcpAddress, parse_address, resolve
from testbed.proxy.connection import Connection
from testbed.proxy.listener import bound

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
            self._hosted, self._proxy = await Hosted.enter(self._group, opened, self._broke)
        except OSError as error:
            raise errors.failed(_not_listening(self.listen, error)) from error
        self.listen = str(self._proxy.address)

    async def stop(self) -> None:
        """End it."""
        hosted, self._hosted, self._proxy = self._hosted, None, None
        if hosted is not None:
            await hosted.leave()

    async def change(self, listen: str, upstream: str, *, enabled: bool) -> None:
        """Have other addresses; what cannot be listened on is refused while it runs on.

        Where only the way on is another, it listens all the time, and what is open is reset.
        """
        if await self.is_at(listen, upstream):
            await (self.start() if enabled else self.stop())
            return
        listens_there = await self.listens_at(listen)
        if self._proxy is not None and enabled and listens_there:
            self._proxy.upstream = parse_address(upstream)
            self._proxy.abort()
            self.upstream = upstream
            return
        before, was_enabled = (self.listen, self.asked, self.upstream), self.enabled
        if enabled and was_enabled:
            await self._try_out(listen)
        await self.stop()
        self.listen = self.asked = listen
        self.upstream = upstream
        if not enabled:
            return
        try:
            await self.start()
        except BaseException:
            self.listen, self.asked, self.upstream = before
            if was_enabled:
                await self.restore()
            raise

    async def restore(self) -> None:
        """Start it where it was; if that cannot be any more, the log says so."""
        try:
            await self.start()
        except errors.ApiError as error:  # somebody else has its port now
            self._log.write("control", "proxy-not-restored", proxy=self.name, error=error.message)

    async def _try_out(self, listen: str) -> None:
        """Find out if it could listen there, while it still does elsewhere.

        Raises:
            ApiError: 500, it could not.
        """
        address, own = parse_address(listen), parse_address(self.listen)
        if isinstance(address, TcpAddress) and isinstance(own, TcpAddress):
            if address.port == own.port:
                return  # it may be in its own way
        try:
            (family, place), *_ = await resolve(address, listen=True)
            opened, remove = bound(HERE, family, place)
        except OSError as error:
            raise errors.failed(_not_listening(listen, error)) from error
        opened.close()
        remove()

    def _broke(self, error: Exception) -> None:
        """It has ended by an error of ours: the other proxies go on."""
        self._hosted = self._proxy = None
        self._log.write(
            "control",
            "proxy-broke",
            proxy=self.name,
            error=repr(error),
            traceback="".join(traceback.format_exception(error)),
        )

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
