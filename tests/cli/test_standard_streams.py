"""Standard output and error that are closed, full, or have lost their reader."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHIN_S = 60
CLOSED = [">&-", "2>&-", "<&- >&- 2>&-"]
FULL = ">/dev/full"


def shell(arguments: str, redirected: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m testbed {arguments} {redirected}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )


@pytest.mark.parametrize("redirected", [*CLOSED, "2>/dev/full", FULL])
@pytest.mark.parametrize(
    ("arguments", "status"), [("explain scenarios/bad_magic.yaml", 0), ("check nosuch.yaml", 2)]
)
def test_a_closed_or_full_stream_changes_no_status_of_its_own(
    arguments: str, status: int, redirected: str
) -> None:
    done = shell(arguments, redirected)
    if redirected == FULL and status == 0:
        status = 3
        assert done.stderr == (
            "testbed: standard output cannot be written: No space left on device\n"
        )
    assert done.returncode == status
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", ["--help", "run --help", "dump-layout --help", "check nosuch"]
)
def test_a_reader_that_is_gone_is_one_status_for_all_commands(arguments: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "testbed", *arguments.split()],
            cwd=ROOT,
            stdout=write_end,
            stderr=write_end if "nosuch" in arguments else subprocess.PIPE,
            timeout=WITHIN_S,
        )
    finally:
        os.close(write_end)
    assert done.returncode == (2 if "nosuch" in arguments else 141)
    assert not done.stderr


@pytest.mark.live
@pytest.mark.parametrize("redirected", CLOSED)
def test_a_run_is_judged_with_nobody_to_tell(redirected: str, tmp_path: Path) -> None:
    """What the run opens must not get the number of a standard stream."""
    report = tmp_path / "it.json"
    options = f"--json {report} --out {tmp_path / 'out'}"
    done = shell(f"run scenarios/bad_magic.yaml {options}", redirected)
    assert done.returncode == 0, done.stderr
    assert '"outcome": "passed"' in report.read_text()
