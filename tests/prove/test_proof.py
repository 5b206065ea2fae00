"""What is proved and what is not, told from logs that were written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_helpers import RUNS, STOPPED, Run, completed, scenario

from testbed.prove.proof import Gap, Outcome, Proof
from testbed.prove.trial import VERDICTS, Trial, trial
from testbed.scenario.expect import judge
from testbed.scenario.result import Played, Result
from testbed.scenario.scenario import Scenario

FAULT = "mode: precopy\nfaults: [{name: cut, at: {element: eof}, do: reset}]"
CLEAN = "verdict: failed-clean, source: {run_state: running}"


def struck(run: Run) -> Run:
    return run.write("proxy", "fault-struck", fault="cut")


def unfired(run: Run) -> Run:
    return run.write("proxy", "fault-unfired", sentence="fault 1 (cut) never fired: no eof passed")


def failed() -> Run:
    run = Run().begin().says("source", "active", "failed")
    text = "load of migration failed: Invalid argument"
    run.write("destination", "stderr", line=f"qemu: {text}", text=text)
    return run.end({**RUNS, "status": "failed"}, {"exit_status": 1})


def of(it: Scenario, run: Run, *, reason: str = "", lacks: str | None = None) -> Result:
    verdict, checks = judge(it, run.log)
    played = Played("model", "7.2")
    name, path = it.name, it.path
    return Result(
        *(name, path, verdict, tuple(checks), run.log, 1.5, 1, "again", played, played),
        reason,
        lacks,
    )


def proof(it: Scenario, own: Run, *others: Run) -> Proof:
    trials: list[Trial] = [trial(it, of(it, own))]
    trials += [trial(it, of(it, run), "cut", it.where(("faults", 0))) for run in others]
    return Proof(it, tuple(trials))


def broken(folder: Path) -> Scenario:
    """A scenario that fails clean, and says so of both sides."""
    return scenario(folder, f"{CLEAN}, destination: {{exit: 1}}", head=FAULT)


def test_a_scenario_whose_checks_need_its_fault_is_proved(tmp_path: Path) -> None:
    found = proof(broken(tmp_path), struck(failed()), completed())
    assert found.outcome is Outcome.PROVED
    assert (found.gaps, found.doubts) == ((), ())
    own, other = found.trials
    assert (own.passes, own.noticed) == (("failed-clean",), ())
    assert (other.passes, other.noticed) == ((), ("source.run_state", "destination.exit"))
    assert found.duration_s == 3.0


def test_one_that_passes_all_the_same_is_named_with_its_place(tmp_path: Path) -> None:
    it = broken(tmp_path)
    found = proof(it, struck(failed()), failed())
    assert found.outcome is Outcome.UNPROVED
    assert found.gaps == (Gap(f"{it.path}:3:10", "without cut it passes all the same"),)


def test_that_a_fault_never_struck_is_no_proof(tmp_path: Path) -> None:
    found = proof(broken(tmp_path), struck(failed()), unfired(failed()))
    assert found.outcome is Outcome.UNPROVED


def test_nor_is_its_verdict_alone(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: failed-clean", head=FAULT)
    found = proof(it, struck(failed()), completed())
    assert found.outcome is Outcome.UNPROVED
    assert [gap.sentence for gap in found.gaps] == [
        "without cut nothing but its verdict, `completed` in place of `failed-clean`, tells so"
    ]


def test_a_scenario_that_does_not_pass_is_no_proof(tmp_path: Path) -> None:
    found = proof(broken(tmp_path), struck(completed()), completed())
    assert found.outcome is Outcome.FAILED
    assert proof(broken(tmp_path), unfired(failed()), completed()).outcome is Outcome.FAILED


def test_where_nobody_can_tell_nothing_is_proved(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, forwarding: {after: destination}", head=FAULT)
    seen = struck(completed().write("switch", "forwarding", when="after", guest="destination"))
    found = proof(it, seen, completed())
    assert found.outcome is Outcome.UNKNOWN
    assert [doubt.sentence for doubt in found.doubts] == [
        "without cut nobody can tell whether it passes: "
        "expect.forwarding.after: it was never looked at"
    ]
    assert proof(it, struck(completed())).outcome is Outcome.UNKNOWN
    never = Run().begin()
    assert proof(it, seen, never).doubts[0].sentence.endswith("its verdict is unknown")


def test_what_the_environment_lacks_is_no_gap(tmp_path: Path) -> None:
    it = broken(tmp_path)
    lacking = trial(it, of(it, Run(), lacks="no QEMU"), "cut", "it.yaml:1:1")
    found = Proof(it, (trial(it, of(it, struck(failed()))), lacking))
    assert found.outcome is Outcome.SKIPPED


def test_without_a_fault_the_play_itself_is_the_proof(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, running: destination", head="mode: precopy")
    assert proof(it, completed()).outcome is Outcome.PROVED


@pytest.mark.parametrize("claimed", VERDICTS)
def test_a_log_passes_with_one_verdict_alone(tmp_path: Path, claimed: str) -> None:
    """Whatever a scenario claims: the judge takes no other verdict for it."""
    known = (
        ""
        if claimed in ("completed", "recovered", "failed-clean", "paused-recoverable")
        else (", known_outcome: it is so")
    )
    it = scenario(tmp_path, f"verdict: {claimed}{known}", head="mode: precopy")
    assert trial(it, of(it, completed())).passes == ("completed",)
    assert trial(it, of(it, failed())).passes == ("failed-clean",)
    both = Run().begin().end({**RUNS}, {**RUNS, "status": "completed"})
    assert trial(it, of(it, both)).passes == ("split-brain",)
    gone = Run().begin().end(STOPPED, {"exit_status": 1})
    assert set(trial(it, of(it, gone)).passes) <= {"guest-lost"}


def test_a_verdict_is_claimed_under_every_variant(tmp_path: Path) -> None:
    it = scenario(
        tmp_path,
        "verdict: completed",
        head="mode: precopy\nvariants: [{when: {either: '>9'}, expect: {running: destination}}]",
    )
    run = Run()
    for side in ("source", "destination"):
        run.write(side, "endpoint-ready", version=[10, 0, 0])
    run.begin().event("source", "STOP").event("destination", "RESUME").rarp()
    run.says("source", "completed").says("destination", "completed")
    run.end(STOPPED, {**RUNS, "status": "completed"})
    assert trial(it, of(it, run)).passes == ("completed",)
