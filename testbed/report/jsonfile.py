"""The JSON report: one object a run, keys that stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from testbed.scenario.result import Result

from .words import outcome


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write all results; `docs/reports.md` says what each key is.

    Args:
        path: the file; its folder is there.
        results: in the order in which they ran.

    Raises:
        OSError: the file cannot be written.
    """
    plain = [
        {
            "name": result.name,
            "file": str(result.path),
            "outcome": outcome(result),
            "verdict": result.verdict,
            "duration_s": round(result.duration_s, 3),
            "seed": result.seed,
            "source": asdict(result.source),
            "destination": asdict(result.destination),
            "repeat": result.repeat_command,
            "reason": result.reason,
            "lacks": result.lacks,
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
        for result in results
    ]
    path.write_text(json.dumps({"results": plain}, indent=2) + "\n", encoding="utf-8")
