"""What a migration endpoint is to the rest of the testbed: a process with a QMP socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class EndpointError(Exception):
    """An endpoint could not be started or driven: it is not there, ended early, lacks something.

    `command` is the command line, `stderr` what it said.
    """

    def __init__(self, message: str, *, command: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.command, self.stderr = command, stderr


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
    """One side of a migration, already started and answering QMP; ends when its block is left."""

    side: str  # "source" or "destination": its actor in the log
    version: tuple[int, int, int]
    exit_status: int | None  # negative: the signal that ended it; None: runs

    async def command(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        within_s: float = 10.0,
    ) -> Any:
        """Execute a QMP command and return what it returned.

        Raises:
            QmpRefused: it answered with an error.
            EndpointError: it did not answer in time, or ended.
        """

    async def migration_status(self) -> MigrationStatus:
        """`query-migrate`."""

    async def run_state(self) -> str:
        """`query-status`: `running`, `paused`, `postmigrate`, `inmigrate`, ..."""

    def save_again(self) -> AsyncIterator[bytes]:
        """Stop the guest and save the machine anew; the stream that it writes.

        How memory and device state are looked at from outside. The machine is of no further use
        for a migration afterwards.
        """
