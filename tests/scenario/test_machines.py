"""Which machines the two sides of a run get, and QEMUs that have none for it."""

import sys

import pytest

from testbed.endpoint.program import model, qemu
from testbed.scenario.lacks import Lacks
from testbed.scenario.load import load
from testbed.scenario.machines import with_machines
from testbed.scenario.run import Settings

AARCH64 = """\
Supported machines are:
akita                Sharp SL-C1000 (Akita) PDA (PXA270)
virt                 QEMU 7.2 ARM Virtual Machine (alias of virt-7.2)
virt-7.2             QEMU 7.2 ARM Virtual Machine
none                 empty machine
"""


def scenario(tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text("description: x\nmode: precopy\nexpect: {verdict: completed}\n")
    return load(path)


def prints(text):
    """A command that says so whatever it is asked."""
    return qemu((sys.executable, "-c", f"print({text!r})"))


def test_a_qemu_without_a_pc_is_refused_by_its_name(tmp_path):
    with pytest.raises(Lacks) as lacks:
        with_machines(Settings(model(), prints(AARCH64)), scenario(tmp_path))
    said = str(lacks.value)
    assert said.startswith("the destination cannot be ")
    assert "a run's guest needs a PC, `pc`, `q35` and their versions" in said
    assert "it has akita, none, virt, virt-7.2. Name a qemu-system-x86_64" in said


def test_one_with_a_pc_among_others_is_taken(tmp_path):
    pc = "pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)\n"
    settings = with_machines(Settings(model(), prints(AARCH64 + pc)), scenario(tmp_path))
    assert settings.machines == {"pc": "pc-i440fx-7.2"}


def test_a_machine_that_a_side_does_not_have_is_refused_by_its_name(tmp_path):
    q35 = "pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)\n"
    with pytest.raises(Lacks, match=r"has no machine pc: it has pc-q35-7\.2; name one"):
        with_machines(Settings(prints(AARCH64 + q35), prints(AARCH64 + q35)), scenario(tmp_path))
    settings = Settings(model(), prints(AARCH64 + q35))
    with pytest.raises(Lacks, match=r"the destination, .*, has no machine pc-i440fx-7\.2: it has"):
        with_machines(settings, scenario(tmp_path))
