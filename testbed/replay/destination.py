"""The destination of a replay: an address where one waits, or a QEMU that is started for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from testbed.endpoint.base import ASKED_EVERY_S, EndpointError, QmpRefused
from testbed.endpoint.qemu import Qemu
from testbed.log import Event, Log, WaitExpired
from testbed.proxy.address import Address, TcpAddress

from .verdict import Process

LOOPBACK = "127.0.0.1"
LISTENS_ATTEMPTS = 5
"""A port that is free is another's a moment later, seldom."""
ENDS_WITHIN_S = 2.0
"""After it said `failed`: it has little left to do."""
HINT_WITHIN_S = 1.0
"""A return path hints at a running guest soon after its package, or not at all."""
STDERR_LINES = 20
ACTOR = "destination"
SETTLED = frozenset({"completed", "failed", "cancelled"})


class Destination(Protocol):
    """Where a replay goes."""

    address: Address

    async def recovers(self) -> None:
        """Wait until it is ready for the connection of a recovery."""

    async def guest_runs(self, told: asyncio.Event) -> None:
        """Wait until the guest of a postcopy runs, or it cannot be known; `told` hints at it."""

    def is_settled(self, *, more_comes: bool) -> bool:
        """It has reacted. `more_comes`: connections are left that could recover it."""

    async def account(self) -> Process | None:
        """What it is in the end, by its own account."""


class Waiting:
    """Somebody's, of which only the sockets tell."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def recovers(self) -> None:
        """Whoever drives it has it ready; a connection that comes too early is refused."""

    async def guest_runs(self, told: asyncio.Event) -> None:
        """The return path is all that tells."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HINT_WITHIN_S):
                await told.wait()

    def is_settled(self, *, more_comes: bool) -> bool:  # noqa: ARG002
        """Its connections tell."""
        return False

    async def account(self) -> None:
        """It gives none."""


class Started:
    """A QEMU, or a model, that was started for the replay; made by `started`."""

    def __init__(self, qemu: Qemu, log: Log, *, within_s: float, paused: bool) -> None:
        self.address: Address = TcpAddress(LOOPBACK, 0)
        self._qemu = qemu
        self._log = log
        self._within_s = within_s
        self._paused = paused
        self._refused: str | None = None
        self._recoveries_since = 0  # the event in the log from which on the next pause may be

    @property
    def statuses(self) -> list[str]:
        """The migration statuses that it reported, in order."""
        return [event.facts["status"] for event in self._log.find("migration-status", ACTOR)]

    async def listen(self) -> None:
        """Have it listen for a migration.

        Raises:
            EndpointError: it refused, or ended.
        """
        await self._listen(self._qemu.migrate_incoming)

    async def recovers(self) -> None:
        """Wait until it is paused, and have it listen for a recovery.

        Raises:
            WaitExpired: it was not paused within the bound, or ended.
            EndpointError: it refused.
        """
        what = "the destination to be postcopy-paused"
        event = await self._log.wait(
            lambda event: _reports(event, "postcopy-paused") or event.kind == "process-ended",
            what=what,
            within_s=self._within_s,
            since=self._recoveries_since,
        )
        if event.kind == "process-ended":
            raise WaitExpired(what, self._within_s)
        self._recoveries_since = event.number + 1
        await self._listen(self._qemu.migrate_recover)

    async def _listen(self, command: Any) -> None:
        for attempt in range(1, LISTENS_ATTEMPTS + 1):
            port = _free_port()
            try:
                await command(f"tcp:{LOOPBACK}:{port}")
            except QmpRefused as error:
                if attempt == LISTENS_ATTEMPTS or "in use" not in error.desc:
                    raise EndpointError(f"the destination refused {error}") from error
            else:
                self.address = TcpAddress(LOOPBACK, port)
                return

    async def guest_runs(self, told: asyncio.Event) -> None:  # noqa: ARG002
        """Ask until RUN was executed: no event tells of a guest that is started paused."""
        await self._wait_active()
        with suppress(EndpointError, QmpRefused):
            while await self._qemu.run_state() == "inmigrate":  # noqa: ASYNC110
                await asyncio.sleep(ASKED_EVERY_S)

    async def run_guest(self) -> None:
        """Let its guest run as soon as it can: once a postcopy is active, or all has arrived."""
        if self._paused:
            return
        await self._wait_active()
        with suppress(EndpointError):  # its account tells
            await self._cont()

    async def _wait_active(self) -> None:
        """Wait until its guest may be started: a postcopy is active, or all has arrived."""
        ready = asyncio.Event()

        def look(event: Event) -> None:
            if _reports(event, "postcopy-active", "completed"):
                ready.set()

        for event in self._log:
            look(event)
        stop = self._log.listen(look)
        try:
            await ready.wait()
        finally:
            stop()

    async def _cont(self) -> None:
        try:
            await self._qemu.command("cont", within_s=self._within_s)
        except QmpRefused as error:
            self._refused = error.desc

    def is_settled(self, *, more_comes: bool) -> bool:
        """It ended, or its migration did, or it is paused and nothing recovers it."""
        if self._qemu.exit_status is not None:
            return True
        last = self.statuses[-1:]
        return last != [] and (
            last[0] in SETTLED or (last[0] == "postcopy-paused" and not more_comes)
        )

    async def account(self) -> Process:
        """Ask it what it is, once it has settled or hangs."""
        facts: dict[str, Any] = {}
        if self.statuses[-1:] == ["failed"]:
            with suppress(WaitExpired):
                await self._qemu.wait_for_exit(ENDS_WITHIN_S)
        elif self.statuses[-1:] == ["completed"] and not self._paused:
            with suppress(WaitExpired):
                await self._log.wait(
                    lambda event: (
                        (event.kind == "qmp-event" and event.facts["event"] == "RESUME")
                        or event.kind in ("process-ended", "qmp-error", "qmp-silent")
                    ),
                    what="its guest to run",
                    within_s=self._within_s,
                )
        try:  # also of one that has ended: then all that it reported has been read
            status = await self._qemu.migration_status()
            facts = {"status": status.status, "error_desc": status.error_desc}
            facts["run_state"] = await self._qemu.run_state()
        except EndpointError:
            facts["silent"] = self._qemu.exit_status is None
        except QmpRefused as error:
            facts["error_desc"] = str(error)
        opened = self._log.first("connection-opened")
        said = [
            event.facts["text"]
            for event in self._log.find("stderr", ACTOR)
            if opened is not None and event.number > opened.number
        ]
        return Process(
            ".".join(map(str, self._qemu.version)),
            **{"status": next(iter(self.statuses[-1:]), None), **_told(facts)},
            exit_status=self._qemu.exit_status,
            stderr=tuple(said[-STDERR_LINES:]),
            refused=self._refused,
        )


@asynccontextmanager
async def started(
    command: Sequence[str],
    log: Log,
    *,
    capabilities: Mapping[str, bool],
    parameters: Mapping[str, Any],
    within_s: float,
    paused: bool,
) -> AsyncIterator[Started]:
    """Start a destination and have it listen; killed when the block ends.

    Raises:
        EndpointError: it cannot be started, or lacks what the recording needs.
    """
    async with Qemu.start_given(ACTOR, command, log=log) as qemu:
        log.write(ACTOR, "destination-ready", version=list(qemu.version))
        await qemu.configure(capabilities, parameters)
        destination = Started(qemu, log, within_s=within_s, paused=paused)
        await destination.listen()
        yield destination


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    """Those that say something: a destination before 2.12 has no status."""
    return {name: value for name, value in facts.items() if value is not None}


def _reports(event: Event, *statuses: str) -> bool:
    return (
        event.kind == "migration-status"
        and event.actor == ACTOR
        and event.facts["status"] in statuses
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])
