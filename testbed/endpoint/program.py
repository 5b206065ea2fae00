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


def shared_accelerator(source: Program, destination: Program) -> str | None:
    """The accelerator that a model decides for both sides, or None where it is to be chosen.

    A model's machine has TCG's devices: KVM's clock is none of them.
    """
    return "tcg" if MODEL in (source.kind, destination.kind) else None
