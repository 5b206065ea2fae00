"""`scripts/test`: what is run again, what is kept, and what bounds a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ("ruff", "mypy", "lint-imports")
WITHIN_S = 60
SURROUNDINGS = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
FAILS_ONCE = """
import pathlib, pytest

def first_time(name):
    seen = pathlib.Path(__file__).with_name(f"seen-{name}")
    is_first = not seen.exists()
    seen.touch()
    return is_first

def test_that_passes():
    pass
"""
LIVE_ONE = """
@pytest.mark.live
def test_live_{0}():
    assert not first_time("{0}"), "late for once"
"""
OTHER_ONE = """
def test_other():
    assert not first_time("other")
"""
HANGS = """
import time
from hypothesis import given, strategies

def test_alone():
    try:
        while True:
            time.sleep(0.01)
    finally:
        while True:
            time.sleep(0.01)

@given(strategies.integers())
def test_property(number):
    while True:
        time.sleep(0.01)
"""
SHOWS_SIGNALS = """
import subprocess

def test_it():
    print(subprocess.run(["grep", "SigIgn", "/proc/self/status"], stdout=-1, text=True).stdout)
"""
CONFIGURATION = """
[pytest]
testpaths = tests
addopts = --import-mode=importlib -p xdist -p pytest_timeout -p faulthandler
markers = live
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our script and our conftest, in which the other checks find nothing."""
    for name in ("scripts", "tests", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    for nothing in ("scripts/setup", *(f".venv/bin/{name}" for name in CHECKS)):
        (tmp_path / nothing).symlink_to("/bin/true")
    (tmp_path / ".venv/bin/pytest").symlink_to(Path(sys.executable).with_name("pytest"))
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    return tmp_path


def outcome_of(project: Path, tests: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, run where those are all tests there are."""
    (project / "tests" / "test_it.py").write_text(tests)
    return subprocess.run(
        [project / "scripts" / "test", *arguments],
        env={**SURROUNDINGS, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # of which a start is slow
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
    )


def live_ones(count: int) -> str:
    return "".join(LIVE_ONE.format(number) for number in range(count))


def test_up_to_three_live_tests_are_run_again_and_noted(project: Path) -> None:
    done = outcome_of(project, FAILS_ONCE + live_ones(3), "-n", "1")
    assert done.returncode == 0, done.stdout
    assert "3 failed, 1 passed" in done.stdout
    assert "3 passed, 1 deselected" in done.stdout
    assert "live tests that were run again: 3" in done.stdout
    noted = (project / "test-results" / "run-again.txt").read_text()
    for number in range(3):
        assert f"tests/test_it.py::test_live_{number}\nfailed beside others:" in noted
        assert f"tests/test_it.py::test_live_{number}\nrun again by itself: passed" in noted
    assert "AssertionError: late for once" in noted
    assert 'failures="3"' in (project / "test-results" / "junit.xml").read_text()


def test_a_live_test_that_fails_again_has_failed(project: Path) -> None:
    fails = '@pytest.mark.live\ndef test_live():\n    assert not "ever"\n'
    done = outcome_of(project, FAILS_ONCE + fails, "-n", "0")
    assert done.returncode == 1, done.stdout
    assert "live tests that were run again: 1" in done.stdout
    noted = (project / "test-results" / "run-again.txt").read_text()
    assert noted.count("E       AssertionError") == 2


@pytest.mark.parametrize(
    ("tests", "said"),
    [(live_ones(4), "4 live tests failed: too many"), (OTHER_ONE + live_ones(1), "2 failed")],
    ids=["more than three", "one that is not live"],
)
def test_others_fail_the_run_at_once(project: Path, tests: str, said: str) -> None:
    done = outcome_of(project, FAILS_ONCE + tests, "-n", "0")
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert "live tests that were run again: 0" in done.stdout
    assert "late for once" in (project / "test-results" / "run-again.txt").read_text()


def test_a_test_that_hangs_has_a_bound_and_it_is_said_where(project: Path) -> None:
    bounds = ("--timeout", "2", "-o", "faulthandler_timeout=1")
    done = outcome_of(project, HANGS, "-n", "1", *bounds)
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout
    assert "Failed: Timeout (>2.0s)" in done.stdout
    assert "crashed while running 'tests/test_it.py::test_property'" in done.stdout
    assert 'test_it.py", line 16 in test_property' in done.stdout


def test_what_tests_start_can_be_interrupted_though_sigint_is_ignored(project: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for `scripts/test &`
    try:
        done = outcome_of(project, SHOWS_SIGNALS, "-n", "1", "-rP")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 0, done.stdout
    ignored = int(done.stdout.split("SigIgn:")[1].split()[0], 16)
    assert not ignored & 1 << (signal.SIGINT - 1)


def test_every_test_here_has_a_bound(pytestconfig: pytest.Config) -> None:
    assert 0 < float(pytestconfig.getini("timeout")) <= 300
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) <= 300
