"""A network namespace without a name and without a process in it, held by a descriptor.

The kernel keeps a namespace as long as something refers to it; the descriptor is that something.
Sockets opened inside stay inside, so a program in one process can have sockets in many.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pyroute2 import AsyncIPRoute

from .kernel import CLONE_NEWNET, MS_BIND, mount, setns, unshare


class Namespace:
    """A network namespace; made by `Namespace.create`, gone when that block ends."""

    def __init__(self, label: str, fd: int, netlink: AsyncIPRoute) -> None:
        self.label = label
        self.fd = fd
        self.netlink = netlink  # a rtnetlink socket that lives in the namespace

    def __repr__(self) -> str:
        return f"Namespace({self.label!r})"

    @classmethod
    @asynccontextmanager
    async def create(cls, label: str) -> AsyncIterator[Namespace]:
        """Make a namespace with `lo` up, without IPv6, that does not route.

        `label` is for messages, and for whoever pins it.

        A process that was started inside keeps it alive beyond the block, with its links.

        Raises:
            OSError: the kernel refused (EPERM without CAP_SYS_ADMIN).
        """
        with _own_namespace_kept():
            unshare(CLONE_NEWNET)
            _settle()
            netlink = AsyncIPRoute()
            # Reading the property is what opens the socket, here; `setup_endpoint` awaits, and
            # may not run where the thread's namespace is another.
            _ = netlink.socket
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            await netlink.setup_endpoint()
            await netlink.link("set", index=1, state="up")
            yield cls(label, fd, netlink)
        finally:
            netlink.close()
            os.close(fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run a block inside the namespace; a process started in it is born there.

        The block must not await: a switch of coroutines would carry the namespace to code that
        knows nothing of it.
        """
        with _own_namespace_kept():
            setns(self.fd)
            yield

    def enter_in_child(self) -> None:
        """Enter for good: a `preexec_fn` for children that asyncio starts."""
        setns(self.fd)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that lives in this namespace."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def pin(self, path: Path) -> None:
        """Bind-mount the namespace at `path`, so that `nsenter --net=PATH` reaches it.

        To be called in a mount namespace of one's own: elsewhere it would outlive the process.
        """
        path.touch()
        mount(f"/proc/self/fd/{self.fd}", str(path), "", MS_BIND)


def _settle() -> None:
    """Set what a new namespace takes over from the host's first one, or does by itself."""
    settings = {
        "ipv4/ip_forward": "0",  # 1 on a host with Docker, and taken over from there
        "ipv6/conf/all/disable_ipv6": "1",  # the kernel's own chatter: address detection,
        "ipv6/conf/default/disable_ipv6": "1",  # router solicitations
    }
    for name, value in settings.items():
        setting = Path("/proc/sys/net", name)
        if setting.exists():
            setting.write_text(value)


@contextmanager
def _own_namespace_kept() -> Iterator[None]:
    """Return to the thread's own network namespace when the block ends."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            setns(own)
        finally:
            os.close(own)
