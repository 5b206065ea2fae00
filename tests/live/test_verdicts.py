"""Verdicts on runs whose scenarios claim something else, or nothing wrong: models and real QEMU.

The scenarios are in `tests/data/truth`. What each really comes to was settled by hand, on QEMU 7.2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "data" / "truth"
ALL = os.environ.get("ALL_VERDICTS") == "1"

pytestmark = pytest.mark.live

PASSED, FAILED, UNKNOWN = 0, 1, 4

# Name: the verdicts that it may have, and the exit status of `testbed run`.
TABLE: dict[str, tuple[str, int]] = {
    "all_announcements_lost": ("completed", FAILED),  # and an invariant is violated
    "bios_page": ("corrupt", FAILED),
    "cut_field_virtio": ("failed-clean", PASSED),
    # It may be killed before its answer has left: the source resumes then.
    "dest_killed_after": ("guest-lost split-brain", FAILED),
    "dest_killed_shut": ("guest-lost", PASSED),
    # Killed while it answers: the source resumes if the answer was not on its way yet.
    "dest_quits_after": ("guest-lost split-brain", FAILED),
    "device_state_of_a_clean_run": ("completed", PASSED),
    "expect_only_verdict": ("guest-lost", FAILED),
    "flip_no_memory_expect": ("corrupt", FAILED),
    "guest_rebooted": ("guest-lost", FAILED),
    "late_answer": ("completed", PASSED),
    "missing_cpu_running": ("guest-lost", FAILED),
    "missing_device_no_check": ("corrupt", FAILED),
    "no_fault_claims_corrupt": ("completed", FAILED),
    "noop_set": ("completed", FAILED),  # and the fault did not strike
    "nothing_wrong": ("completed", PASSED),
    # Loading a package that was cut short ends 7.2 by exit 1, or by SIGSEGV: a race in it.
    "packaged_len_short": ("guest-lost crash", -1),
    "pic_masked": ("guest-lost", FAILED),
    "pong_length": ("failed-clean", PASSED),
    "run_state_paused": ("guest-lost", FAILED),
    "signal_cont": ("completed", FAILED),  # and the signal changed nothing
    "split_after_last_wait": ("split-brain", FAILED),
    "split_brain_with_the_usual_wait": ("split-brain", PASSED),
    "rarp_three_seconds": ("completed", PASSED),  # once the outage is over
}
SLOW: dict[str, tuple[str, int]] = {
    "dest_stopped": ("unknown", UNKNOWN),
    "destination_silent_at_its_end": ("unknown", UNKNOWN),
    "forever_active": ("hang", FAILED),
    "no_wait": ("hang", FAILED),
    "source_stopped": ("unknown", UNKNOWN),
    "wait_go_on": ("hang", FAILED),
    # 7.2's destination dies of SIGSEGV, or its source waits: see `scenarios/recovery_cut.yaml`.
    "recovery_cut_ack": ("hang", FAILED),
    "recovery_cut_recv_bitmap_cmd": ("crash", FAILED),
}
"""What takes ten seconds and more: bounds that have to pass. Tried on models, and with
ALL_VERDICTS=1 on QEMU as well."""
ON_QEMU_ALONE = frozenset({"bios_page"})
"""The model's firmware has no such page."""


def test_every_case_is_in_a_table() -> None:
    assert {path.stem for path in CASES.glob("*.yaml")} == {*TABLE, *SLOW}


def judged(name: str, endpoint: str, report: Path) -> tuple[str, int]:
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "testbed", "run", str(CASES / f"{name}.yaml")),
            *("--endpoint", endpoint, "--json", str(report)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.stderr == ""
    (result,) = json.loads(report.read_text())["results"]
    return result["verdict"], done.returncode


def check(expected: tuple[str, int], got: tuple[str, int]) -> None:
    verdicts, status = expected
    assert got[0] in verdicts.split()
    assert status in (-1, got[1])


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("endpoint", ["model", "qemu"])
def test_the_verdict_is_what_happened(name: str, endpoint: str, tmp_path: Path) -> None:
    if endpoint == "qemu" or name not in ON_QEMU_ALONE:
        check(TABLE[name], judged(name, endpoint, tmp_path / "it.json"))


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("endpoint", ["model", *["qemu"] * ALL])
def test_a_bound_that_passes_gives_a_verdict(name: str, endpoint: str, tmp_path: Path) -> None:
    check(SLOW[name], judged(name, endpoint, tmp_path / "it.json"))
