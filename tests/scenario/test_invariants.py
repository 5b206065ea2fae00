"""The nine invariants, each on logs that hold it, violate it, or do not tell."""

from pathlib import Path
from typing import Any

import pytest
from judge_helpers import EXITED, MAC, RUNS, STOPPED, Run, check, completed, scenario

from testbed.scenario.expect import judge, watched
from testbed.scenario.invariants import both_running_s, early_frames, in_time


def both_s(run: Run) -> float:
    return sum(until - since for since, until in both_running_s(in_time(run.log)))


def states(run: Run, tmp_path: Path, expect: str = "verdict: completed") -> dict[int, str]:
    found = watched(scenario(tmp_path, expect), run.log)
    assert [each.number for each in found] == [*range(1, 10)]
    return {each.number: each.state for each in found}


def wrong(run: Run, tmp_path: Path) -> set[int]:
    found = states(run, tmp_path)
    return {number for number, state in found.items() if state == "violated"}


def test_a_clean_run_holds_them_all(tmp_path: Path) -> None:
    assert set(states(looked_at(), tmp_path).values()) == {"held"}


def looked_at(*, traced: bool = True, **facts: Any) -> Run:
    """A run that did what it is for, whose guest was found to be whole."""
    return completed(traced=traced).memory(intact=True, **facts).devices()


def test_memory_that_nobody_looked_at_is_not_watched(tmp_path: Path) -> None:
    assert states(completed(), tmp_path)[8] == "not watched"
    assert wrong(completed().memory(intact=False), tmp_path) == {8}


def test_what_was_not_compared_is_not_watched(tmp_path: Path) -> None:
    unwatched = looked_at(others_unwatched="no list of blocks passed")
    assert eighth(unwatched, tmp_path) == (
        "not watched",
        "attempt 1: pages beside the working set: no list of blocks passed",
    )
    assert eighth(looked_at(others_unknown=7), tmp_path) == (
        "not watched",
        "attempt 1: pages beside the working set: 7 came packed, or as a difference, and were not "
        "read",
    )
    unlooked = completed().memory(intact=True)
    unlooked.write("run", "unchecked", what="device_state", why="the stream is encrypted")
    assert eighth(unlooked, tmp_path) == (
        "not watched",
        "attempt 1: device state: the stream is encrypted",
    )
    state, why = eighth(looked_at(traced=False), tmp_path)
    assert state == "not watched"
    assert why.startswith("attempt 1: the sections that were loaded: the destination: it tells of")


def eighth(run: Run, tmp_path: Path) -> tuple[str, str]:
    found = watched(scenario(tmp_path, "verdict: completed"), run.log)[7]
    return found.state, found.detail


def test_one_guest_at_a_time_is_no_time_for_both() -> None:
    run = Run().at(1).event("source", "STOP").at(2).event("destination", "RESUME").at(9)
    assert both_s(run.write("run", "run-ended")) == 0


def test_the_time_of_both_is_counted() -> None:
    run = Run().at(0).write("source", "process-started")
    run.at(2).event("destination", "RESUME").at(2.5).event("source", "STOP")
    run.at(4).event("source", "RESUME").at(5).event("destination", "STOP")
    assert both_s(run) == pytest.approx(1.5)


def test_events_count_by_their_own_times_and_not_in_the_order_in_which_they_were_read() -> None:
    run = Run()
    run.log.write("destination", "qmp-event", 2.0, event="RESUME", data={})
    run.log.write("source", "qmp-event", 1.9, event="STOP", data={})
    assert both_s(run) == 0
    run.log.write("source", "qmp-event", 3.5, event="RESUME", data={})
    run.log.write("destination", "qmp-event", 4.0, event="STOP", data={})
    assert both_s(run) == pytest.approx(0.5), "an overlap read the wrong way round hides no other"


def test_the_end_of_an_attempt_ends_no_watching() -> None:
    run = Run().begin().at(1).event("source", "STOP").at(2).event("destination", "RESUME")
    run.at(3).write("run", "attempt-ended", attempt=1).at(4).event("source", "RESUME")
    run.at(5).write("run", "teardown-began").at(6).write("run", "run-ended")
    assert both_s(run) == 0, "the teardown does"
    run = Run().begin().at(1).event("source", "STOP").at(2).event("destination", "RESUME")
    run.at(3).write("run", "attempt-ended", attempt=1).at(4).event("source", "RESUME")
    assert both_s(run.at(5).write("run", "run-ended")) == pytest.approx(1)


def test_the_end_of_a_process_is_the_end_of_its_guest() -> None:
    run = Run().at(1).write("source", "process-ended", status=0, asked=False)
    assert both_s(run.at(2).event("destination", "RESUME").at(9)) == 0
    run = Run().event("source", "STOP").at(1).event("destination", "RESUME").at(2)
    run.write("proxy", "signal-sent", side="destination", signal="KILL")
    run.at(3).event("source", "RESUME").at(4).write("run", "run-ended")
    assert both_s(run) == 0, "a killed process runs no more, whenever its end is read"


def test_frames_of_the_guest_from_the_destination_are_early_before_the_source_stops() -> None:
    run = Run().at(1).frame("destination").frame("source").frame("destination", "52:54:00:00:00:99")
    run.at(2).event("source", "STOP").at(3).frame("destination")
    assert [event.at_s for event in early_frames(in_time(run.log), MAC)] == [1]


def test_frames_from_the_destination_are_early_if_the_source_never_stopped() -> None:
    assert len(early_frames(in_time(Run().at(1).frame("destination").log), MAC)) == 1


def test_frames_are_early_in_a_second_attempt_too() -> None:
    run = Run().at(1).event("source", "STOP").at(2).event("source", "RESUME").begin()
    run.at(3).frame("destination")
    assert [event.at_s for event in early_frames(in_time(run.log), MAC)] == [3]


@pytest.mark.parametrize(
    ("events", "violated"),
    [
        ([("source", "RESUME")], False),
        ([("destination", "RESUME"), ("source", "RESUME")], True),
        ([("source", "RESUME"), ("destination", "RESUME")], False),
    ],
)
def test_a_source_that_resumes_after_the_destination_ran(
    events: list[tuple[str, str]], violated: bool, tmp_path: Path
) -> None:
    run = Run().begin().at(1).event("source", "STOP")
    for number, (side, name) in enumerate(events):
        run.at(2 + number).event(side, name)
    assert (4 in wrong(run.end({**RUNS, "status": "failed"}, EXITED), tmp_path)) is violated


ENDED = {"status": 1, "asked": False}


@pytest.mark.parametrize(
    ("what", "violated"),
    [
        (lambda run: run.write("destination", "process-ended", **ENDED), False),
        (lambda run: run.write("source", "process-ended", **ENDED), True),
        (
            lambda run: run.event("destination", "RESUME").write(
                "destination", "process-ended", **ENDED
            ),
            True,
        ),
        (
            lambda run: run.says("destination", "completed").write(
                "source", "process-ended", **ENDED
            ),
            False,
        ),
        (
            lambda run: run.write("source", "process-ended", **ENDED).says(
                "destination", "completed"
            ),
            False,
        ),
        (
            lambda run: run.event("destination", "RESUME").write(
                "destination", "process-ended", status=0, asked=True
            ),
            False,
        ),
        (
            lambda run: (
                run.event("destination", "RESUME")
                .event("destination", "SHUTDOWN")
                .write("destination", "process-ended", status=0, asked=True)
            ),
            False,
        ),
        (
            lambda run: (
                run.event("destination", "RESUME")
                .event("destination", "SHUTDOWN")
                .write("destination", "process-ended", status=0, asked=False)
            ),
            True,
        ),
    ],
    ids=[
        "a destination that never ran",
        "a source, and nobody completes",
        "a destination that ran",
        "a source whose guest has gone",
        "a source whose guest arrives",
        "what the testbed ends",
        "what the testbed shuts down",
        "a guest that shuts itself down",
    ],
)
def test_there_is_always_a_copy_that_can_be_recovered(
    what: Any, violated: bool, tmp_path: Path
) -> None:
    run = what(Run().begin().event("source", "STOP"))
    assert (2 in wrong(run.end(STOPPED, {**RUNS, "status": "completed"}), tmp_path)) is violated


def test_a_silent_qmp_violates_unless_a_fault_had_stopped_the_process(tmp_path: Path) -> None:
    silent = {"command": "query-status", "within_s": 5.0}
    run = completed().write("source", "qmp-silent", **silent)
    assert 5 in wrong(run, tmp_path)
    run = completed().write("proxy", "signal-sent", side="source", signal="STOP")
    assert states(run.write("source", "qmp-silent", **silent), tmp_path)[5] == "not watched"
    run.write("proxy", "signal-sent", side="source", signal="CONT")
    assert 5 in wrong(run.write("source", "qmp-silent", **silent), tmp_path)


def test_what_an_endpoint_leaves_behind_is_told(tmp_path: Path) -> None:
    run = completed().write("source", "leaked", what="a process: sleep (12)")
    assert wrong(run, tmp_path) == {7}


def test_a_guest_has_to_be_announced_where_it_arrived(tmp_path: Path) -> None:
    silent = Run().begin().event("source", "STOP").event("destination", "RESUME")
    silent.says("destination", "completed").end(STOPPED, {**RUNS, "status": "completed"})
    assert 9 in wrong(silent, tmp_path)
    stated = "verdict: completed, announce: {count: 0}"
    assert states(silent, tmp_path, stated)[9] == "not watched"
    probed = "mode: precopy\nnetwork: {probe: {}}"
    bounded = scenario(tmp_path, "verdict: completed, outage: {max: 9s}", head=probed)
    (ninth,) = [each for each in watched(bounded, silent.log) if each.number == 9]
    assert ninth.state == "not watched"


def test_a_violated_invariant_fails_a_run_unless_its_verdict_says_so(tmp_path: Path) -> None:
    run = completed().write("destination", "process-ended", signal="SIGKILL", asked=False)
    name = "invariant: never zero recoverable copies of the guest"
    _, checks = judge(scenario(tmp_path, "verdict: completed"), run.log)
    assert check(checks, name).passed is False
    lost = "verdict: guest-lost, known_outcome: so it is"
    _, checks = judge(scenario(tmp_path, lost), run.log)
    assert name not in [each.name for each in checks]
