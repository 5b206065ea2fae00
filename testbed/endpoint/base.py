"""What a migration endpoint is to the rest of the testbed: a process with a QMP socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

LETS_GO_WITHIN_S = 5.0
ASKED_EVERY_S = 0.01
YANK_SINCE = (6, 0, 0)


class EndpointError(Exception):
    """An endpoint could not be started or driven: it is not there, ended early, lacks something.

    `message` says what happened, `advice` what to do about it, `command` is the command line,
    `stderr` what it said; as a string it is all of them, a line each.
    """

    def __init__(
        self, message: str, *, command: str = "", stderr: str = "", advice: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.command, self.stderr, self.advice = message, command, stderr, advice

    def __str__(self) -> str:
        lines = [self.message]
        if self.command:
            lines.append(f"  command: {self.command}")
        lines += [f"  it said: {line}" for line in self.stderr.splitlines()]
        if self.advice:
            lines.append(f"  {self.advice}")
        return "\n".join(lines)


class ScenarioRefused(EndpointError):
    """The endpoint does not know something that it was to have: a device, a capability, a property.

    No other machine would help: whoever asked for it has to ask for something else. `capabilities`
    are those that it does not have.
    """

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        stderr: str = "",
        advice: str = "",
        capabilities: Iterable[str] = (),
    ) -> None:
        super().__init__(message, command=command, stderr=stderr, advice=advice)
        self.capabilities = frozenset(capabilities)


class QmpRefused(Exception):
    """The endpoint answered a QMP command with an error; `error_class` and `desc` are its own."""

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        super().__init__(f"{command}: {desc}")
        self.command, self.error_class, self.desc = command, error_class, desc


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The machine of one side, as its command line needs it."""

    machine: str = "pc"
    memory_bytes: int = 64 << 20
    cpus: int = 1
    accelerator: str = "auto"  # "auto", "kvm", "tcg"
    devices: tuple[str, ...] = ()  # further -device arguments
    arguments: tuple[str, ...] = ()  # further arguments, verbatim
    mac: str = "52:54:00:12:34:56"
    nic: str = "virtio-net-pci"
    paused: bool = False  # -S


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """`query-migrate`, cut to what verdicts need; `raw` is the whole answer."""

    status: str | None
    error_desc: str | None
    raw: Mapping[str, Any] = field(default_factory=dict)


class Endpoint(Protocol):
    """One side of a migration, already started and answering QMP; ends when its block is left.

    What has a body here is the same for every endpoint: a QMP command by its name.
    """

    side: str  # "source" or "destination": its actor in the log
    version: tuple[int, int, int]

    @property
    def exit_status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""

    async def command(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        within_s: float = 10.0,
    ) -> Any:
        """Execute a QMP command and return what it returned.

        Args:
            name: the command, such as `query-status`.
            arguments: its arguments, JSON.
            oob: execute it out of band: the only way to a QEMU whose main loop waits.
            within_s: seconds to wait for the answer. An answer that comes later is dropped.

        Raises:
            QmpRefused: it answered with an error.
            EndpointError: it did not answer in time, or ended.
        """

    async def wait_for_exit(self, within_s: float) -> int:
        """Return `exit_status` once the process has ended and all that it said is in the log.

        Raises:
            WaitExpired: it still runs after `within_s` seconds.
        """

    def save_again(self) -> AsyncIterator[bytes]:
        """Stop the guest and save the machine anew; the stream that it writes, in chunks.

        How memory and device state are looked at from outside. The machine is of no further use
        for a migration afterwards: its capabilities are off and its guest is stopped.

        Raises:
            QmpRefused: it cannot save: a migration is under way or paused, nothing was loaded yet,
                or (`postmigrate`) it has given its guest away.
            EndpointError: it fell silent, ended, or did not save the machine to its end.
        """

    async def migration_status(self) -> MigrationStatus:
        """`query-migrate`; its status is None where there was no migration yet."""
        raw = await self.command("query-migrate")
        return MigrationStatus(raw.get("status"), raw.get("error-desc"), raw)

    async def run_state(self) -> str:
        """`query-status`: `running`, `paused`, `postmigrate`, `inmigrate`, ..."""
        state: str = (await self.command("query-status"))["status"]
        return state

    async def migrate(self, uri: str, *, resume: bool = False) -> None:
        """Begin a migration to `uri`; `resume` goes on with one that is `postcopy-paused`."""
        await self.command("migrate", {"uri": uri} | ({"resume": True} if resume else {}))

    async def migrate_incoming(self, uri: str) -> None:
        """Listen at `uri` for a migration; the endpoint was started as incoming."""
        await self.command("migrate-incoming", {"uri": uri})

    async def start_postcopy(self) -> None:
        """Switch the migration under way to postcopy."""
        await self.command("migrate-start-postcopy")

    async def pause(self) -> None:
        """Pause a postcopy migration, as a lost link does; out of band."""
        await self.command("migrate-pause", oob=True)

    async def migrate_recover(self, uri: str) -> None:
        """Listen at `uri` for the source of a `postcopy-paused` migration; out of band."""
        await self.command("migrate-recover", {"uri": uri}, oob=True)

    async def let_go(self) -> None:
        """Wait until a migration that has ended holds nothing that a new one needs.

        QEMU since 6.0 says `completed` or `failed` a moment before it gives up the migration's
        yank instance, and refuses another migration with `duplicate yank instance` until then. No
        event tells, so it is asked. Whoever waits in vain is told by what follows.
        """
        if self.version < YANK_SINCE:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LETS_GO_WITHIN_S):
                while {"type": "migration"} in await self.command("query-yank"):  # noqa: ASYNC110
                    await asyncio.sleep(ASKED_EVERY_S)

    async def cancel(self) -> None:
        """Cancel the migration under way."""
        await self.command("migrate_cancel")
