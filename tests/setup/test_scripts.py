"""The scripts that the README names: that they hold, and what they say where things lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("setup", "demo", "test", "test-all", "check-bare-debian", "build-guest")
SHELL = [*(ROOT / "scripts" / name for name in SCRIPTS), ROOT / ".ci" / "run"]
NOBODY = 65534


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def test_setup_is_done_when_it_is_done() -> None:
    done = subprocess.run([ROOT / "scripts" / "setup"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "installing" not in done.stderr
    assert "making" not in done.stderr


def link_tools(folder: Path, *names: str) -> None:
    """Make these programs, and no others, those that a search of the folder finds."""
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or name)


def open_to_all(folder: Path) -> None:
    """Let other users into a temporary folder."""
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)


def as_nobody(
    script: Path, *words: str, tools: Path, home: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script as a user without rights, who has only these tools."""
    return subprocess.run(
        [script, *words],
        env={"PATH": str(tools), "HOME": str(home)},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
    )


@pytest.mark.live
@pytest.mark.parametrize("words", [(), ("models",)])
def test_without_root_and_without_packages_setup_names_them(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    link_tools(tools, "sh", "id", "dirname", "cat", "cksum")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    open_to_all(tmp_path)
    done = as_nobody(tmp_path / "scripts" / "setup", *words, tools=tools, home=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "apt-get install --no-install-recommends python3 python3-venv" in done.stderr
    for package in ("qemu-system-x86", "nasm"):
        assert (package in done.stderr) is (words == ())


def clone_that_is_set_up(folder: Path) -> Path:
    """A clone whose environment is made already; `python3` is a word that says its version."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = folder / ".venv" / "bin" / "testbed"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    files = (folder / "pyproject.toml").read_bytes() + (folder / "scripts" / "setup").read_bytes()
    sums = subprocess.run(["cksum"], input=files, capture_output=True, check=True).stdout.decode()
    (folder / ".venv" / "setup-stamp").write_text(f"{sums}Python 3.11.2\n{folder}")
    return folder


@pytest.mark.live
def test_setup_leaves_the_command_of_another_clone_unless_it_is_told_otherwise(
    tmp_path: Path,
) -> None:
    tools, home = tmp_path / "bin", tmp_path / "home"
    tools.mkdir()
    link_tools(tools, "sh", "id", "dirname", "cat", "cksum", "readlink", "mkdir", "ln")
    python = tools / "python3"
    python.write_text('#!/bin/sh\n[ "$1" != --version ] || echo Python 3.11.2\n')
    python.chmod(0o755)
    first, second = (clone_that_is_set_up(tmp_path / name) for name in ("first", "second"))
    open_to_all(tmp_path)
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)

    def setup(clone: Path, *words: str) -> str:
        script = clone / "scripts" / "setup"
        done = as_nobody(script, *words, "models", tools=tools, home=home)
        assert done.returncode == 0, done.stderr
        return done.stderr

    link = home / ".local" / "bin" / "testbed"
    assert setup(first) == f"setup: the command is {link}\n"
    assert setup(first) == ""
    told = setup(second)
    assert f"{link} leads to {first}/.venv/bin/testbed and stays" in told
    assert link.readlink() == first / ".venv" / "bin" / "testbed"
    assert setup(second, "--command") == f"setup: the command is {link}\n"
    assert link.readlink() == second / ".venv" / "bin" / "testbed"
    shutil.rmtree(second)
    assert setup(first) == f"setup: the command is {link}\n"  # the other one leads nowhere now


def test_the_vagrant_machine_is_set_up_by_the_same_script() -> None:
    assert 'inline: "/vagrant/scripts/setup"' in (ROOT / "Vagrantfile").read_text()


def test_the_nightly_workflow_uses_nothing_but_the_commands_that_people_use() -> None:
    lines = (ROOT / ".github" / "workflows" / "nightly.yml").read_text().splitlines()
    commands = [line.split("run:")[1].strip() for line in lines if "- run:" in line]
    assert [command.split()[0] for command in commands] == ["scripts/test", *["testbed"] * 5]
