"""A control server on loopback, something to proxy to, and sockets to look through."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from proxy_helpers import Peer
from yarl import URL

from testbed.control import Control, serve
from testbed.log import Log
from testbed.proxy.address import parse_address

WITHIN_S = 10


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Served:
    """A control server that runs, its client, and a listening socket for its proxies."""

    control: Control
    log: Log
    session: aiohttp.ClientSession
    stack: AsyncExitStack
    listener: socket.socket
    tasks: asyncio.TaskGroup

    @property
    def upstream(self) -> str:
        return "{}:{}".format(*self.listener.getsockname())

    async def call(self, method: str, path: str | URL, body: Any = None, **more: Any) -> Answer:
        """Ask, with a body of JSON; or of bytes as they are."""
        given = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        async with self.session.request(
            method, path, **({} if body is None else given), **more
        ) as response:
            return Answer(response.status, response.headers, await response.text())

    async def proxy(self, name: str = "one", **more: Any) -> Answer:
        """A proxy to the listening socket."""
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": self.upstream, **more}
        answer = await self.call("POST", "/proxies", body)
        assert answer.status == 201, answer.text
        return answer

    async def toxic(self, kind: str, proxy: str = "one", **more: Any) -> Answer:
        """A toxic; attributes are those arguments that are no field of a toxic."""
        fields = {name: more.pop(name) for name in ("name", "stream", "toxicity") if name in more}
        body = {"type": kind, **fields, "attributes": more}
        answer = await self.call("POST", f"/proxies/{proxy}/toxics", body)
        assert answer.status == 200, answer.text
        return answer

    async def client(self, name: str = "one") -> Peer:
        """A connection to a proxy."""
        return await self.connect((await self.call("GET", f"/proxies/{name}")).json["listen"])

    async def connect(self, address: str) -> Peer:
        """A connection to an address."""
        host, _, port = address.rpartition(":")
        opened = self.stack.enter_context(socket.socket())
        peer = Peer(opened)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.get_running_loop().sock_connect(opened, (host, int(port)))
        return peer

    async def server(self) -> Peer:
        """The next connection that a proxy opened onward."""
        async with asyncio.timeout(WITHIN_S):
            accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return Peer(self.stack.enter_context(accepted))

    async def pair(self, name: str = "one") -> tuple[Peer, Peer]:
        """Both ends of a connection that has carried something upstream."""
        client = await self.client(name)
        await client.send(b"hello")
        server = await self.server()
        assert await server.exactly(5) == b"hello"
        return client, server


async def passes(client: Peer, server: Peer) -> bool:
    """True if bytes pass both ways."""
    await client.send(b"still")
    await server.send(b"there")
    return (await server.exactly(5), await client.exactly(5)) == (b"still", b"there")


@asynccontextmanager
async def served(
    address: str = "127.0.0.1:0",
    *,
    hosts: Sequence[str] = (),
    seed: int | None = 1,
    public: bool = False,
) -> AsyncIterator[Served]:
    """A control server, and a listening socket."""
    log = Log()
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(
            serve(parse_address(address), log, seed=seed, hosts=hosts, public=public)
        )
        if address.startswith("unix:"):
            connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
            session = aiohttp.ClientSession("http://localhost", connector=connector)
        else:
            session = aiohttp.ClientSession(f"http://{control.address}")
        await stack.enter_async_context(session)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        async with AsyncExitStack() as peers:
            yield Served(control, log, session, peers, listener, tasks)
