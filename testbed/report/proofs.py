"""What `testbed prove` found, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from testbed.prove.proof import Outcome, Proof
from testbed.prove.trial import Trial

from .words import failure_lines, printable

NOTICED_MAX = 4
"""Checks named that a play without a fault has failed."""


def proof_lines(proof: Proof) -> Iterator[str]:
    """Why a scenario is not proved; every line can be shown."""
    for trial in proof.trials:
        result = trial.result
        if result.lacks is not None or (trial.without is None and result.passed is not True):
            yield from failure_lines(result)
            return
    for gap in (*proof.gaps, *proof.doubts):
        yield printable(f"{gap.where}: {gap.sentence}")


def trial_lines(proof: Proof) -> Iterator[str]:
    """What each play without a fault came to, and which checks have noticed."""
    for trial in proof.trials[1:]:
        noticed = ", ".join(trial.noticed[:NOTICED_MAX])
        more = len(trial.noticed) - NOTICED_MAX
        shown = f"{noticed}{f' and {more} more' if more > 0 else ''}" or "nothing"
        yield printable(f"without {trial.without}: {trial.verdict}; noticed by {shown}")


def write_proofs(path: Path, proofs: Sequence[Proof]) -> None:
    """Write all proofs; `docs/reports.md` says what each key is.

    Raises:
        OSError: the file cannot be written.
    """
    plain = [
        {
            "name": proof.scenario.name,
            "file": str(proof.scenario.path),
            "outcome": proof.outcome.value.lower(),
            "gaps": [{"where": gap.where, "sentence": gap.sentence} for gap in proof.gaps],
            "doubts": [{"where": gap.where, "sentence": gap.sentence} for gap in proof.doubts],
            "plays": list(map(_plain, proof.trials)),
        }
        for proof in proofs
    ]
    path.write_text(json.dumps({"proofs": plain}, indent=2) + "\n", encoding="utf-8")


def _plain(trial: Trial) -> dict[str, object]:
    return {
        "without": trial.without,
        "verdict": trial.verdict,
        "passes_as": list(trial.passes),
        "noticed_by": list(trial.noticed),
        "duration_s": round(trial.result.duration_s, 3),
    }


def summary(proofs: Sequence[Proof]) -> str:
    """The closing line."""
    outcomes = [proof.outcome for proof in proofs]
    counts = ", ".join(
        f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes
    )
    plays = sum(len(proof.trials) for proof in proofs)
    total_s = sum(proof.duration_s for proof in proofs)
    scenarios = f"{len(proofs)} scenario{'s' * (len(proofs) != 1)}"
    many = f"{plays} play{'s' * (plays != 1)}"
    return f"{scenarios}: {counts} by {many} of {total_s:.1f} s together"
