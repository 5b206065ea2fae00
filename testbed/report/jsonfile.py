"""The JSON report: one object a run, keys that stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from testbed.files import replace_file
from testbed.scenario.planned import PlannedRun
from testbed.scenario.result import Result

from .words import outcome


def write_json(
    path: Path,
    runs: Sequence[PlannedRun],
    results: Sequence[Result],
    *,
    under_way: bool = False,
) -> None:
    """Write all results; `docs/reports.md` says what each key is.

    Args:
        path: the file; its folder is there.
        runs: all that the command is to play, in order.
        results: of the first of them.
        under_way: the first run without a result has begun.

    Raises:
        OSError: the file cannot be written.
    """
    plain = [
        {
            "id": run.id,
            "name": result.name,
            "file": str(result.path),
            "outcome": outcome(result),
            "verdict": result.verdict,
            "duration_s": round(result.duration_s, 3),
            "seed": result.seed,
            "source": asdict(result.source),
            "destination": asdict(result.destination),
            "repeat": result.repeat_command,
            "folder": None if result.folder is None else str(result.folder),
            "reason": result.reason,
            "lacks": result.lacks,
            "refused": result.refused,
            "checks": [
                {
                    "name": check.name,
                    "passed": check.passed,
                    "expected": check.expected,
                    "got": check.got,
                    "where": check.where,
                }
                for check in result.checks
            ],
            "invariants": [asdict(invariant) for invariant in result.invariants],
        }
        for run, result in zip(runs, results, strict=False)
    ]
    without = [
        {"id": run.id, "began": under_way and number == 0}
        for number, run in enumerate(runs[len(results) :])
    ]
    text = json.dumps({"results": plain, "without_result": without}, indent=2)
    replace_file(path, text.encode() + b"\n")
