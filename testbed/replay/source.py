"""The source of a replay: opens the recorded connections, sends what was sent, hears the answers.

A connection ends in order (FIN) once all of it was sent, also one that was reset in the recording:
so every recorded byte arrives.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from testbed.log import Log
from testbed.proxy.side import how_it_ended
from testbed.wire import ChannelKind, ReturnPath
from testbed.wire.element import Message, MessageType, Opaque

from .order import Order
from .recording import Replayable, ReplayConnection, began_at_s
from .survey import Survey

READ_BYTES = 1 << 16
GATE_PATIENCE_S = 1.0
"""A connection waits for those before it, but not for ever: the destination may wait for it."""
REQUESTS = frozenset({MessageType.REQ_PAGES, MessageType.REQ_PAGES_ID})
GuestRuns = Callable[[asyncio.Event], Awaitable[None]]
"""Waits until a postcopy's guest runs, or nobody can know; the event: return path hints at it."""
WITH_VALUE = frozenset({MessageType.SHUT, MessageType.PONG, MessageType.RESUME_ACK})
MESSAGES_MAX = 200
"""That are logged; page requests are only counted."""
ACTOR = "source"

BEFORE_RUN = MessageType.PONG, 3
"""Of the PING before RUN, in each package. Source: QEMU `migration/migration.c`, 2.5 to 11.1."""

Connect = Callable[[ReplayConnection], Awaitable[socket.socket]]


class Sender:
    """One connection, from its opening to its end.

    Writes `connection-opened` (connection, channel, bytes), `sent-all` (connection, bytes),
    `message` (connection, message, offset, value), `destination-ended` (connection, how, sent,
    unacknowledged).
    """

    def __init__(
        self,
        connection: ReplayConnection,
        survey: Survey,
        log: Log,
        *,
        moved: Callable[[], None],
        guest_runs: GuestRuns,
        began_at: float | None,
    ) -> None:
        self.connection = connection
        self.order = Order(connection.size_bytes, survey, connection.read)
        self.sent = 0
        self.sent_all = False
        self.ended: str | None = None  # FIN or RST of the destination, or an error's name
        self.shut: int | None = None
        self.unacknowledged = 0
        self.opened_as = 0  # counted from 1 over all connections; 0: never opened
        self.progress = asyncio.Event()  # set when it has moved, and when it is over
        self.over = asyncio.Event()
        self._log = log
        self._moved = moved
        self._guest_runs = guest_runs
        self._guest_told = asyncio.Event()
        # Pages that are asked for meanwhile must be able to go ahead.
        self._is_held = survey.package_at is not None and not survey.large_pages
        self._began_at = began_at  # loop time of the recording's first byte; None: fast
        self._wakes = asyncio.Event()
        self._messages = 0
        self._loop = asyncio.get_running_loop()

    async def play(self, connect: Connect) -> None:
        """Open it, send all of it, hear the destination until that ends it.

        Raises:
            OSError: it cannot be opened.
            ReplayError: the recording cannot be read any further.
        """
        number = self.connection.number
        try:
            with await connect(self.connection) as opened:
                opened.setblocking(False)
                self._log.write(
                    ACTOR,
                    "connection-opened",
                    connection=number,
                    channel=self.connection.channel,
                    bytes=self.connection.size_bytes,
                )
                self._has_moved()
                async with asyncio.TaskGroup() as group:
                    holding = group.create_task(self._hold())
                    group.create_task(self._send(opened))
                    await self._hear(opened)
                    holding.cancel()
        finally:
            self.over.set()
            self.progress.set()

    async def _send(self, opened: socket.socket) -> None:
        try:
            while not self.order.is_over and self.ended in (None, "FIN"):
                self._wakes.clear()
                if self.order.awaits is not None:
                    await self._wakes.wait()
                    continue
                if not self.order.is_urgent:
                    if self._is_held and self.order.is_at_guest:
                        await self._wakes.wait()
                        continue
                    if not await self._is_due():
                        continue
                await self._send_step(opened)
                await asyncio.sleep(0)  # the destination may ask for a page
            if self.order.is_over:
                self.sent_all = True
                self._log.write(
                    ACTOR, "sent-all", connection=self.connection.number, bytes=self.sent
                )
                opened.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._end(how_it_ended(error), opened)

    async def _hold(self) -> None:
        """Hold what follows the package until the guest runs.

        A destination that finds the stream cut or damaged before that gives up; after it, it
        pauses. It reads on while it loads the package, so else either might come of it.
        """
        if self._is_held:
            await self._guest_runs(self._guest_told)
        self._is_held = False
        self._wakes.set()

    async def _send_step(self, opened: socket.socket) -> None:
        until = None
        if self._began_at is not None:
            until = self.connection.arrivals.together(self.order.position)
        data = memoryview(self.order.step(until))
        while data:
            try:
                done = opened.send(data)
            except BlockingIOError:
                await self._writable(opened)
                continue
            self.sent += done
            data = data[done:]
            self._has_moved()

    async def _writable(self, opened: socket.socket) -> None:
        """Wait until it takes more. `sock_sendall` would not tell how far it got."""
        waiter = self._loop.create_future()
        self._loop.add_writer(opened, _wake, waiter)
        try:
            await waiter
        finally:
            self._loop.remove_writer(opened)

    async def _is_due(self) -> bool:
        """True once the next bytes had come in the recording; false if something else has."""
        if not (wait := self.pause_s()):
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wakes.wait()
                return False
        return True

    def pause_s(self) -> float:
        """How long it is until the recording's times let its next bytes be sent."""
        when = self.connection.arrivals.when(self.order.position)
        if self._began_at is None or when is None or self.over.is_set():
            return 0.0
        return max(self._began_at + when - self._loop.time(), 0.0)

    async def _hear(self, opened: socket.socket) -> None:
        parser = ReturnPath()
        parser.has_bitmaps = self.connection.kind is ChannelKind.RECOVERY
        try:
            while data := await self._loop.sock_recv(opened, READ_BYTES):
                self._has_moved()
                for element in parser.feed(data):
                    if isinstance(element.value, Message):
                        self._heard(element.value, element.offset)
                    elif isinstance(element.value, Opaque):
                        self._note("opaque", offset=element.offset, why=element.value.why)
            self._end("FIN", opened)
        except OSError as error:
            self._end(how_it_ended(error), opened)

    def _heard(self, message: Message, offset: int) -> None:
        self.order.message(message)
        self._wakes.set()
        value = int.from_bytes(message.payload, "big")
        if message.type in REQUESTS or (message.type, value) == BEFORE_RUN:
            self._guest_told.set()
        if message.type == MessageType.SHUT:
            self.shut = value
        if message.type not in REQUESTS:
            facts: dict[str, Any] = {"message": message.name, "offset": offset}
            if message.type in WITH_VALUE:
                facts["value"] = value
            self._note("message", **facts)

    def _note(self, kind: str, **facts: Any) -> None:
        self._messages += 1
        if self._messages <= MESSAGES_MAX:
            self._log.write(ACTOR, kind, connection=self.connection.number, **facts)

    def _end(self, how: str, opened: socket.socket) -> None:
        """The destination ended it; told once, the first time."""
        if self.ended is None:
            self.unacknowledged = _unacknowledged(opened)
            self._log.write(
                ACTOR,
                "destination-ended",
                connection=self.connection.number,
                how=how,
                sent=self.sent,
                unacknowledged=self.unacknowledged,
            )
        self.ended = self.ended or how if how == "FIN" else how
        self._wakes.set()
        self._has_moved()

    def _has_moved(self) -> None:
        self._moved()
        self.progress.set()


class Source:
    """Plays all connections of a recording; `moved_at` is the loop time at which anything moved.

    Args:
        recording: what is replayed.
        surveys: of its connections.
        log: where it tells what happens.
        connect: opens a connection; of a recovery only once the destination is ready for it.
        guest_runs: is called for the main connection of a postcopy.
        as_recorded: with the recording's times, else as fast as the destination takes it.
    """

    def __init__(
        self,
        recording: Replayable,
        surveys: dict[int, Survey],
        log: Log,
        *,
        connect: Connect,
        guest_runs: GuestRuns,
        as_recorded: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect = connect
        self.moved_at = self._loop.time()
        began_at = self.moved_at - began_at_s(recording.connections) if as_recorded else None
        self.senders = [
            Sender(
                each,
                surveys[each.number],
                log,
                moved=self._moved,
                guest_runs=guest_runs,
                began_at=began_at,
            )
            for each in recording.connections
        ]

    async def play(self) -> None:
        """Play all of them until each is over.

        Raises:
            OSError: a connection cannot be opened.
            ReplayError: the recording cannot be read any further.
        """
        async with asyncio.TaskGroup() as group:
            for at, sender in enumerate(self.senders):
                await self._may_open(sender, self.senders[:at])
                sender.opened_as = at + 1
                opened = asyncio.Event()
                group.create_task(self._play(sender, opened))
                await opened.wait()  # a destination may tell connections by their order

    def pause_s(self) -> float:
        """How long it is, at most, until the recording's times let something more be sent."""
        return max((sender.pause_s() for sender in self.senders), default=0.0)

    async def _play(self, sender: Sender, opened: asyncio.Event) -> None:
        async def connect(connection: ReplayConnection) -> socket.socket:
            try:
                return await self._connect(connection)
            finally:
                opened.set()

        await sender.play(connect)

    async def _may_open(self, sender: Sender, earlier: list[Sender]) -> None:
        if sender.connection.kind is ChannelKind.RECOVERY:
            for each in earlier:
                await each.over.wait()
            return
        for each in earlier:
            await self._has_sent(each, sender.connection.opens_after.get(each.connection.number, 0))

    async def _has_sent(self, sender: Sender, count: int) -> None:
        while sender.sent < count and not sender.over.is_set():
            sender.progress.clear()
            try:
                async with asyncio.timeout(GATE_PATIENCE_S):
                    await sender.progress.wait()
            except TimeoutError:
                return

    def _moved(self) -> None:
        self.moved_at = self._loop.time()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _unacknowledged(opened: socket.socket) -> int:
    """Bytes that the peer's kernel has not taken yet; see `SIOCOUTQ` in tcp(7), unix(7)."""
    with suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)))[0])
    return 0
