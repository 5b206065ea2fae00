"""The JSON report: one object a run, keys that stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from testbed.scenario.result import Result

from .words import outcome


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write all results.

    The file has `results`, a list of objects: `name`, `file`, `outcome` (`passed`, `FAILED`,
    `unknown`, `lacking`), `verdict`, `duration_s`, `seed`, `repeat`, `reason`, `lacks`, and
    `checks`: `name`, `passed` (null: cannot tell), `expected`, `got`, `where`.
    """
    plain = [
        {
            "name": result.name,
            "file": str(result.path),
            "outcome": outcome(result),
            "verdict": result.verdict,
            "duration_s": round(result.duration_s, 3),
            "seed": result.seed,
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
        }
        for result in results
    ]
    path.write_text(json.dumps({"results": plain}, indent=2) + "\n", encoding="utf-8")
