"""What a scenario's expectations say of a log: that of a play of it, or of one of its mutants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

from testbed.log import Log
from testbed.scenario.expect import judge
from testbed.scenario.result import Check, Result
from testbed.scenario.scenario import Scenario
from testbed.scenario.schema import Verdict

VERDICTS: tuple[str, ...] = get_args(Verdict)
FAULT_CHECKS = ("faults.", "network")
"""Checks that a fault struck: that one is missing must be told by what is expected of the run."""
VERDICT_CHECK = "expect.verdict"


@dataclass(frozen=True, slots=True)
class Trial:
    """One play, judged once with each verdict in the place of the scenario's own.

    Attributes:
        without: the fault that was left out; None: the scenario as it is.
        where: file:line:column of that.
        verdict: what the play came to.
        passes: the verdicts with which all that the scenario expects would hold.
        unknown: those with which the log does not tell.
        noticed: the checks that failed, beside the verdict's.
        result: of the run; its log is empty.
    """

    without: str | None
    where: str
    verdict: str
    passes: tuple[str, ...]
    unknown: tuple[str, ...]
    noticed: tuple[str, ...]
    result: Result


def trial(scenario: Scenario, result: Result, without: str | None = None, where: str = "") -> Trial:
    """Judge a play.

    Args:
        scenario: whose expectations are held against it.
        result: of the play.
        without: the fault that was left out of it.
        where: file:line:column of that.
    """
    outcomes = {
        verdict: _outcome(claimed, result, with_faults=without is None)
        for verdict in VERDICTS
        for claimed in [claiming(scenario, verdict)]
    }
    return Trial(
        without,
        where,
        result.verdict,
        tuple(verdict for verdict, passed in outcomes.items() if passed is True),
        tuple(verdict for verdict, passed in outcomes.items() if passed is None),
        tuple(_noticed(scenario, result.log)),
        replace(result, log=Log()),
    )


def claiming(scenario: Scenario, verdict: str) -> Scenario:
    """The scenario with another verdict, under each of its variants as well."""

    def claim(each: Scenario) -> Scenario:
        expect = each.model.expect.model_copy(update={"verdict": verdict})
        return replace(each, model=each.model.model_copy(update={"expect": expect}))

    variants = tuple(replace(each, scenario=claim(each.scenario)) for each in scenario.variants)
    return replace(claim(scenario), variants=variants)


def _outcome(scenario: Scenario, result: Result, *, with_faults: bool) -> bool | None:
    """True if all holds but, unless `with_faults`, that faults struck; None: nobody can tell."""
    if result.verdict == "unknown" or result.lacks is not None:
        return None
    _, checks = judge(scenario, result.log)
    outcomes = [check.passed for check in checks if with_faults or not _is_of_fault(check)]
    if False in outcomes:
        return False
    return None if None in outcomes else True


def _noticed(scenario: Scenario, log: Log) -> Iterator[str]:
    _, checks = judge(scenario, log)
    yield from _names(check for check in checks if check.passed is False)


def _names(checks: Iterable[Check]) -> Iterator[str]:
    for check in checks:
        if check.name != VERDICT_CHECK and not _is_of_fault(check):
            yield check.name.removeprefix("expect.")


def _is_of_fault(check: Check) -> bool:
    return check.name.startswith(FAULT_CHECKS)
