"""What people and programs are told of a proof."""

from __future__ import annotations

import io
import json
from pathlib import Path

from report_helpers import FAILED, PASSED, result

from testbed.prove.proof import Proof
from testbed.prove.trial import Trial
from testbed.report.console import Console
from testbed.report.proofs import write_proofs
from testbed.scenario.load import load

LIBRARY = Path(__file__).parents[2] / "scenarios"


def proof(*others: Trial, passes: bool = True, lacks: str | None = None) -> Proof:
    it = load(LIBRARY / "bad_footer_mark.yaml")
    own = result(PASSED if passes else FAILED, lacks=lacks)
    first = Trial(None, "", own.verdict, (own.verdict,) if passes else (), (), (), own)
    return Proof(it, (first, *others))


def without(*passes: str, noticed: tuple[str, ...] = (), verdict: str = "completed") -> Trial:
    found = result(PASSED, verdict=verdict)
    return Trial("damage_mark", "it.yaml:8:5", verdict, passes, (), noticed, found)


def shown(*proofs: Proof, told: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(out)
    for each in proofs:
        console.proving(1, 2)  # which only a terminal shows
        console.proved(each, told=told)
    console.proofs_summary(proofs)
    return out.getvalue().splitlines()


def test_a_line_for_each_and_what_is_wrong() -> None:
    names = [f"check_{number}" for number in range(6)]
    proved = proof(without(noticed=tuple(names)))
    lines = shown(proved, proof(without("completed")), proof(without(), passes=False))
    assert lines[0] == ("proved   bad_footer_mark                    2.5 s  2 plays   failed-clean")
    assert lines[1].startswith("UNPROVED bad_footer_mark ")
    assert lines[2] == (
        "    it.yaml:8:5: without damage_mark nothing but its verdict, `completed` in place of "
        "`failed-clean`, tells so"
    )
    assert lines[3].startswith("FAILED   bad_footer_mark ")
    assert lines[4] == f"    {FAILED.where}: expect.destination.exit"
    assert lines[-1] == ("3 scenarios: 1 proved, 1 UNPROVED, 1 FAILED by 6 plays of 7.5 s together")


def test_of_a_single_one_it_is_told_what_noticed() -> None:
    noticed = tuple(f"check_{number}" for number in range(6))
    assert shown(proof(without(noticed=noticed)), told=True)[0] == (
        "without damage_mark: completed; noticed by check_0, check_1, check_2, check_3 and 2 more"
    )
    assert shown(proof(without("completed")), told=True)[0] == (
        "without damage_mark: completed; noticed by nothing"
    )


def test_what_the_environment_lacks_is_told_as_by_a_run() -> None:
    lines = shown(proof(lacks="no QEMU here"))
    assert lines[0].startswith("skipped  bad_footer_mark ")
    assert lines[1] == "    no QEMU here"


def test_the_json_report(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    write_proofs(path, [proof(without("failed-clean", verdict="failed-clean"))])
    (told,) = json.loads(path.read_text())["proofs"]
    assert told == {
        "name": "bad_footer_mark",
        "file": str(LIBRARY / "bad_footer_mark.yaml"),
        "outcome": "unproved",
        "gaps": [
            {"where": "it.yaml:8:5", "sentence": "without damage_mark it passes all the same"}
        ],
        "doubts": [],
        "plays": [
            {
                "without": None,
                "verdict": "failed-clean",
                "passes_as": ["failed-clean"],
                "noticed_by": [],
                "duration_s": 1.25,
            },
            {
                "without": "damage_mark",
                "verdict": "failed-clean",
                "passes_as": ["failed-clean"],
                "noticed_by": [],
                "duration_s": 1.25,
            },
        ],
    }
