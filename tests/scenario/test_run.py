"""What a run is started with, before anything is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from testbed.endpoint.program import Program, model, qemu
from testbed.log import Log
from testbed.scenario import session
from testbed.scenario.load import load
from testbed.scenario.machines import with_machines
from testbed.scenario.run import Lacks, Settings, lab_plan, other_endpoint, play
from testbed.scenario.session import Options, _repeat_command

SCENARIO = """\
description: it is never begun
mode: precopy
requires: {{endpoint: {kind}}}
guest: {{machine: "pc,usb=off"}}
destination: {{machine: q35}}
expect: {{verdict: completed}}
"""


def scenario(folder: Path, kind: str = "qemu"):
    path = folder / "it.yaml"
    path.write_text(SCENARIO.format(kind=kind))
    return load(path)


@pytest.mark.parametrize(
    ("kind", "source", "destination", "said"),
    [
        ("qemu", model(), qemu(), "it needs a real QEMU on both sides, the source is a model: "),
        ("qemu", qemu(), model(), "it needs a real QEMU on both sides, the destination is a m"),
        ("model", model(), qemu(), "it needs the model on both sides, the destination is a qemu"),
    ],
)
async def test_an_endpoint_that_a_scenario_cannot_have_is_lacking(
    tmp_path: Path, kind: str, source: Program, destination: Program, said: str
) -> None:
    with pytest.raises(Lacks) as lacks:
        await play(scenario(tmp_path, kind), Settings(source, destination), tmp_path, Log())
    assert str(lacks.value).startswith(said)
    assert str(lacks.value).endswith(f"--endpoint {kind}")


def test_a_scenario_may_be_for_other_endpoints(tmp_path: Path) -> None:
    assert other_endpoint(scenario(tmp_path), Settings(qemu(), qemu())) is None
    assert other_endpoint(scenario(tmp_path, "model"), Settings()) is None
    assert other_endpoint(scenario(tmp_path), Settings()) == (
        "it needs a real QEMU on both sides, the source is a model: --endpoint qemu"
    )


def test_a_model_of_another_version_is_known_before_it_is_started(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    text = SCENARIO.replace("endpoint: {kind}", 'qemu: ">=3.0"')
    path.write_text(text.format())
    assert other_endpoint(load(path), Settings(model("7.2"), qemu())) is None
    assert other_endpoint(load(path), Settings(model("7.2"), model("2.9"))) == (
        "it needs QEMU >=3.0, the destination is the model of 2.9: name another with --profile"
    )


def test_an_error_while_it_is_judged_makes_it_unknown(tmp_path: Path, monkeypatch) -> None:
    """Nothing of it is played here: what cannot begin is judged, too."""

    def breaks(*_: object) -> None:
        raise ValueError("no such verdict")

    monkeypatch.setattr(session, "judge", breaks)
    result = session.run(scenario(tmp_path), Options(Settings()))
    assert (result.verdict, result.passed) == ("unknown", None)
    lines = result.reason.splitlines()
    assert lines[-2].startswith("this is an error of the testbed's own: report it with log.jsonl")
    assert lines[-1] == "ValueError: no such verdict"


def sides(path: Path, settings: Settings) -> tuple[str, str]:
    """The -M of both sides."""
    settings = with_machines(settings, scenario(path))
    plan = lab_plan(scenario(path), settings, path, "tcg")
    return plan.source.machine.machine, plan.destination.machine.machine


def listing(path: Path, version: str) -> Program:
    """A command that answers `-machine help` as a QEMU of that version, and counts how often."""
    fake = path / f"qemu-{version}"
    fake.write_text(f"""#!/bin/sh
echo asked >> {path}/asked
echo "Supported machines are:"
echo "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-{version})"
echo "pc-i440fx-{version}        Standard PC (i440FX + PIIX, 1996) (default)"
echo "pc-i440fx-2.9        Standard PC (i440FX + PIIX, 1996) (deprecated)"
echo "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-{version})"
echo "pc-q35-{version}           Standard PC (Q35 + ICH9, 2009)"
echo "pc-q35-2.9           Standard PC (Q35 + ICH9, 2009)"
""")
    fake.chmod(0o755)
    return qemu([str(fake)])


def test_an_alias_is_the_newest_machine_type_of_both_sides(tmp_path: Path) -> None:
    newer, older = listing(tmp_path, "9.0"), listing(tmp_path, "8.1")
    assert sides(tmp_path, Settings(newer, older)) == ("pc-i440fx-2.9,usb=off", "pc-q35-2.9")
    assert sides(tmp_path, Settings(newer, newer)) == ("pc-i440fx-9.0,usb=off", "pc-q35-9.0")
    assert sides(tmp_path, Settings(model("2.9"), older))[0] == "pc-i440fx-2.9,usb=off"
    assert (tmp_path / "asked").read_text().split() == ["asked", "asked"]  # each once


def test_a_machine_of_the_command_line_stands_in_place_of_the_scenarios(tmp_path: Path) -> None:
    newer, older = listing(tmp_path, "9.0"), listing(tmp_path, "8.1")
    got = sides(tmp_path, Settings(newer, older, machine="pc-i440fx-2.9"))
    assert got == ("pc-i440fx-2.9", "pc-q35-2.9")


def test_a_side_that_cannot_be_asked_is_lacking(tmp_path: Path) -> None:
    with pytest.raises(Lacks, match="/nowhere/qemu is not there"):
        sides(tmp_path, Settings(qemu(["/nowhere/qemu"]), model()))


@pytest.mark.parametrize(("given", "nic"), [(None, "virtio-net-pci"), ("e1000", "e1000")])
def test_a_nic_of_the_command_line_stands_in_place_of_the_scenarios(
    tmp_path: Path, given: str | None, nic: str
) -> None:
    plan = lab_plan(scenario(tmp_path), Settings(nic=given), tmp_path, "tcg")
    assert (plan.source.machine.nic, plan.destination.machine.nic) == (nic, nic)


@pytest.mark.parametrize(("given", "seed"), [(None, 1), (0, 0), (7, 7)])
def test_one_seed_decides_all_that_is_left_to_chance(
    tmp_path: Path, given: int | None, seed: int
) -> None:
    plan = lab_plan(scenario(tmp_path), Settings(seed=given), tmp_path, "tcg")
    assert (plan.seed, plan.guest.seed) == (seed, seed)


CHROOT = ("chroot", "/srv/trixie", "qemu-system-x86_64")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(), []),
        (Settings(model("2.9"), model("2.9")), ["--profile", "2.9"]),
        (Settings(machine="q35", nic="e1000"), ["--machine", "q35", "--nic", "e1000"]),
        (Settings(qemu(), qemu(), "tcg"), ["--endpoint", "qemu", "--accel", "tcg"]),
        (Settings(qemu(), model()), ["--source", "qemu"]),
        (
            Settings(model("2.9"), qemu()),
            ["--destination", "qemu", "--profile", "2.9"],
        ),
        (
            Settings(qemu(CHROOT), qemu()),
            ["--source-qemu", shlex.join(CHROOT), "--destination", "qemu"],
        ),
    ],
)
def test_the_command_that_repeats_a_run_names_its_endpoints(
    tmp_path: Path, settings: Settings, words: list[str]
) -> None:
    said = shlex.split(_repeat_command(scenario(tmp_path), Options(settings)))
    assert said == ["testbed", "run", str(tmp_path / "it.yaml"), "--seed", "1", *words]
