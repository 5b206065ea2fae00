"""Verdicts from logs that were written by hand."""

from typing import Any

import pytest
from judge_helpers import (
    EXITED,
    KILLED,
    PAUSED,
    RUNS,
    STOPPED,
    Run,
    completed,
)

from testbed.log import Event, Log
from testbed.scenario.judge import Attempt, SideState, attempts

FAILED = {"run_state": "postmigrate", "status": "failed"}
ACTIVE = {"run_state": "finish-migrate", "status": "active", "stopped": True}

# What two sides can be, and what it comes to. Each cell was decided on purpose, by the order of
# precedence in `judge.py`. `waits`: the side was not at rest when its bound was over.
SOURCES: dict[str, dict[str, Any]] = {
    "runs, failed": {"run_state": "running", "status": "failed", "alive": True},
    "runs, cancelled": {"run_state": "running", "status": "cancelled", "alive": True},
    "runs, refused to migrate": {"run_state": "running", "alive": True},
    "runs, guest dead": {"run_state": "running", "status": "failed", "alive": False},
    "runs, active": {"run_state": "running", "status": "active", "alive": True, "waits": True},
    "stopped, completed": {"run_state": "postmigrate", "status": "completed", "stopped": True},
    "stopped, failed": {"run_state": "postmigrate", "status": "failed", "stopped": True},
    "stopped, active": {**ACTIVE, "waits": True},
    "postcopy-active": {**ACTIVE, "status": "postcopy-active", "waits": True},
    "postcopy-paused": {**ACTIVE, "status": "postcopy-paused"},
    "exited": {"exit_status": 1, "stopped": True},
    "ended by a signal": {"exit_status": -11},
    "ended by our signal": {"exit_status": -9, "signals": frozenset({9}), "stopped": True},
    "silent": {"silent": True},
}
ARRIVED = {"run_state": "running", "status": "completed", "ran": True}
DESTINATIONS: dict[str, dict[str, Any]] = {
    "runs, completed": {**ARRIVED, "alive": True},
    "guest dead, completed": {**ARRIVED, "alive": False},
    "not looked at, completed": {**ARRIVED, "alive": None},
    "-S, completed": {"run_state": "paused", "status": "completed", "starts_paused": True},
    "stopped, completed": {"run_state": "paused", "status": "completed"},
    "io-error, completed": {"run_state": "io-error", "status": "completed", "ran": True},
    "runs, postcopy-active": {**ARRIVED, "status": "postcopy-active", "waits": True},
    "runs, postcopy-paused": {**ARRIVED, "status": "postcopy-paused"},
    "postcopy-paused": {"run_state": "inmigrate", "status": "postcopy-paused"},
    "listens": {"run_state": "inmigrate"},
    "inmigrate, active": {"run_state": "inmigrate", "status": "active", "waits": True},
    "inmigrate, failed": {"run_state": "inmigrate", "status": "failed"},
    "exited": {"exit_status": 1, "statuses": ("active", "failed")},
    "exited, had run": {"exit_status": 0, "statuses": ("completed",), "ran": True},
    "ended by a signal": {"exit_status": -11},
    "ended by our signal": {"exit_status": -9, "signals": frozenset({9})},
    "ended by our signal, had run": {
        "exit_status": -9,
        "signals": frozenset({9}),
        "statuses": ("completed",),
        "ran": True,
    },
    "silent": {"silent": True},
}
LETTERS = {
    "C": "completed",
    "F": "failed-clean",
    "P": "paused-recoverable",
    "S": "source-lost",
    "B": "split-brain",
    "G": "guest-lost",
    "H": "hang",
    "X": "crash",
    "?": "unknown",
}
# A row for each source, a letter for each destination.
TABLE = """
B B B B B B B B H F H F F B X F B ?
B B B B B B B B H F H F F B X F B ?
B B B B B B B B H F H F F B X F B ?
B B B B B B B B G G H G G B X G B ?
B B B B B B B B H H H H H B X H B ?
C G ? C G G H G G G H G G X X G G ?
C G ? C G G H G G G H G G X X G G ?
H H H H H H H H H H H H H H X H H ?
H H H H H H H H H H H H H H X H H ?
C G ? C G G H P P G H G G X X G G ?
C G ? C G G H S S S H S S X X S G ?
X X X X X X X X X X X X X X X X X X
C G ? C G G H S S S H S S X X S G ?
? ? ? ? ? ? ? ? ? ? ? ? ? ? X ? ? ?
"""


@pytest.mark.parametrize(
    ("source", "destination", "verdict"),
    [
        pytest.param(source, destination, LETTERS[letter], id=f"{source}-{destination}")
        for source, row in zip(SOURCES, TABLE.strip().splitlines(), strict=True)
        for destination, letter in zip(DESTINATIONS, row.split(), strict=True)
    ],
)
def test_the_verdict_is_what_both_sides_came_to(
    source: str, destination: str, verdict: str
) -> None:
    sides, hung = [], []
    for side, facts in (("source", SOURCES[source]), ("destination", DESTINATIONS[destination])):
        sides.append(SideState(side, **{k: v for k, v in facts.items() if k != "waits"}))
        hung += [side] * bool(facts.get("waits"))
    assert Attempt(1, *sides, tuple(hung)).verdict == verdict


def test_a_destination_that_ends_after_it_arrived_is_lost_or_has_crashed() -> None:
    ended = {"exit_status": 1}
    for fault, verdict in ((False, "crash"), (True, "guest-lost")):
        run = Run().begin().says("destination", "completed").event("destination", "RESUME")
        if fault:
            run.write("proxy", "fault-struck", fault="cut", sentence="")
        assert verdicts(run.end(STOPPED, ended)) == [verdict]


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"status": 0}, "crash"),
        ({"signal": "SIGSEGV"}, "crash"),
        ({"signal": "signal 34"}, "crash"),
    ],
)
def test_a_side_that_ends_after_it_was_observed_has_ended(
    facts: dict[str, Any], verdict: str
) -> None:
    run = completed().write("destination", "process-ended", **facts, asked=False)
    assert verdicts(run) == [verdict]


def test_what_the_testbed_ends_has_not_crashed() -> None:
    run = completed().write("destination", "process-ended", status=0, asked=True)
    assert verdicts(run) == ["completed"]
    run = completed().write("run", "teardown-began")
    assert verdicts(run.write("source", "process-ended", status=1, asked=False)) == ["completed"]


def test_a_side_that_was_not_at_rest_hangs() -> None:
    run = Run().begin().write("run", "not-at-rest", awaited=["the source"], within_s=10.0)
    assert verdicts(run.end({**RUNS, "status": "active"}, EXITED)) == ["hang"]


@pytest.mark.parametrize(
    ("stops", "starts_paused", "verdict"),
    [(True, False, "guest-lost"), (True, True, "completed"), (False, False, "completed")],
    ids=["it ran at the source", "-S at the destination", "it did not run at the source"],
)
def test_a_guest_that_arrives_stopped_was_told_to_be(
    stops: bool, starts_paused: bool, verdict: str
) -> None:
    run = Run().begin()
    if stops:
        run.event("source", "STOP")
    run.says("source", "completed").says("destination", "completed")
    arrived = {"run_state": "paused", "status": "completed", "starts_paused": starts_paused}
    assert verdicts(run.end(STOPPED, arrived)) == [verdict]


def test_a_guest_that_nobody_looked_at_is_unknown() -> None:
    assert verdicts(Run().begin().end({**RUNS, "alive": None}, EXITED)) == ["unknown"]
    assert verdicts(Run().begin().end(STOPPED, {**RUNS, "alive": None})) == ["unknown"]


@pytest.mark.parametrize(
    ("side", "source", "destination", "verdict"),
    [
        ("destination", RUNS, KILLED, "failed-clean"),
        ("destination", PAUSED, KILLED, "guest-lost"),
        ("source", KILLED, {"run_state": "inmigrate"}, "source-lost"),
        ("source", KILLED, {**PAUSED, **RUNS}, "source-lost"),
        ("source", RUNS, KILLED, "crash"),
    ],
)
def test_who_is_killed_by_a_fault_has_not_crashed(
    side: str, source: dict[str, Any], destination: dict[str, Any], verdict: str
) -> None:
    run = Run().begin().write("proxy", "signal-sent", side=side, signal="KILL")
    assert verdicts(run.end(source, destination)) == [verdict]


def test_a_signal_that_ends_nobody_excuses_no_crash() -> None:
    run = Run().begin().write("proxy", "signal-sent", side="destination", signal="STOP")
    assert verdicts(run.end(RUNS, KILLED)) == ["crash"]


def test_a_wait_in_vain_is_a_hang_unless_it_was_provided_for() -> None:
    for provided_for, verdict in ((False, "hang"), (True, "guest-lost")):
        run = Run().begin()
        facts = {"what": "an end", "within_s": 9, "provided_for": provided_for}
        run.write("run", "wait-expired", **facts)
        assert verdicts(run.end(STOPPED, {"run_state": "inmigrate"})) == [verdict]


def test_two_running_guests_are_worse_than_a_hang() -> None:
    run = Run().begin().write("run", "wait-expired", what="an end", within_s=9)
    assert verdicts(run.end(RUNS, RUNS)) == ["split-brain"]


def test_a_postcopy_that_was_paused_has_recovered() -> None:
    run = Run().begin().says("destination", "active", "postcopy-paused", "completed")
    assert verdicts(run.end(STOPPED, RUNS)) == ["recovered"]


def test_a_destination_that_has_only_events_tells_its_status_by_them() -> None:
    """`query-migrate` of a destination before 2.12 says nothing."""
    run = Run().begin().says("destination", "active", "completed")
    assert verdicts(run.end(STOPPED, {"run_state": "paused"})) == ["completed"]


def test_a_guest_that_arrived_changed_is_corrupt() -> None:
    assert verdicts(completed().memory(intact=False)) == ["corrupt"]
    assert verdicts(completed().devices("cpu: env.eip")) == ["corrupt"]
    assert verdicts(completed().memory(intact=True).memory(intact=False)) == ["corrupt"]
    assert verdicts(completed().memory(intact=True).devices()) == ["completed"]


def test_a_guest_that_did_not_arrive_is_not_corrupt() -> None:
    run = Run().begin().end(RUNS, EXITED).memory(intact=False)
    assert verdicts(run) == ["failed-clean"]


def test_each_attempt_counts_what_was_said_in_it() -> None:
    run = Run().begin().says("source", "active", "failed")
    run.write("destination", "stderr", line="qemu: no", text="no").end(RUNS, EXITED)
    run.begin().says("source", "setup", "completed").end(STOPPED, RUNS).memory(intact=True)
    first, second = attempts(run.log)
    assert (first.verdict, second.verdict) == ("failed-clean", "completed")
    assert first.source.statuses == ("active", "failed")
    assert first.destination.stderr == ("no",)
    assert first.destination.version == (10, 0, 13)
    assert second.source.statuses == ("setup", "completed")
    assert second.destination.stderr == ()
    assert (first.intact, second.intact) == (None, True)


def test_an_attempt_that_never_ended_is_none() -> None:
    assert attempts(Run().begin().says("source", "active").log) == []


def test_sides_that_nobody_looked_at_are_unknown() -> None:
    assert verdicts(Run().begin().write("run", "attempt-ended", attempt=1)) == ["unknown"]


def test_a_stored_log_is_judged_as_the_run_was() -> None:
    run = completed().memory(intact=False)
    stored = Log.of(Event.from_json(event.to_json()) for event in run.log)
    assert attempts(stored) == attempts(run.log)


def verdicts(run: Run) -> list[str]:
    return [attempt.verdict for attempt in attempts(run.log)]
