"""A QMP session over a socket that is already connected; all that passes is logged.

The protocol itself is QEMU's own client library's business (`qemu.qmp`); this is its adapter to
the log, and bounds what it keeps.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, StateError

from testbed.log import Log

from .base import QmpRefused

# The library logs each lost connection as an error; who drives an endpoint has it as an exception.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())

EVENT_AGE_S_MAX = 10.0
"""Of an event whose time stamp is believed; the wall clock may be set meanwhile."""


class QmpSilent(Exception):
    """No answer came within the bound."""


class QmpEnded(Exception):
    """The session is over: the other end has closed it."""


class QmpSocket(socket.socket):
    """Our end of a QMP connection: what the other end said last is read, whatever is sent to it.

    asyncio ends a connection at the first write that fails, and throws away what is still to be
    read. A QEMU that gives up says so (`failed`) and exits: a query sent in that moment would cost
    that event. So what nobody can receive any more is dropped, and the end of the reading tells.
    """

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send as `socket.send` does; of a connection that is closed, all of it was sent."""
        try:
            return super().send(data, flags)
        except (BrokenPipeError, ConnectionResetError):
            return memoryview(data).nbytes

    def sendmsg(self, buffers: Iterable[Any], /, *others: Any) -> int:
        """Likewise: asyncio sends with it from Python 3.12 on, and descriptors go out by it."""
        given = list(buffers)
        try:
            return super().sendmsg(given, *others)
        except (BrokenPipeError, ConnectionResetError):
            return sum(memoryview(each).nbytes for each in given)


class QmpSession:
    """Commands out, answers and events in; every event is in the log the moment it is read.

    Writes `qmp-event` (event, data), `migration-status` (status) for MIGRATION events,
    `qmp-command` (command, arguments; queries are not logged), `qmp-error` (command, error_class,
    desc), `qmp-silent` (command, within_s).
    """

    def __init__(self, side: str, log: Log) -> None:
        self._side = side
        self._log = log
        self._client = QMPClient(side)
        # Told to refuse every event, the listener keeps neither a queue nor a history.
        self._client.events.event_filter = self._heard
        self.status_kind = "migration-status"

    async def connect(self, qmp: QmpSocket, within_s: float) -> tuple[int, int, int]:
        """Read the greeting, negotiate (out-of-band execution included); return QEMU's version.

        Args:
            qmp: our end of a connection, closed by `disconnect`.
            within_s: bound on all of it.

        Raises:
            QmpSilent: no greeting within the bound.
            QmpEnded: the other end closed, or is no QMP server.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._client.connect(qmp)
        except TimeoutError as error:
            raise QmpSilent from error
        except QMPError as error:
            raise QmpEnded from error
        assert self._client.greeting is not None
        version: Any = self._client.greeting.QMP.version["qemu"]
        return version["major"], version["minor"], version["micro"]

    async def execute(
        self, name: str, arguments: Mapping[str, Any] | None, *, oob: bool, within_s: float
    ) -> Any:
        """Execute a command and return what it returned.

        Raises:
            QmpRefused: it was answered with an error.
            QmpSilent: it was not answered within the bound.
            QmpEnded: the session ended before the answer.
        """
        if not name.startswith("query-"):
            oob_fact = {"oob": True} if oob else {}
            self._write("qmp-command", command=name, arguments=dict(arguments or {}), **oob_fact)
        try:
            async with asyncio.timeout(within_s):
                return await self._client.execute(name, arguments, oob=oob)
        except ExecuteError as error:
            refusal = error.error.error
            self._write("qmp-error", command=name, error_class=refusal.class_, desc=refusal.desc)
            raise QmpRefused(name, refusal.class_, refusal.desc) from error
        except TimeoutError as error:
            self._write("qmp-silent", command=name, within_s=within_s)
            raise QmpSilent from error
        except (ExecInterruptedError, StateError) as error:
            raise QmpEnded from error

    def send_descriptor(self, fd: int) -> None:
        """Hand over a descriptor that the next `getfd` gives a name.

        Raises:
            QmpEnded: the session is over.
        """
        try:
            self._client.send_fd_scm(fd)
        except (OSError, StateError) as error:
            raise QmpEnded from error

    async def disconnect(self) -> None:
        """Close the session; to be called when the other end is gone, so that nothing can wait."""
        # The library raises again here whatever ended the session.
        with suppress(EOFError, OSError, QMPError, asyncio.QueueFull):
            await self._client.disconnect()

    def _heard(self, message: Message) -> bool:
        data: Any = message.get("data", {})
        at_s = self._happened_at_s(message.get("timestamp", {}))
        if message["event"] == "MIGRATION":
            self._log.write(self._side, self.status_kind, at_s, **data)
        else:
            self._log.write(self._side, "qmp-event", at_s, event=message["event"], data=data)
        return False

    def _happened_at_s(self, timestamp: Any) -> float:
        """When QEMU says that an event happened, on the log's clock; never after now.

        We may read it some milliseconds later, after a frame that it caused has been captured.
        """
        now_s = self._log.now_s()
        stamped = timestamp.get("seconds", -1) + timestamp.get("microseconds", 0) / 1e6
        age_s = time.time() - stamped
        return now_s - age_s if 0 <= age_s <= EVENT_AGE_S_MAX else now_s

    def _write(self, kind: str, **facts: Any) -> None:
        self._log.write(self._side, kind, **facts)
