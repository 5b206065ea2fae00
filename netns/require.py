"""What the environment lacks for a run, found by trying it in a sandbox of its own.

A look at settings would have to know every kernel, container and distribution; a try does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pyroute2 import NetlinkError

from . import links
from .inside import SandboxSide
from .kernel import open_userfaultfd
from .namespace import Namespace
from .sandbox import Sandbox, SandboxBroke, SandboxRefused

ANSWER_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a run may need.

    `detail` is what the kernel said, empty where it is there; `remedy` how to get it; `needed` is
    False for what only some scenarios use (`userfaultfd`: postcopy).
    """

    name: str
    ok: bool
    detail: str
    remedy: str
    needed: bool = True


SANDBOX = "namespaces"
REMEDIES = {
    SANDBOX: (
        "run as root, or allow user namespaces: sysctl user.max_user_namespaces=10000, and where "
        "it exists kernel.unprivileged_userns_clone=1 (Debian) or "
        "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); in a container, give it "
        "CAP_SYS_ADMIN (--privileged)"
    ),
    "network namespace": "use a kernel with CONFIG_NET_NS; in a container, run it --privileged",
    "veth": "load the module as root: modprobe veth",
    "bridge": "load the module as root: modprobe bridge",
    "tap": (
        "load the module as root: modprobe tun; make /dev/net/tun usable: chmod 0666 "
        "/dev/net/tun (the usual mode), in a container pass --device /dev/net/tun"
    ),
    "packet socket": "use a kernel with CONFIG_PACKET, or load the module: modprobe af_packet",
    "userfaultfd": (
        "run as root, or sysctl vm.unprivileged_userfaultfd=1, or give yourself /dev/userfaultfd "
        "(Linux 6.1 and QEMU 8.0 or later): setfacl -m u:$USER:rw /dev/userfaultfd"
    ),
}
OPTIONAL = frozenset({"userfaultfd"})


def probe_features() -> list[Feature]:
    """Try each thing that a run may need, in a sandbox that leaves nothing.

    Must be called while the process has one thread, like `Sandbox.start`.
    """
    try:
        sandbox = Sandbox.start(_try_all)
    except SandboxRefused as refused:
        return [_feature(SANDBOX, str(refused))]
    except SandboxBroke as broke:
        return [_feature(SANDBOX, str(broke).strip().rpartition("\n")[2])]
    with sandbox:
        answer = b"".join(iter(lambda: os.read(sandbox.fd, ANSWER_BYTES_MAX), b""))
        if sandbox.wait() != 0:
            return [_feature(SANDBOX, sandbox.failure.strip().rpartition("\n")[2])]
    tried: dict[str, str] = json.loads(answer)
    return [_feature(SANDBOX, ""), *(_feature(name, detail) for name, detail in tried.items())]


def missing() -> list[Feature]:
    """Those features without which there is no run, and that are not there."""
    return [feature for feature in probe_features() if feature.needed and not feature.ok]


def _feature(name: str, detail: str) -> Feature:
    return Feature(name, not detail, detail, REMEDIES[name], name not in OPTIONAL)


def _try_all(side: SandboxSide) -> int:
    side.write(json.dumps(asyncio.run(_details())).encode())
    return 0


async def _details() -> dict[str, str]:
    """What went wrong by feature; empty: nothing."""
    details = {"network namespace": ""}
    try:
        async with Namespace.create("a") as a, Namespace.create("b") as b:
            tries: dict[str, Callable[[], Awaitable[None]]] = {
                "veth": lambda: links.veth(a, "veth", b, "veth"),
                "bridge": lambda: links.bridge(a, "bridge"),
                "tap": lambda: _try_tap(a),
                "packet socket": lambda: _try_packet_socket(a),
                "userfaultfd": _try_userfaultfd,
            }
            for name, attempt in tries.items():
                details[name] = await _detail(attempt)
    except OSError as error:
        details["network namespace"] = _said(error)
    return details


async def _detail(attempt: Callable[[], Awaitable[None]]) -> str:
    try:
        await attempt()
    except (OSError, NetlinkError) as error:
        return _said(error)
    return ""


def _said(error: OSError | NetlinkError) -> str:
    return str(error) if isinstance(error, OSError) else str(error.args[1])


async def _try_tap(namespace: Namespace) -> None:
    with links.tap(namespace, "tap", vnet_header=True):
        await links.up(namespace, "tap")


async def _try_packet_socket(namespace: Namespace) -> None:
    namespace.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


async def _try_userfaultfd() -> None:
    os.close(open_userfaultfd())
