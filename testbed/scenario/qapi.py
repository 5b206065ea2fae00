"""QEMU's own words that a scenario may use, so that a misspelt one is found before a run.

Source: QEMU `qapi/migration.json` (MigrationStatus) and `qapi/run-state.json` (RunState), all that
any version from 5.2 to 11.1 has. Capabilities and parameters are left to QEMU, which refuses those
that it lacks: they differ too much by version.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from .model import matching, one_of

MIGRATION_STATUSES = (
    "none",
    "setup",
    "active",
    "device",
    "pre-switchover",
    "wait-unplug",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "colo",
    "cancelling",
    "cancelled",
    "completed",
    "failing",
    "failed",
)
RUN_STATES = (
    "running",
    "paused",
    "prelaunch",
    "preconfig",
    "inmigrate",
    "finish-migrate",
    "postmigrate",
    "save-vm",
    "restore-vm",
    "shutdown",
    "suspended",
    "debug",
    "io-error",
    "internal-error",
    "watchdog",
    "guest-panicked",
    "colo",
)
NO_RUN_STATE = ("ended", "silent")
"""What stands for a run state where a side has none: its process ended, or QMP did not answer."""

MigrationStatus = Annotated[str, AfterValidator(one_of(MIGRATION_STATUSES, "migration status"))]
RunState = Annotated[str, AfterValidator(one_of((*RUN_STATES, *NO_RUN_STATE), "run state"))]
EventName = Annotated[
    str, AfterValidator(matching(r"[A-Z][A-Z0-9_]*", "an event of QMP's such as STOP"))
]
Hyphened = Annotated[
    str, AfterValidator(matching(r"[a-z0-9]+(-[a-z0-9]+)*", "a name of QEMU's such as return-path"))
]
