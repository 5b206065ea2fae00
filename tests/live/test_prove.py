"""`testbed prove`: the library proves what it says, and a scenario that proves nothing is named.

On models each scenario is proved, which plays it as it is, too: `test_scenarios.py` plays the
library on other pairs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_helpers import command
from library_helpers import LIBRARY, is_for
from polling import wait_until

ROOT = Path(__file__).parents[2]
PAIRS = {"models": (), "old models": ("--profile", "2.9"), "QEMU": ("--endpoint", "qemu")}
PLAYED = PAIRS if os.environ.get("ALL_PAIRS") == "1" else {"models": ()}
"""With ALL_PAIRS=1 it is proved on others as well: some four minutes each, on two cores."""

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("path", "options"),
    [
        pytest.param(path, options, id=f"{name}-{path.stem}")
        for name, options in PLAYED.items()
        for path in LIBRARY
        if is_for(path, options)
    ],
)
def test_the_scenario_is_proved(path: Path, options: tuple[str, ...]) -> None:
    done = command("prove", str(path), "-j", "2", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


PROVES_NOTHING = """\
name: nothing
description: The migration completes, whether the link is slow for a moment or not.
mode: precopy
capabilities: {return-path: true}
guest: {working_set: 1M}
faults:
  - name: slow
    at: {element: file-header}
    do: {latency: {delay: 1ms}}
  - name: pause
    at: {section: ram, kind: part}
    do: {stall: {for: 1ms}}
expect: {verdict: completed, memory: intact}
"""


def test_what_passes_without_its_fault_is_named_with_its_place(tmp_path: Path) -> None:
    path, report, out = tmp_path / "nothing.yaml", tmp_path / "report.json", tmp_path / "out"
    path.write_text(PROVES_NOTHING)
    done = command("prove", path, "-j", "3", "--json", report, "--out", out)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"    {path}:7:5: without slow it passes all the same\n" in done.stdout
    assert f"    {path}:10:5: without pause it passes all the same\n" in done.stdout
    assert "1 scenario: 1 UNPROVED by 3 plays" in done.stdout
    (told,) = json.loads(report.read_text())["proofs"]
    assert [play["without"] for play in told["plays"]] == [None, "slow", "pause"]
    kept = sorted(folder.name for folder in out.iterdir())
    assert kept == ["nothing", "nothing.without.1", "nothing.without.2"]
    logs = [(out / name / "log.jsonl").read_text() for name in kept]
    assert ["slow" in log for log in logs] == [True, False, True]
    assert command("prove", path, "--out", out).returncode == 2  # its folders are taken


@pytest.fixture
def proving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A proof whose first two plays last: their attempts have begun."""
    path = tmp_path / "nothing.yaml"
    lasting = PROVES_NOTHING.replace(", memory: intact", "")
    path.write_text(lasting + "steps: [wait_for_guest, migrate, settle: 60s]\n")
    out = tmp_path / "out"
    words = ["prove", str(path), "-j", "2", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            began = ["nothing", "nothing.without.1"]
            wait_until(lambda: all("attempt-began" in log_of(out / name) for name in began))
            yield process
        finally:
            process.kill()


def test_a_worker_that_is_killed_leaves_the_proof_unknown(proving: subprocess.Popen[str]) -> None:
    plays = descendants(proving.pid)
    worker, *_ = children(proving.pid)
    os.kill(worker, signal.SIGKILL)
    output, _ = proving.communicate(timeout=20)
    assert (proving.returncode, "that played a scenario was killed" in output) == (4, True)
    assert "Traceback" not in output
    wait_until(lambda: not [pid for pid in plays if Path(f"/proc/{pid}").exists()])


def test_ctrl_c_ends_all_plays(proving: subprocess.Popen[str]) -> None:
    plays = descendants(proving.pid)
    assert len(plays) > 2
    proving.send_signal(signal.SIGINT)
    output, _ = proving.communicate(timeout=20)
    assert (proving.returncode, output) == (
        130,
        "interrupted: the run and all that it made are gone\n",
    )
    wait_until(lambda: not [pid for pid in plays if Path(f"/proc/{pid}").exists()])


def log_of(folder: Path) -> str:
    path = folder / "log.jsonl"
    return path.read_text() if path.exists() else ""


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]
