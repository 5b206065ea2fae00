"""Whether KVM runs a guest here: found by running one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from testbed.log import Log

from .base import EndpointError
from .command_line import base_arguments, boot_arguments, boot_disk
from .process import Process

PROBE_WITHIN_S = 1.5
"""A working KVM needs some 0.2 s for firmware and boot sector. One that needs longer emulates
real mode in the kernel, and is slower than TCG."""

PROBE_PORT = 0xF4
PROBE_VALUE = 0x15
PROBE_STATUS = PROBE_VALUE << 1 | 1  # QEMU `hw/misc/debugexit.c`

# mov al, PROBE_VALUE; out PROBE_PORT, al; then hlt, for ever.
PROBE_SECTOR = (
    bytes((0xB0, PROBE_VALUE, 0xE6, PROBE_PORT, 0xF4, 0xEB, 0xFD)).ljust(510, b"\0") + b"\x55\xaa"
)

_known: dict[tuple[str, ...], bool] = {}


async def choose_accelerator(*commands: Sequence[str]) -> str:
    """Return "kvm" if it runs guests with each of `commands`, else "tcg".

    Both sides of a migration are to have the same, as KVM's machines have devices that TCG's
    lack. What was found is kept as long as this program runs.
    """
    for command in map(tuple, commands):
        if command not in _known:
            _known[command] = _cpu_has_it() and await _guest_ran(command)
        if not _known[command]:
            return "tcg"
    return "kvm"


def _cpu_has_it() -> bool:
    """False where it cannot work, so that trying would only cost time.

    A device node alone does not say so: without the CPU's own virtualization (`vmx`, `svm`) a
    kernel may still offer one.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)


async def _guest_ran(command: Sequence[str]) -> bool:
    """Try it: a guest whose boot sector ends QEMU with a status of its own."""
    with boot_disk(PROBE_SECTOR) as disk:
        argv = (
            *command,
            *base_arguments("kvm"),
            *("-M", "pc", "-m", "32", *boot_arguments(disk)),
            *("-device", f"isa-debug-exit,iobase={PROBE_PORT:#x}"),
        )
        try:
            async with (
                Process.start("probe", argv, log=Log(), inherited=disk) as process,
                asyncio.timeout(PROBE_WITHIN_S),
            ):
                return await process.wait() == PROBE_STATUS
        except (EndpointError, TimeoutError):
            return False
