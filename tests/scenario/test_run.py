"""What a run is started with, before anything is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from testbed.endpoint.program import Program, model, qemu
from testbed.log import Log
from testbed.scenario.load import load
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


def test_a_model_and_a_qemu_are_the_same_machine(tmp_path: Path) -> None:
    plan = lab_plan(scenario(tmp_path), Settings(model("2.9"), qemu()), tmp_path, "tcg")
    assert plan.source.machine.machine == "pc-i440fx-2.9,usb=off"
    assert plan.destination.machine.machine == "pc-q35-2.9"
    assert (plan.source.program, plan.destination.program) == (model("2.9"), qemu())


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
