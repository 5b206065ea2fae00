"""What a run came to: the checks that its expectations were turned into, and their outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.log import Log

from .invariants import Invariant


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation held against the log. `passed` None: the log does not tell."""

    name: str
    passed: bool | None
    expected: str
    got: str
    where: str  # file:line:column


@dataclass(frozen=True, slots=True)
class Played:
    """What one side was: `model` with its profile, or `qemu`.

    `version` and `machine` (its `-M`) are None if it never started.
    """

    kind: str
    profile: str | None = None
    version: str | None = None
    machine: str | None = None

    def __str__(self) -> str:
        known = self.version or self.profile
        name = "model of QEMU" if self.kind == "model" else "QEMU"
        machine = f", machine {self.machine}" if self.machine else ""
        return f"{name} {known}{machine}" if known else name


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one scenario.

    `passed` is None where the testbed could not tell; `lacks` says what the environment lacks, if
    that is why nothing ran. `invariants` has all nine, or none if no attempt came to an end.
    `folder` has the run's files, if they are kept. `refused` says what of the scenario an endpoint
    does not know: it is the scenario that has to be changed.
    """

    name: str
    path: Path
    verdict: str
    checks: tuple[Check, ...]
    log: Log
    duration_s: float
    seed: int
    repeat_command: str
    source: Played
    destination: Played
    reason: str = ""
    lacks: str | None = None
    invariants: tuple[Invariant, ...] = ()
    folder: Path | None = None
    refused: str | None = None

    @property
    def passed(self) -> bool | None:
        """True if every check passed, None if one could not be made and none failed."""
        if self.verdict == "unknown" or self.lacks is not None:
            return None
        outcomes = [check.passed for check in self.checks]
        if False in outcomes:
            return False
        return None if None in outcomes else True

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)
