"""The control server itself: where it listens, and what keeps it safe."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from aiohttp import web

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault
from testbed.log import Log
from testbed.proxy import Proxy
from testbed.proxy.address import HERE, Address, TcpAddress, of_socket, resolve
from testbed.proxy.listener import bound
from testbed.proxy.proxy import CONNECTIONS_MAX as CONNECTIONS_EACH_MAX
from testbed.tasks import owner

from .adopted import AdoptedProxied
from .api import Api
from .collection import PROXIES_MAX, Collection
from .guard import (
    BODY_BYTES_MAX,
    IDLE_S,
    Doorkeeper,
    answered,
    library_logger,
    no_browsers,
    unnamed,
)
from .own import Came

SEED_MAX = 2**32
BACKLOG = 64
LINGER_S = 5.0
"""For the rest of a body that nobody wants, so that its sender comes to read the answer."""
SHUTDOWN_S = 1.0
"""For requests under way, at the end."""
FILES_EACH = 4
"""Descriptors of a connection: both of its sockets, and two pipes to splice it with."""
FILES_KEPT = 640
"""Descriptors that are not for the proxies that the API makes: those of the command's own proxies
(as many as they may have connections, two each), of files, and of the control server."""
SILENT_AFTER_S = 0.25
"""A client that says nothing for so long waits for the server: a source of a migration never does.

A bare connection harms a destination that waits (`testbed/proxy/admission.py`), so one that comes
and goes at once, as those do that only look if somebody listens, is not passed on.
"""


class ControlError(Exception):
    """The control server cannot be started so: what is wrong, and what to do."""


class Control:
    """A control server that runs; made by `serve`.

    `address` is where it listens, `seed` what everything random in its proxies comes from.
    """

    def __init__(self, address: Address, seed: int, log: Log, collection: Collection) -> None:
        self.address = address
        self.seed = seed
        self._log = log
        self._collection = collection

    def adopt(self, name: str, proxy: Proxy, *, faults: tuple[Fault, ...] = ()) -> None:
        """Have a proxy that somebody else runs, so that its toxics can be set over HTTP.

        It can be disabled and enabled, and its upstream changed; it cannot be deleted. It writes to
        the log of the control server, as the actor `proxy`.

        Args:
            name: for the API; no other proxy may have it.
            proxy: that runs, until the control server has ended or longer.
            faults: those of its engine, which will be part of any engine that it gets.
        """
        self._collection.add(
            AdoptedProxied(name, proxy, seed=self.seed, log=self._log, faults=faults)
        )


@asynccontextmanager
async def serve(
    address: Address,
    log: Log,
    *,
    seed: int | None = None,
    public: bool = False,
    hosts: Iterable[str] = (),
) -> AsyncIterator[Control]:
    """Serve Toxiproxy's API until the block ends; its proxies end with it.

    Args:
        address: where; port 0 is any free one. A unix socket is for its owner alone.
        log: where requests, and all that the proxies see, go.
        seed: of toxicity, jitter, slices and chance; None: any. It is in the log either way.
        public: allow an address that other hosts can reach.
        hosts: names by which clients call it, besides addresses, localhost and `address`.

    Raises:
        ControlError: the address is public, and `public` is not set.
        OSError: the address cannot be listened on.
    """
    seed = random.randrange(SEED_MAX) if seed is None else seed  # noqa: S311
    opened, remove = await _listen(address, public=public)
    with opened:
        listens_at = of_socket(opened)
        try:
            async with owner() as group:
                most = _connections_max()

                def may_take() -> bool:
                    return collection.connections < most

                collection = Collection(group, log, seed, partial(_opens, may_take))
                try:
                    async with _answering(opened, collection, log, _known(address, hosts)):
                        # Whoever reads this may come at once.
                        log.write("control", "control-started", address=str(listens_at), seed=seed)
                        yield Control(listens_at, seed, log, collection)
                finally:
                    await collection.end()
        finally:
            remove()


def _connections_max() -> int:
    """How many connections the proxies that the API makes may have together."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return PROXIES_MAX * CONNECTIONS_EACH_MAX
    return max((soft - FILES_KEPT) // FILES_EACH, 1)


def _opens(
    may_take: Callable[[], bool],
    listen: Address,
    upstream: Address,
    engine: FaultEngine,
    log: Log,
    came: Came,
) -> AbstractAsyncContextManager[Proxy]:
    return Proxy.start(
        listen=listen,
        upstream=upstream,
        engine=engine,
        log=log,
        on_connection=came,
        finds_attempts=True,
        silent_after_s=SILENT_AFTER_S,
        isolates=True,
        may_take=may_take,
    )


@asynccontextmanager
async def _answering(
    opened: socket.socket, collection: Collection, log: Log, hosts: Iterable[str] | None
) -> AsyncIterator[None]:
    app = web.Application(
        middlewares=[
            answered(log),
            no_browsers(hosts),
            # For clients whose address of the server ends in a slash.
            web.normalize_path_middleware(
                append_slash=False, redirect_class=web.HTTPMovedPermanently
            ),
        ],
        client_max_size=BODY_BYTES_MAX,
    )
    app.on_response_prepare.append(unnamed)
    app.add_routes(Api(collection).routes())
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=library_logger(log),
        keepalive_timeout=IDLE_S,
        lingering_time=LINGER_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Doorkeeper(runner.server, log), sock=opened, backlog=BACKLOG, start_serving=True
        )
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _listen(address: Address, *, public: bool) -> tuple[socket.socket, Callable[[], None]]:
    family, place = (await resolve(address, listen=True))[0]
    if not (public or isinstance(place, str) or ipaddress.ip_address(place[0] or "::").is_loopback):
        raise ControlError(
            f"{address}: other hosts can reach the control server there, and it trusts whoever "
            "does: use 127.0.0.1 or unix:PATH, or say that it shall be public"
        )
    opened, remove = bound(HERE, family, place)
    if isinstance(place, str):
        try:
            os.chmod(place, 0o600)  # before anybody can connect: it does not listen yet
        except BaseException:
            opened.close()
            remove()
            raise
    return opened, remove


def _known(address: Address, hosts: Iterable[str]) -> Iterable[str] | None:
    """The names that a request may call the server by; None: any."""
    if not isinstance(address, TcpAddress):
        return None
    return {host for host in (address.host, socket.gethostname(), *hosts) if host}
