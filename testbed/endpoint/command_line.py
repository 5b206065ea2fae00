"""The command line of a QEMU, from a machine and inherited descriptors; nothing is run here.

Everything between the testbed and QEMU goes over descriptors that it inherits, never over a path:
the command may be a chroot, where no path of ours exists. Options: QEMU `qemu-options.hx` (5.2 to
11.1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .base import MachineSpec
from .trace import TRACE_ARGUMENTS

DISK_BYTES_MIN = 1 << 20
"""SeaBIOS reads the boot sector by cylinder, head and sector: a smaller disk has no cylinder."""

SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
"""No program is started, no user or priority changed (seccomp, QEMU `docs/system/security.rst`):
tried with precopy, postcopy, recovery and multifd of 5.2, 7.2, 10.0 and 11.1, of which none needs
what is denied."""

DISPLAYS = frozenset({"-display", "-nographic", "-vnc", "-spice", "-sdl", "-curses"})
"""Options that say where the guest's screen is."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors that QEMU inherits, by what they are for; None: it does without."""

    qmp: int  # a connected AF_UNIX socket
    serial: int  # likewise
    boot: tuple[int, int] | None = None  # the same file, opened for reading and for both
    tap: int | None = None

    @property
    def all(self) -> tuple[int, ...]:
        """Every one of them."""
        taps = () if self.tap is None else (self.tap,)
        return (self.qmp, self.serial, *(self.boot or ()), *taps)


def command_line(
    command: Sequence[str],
    machine: MachineSpec,
    inherited: Inherited,
    *,
    accelerator: str,
    incoming: bool,
    sandboxed: bool = False,
) -> list[str]:
    """Return the whole command line of one endpoint.

    Args:
        command: the binary, or a command that ends in it.
        machine: what it emulates; its own `accelerator` is not looked at.
        inherited: numbers as they are in the new process.
        accelerator: "kvm" or "tcg".
        incoming: true on the side that waits for `migrate-incoming`.
        sandboxed: it may not start programs; see `SANDBOX`.
    """
    arguments = [
        *command,
        *base_arguments(accelerator),
        *(SANDBOX if sandboxed else ()),
        *("-M", machine.machine, "-m", f"size={machine.memory_bytes}B", "-smp", str(machine.cpus)),
        *("-chardev", f"socket,id=qmp,fd={inherited.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,fd={inherited.serial}", "-serial", "chardev:serial"),
    ]
    if inherited.boot is not None:
        arguments += boot_arguments(inherited.boot)
    if inherited.tap is not None:
        arguments += [
            *("-netdev", f"tap,id=net0,fd={inherited.tap}"),
            # No option ROM: its size is the host's package's, and makes streams differ.
            *("-device", f"{machine.nic},id=nic0,netdev=net0,mac={machine.mac},romfile="),
        ]
    for device in machine.devices:
        arguments += ["-device", device]
    arguments += machine.arguments
    if machine.paused:
        arguments.append("-S")
    if incoming:
        arguments += [*TRACE_ARGUMENTS, "-incoming", "defer"]
    return arguments


def given_command_line(command: Sequence[str], qmp: int) -> list[str]:
    """Return the command line of a destination whose machine is all in its command.

    Args:
        command: the binary with its arguments.
        qmp: a connected AF_UNIX socket that it inherits.
    """
    arguments = [
        *command,
        *("-chardev", f"socket,id=testbed-qmp,fd={qmp}"),
        *("-mon", "chardev=testbed-qmp,mode=control"),
        *("-S", "-incoming", "defer"),
    ]
    if not DISPLAYS.intersection(word.replace("--", "-", 1) for word in command):
        arguments += ["-display", "none"]
    return arguments


def base_arguments(accelerator: str) -> tuple[str, ...]:
    """Return what keeps a QEMU from having more than it is told to.

    `-sandbox` only where it is asked for: a build without it refuses the option, and a refused
    system call would end the process by a signal of its own where a fault should show another.
    """
    return ("-nodefaults", "-no-user-config", "-display", "none", "-accel", accelerator)


def boot_arguments(boot: Sequence[int]) -> list[str]:
    """Return the arguments of a disk to boot from, held by descriptors of one file."""
    arguments = []
    for fd in boot:
        arguments += ["-add-fd", f"set=1,fd={fd}"]
    return [
        *arguments,
        *("-drive", "if=none,id=boot,format=raw,file.locking=off,file.filename=/dev/fdset/1"),
        # An IDE disk, as its device model keeps no pointer into guest memory: a virtio disk's
        # rings are read while a postcopy package is loaded, and pages requested before RUN.
        *("-device", "ide-hd,drive=boot,bus=ide.0,bootindex=0"),
    ]


@contextmanager
def boot_disk(image: bytes) -> Iterator[tuple[int, int]]:
    """A disk in memory that holds `image`; yields it opened for reading and for both.

    QEMU picks from a descriptor set the one with the flags it wants, and it wants both in turn.
    """
    fd = os.memfd_create("boot")
    try:
        os.truncate(fd, max(len(image), DISK_BYTES_MIN))
        os.pwrite(fd, image, 0)
        read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield read_only, fd
        finally:
            os.close(read_only)
    finally:
        os.close(fd)
