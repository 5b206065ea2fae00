"""Results as a run leaves them, made by hand: what reports are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from testbed.log import Log
from testbed.scenario.planned import PlannedRun, planned
from testbed.scenario.result import Check, Played, Result
from testbed.scenario.scenario import Scenario
from testbed.scenario.schema import ScenarioModel

WHERE = "scenarios/bad_footer_mark.yaml:100:5"
PASSED = Check("expect.verdict", True, "failed-clean", "failed-clean", WHERE)
FAILED = Check("expect.destination.exit", False, "7", "1", WHERE)
UNSURE = Check("expect.memory", None, "intact", "it was never looked at", WHERE)


class Clock:
    """Seconds that pass by ten milliseconds at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def run_log(*, sections_before: int = 3, sections_after: int = 3) -> Log:
    """The log of a run in which a fault struck between so many sections."""
    log = Log(Clock())
    log.write("run", "run-began", scenario="bad_footer_mark", seed=1)
    log.write("run", "step-began", step="wait_for_guest", number=0)
    log.write("source", "process-started", argv=["qemu-system-x86_64"], pid=3)
    log.write("run", "step-began", step="migrate", number=1)
    log.write("source", "migration-status", status="active")
    log.write("proxy", "connection-opened", connection=1, attempt=1)
    for number in range(sections_before):
        log.write("proxy", "section", section=f"before_{number}", kind="full")
    log.write(
        "proxy",
        "fault-struck",
        connection=1,
        fault="damage_mark",
        action="set",
        element="footer of FULL cpu",
    )
    for number in range(sections_after):
        log.write("proxy", "section", section=f"after_{number}", kind="full")
    for text in ("Missing section footer for cpu", "load of migration failed: Invalid argument"):
        log.write("destination", "stderr", line=f"qemu-system-x86_64: {text}", text=text)
    log.write("destination", "process-ended", status=1, asked=False)
    log.write("source", "migration-status", status="failed")
    log.write("run", "run-ended")
    return log


def runs_of(results: Sequence[Result], *more: str) -> list[PlannedRun]:
    """Runs of the files that the results are of, and of files that have none."""
    paths = [each.path for each in results] + [Path("scenarios") / f"{name}.yaml" for name in more]
    return planned([_scenario(path) for path in paths])


def _scenario(path: Path) -> Scenario:
    words = {"description": "it", "mode": "precopy", "expect": {"verdict": "completed"}}
    return Scenario(path, ScenarioModel.model_validate(words), (), lambda _: f"{path}:1:1")


def result(
    *checks: Check,
    name: str = "bad_footer_mark",
    log: Log | None = None,
    verdict: str = "failed-clean",
    reason: str = "",
    lacks: str | None = None,
) -> Result:
    """A result with these checks."""
    return Result(
        name,
        Path("scenarios") / f"{name}.yaml",
        verdict,
        checks,
        run_log() if log is None else log,
        1.25,
        7,
        f"testbed run scenarios/{name}.yaml --seed 7",
        Played("model", "7.2", "7.2.22", "pc-i440fx-7.2"),
        Played("qemu", None, "10.0.13", "pc-i440fx-7.2"),
        reason,
        lacks,
    )
