"""A QMP monitor on sockets: one client at a time, the next waits. The shell around `Session`.

asyncio, one thread: handlers are called, and events emitted, in the loop's.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .commands import Commands, Version
from .descriptors import Descriptors, receive
from .error import CommandError
from .session import Call, Session

READ_BYTES = 4096
"""Read at once. Each byte of garbage can cost ninety of answer, and the loop is to go on."""

OUTPUT_BYTES_HIGH = 1 << 20
"""A client that leaves so much unread gets nothing executed until it reads. QEMU has no such bound,
and grows."""

EVENT_BYTES_MAX = 16 << 20
"""A client that leaves so much of events unread counts as gone: nothing else bounds them."""


class Monitor:
    """A QMP monitor.

    Args:
        commands: what it executes; those for descriptors are added.
        version: told in the greeting.
        is_running: whether the guest runs; sets of descriptors outlive the client if it does not.
        clock: nanoseconds since the epoch, for events.
        descriptors: that clients have passed, to this monitor or another one of the process.
    """

    def __init__(
        self,
        commands: Commands,
        version: Version,
        *,
        is_running: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = time.time_ns,
        descriptors: Descriptors | None = None,
    ) -> None:
        self._is_running = is_running
        self._commands = commands
        self._version = version
        self._clock = clock
        self._client: _Client | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._in_band_free = True
        self._ended = False
        self.descriptors = descriptors or Descriptors()
        self.descriptors.add_to(commands)

    async def listen(self, listener: socket.socket) -> None:
        """Serve the clients of `listener`, which does not block, one after the other; never ends.

        Cancelled: the client is disconnected, what is being executed is cancelled.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                connected, _ = await loop.sock_accept(listener)
                await self._serve(connected)

    async def serve(self, connected: socket.socket) -> None:
        """Serve one client until it has gone, and what it asked for is done. Closes the socket."""
        async with asyncio.TaskGroup() as self._tasks:
            await self._serve(connected)

    def emit(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Tell the client, if there is one, of an event of this moment.

        No event of a migration, or of run states, is held back: QEMU limits the rate of seven
        others (`monitor_qapi_event_conf`).
        """
        if self._client is not None:
            self._client.tell(name, data, self._clock() // 1000)

    def end(self) -> None:
        """Execute no more commands: the process is about to end."""
        self._ended = True

    async def _serve(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        client = _Client(connected, Session(self._commands, self._version), self)
        self._client = client
        try:
            await client.run()
        finally:
            self._client = None
            self.descriptors.receive(())
            if self._is_running():
                self.descriptors.sets.close()
            client.close()

    def execute(self, client: _Client) -> None:
        """Execute what the client asks for, until it has to wait."""
        while not self._ended and len(client.session.output) < OUTPUT_BYTES_HIGH:
            call = client.session.next_call(in_band=self._in_band_free)
            if call is None:
                return
            try:
                result = call.command.handler(call.arguments)
            except CommandError as error:
                result = error
            if inspect.isawaitable(result):
                assert not call.oob, call.command.name
                assert self._tasks is not None
                self._in_band_free = False
                self._tasks.create_task(self._finish(call, client, result))
            else:
                client.session.answer(call, result)

    async def _finish(self, call: Call, client: _Client, result: Awaitable[Any]) -> None:
        try:
            answer = await result
        except CommandError as error:
            answer = error
        self._in_band_free = True
        client.session.answer(call, answer)  # if it has gone, nobody reads it
        if self._client is not None:
            self._client.wake()


class _Client:
    """A connection: moves bytes between the socket and its session."""

    def __init__(self, connected: socket.socket, session: Session, monitor: Monitor) -> None:
        self.session = session
        self._socket = connected
        self._monitor = monitor
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._gone = self._reading = self._writing = False
        self._event_bytes = 0  # since all had been sent

    async def run(self) -> None:
        """Serve it until it has gone."""
        while True:
            if self._has_room and self.session.wants_input:
                self._receive()
            while not self._gone:
                self._monitor.execute(self)
                held_back = not self._has_room
                self.send()
                if not (held_back and self._has_room):
                    break
            if self._gone:
                return
            self._watch()
            await self._ready.wait()
            self._ready.clear()

    def wake(self) -> None:
        """Have `run` look at everything anew."""
        self._ready.set()

    def tell(self, name: str, data: dict[str, Any] | None, time_us: int) -> None:
        """Tell it of an event."""
        before = len(self.session.output)
        self.session.event(name, data, time_us)
        self._event_bytes += len(self.session.output) - before
        self.send()
        self.wake()

    def send(self) -> None:
        """Send as much as the socket takes."""
        output = self.session.output
        try:
            while output:
                del output[: self._socket.send(output)]
            self._event_bytes = 0
        except BlockingIOError:
            self._gone = self._gone or self._event_bytes > EVENT_BYTES_MAX
        except OSError:
            self._gone = True

    def close(self) -> None:
        """Close the connection."""
        self._gone = True
        self._watch()
        self._socket.close()

    @property
    def _has_room(self) -> bool:
        return len(self.session.output) < OUTPUT_BYTES_HIGH

    def _receive(self) -> None:
        try:
            if self._socket.family == socket.AF_UNIX:
                data, fds = receive(self._socket, READ_BYTES)
                if fds:
                    self._monitor.descriptors.receive(fds)
            else:
                data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._gone = self._gone or not data
        self.session.receive(data)

    def _watch(self) -> None:
        """Have the loop wake `run` when the socket can do what is wanted of it."""
        reading = not self._gone and self._has_room and self.session.wants_input
        writing = not self._gone and bool(self.session.output)
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._socket, self.wake)
            else:
                self._loop.remove_reader(self._socket)
        if writing != self._writing:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._socket, self.wake)
            else:
                self._loop.remove_writer(self._socket)
