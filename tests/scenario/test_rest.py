"""Which sides are at rest: a table of every migration status, for each side."""

from typing import Any

import pytest

from testbed.scenario.qapi import MIGRATION_STATUSES
from testbed.scenario.rest import awaited

FAILED = {"status": "failed", "run_state": "running"}
ENDED = {"exit_status": 1}

# True: nothing more comes by itself.
REST: dict[str, tuple[bool, bool]] = {  # of a source, of a destination
    "none": (True, True),
    "setup": (False, True),
    "active": (False, False),
    "device": (False, False),
    "pre-switchover": (False, False),
    "wait-unplug": (False, False),
    "postcopy-device": (False, False),
    "postcopy-active": (False, False),
    "postcopy-paused": (True, True),
    "postcopy-recover-setup": (False, False),
    "postcopy-recover": (False, False),
    "colo": (False, False),
    "cancelling": (False, False),
    "cancelled": (True, True),
    "completed": (True, True),
    "failing": (False, False),
    "failed": (True, True),
}


def test_every_status_is_in_the_table() -> None:
    assert set(REST) == set(MIGRATION_STATUSES)


@pytest.mark.parametrize("status", REST)
def test_a_side_is_at_rest_in_statuses_that_last(status: str) -> None:
    source, destination = REST[status]
    facts = {"status": status, "run_state": "running"}
    assert (not awaited(facts, ENDED)) is source
    assert (not awaited(FAILED, facts)) is destination


@pytest.mark.parametrize(
    ("source", "destination", "what"),
    [
        ({"silent": True}, ENDED, "the source to answer QMP"),
        (FAILED, {"silent": True}, "the destination to answer QMP"),
        ({"status": "failed", "run_state": "finish-migrate"}, ENDED, "to leave run state"),
        (ENDED, {"status": "completed", "run_state": "inmigrate"}, "to leave run state"),
        (
            {"status": "completed", "run_state": "postmigrate"},
            {"status": "setup", "run_state": "inmigrate"},
            "the destination to load what the source has sent",
        ),
        ({"status": "active", "run_state": "running"}, ENDED, "the source's migration to end"),
    ],
)
def test_what_is_awaited_is_said(
    source: dict[str, Any], destination: dict[str, Any], what: str
) -> None:
    (said,) = awaited(source, destination)
    assert what in said


def test_two_ended_sides_are_at_rest() -> None:
    assert awaited(ENDED, ENDED) == []
