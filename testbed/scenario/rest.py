"""Whether a side of a migration is at rest: it will not change again unless somebody acts on it.

A verdict is given only of two sides at rest. These are pure functions on what `query-migrate` and
`query-status` answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled", "postcopy-paused"})
"""Migration statuses that last until a command comes (QEMU `qapi/migration.json`, 5.2 to 11.1)."""
NOT_BEGUN = frozenset({None, "none", "setup"})
"""Of a destination that listens, and to which no byte of a stream has come."""
PASSING_RUN_STATES = {
    # The source writes `failed` or `cancelled` a moment before it starts its guest again
    # (migration/migration.c, migration_iteration_finish), and the destination `completed` a
    # moment before it starts the guest (process_incoming_migration_bh).
    ("source", "failed"): "finish-migrate",
    ("source", "cancelled"): "finish-migrate",
    ("source", "completed"): "finish-migrate",
    ("destination", "completed"): "inmigrate",
}
"""The run state in which a side with that status stays for some milliseconds only."""


def awaited(source: Mapping[str, Any], destination: Mapping[str, Any]) -> list[str]:
    """Say what the two sides still wait for; an empty list if both are at rest.

    Args:
        source: facts of an `observed` event: `exit_status`, `silent`, `status`, `run_state`. The
            status of a side whose QMP does not tell it is that of its last MIGRATION event.
        destination: likewise.
    """
    found = [_of_source(source), _of_destination(destination, source)]
    return [what for what in found if what is not None]


def _of_source(facts: Mapping[str, Any]) -> str | None:
    if facts.get("status") in (None, "none") and not facts.get("silent"):
        return None  # it refused `migrate`, and runs on
    return _of_side("source", facts)


def _of_destination(facts: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    waits = facts.get("exit_status") is None and not facts.get("silent")
    if waits and facts.get("status") in NOT_BEGUN:
        if source.get("status") in ("completed", "postcopy-paused"):
            return "the destination to load what the source has sent"
        return None  # it listens, as it did before
    return _of_side("destination", facts)


def _of_side(side: str, facts: Mapping[str, Any]) -> str | None:
    if facts.get("exit_status") is not None:
        return None
    if facts.get("silent"):
        return f"the {side} to answer QMP"
    status, run_state = facts.get("status"), facts.get("run_state")
    if status not in FINAL:
        return f"the {side}'s migration to end: it is {status} (run state {run_state})"
    if PASSING_RUN_STATES.get((side, str(status))) == run_state:
        return f"the {side}, whose migration is {status}, to leave run state {run_state}"
    return None
