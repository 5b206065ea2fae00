"""What every request passes first, and what keeps strangers from using up the server.

The server trusts whoever may connect, as Toxiproxy does. A browser may connect for any page that
is open in it, so browsers are refused: by their name, by the `Origin` that they send with what a
page asks for, and by a `Host` that is not ours, which a page can have by rebinding its own name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from testbed.log import Log
from testbed.proxy.side import set_to_reset

from .answers import plain, refused
from .errors import ApiError, bad_body

BODY_BYTES_MAX = 1 << 20
HANDLE_S = 25.0
"""For a request's body and what it asks for; Toxiproxy has the same bound."""
IDLE_S = 60.0
"""For the head of a request to come, from the beginning or from the last answer on."""
STUCK_S = 30.0
"""For a client to read an answer that its buffers cannot hold."""
CONNECTIONS_MAX = 64
"""At one time; for one more the one that has been there longest makes room, so that those who only
hold a place, or send a head byte by byte, keep nobody out."""
REQUEST_ID = "X-Toxiproxy-Request-Id"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Middleware(Protocol):
    """As the library calls it."""

    def __call__(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]: ...


def answered(log: Log) -> _Middleware:
    """Every request has an answer in time, with an id if it has a route, and no traceback."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(HANDLE_S):
                response = await handler(request)
        except ApiError as error:
            response = refused(error)
        except TimeoutError:
            response = web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
        except web.HTTPException as error:
            response = _plain(error)
        except web.RequestPayloadError as error:
            response = refused(bad_body(f"it cannot be read: {' '.join(str(error).split())}"))
        except ConnectionError:  # the client has gone before its body was there: nobody hears it
            response = web.Response(status=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # noqa: BLE001 whoever asked must be told, and the rest go on
            log.write("control", "request-failed", path=request.path, error=repr(error))
            what = "internal error; the log of the server has it"
            response = refused(ApiError(what, HTTPStatus.INTERNAL_SERVER_ERROR))
        if request.match_info.http_exception is None:
            response.headers[REQUEST_ID] = secrets.token_hex(10)
        log.write(
            "control",
            "request",
            method=request.method,
            path=request.path,
            status=response.status,
        )
        return response

    return middleware


def _plain(error: web.HTTPException) -> web.StreamResponse:
    """What the library answers: no such path, another method, a body that is too large."""
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return plain("404 page not found\n", HTTPStatus.NOT_FOUND)
        case HTTPStatus.MOVED_PERMANENTLY:
            return web.Response(
                status=error.status, headers={"Location": error.headers["Location"]}
            )
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            words = f"bad request body: more than {BODY_BYTES_MAX} bytes"
            return refused(ApiError(words, HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return web.Response(status=error.status, headers={"Allow": error.headers["Allow"]})
        case status:
            return web.Response(status=status)


def no_browsers(hosts: Iterable[str] | None) -> _Middleware:
    """Refuse what a web page could have asked for.

    Args:
        hosts: names that the server may be called by, besides addresses and localhost; None: any,
            for a socket that no browser can reach.
    """
    known = None if hosts is None else {host.lower() for host in hosts}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("User-Agent", "").startswith("Mozilla/"):
            return _forbidden("User agent not allowed")
        if "Origin" in request.headers:
            return _forbidden("Origin not allowed: no web page may use this")
        if known is not None and not is_ours(request.headers.get("Host", ""), known):
            host = request.headers.get("Host", "")
            return _forbidden(f"Host not allowed: {host[:100]!r}; use an address, or localhost")
        return await handler(request)

    return middleware


async def unnamed(_request: web.Request, response: web.StreamResponse) -> None:
    """Say nothing of what the server is made with, which aiohttp would."""
    response.headers.pop("Server", None)


def library_logger(log: Log) -> logging.Logger:
    """For aiohttp: what it cannot make sense of is an event, and no traceback on a terminal."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = repr(record.exc_info[1]) if record.exc_info else None
            log.write("control", "library-failed", what=record.getMessage(), error=error)

    logger = logging.Logger(__name__, logging.WARNING)  # of no tree, so nobody else hears of it
    logger.addHandler(Told())
    return logger


def _forbidden(words: str) -> web.Response:
    return plain(f"{words}\n", HTTPStatus.FORBIDDEN)


def is_ours(host: str, known: Iterable[str]) -> bool:
    """True for a `Host` by which no stranger's name can lead here."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost") or name in known
    return True


class Doorkeeper:
    """Makes the protocols of accepted connections; `CONNECTIONS_MAX` of them at one time."""

    def __init__(self, server: web.Server, log: Log) -> None:
        self.log = log
        self._server = server
        self._open: dict[_Kept, None] = {}  # in the order in which they came

    def __call__(self) -> asyncio.Protocol:
        """For the event loop: the protocol of a connection that came."""
        return _Kept(self, self._server())

    def came(self, kept: _Kept) -> None:
        """A connection is there."""
        while len(self._open) >= CONNECTIONS_MAX:
            eldest = next(iter(self._open))
            del self._open[eldest]
            eldest.end()
        self._open[kept] = None

    def went(self, kept: _Kept) -> None:
        """It is gone."""
        self._open.pop(kept, None)


class _Kept(asyncio.Protocol):
    """Passes all on to the library's protocol; ends what is too much, or stuck."""

    def __init__(self, keeper: Doorkeeper, inner: asyncio.Protocol) -> None:
        self._keeper = keeper
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._keeper.came(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()
        if self._transport is not None and self._stuck is None:
            loop = asyncio.get_running_loop()
            self._stuck = loop.call_later(STUCK_S, self._give_up)

    def resume_writing(self) -> None:
        self._forget()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._keeper.went(self)
        self._transport = None
        self._inner.connection_lost(exc)

    def end(self) -> None:
        """Reset the connection: a mere close would leave what is unread with the kernel."""
        if self._transport is not None:
            set_to_reset(self._transport.get_extra_info("socket"))
            self._transport.abort()

    def _give_up(self) -> None:
        self._keeper.log.write("control", "client-stuck", within_s=STUCK_S)
        self.end()

    def _forget(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
