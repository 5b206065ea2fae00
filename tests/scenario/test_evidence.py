"""What a run's instruments lost: what rests on it is unknown, all else is told as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from judge_helpers import RUNS, STOPPED, Run, check, completed, scenario

from testbed.scenario.expect import judge, why_unknown
from testbed.scenario.result import Check

FRAMES = "announce: {count: 1}, forwarding: {after: destination}"
EARLY = "invariant: no frame of the guest"


def named(checks: list[Check], beginning: str) -> Check:
    (found,) = [each for each in checks if each.name.startswith(beginning)]
    return found


def seen(run: Run) -> Run:
    """What a network has after a migration that went well."""
    return run.write("switch", "forwarding", when="after", guest="destination")


def capture_lost(run: Run) -> Run:
    sentence = "the kernel dropped 7 that nobody took in time"
    return run.write("switch", "capture-lost", kernel=7, bound=0, unwritten=0, sentence=sentence)


def log_lost(**kinds: int) -> Callable[[Run], Run]:
    return lambda run: run.write("run", "log-dropped", kinds=kinds)


def uplink_lost(run: Run) -> Run:
    return run.write("switch", "uplink-overflowed", frames=3)


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        (capture_lost, "the kernel dropped 7"),
        (log_lost(frame=12), "the log was full, and lost 12 frames"),
        (uplink_lost, "lost 3"),
    ],
)
def test_frames_that_were_lost_are_asserted_by_nobody(lost, why, tmp_path: Path) -> None:
    it = scenario(tmp_path, f"verdict: completed, {FRAMES}")
    verdict, checks = judge(it, seen(completed()).log)
    names = ("expect.announce.count", "expect.forwarding.after", EARLY)
    assert [named(checks, name).passed for name in names] == [True, True, True]

    verdict, checks = judge(it, lost(seen(completed())).log)
    assert verdict == "completed"
    for name in names:
        assert named(checks, name).passed is None
        assert why in named(checks, name).got
    assert check(checks, "expect.verdict").passed is True


def test_frames_that_failed_a_check_may_be_unknown_too(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, announce: {count: 5}")
    _, checks = judge(it, capture_lost(seen(completed())).log)
    assert check(checks, "expect.announce.count").passed is None


def test_a_frame_that_was_seen_too_early_was_there(tmp_path: Path) -> None:
    run = Run().begin().frame("destination").at(1).event("source", "STOP")
    run.event("destination", "RESUME")
    run.says("source", "completed").says("destination", "completed")
    run.end(STOPPED, {**RUNS, "status": "completed"})
    it = scenario(tmp_path, "verdict: completed")
    _, checks = judge(it, capture_lost(run).log)
    assert named(checks, EARLY).passed is False


@pytest.mark.parametrize(
    ("expect", "line", "name", "passed"),
    [
        ("stderr: [late]", "late", "stderr", True),  # it was found
        ("stderr: [late]", "other", "stderr", None),
        ("no_stderr: late", "other", "no_stderr", None),
        ("no_stderr: late", "late", "no_stderr", False),  # it was found
    ],
)
@pytest.mark.parametrize("how", ["stderr-cut", "log-dropped"])
def test_lines_of_stderr_that_were_lost(how, expect, line, name, passed, tmp_path: Path) -> None:
    run = Run().begin().write("source", "stderr", line=line, text=line)
    if how == "stderr-cut":
        run.write("source", how, lines_max=20_000)
    run.says("source", "completed").says("destination", "completed")
    run.end(STOPPED, {**RUNS, "status": "completed"})
    if how == "log-dropped":
        run.write("run", how, kinds={"stderr": 4})
    it = scenario(tmp_path, f"verdict: completed, source: {{{expect}}}")
    verdict, checks = judge(it, run.log)
    assert (verdict, check(checks, f"expect.source.{name}").passed) == ("completed", passed)


def test_probes_that_were_dropped_measure_no_outage(tmp_path: Path) -> None:
    facts = {"total_s": 0.1, "wrong_s": 0.1, "nowhere_s": 0.0}
    it = scenario(
        tmp_path,
        "verdict: completed, outage: {max: 1s}",
        head="mode: postcopy\nnetwork: {probe: {}}",
    )
    for unseen, passed in ((0, True), (9, None)):
        run = completed().write("client", "outage", probes=9, until_s=0.1, unseen=unseen, **facts)
        _, checks = judge(it, run.log)
        assert check(checks, "expect.outage").passed is passed


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [({"progress": 5, "frame": 5, "stderr": 5}, "completed"), ({"qmp-event": 5}, "unknown")],
)
def test_a_verdict_is_made_of_all_that_decides(kinds, verdict, tmp_path: Path) -> None:
    log = completed().write("run", "log-dropped", kinds=kinds).log
    assert judge(scenario(tmp_path, "verdict: completed"), log)[0] == verdict
    said = "the log was full, and lost 5 x qmp-event" if verdict == "unknown" else None
    assert why_unknown(log) == said


def test_a_wait_for_a_frame_that_was_lost_is_no_hang(tmp_path: Path) -> None:
    facts = {"what": "an announcement", "within_s": 5, "provided_for": None}
    run = Run().begin().write("run", "wait-expired", **facts)
    run.end(RUNS, {"run_state": "inmigrate", "status": "active"})
    it = scenario(tmp_path, "verdict: completed")
    assert judge(it, run.log)[0] == "hang"
    assert judge(it, capture_lost(run).log)[0] == "unknown"


@pytest.mark.parametrize("lost", ["log-full", "serial-cut"])
def test_a_wait_for_what_may_have_been_lost_is_no_hang(lost, tmp_path: Path) -> None:
    facts = {"what": "the source to settle", "within_s": 5, "provided_for": None}
    it = scenario(tmp_path, "verdict: completed")
    for first, then, verdict in ((lost, "wait-expired", "unknown"), ("wait-expired", lost, "hang")):
        run = Run().begin()
        for kind in (first, then):
            actor = "run" if kind == "wait-expired" else "source"
            run.write(actor, kind, **(facts if kind == "wait-expired" else {"lines_max": 9}))
        run.end(RUNS, {"run_state": "inmigrate", "status": "active"})
        assert judge(it, run.log)[0] == verdict
