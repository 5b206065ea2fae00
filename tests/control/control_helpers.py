"""A control server on loopback, something to proxy to, and sockets to look through."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from testbed.control import Control, serve
from testbed.log import Log
from testbed.proxy.address import parse_address

WITHIN_S = 10
RESET = struct.pack("ii", 1, 0)


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        import json

        return json.loads(self.text)


@dataclass
class Served:
    """A control server that runs, and its client."""

    control: Control
    log: Log
    session: aiohttp.ClientSession
    stack: AsyncExitStack
    echo: Echo = field(default_factory=lambda: Echo())

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Ask, with a body of JSON; or of bytes as they are."""
        given = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.session.request(
            method, path, **({} if body is None else given), **more
        ) as response:
            return Answer(response.status, response.headers, await response.text())

    async def proxy(self, name: str = "one", **more: Any) -> Answer:
        """A proxy to the echo server."""
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": self.echo.address, **more}
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
        listen = (await self.call("GET", f"/proxies/{name}")).json["listen"]
        return await self.connect(listen)

    async def connect(self, address: str) -> Peer:
        """A connection to an address."""
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(host, int(port))
        self.stack.callback(writer.transport.abort)
        return Peer(reader, writer)


@dataclass
class Peer:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(WITHIN_S):
            await self.writer.drain()

    async def some(self) -> bytes:
        """What comes next; empty at FIN; ConnectionResetError at RST."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read(1 << 16)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """All until FIN."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read()

    async def is_reset(self) -> bool:
        """True if RST comes next; false for bytes, or FIN."""
        try:
            await self.some()
        except ConnectionResetError:
            return True
        return False

    def finish(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        opened = self.writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


class Echo:
    """A server that sends back what comes; with `greeting`, it speaks first."""

    def __init__(self) -> None:
        self.address = ""
        self.greeting = b""
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def peer(self) -> Peer:
        """The next connection that came, not to be echoed any more."""
        async with asyncio.timeout(WITHIN_S):
            return await self.peers.get()


@asynccontextmanager
async def echoing(echo: Echo, *, answers: bool = True) -> AsyncIterator[Echo]:
    """An echo server until the block ends; without `answers` its peers are for the test to use."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not answers:
                peer = Peer(reader, writer)
                echo.peers.put_nowait(peer)
                await asyncio.get_running_loop().create_future()
            writer.write(echo.greeting)
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve_one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    echo.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield echo
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def served(
    address: str = "127.0.0.1:0",
    *,
    answers: bool = True,
    hosts: Sequence[str] = (),
    seed: int | None = 1,
) -> AsyncIterator[Served]:
    """A control server, and an echo server for its proxies."""
    log = Log()
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(
            serve(parse_address(address), log, seed=seed, hosts=hosts)
        )
        if address.startswith("unix:"):
            connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
            session = aiohttp.ClientSession("http://localhost", connector=connector)
        else:
            session = aiohttp.ClientSession(f"http://{control.address}")
        await stack.enter_async_context(session)
        async with AsyncExitStack() as peers:
            echo = Echo()
            await peers.enter_async_context(echoing(echo, answers=answers))
            yield Served(control, log, session, peers, echo)
