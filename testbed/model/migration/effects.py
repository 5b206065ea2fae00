"""What a migration has to tell and to have done, whichever side it is on: values, no actions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """`MigrationStatus` of QAPI, as far as 7.2 has it and the model can be in it."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    POSTCOPY_RECOVER = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Say:
    """A line on stderr, without the program's name."""

    line: str


@dataclass(frozen=True, slots=True)
class Trace:
    """An event of QEMU's tracing, by its name, and its arguments as the backend `log` has them."""

    event: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Became:
    """Another status of the migration."""

    status: Status


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection, both directions; a paused migration waits for another one."""


@dataclass(frozen=True, slots=True)
class GuestMayRun:
    """The machine is loaded: announce it, and start the guest if it is to run."""


@dataclass(frozen=True, slots=True)
class StopGuest:
    """Stop the guest: what it has now is what goes over."""


@dataclass(frozen=True, slots=True)
class ResumeGuest:
    """The migration did not come to its end: the guest goes on here, if it ran before."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The process ends with that status; a negative one is the signal that ends it."""

    status: int


Effect = Say | Trace | Became | Send | HangUp | GuestMayRun | StopGuest | ResumeGuest | Exit
