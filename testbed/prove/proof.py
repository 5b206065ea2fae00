"""What the trials of a scenario say together: it proves something, or what it does not prove."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from testbed.scenario.scenario import Scenario

from .trial import Trial


class Outcome(StrEnum):
    """What came of proving a scenario."""

    PROVED = "proved"
    UNPROVED = "UNPROVED"
    FAILED = "FAILED"  # it does not pass as it is
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a scenario does not prove, or of which nobody can tell."""

    where: str  # file:line:column
    sentence: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A scenario and its trials: of the play as it is, then of one for each fault left out."""

    scenario: Scenario
    trials: tuple[Trial, ...]

    @property
    def outcome(self) -> Outcome:
        """What they say together."""
        own = self.trials[0].result
        if own.refused is not None:
            return Outcome.FAILED
        if any(trial.result.lacks is not None for trial in self.trials):
            return Outcome.SKIPPED
        if own.passed is False:
            return Outcome.FAILED
        if self.gaps:
            return Outcome.UNPROVED
        return Outcome.UNKNOWN if own.passed is None or self.doubts else Outcome.PROVED

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Where the scenario passes all the same."""
        return tuple(_gaps(self.scenario, self.trials))

    @property
    def doubts(self) -> tuple[Gap, ...]:
        """Plays of which nobody can tell whether the scenario would pass."""
        return tuple(
            Gap(trial.where, f"without {trial.without} nobody can tell whether it passes: {why}")
            for trial in self.trials[1:]
            if trial.unknown and not trial.passes
            for why in [_why_unknown(trial)]
        )

    @property
    def duration_s(self) -> float:
        """Of all plays together, one after the other."""
        return sum(trial.result.duration_s for trial in self.trials)


def _gaps(scenario: Scenario, trials: Sequence[Trial]) -> Iterator[Gap]:
    own = trials[0]
    for verdict in own.passes:
        if verdict != own.verdict:
            where = scenario.where(("expect", "verdict"))
            yield Gap(where, f"it would pass as `{verdict}` as well")
    for trial in trials[1:]:
        if not trial.passes:
            continue
        if trial.verdict == own.verdict:
            yield Gap(trial.where, f"without {trial.without} it passes all the same")
        else:
            said = f"nothing but its verdict, `{trial.verdict}` in place of `{own.verdict}`"
            yield Gap(trial.where, f"without {trial.without} {said}, tells so")


def _why_unknown(trial: Trial) -> str:
    result = trial.result
    unsure = [check for check in result.checks if check.passed is None]
    if unsure and result.verdict != "unknown":
        return f"{unsure[0].name}: {unsure[0].got}"
    lines = result.reason.strip().splitlines()
    return lines[-1] if lines else "its verdict is unknown"
