"""What QEMU a command is: its version, and whether it has KVM. For `doctor`."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.log import Log

from .base import EndpointError
from .kvm import choose_accelerator
from .process import Process

ANSWERS_WITHIN_S = 5.0

VERSION = re.compile(r"^QEMU emulator version (\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class QemuIdentity:
    """What was found out about a command; `error` says why it is of no use, or is None."""

    command: tuple[str, ...]
    version: tuple[int, int, int] | None = None
    banner: str = ""  # first line of `--version`: the distribution's version is in it
    kvm: bool = False
    error: str | None = None


async def identify(command: Sequence[str]) -> QemuIdentity:
    """Ask a command what it is. It is run some times; whatever goes wrong is in the result."""
    command = tuple(command)
    try:
        said = await output(*command, "--version")
        banner = next(iter(said), "")
        version = VERSION.match(banner)
        if version is None:
            return QemuIdentity(
                command, error=f"{shlex.join(command)} is no QEMU: it said {banner!r}"
            )
        major, minor, micro = map(int, version.groups())
        return QemuIdentity(
            command,
            version=(major, minor, micro),
            banner=banner,
            kvm=await choose_accelerator(command) == "kvm",
        )
    except EndpointError as error:
        return QemuIdentity(command, error=str(error))


async def output(*argv: str) -> list[str]:
    """Run a command to its end and return the lines that it wrote.

    Raises:
        EndpointError: it is not there, failed, or did not end in time.
    """
    log = Log()
    async with Process.start("probe", argv, log=log) as process:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                status = await process.wait()
        except TimeoutError:
            raise EndpointError(
                f"it did not end within {ANSWERS_WITHIN_S:g} s", command=shlex.join(argv)
            ) from None
        if status != 0:
            raise EndpointError(
                f"it ended with status {status}",
                command=shlex.join(argv),
                stderr=process.stderr_tail,
            )
    return [event.facts["line"] for event in log.find("stderr")]
