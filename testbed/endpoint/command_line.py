"""The command line of a QEMU endpoint, and what it inherits.

Nothing on it is a path: QMP, serial line, TAP and boot disk come as inherited descriptors, so that
a command such as `chroot /srv/trixie qemu-system-x86_64` serves as well as a plain binary.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .base import MachineSpec

BOOT_SET = 1  # of -add-fd


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors that QEMU inherits, by what they are for; `None`: it does without."""

    qmp: int
    serial: int
    boot: tuple[int, int] | None = None  # the same file, opened for reading and for both
    tap: int | None = None

    @property
    def all(self) -> tuple[int, ...]:
        """Every one of them."""
        taps = () if self.tap is None else (self.tap,)
        return (self.qmp, self.serial, *(self.boot or ()), *taps)


def command_line(
    command: tuple[str, ...], machine: MachineSpec, inherited: Inherited, *, incoming: bool
) -> list[str]:
    """The whole command line of one endpoint."""
    arguments = [
        *command,
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-M", machine.machine, "-accel", accelerator(machine.accelerator)),
        *("-m", f"size={machine.memory_bytes}B", "-smp", str(machine.cpus)),
        *("-chardev", f"socket,id=qmp,fd={inherited.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,fd={inherited.serial}", "-serial", "chardev:serial"),
    ]
    if inherited.boot is not None:
        for fd in inherited.boot:
            arguments += ["-add-fd", f"set={BOOT_SET},fd={fd}"]
        arguments += [
            *(
                "-drive",
                f"if=none,id=boot,format=raw,file.locking=off,file.filename=/dev/fdset/{BOOT_SET}",
            ),
            # An IDE disk, as its device model keeps no pointer into guest memory: a virtio disk's
            # rings are read while a postcopy package is loaded, and pages requested before RUN.
            *("-device", "ide-hd,drive=boot,bus=ide.0,bootindex=0"),
        ]
    if inherited.tap is not None:
        arguments += [
            *("-netdev", f"tap,id=net0,fd={inherited.tap}"),
            *("-device", f"{machine.nic},id=nic0,netdev=net0,mac={machine.mac},romfile="),
        ]
    for device in machine.devices:
        arguments += ["-device", device]
    arguments += machine.arguments
    if machine.paused:
        arguments.append("-S")
    if incoming:
        arguments += ["-incoming", "defer"]
    return arguments


@cache
def kvm_works() -> bool:
    """True if this machine runs guests by KVM.

    A device node alone does not say so: without the CPU's own virtualization (`vmx`, `svm`) a
    kernel may still offer one that fails in the guest's first protected-mode instructions.
    """
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "vmx" in flags or "svm" in flags


def accelerator(wanted: str) -> str:
    """`kvm` or `tcg` for `auto`; else what is wanted."""
    if wanted != "auto":
        return wanted
    return "kvm" if kvm_works() else "tcg"


@contextmanager
def boot_disk(image: bytes) -> Iterator[tuple[int, int]]:
    """A disk in memory that holds `image`; yields it opened for reading and for both.

    QEMU picks from a descriptor set the one with the flags it wants, and it wants both in turn.
    """
    fd = os.memfd_create("boot")
    try:
        os.truncate(fd, len(image))
        os.pwrite(fd, image, 0)
        read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield read_only, fd
        finally:
            os.close(read_only)
    finally:
        os.close(fd)


@contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair: ours, and the one that QEMU inherits, closed here when the block ends."""
    ours, theirs = socket.socketpair()
    try:
        yield ours, theirs
    finally:
        theirs.close()
