"""Every command that the README names does what it says there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from decode_helpers import Ends, pcapng
from wire_helpers import recorded

from testbed.decode.show import learn

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
STAND_INS = {
    "/opt/qemu/bin/qemu-system-x86_64": shutil.which("qemu-system-x86_64") or "",
    "chroot /srv/trixie qemu-system-x86_64": "env qemu-system-x86_64",
    "SCENARIO": "scenarios/bad_footer_mark.yaml",
}
"""Examples of other QEMUs and of a scenario: what of the kind every machine has."""
DIFFERS = 1
STREAMS = {
    "vm.stream": "qemu7.2-precopy.c0.fwd",
    "newer.stream": "qemu10.0-precopy.c0.fwd",
    "postcopy.stream": "qemu7.2-postcopy.c0.fwd",
}
LIBRARY = ("bad_footer_mark",)
"""What a command for all scenarios plays here; `test_scenarios.py` plays all."""

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that are named but for scenarios."""
    folder = tmp_path_factory.mktemp("readme")
    for name, stream in STREAMS.items():
        (folder / name).write_bytes(recorded(stream))
    packets = Ends().whole(recorded("qemu7.2-postcopy.c0.fwd"), recorded("qemu7.2-postcopy.c0.ret"))
    (folder / "capture.pcapng").write_bytes(pcapng(packets))
    (folder / "layout.json").write_bytes(learn([str(folder / "vm.stream")]).to_json())
    return folder


def copied(original: Path, folder: Path, command: str) -> None:
    """Make the folder one in which the command is run as it stands."""
    shutil.copytree(original, folder)
    (folder / "scenarios").mkdir()
    for name in re.findall(r"scenarios/(\w+)\.yaml", command) or LIBRARY:
        shutil.copy(ROOT / "scenarios" / f"{name}.yaml", folder / "scenarios")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("testbed ")])
def test_the_command_works(command: str, original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for example, real in STAND_INS.items():
        command = command.replace(example, real)
    copied(original, folder, command)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=180,
    )
    if "--keep" in command:
        os.kill(int(re.search(r"end it: +kill (\d+)", done.stdout)[1]), signal.SIGTERM)
    assert done.returncode == (DIFFERS if "--diff" in command else 0), done.stdout + done.stderr
    said = "memory block " if "--ram-out" in command else None
    assert all(said and line.startswith(said) for line in done.stderr.splitlines())
    assert done.stdout or ">" in command


def test_the_demo_shows_a_postcopy_migration_recover() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "demo"], cwd="/", capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reset_while_pages_flow strikes: reset at the page" in done.stdout
    assert "guest memory: 8192 pages, intact" in done.stdout
    assert re.search(r"passed +postcopy_drop .* recovered", done.stdout)


def test_the_commands_of_the_readme_are_all_accounted_for() -> None:
    others = [each for each in COMMANDS if not each.startswith("testbed ")]
    benchmarks = ".venv/bin/python -m benchmarks by_hand cleanup"
    assert others == ["scripts/demo", "scripts/test", benchmarks]  # the second runs this test


def test_the_benchmarks_of_the_readme_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "by_hand, cleanup" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["by_hand.py", "--rounds", "1", "scenarios/bad_magic.yaml"], "bad_magic"),
        (["cleanup.py", "--kills", "3"], "3 kills"),
    ],
)
def test_a_benchmark_measures(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / arguments[0], *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said in done.stdout, done.stdout + done.stderr
