"""What an endpoint is run by: a QEMU, or the model of one.

Both are a process with a QMP socket, and take the same command line; they differ in what it begins
with, and in what needs no asking of a model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.model.profile import PROFILES

MODEL, QEMU = "model", "qemu"
KINDS = (MODEL, QEMU)
DEFAULT_PROFILE = "7.2"
DEFAULT_QEMU = ("qemu-system-x86_64",)
MODEL_COMMAND = (sys.executable, "-P", "-m", "testbed.model")
"""-P: no module in the user's working directory takes the place of one of ours."""

ALIASES = {"pc": "pc-i440fx", "q35": "pc-q35"}
"""Machine types that mean another one in each version (QEMU `hw/i386/pc_piix.c`, `pc_q35.c`)."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command that ends in an endpoint; `profile` is a model's version, None: it is a QEMU."""

    command: tuple[str, ...]
    profile: str | None = None

    @property
    def kind(self) -> str:
        """`model` or `qemu`."""
        return QEMU if self.profile is None else MODEL


def qemu(command: Sequence[str] = DEFAULT_QEMU) -> Program:
    """A QEMU: the binary, or a command that ends in it, such as a chroot."""
    return Program(tuple(command))


def model(profile: str = DEFAULT_PROFILE) -> Program:
    """The model of a QEMU, in this Python.

    Args:
        profile: a key of `PROFILES`.
    """
    assert profile in PROFILES
    return Program((*MODEL_COMMAND, "--profile", profile), profile)


def common_machine(machine: str, source: Program, destination: Program) -> str:
    """The machine type that both sides know as the same.

    `pc` is each version's own: where a model meets a QEMU, it is that of the model's version. Two
    QEMUs are left to what they were told, as it is not known yet what they are.

    Args:
        machine: QEMU's `-M`, its options included.
        source: of a run.
        destination: of the same.
    """
    models = [each for each in (source, destination) if each.profile is not None]
    name, comma, options = machine.partition(",")
    if len(models) != 1 or name not in ALIASES:
        return machine
    return f"{ALIASES[name]}-{models[0].profile}{comma}{options}"


def shared_accelerator(source: Program, destination: Program) -> str | None:
    """The accelerator that a model decides for both sides, or None where it is to be chosen.

    A model's machine has TCG's devices: KVM's clock is none of them.
    """
    return "tcg" if MODEL in (source.kind, destination.kind) else None
