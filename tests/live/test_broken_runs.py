"""What breaks or is lost on the testbed's side is told as that: the run is unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed import log as log_module
from testbed.lab.lab import Lab
from testbed.netns import capture as capture_module
from testbed.scenario.load import load
from testbed.scenario.result import Result
from testbed.scenario.session import Options, run

pytestmark = pytest.mark.live

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def played(name: str) -> Result:
    """A scenario of the library, played on models."""
    return run(load(SCENARIOS / f"{name}.yaml"), Options())


def fails(*_arguments: object) -> None:
    raise KeyError("of ours")


@pytest.mark.parametrize("where", ["_captured", "_overheard"])
def test_an_error_in_a_callback_makes_a_run_unknown(
    where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a reader of the event loop, and in what the QMP library calls."""
    monkeypatch.setattr(Lab, where, fails)
    result = played("precopy_ok")
    assert (result.verdict, result.passed, result.lacks) == ("unknown", None, None)
    assert "KeyError: 'of ours'" in result.reason
    assert capfd.readouterr().err == ""


def test_a_capture_that_lost_frames_asserts_nothing_about_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture_module, "FRAMES_MAX", 4)  # two of the source, two of five
    result = played("rarp_ok")
    assert result.passed is None
    unknown = {check.name for check in result.checks if check.passed is None}
    assert unknown >= {"expect.announce.count", "expect.forwarding.after"}
    assert not any(check.passed is False for check in result.checks)


FULL_DISK = """
import sys
from testbed.netns.kernel import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
unshare(CLONE_NEWNS)
mount("none", "/", "", MS_REC | MS_PRIVATE)
mount("tmpfs", "/mnt", "tmpfs", options="size=20k")
from testbed.cli import main
sys.argv = ["testbed", "run", *sys.argv[1:], "--out", "/mnt"]
main()
"""


def test_a_full_disk_ends_no_run_and_makes_it_unknown() -> None:
    names = [str(SCENARIOS / f"{name}.yaml") for name in ("precopy_ok", "slow_link")]
    argv = [sys.executable, "-c", FULL_DISK, *names]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith("unknown  precopy_ok ")
    assert "    /mnt/precopy_ok: cannot be written: No space left on device" in lines
    assert any(line.startswith("skipped  slow_link ") for line in lines)


def test_a_full_log_keeps_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "EVENTS_MAX", 10)
    monkeypatch.setattr(log_module, "KIND_RESERVE", 100)
    result = played("precopy_ok")
    assert (result.verdict, result.passed) == ("completed", True)
    assert result.log.first("log-full") is not None
    assert [event.number for event in result.log] == list(range(len(result.log)))
