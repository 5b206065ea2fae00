"""Verdicts from logs that were written by hand."""

from typing import Any

import pytest
from judge_helpers import (
    EXITED,
    KILLED,
    MAC,
    PAUSED,
    RUNS,
    SILENT,
    STOPPED,
    Run,
    completed,
)

from testbed.log import Event, Log
from testbed.scenario.judge import attempts, both_running_s, early_frames

FAILED = {"run_state": "postmigrate", "status": "failed"}

ENDS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("the destination runs", STOPPED, RUNS, "completed"),
    ("a destination that stays paused has it", STOPPED, {"status": "completed"}, "completed"),
    ("the source has gone since", EXITED, RUNS, "completed"),
    ("the source runs on", RUNS, EXITED, "failed-clean"),
    ("the source runs on, the other is there", RUNS, {"run_state": "inmigrate"}, "failed-clean"),
    ("both paused", PAUSED, PAUSED, "paused-recoverable"),
    ("both paused, no page missed yet", PAUSED, {**PAUSED, **RUNS}, "paused-recoverable"),
    ("a source that knows no pause", FAILED, {**PAUSED, **RUNS}, "guest-lost"),
    ("a destination that knows no pause", PAUSED, EXITED, "guest-lost"),
    ("a pause whose source has gone", EXITED, {**PAUSED, **RUNS}, "source-lost"),
    ("the source is gone", EXITED, {"run_state": "inmigrate"}, "source-lost"),
    ("both are gone", EXITED, EXITED, "source-lost"),
    ("both run", RUNS, RUNS, "split-brain"),
    ("nobody runs", STOPPED, {"run_state": "inmigrate"}, "guest-lost"),
    ("stopped source, no destination", STOPPED, EXITED, "guest-lost"),
    ("a source that a signal ended", KILLED, RUNS, "crash"),
    ("a destination that a signal ended", RUNS, KILLED, "crash"),
    ("the source does not answer", SILENT, EXITED, "unknown"),
    ("the destination does not answer", STOPPED, SILENT, "unknown"),
]


@pytest.mark.parametrize(
    ("source", "destination", "verdict"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS]
)
def test_the_verdict_is_what_both_sides_came_to(
    source: dict[str, Any], destination: dict[str, Any], verdict: str
) -> None:
    run = Run().begin().end(source, destination)
    assert verdicts(run) == [verdict]


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


# Invariants.


def test_one_guest_at_a_time_is_no_time_for_both() -> None:
    run = Run().at(1).event("source", "STOP").at(2).event("destination", "RESUME").at(9)
    assert both_running_s(run.write("run", "run-ended").log) == 0


def test_the_time_of_both_is_counted() -> None:
    run = Run().at(0).write("source", "process-started")
    run.at(2).event("destination", "RESUME").at(2.5).event("source", "STOP")
    run.at(4).event("source", "RESUME").at(5).event("destination", "STOP")
    assert both_running_s(run.log) == pytest.approx(1.5)


def test_both_to_the_end_of_the_log_are_counted_to_its_end() -> None:
    run = Run().at(2).event("destination", "RESUME").at(5).write("run", "run-ended")
    assert both_running_s(run.log) == pytest.approx(3)


def test_the_time_of_both_ends_where_the_attempt_was_looked_at() -> None:
    run = Run().begin().at(1).event("source", "STOP").at(2).event("destination", "RESUME")
    run.at(3).write("run", "attempt-ended", attempt=1).at(4).event("source", "RESUME")
    run.at(5).write("destination", "process-ended", status=-9, asked=True)
    assert both_running_s(run.log) == 0
    run.begin().at(6).event("destination", "RESUME").at(7).event("source", "STOP")
    assert both_running_s(run.log) == pytest.approx(1), "the next attempt counts again"


def test_both_that_run_at_the_end_of_an_attempt_are_counted() -> None:
    run = Run().begin().at(2).event("destination", "RESUME")
    run.at(5).write("run", "attempt-ended", attempt=1).at(9).write("run", "run-ended")
    assert both_running_s(run.log) == pytest.approx(3)


def test_the_end_of_a_process_is_the_end_of_its_guest() -> None:
    run = Run().at(1).write("source", "process-ended", status=0, asked=False)
    assert both_running_s(run.at(2).event("destination", "RESUME").at(9).log) == 0


def test_frames_of_the_guest_from_the_destination_are_early_before_the_source_stops() -> None:
    run = Run().at(1).frame("destination").frame("source").frame("destination", "52:54:00:00:00:99")
    run.at(2).event("source", "STOP").at(3).frame("destination")
    assert [event.at_s for event in early_frames(run.log, MAC)] == [1]


def test_frames_from_the_destination_are_early_if_the_source_never_stopped() -> None:
    assert len(early_frames(Run().at(1).frame("destination").log, MAC)) == 1


def verdicts(run: Run) -> list[str]:
    return [attempt.verdict for attempt in attempts(run.log)]
