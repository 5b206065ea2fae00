"""What this machine offers to runs: tried out, not looked up; nothing of the trials stays."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from netns.inside import SandboxSide
from netns.sandbox import Sandbox, SandboxRefused
from netns.topology import Topology
from testbed.endpoint.identity import identify
from testbed.endpoint.kvm import choose_accelerator

SYS_USERFAULTFD = 323
"""x86-64's number; QEMU needs the call for postcopy at the destination."""
READ_BYTES = 65_536
NO_NAMESPACES = (
    "run as root; or sysctl -w user.max_user_namespaces=10000, on Debian also "
    "kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
)
NO_USERFAULTFD = (
    "without it postcopy scenarios end with status 3; sysctl -w vm.unprivileged_userfaultfd=1"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `needed`: no run works without it."""

    name: str
    ok: bool
    needed: bool
    detail: str
    remedy: str = ""


def examine(commands: Sequence[tuple[str, ...]]) -> list[Finding]:
    """Try what runs need, and ask each command what QEMU it is."""
    findings = [_python(), *_sandbox(), _tun()]
    findings += [asyncio.run(_qemu(command)) for command in commands]
    findings.append(asyncio.run(_kvm(commands)))
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), True, version, "3.11 or later is needed")


def _tun() -> Finding:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = "modprobe tun; and for users other than root: chmod 0666 /dev/net/tun"
        return Finding("/dev/net/tun", False, True, error.strerror or str(error), remedy)
    return Finding("/dev/net/tun", True, True, "can be opened")


def _sandbox() -> list[Finding]:
    """Build a run's namespaces and network, and see whether userfaultfd is there inside."""
    who = "as root" if os.geteuid() == 0 else "in a user namespace"
    try:
        with Sandbox.start(_try_inside) as sandbox:
            said = b""
            while piece := os.read(sandbox.fd, READ_BYTES):
                said += piece
            sandbox.wait()
    except SandboxRefused as error:
        remedy = "run as root, or: sysctl -w user.max_user_namespaces=10000 (Debian, Ubuntu: "
        remedy += (
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
        )
        return [Finding("namespaces", False, True, f"{who}: {error.strerror}", remedy)]
    facts = json.loads(said) if said else {"network": sandbox.failure.strip().splitlines()[-1]}
    network, faults = facts.get("network"), facts.get("userfaultfd")
    return [
        Finding("namespaces", True, True, f"user, mount, PID and network ones can be made {who}"),
        Finding(
            "network",
            network is None,
            True,
            network or "veth, TAP and bridge can be made in them",
            "modprobe veth; modprobe bridge; modprobe tun",
        ),
        Finding(
            "userfaultfd",
            faults is None,
            False,
            faults or "postcopy destinations work",
            NO_USERFAULTFD,
        ),
    ]


def _try_inside(side: SandboxSide) -> int:
    facts = {"network": asyncio.run(_try_network()), "userfaultfd": _try_userfaultfd()}
    side.write(json.dumps(facts).encode())
    return 0


async def _try_network() -> str | None:
    try:
        async with Topology.create():
            return None
    except OSError as error:
        return f"{error.filename or 'netlink'}: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - pyroute2's own errors are no OSErrors
        return str(error)


def _try_userfaultfd() -> str | None:
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return None


async def _qemu(command: tuple[str, ...]) -> Finding:
    found = await identify(command)
    name = " ".join(command)
    if found.error is not None:
        remedy = "apt-get install qemu-system-x86, or --qemu COMMAND"
        return Finding(name, False, True, found.error.splitlines()[0], remedy)
    return Finding(name, True, True, found.banner)


async def _kvm(commands: Sequence[tuple[str, ...]]) -> Finding:
    works = await choose_accelerator(*commands) == "kvm"
    detail = "guests run in it" if works else "does not run guests here; they run in TCG"
    return Finding("kvm", works, False, detail)
