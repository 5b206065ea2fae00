"""`testbed prove` before anything is played."""

from pathlib import Path

import pytest
from command_helpers import command

QUICK = "description: it\nmode: precopy\nexpect: {verdict: completed}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch.yaml"], "nosuch.yaml: no such file"),
        (["scenarios", "-j", "0"], "'--jobs'"),
        (["scenarios", "--json", "nosuch/it.json"], "nosuch/it.json"),
        (["scenarios", "--endpoint", "qemu", "--profile", "2.9"], "--profile is a model's"),
        (["scenarios", "--machine", ""], "--machine: expected a machine type"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], said: str) -> None:
    done = command("prove", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_scenarios_that_nobody_vouches_for_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(QUICK + "guest: {arguments: [-S]}\n")
    done = command("prove", path, "--untrusted")
    assert (done.returncode, done.stdout) == (2, "")
    assert "guest.arguments" in done.stderr


def test_a_folder_may_have_scenarios_for_other_endpoints(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(QUICK + "requires: {endpoint: qemu}\n")
    done = command("prove", tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == (
        "left out it needs a real QEMU on both sides, the source is a model: --endpoint qemu\n"
    )
