"""A network namespace without a name and without a process in it, held by a descriptor.

The kernel keeps a namespace as long as something refers to it; the descriptor is that something.
Sockets opened inside stay inside, so a program in one process can have sockets in many.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pyroute2 import AsyncIPRoute

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """Move the calling thread into the namespace of `fd` (setns(2)).

    Raises:
        OSError: the kernel refused.
    """
    _check(_LIBC.setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    """Put the calling process into new namespaces (unshare(2)).

    Raises:
        OSError: the kernel refused; EPERM where user namespaces are not allowed.
    """
    _check(_LIBC.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2).

    Raises:
        OSError: the kernel refused.
    """
    encoded = [text.encode() or None for text in (source, target, kind)]
    _check(
        _LIBC.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}"
    )


class Namespace:
    """A network namespace; made by `Namespace.create`, gone when that block ends."""

    def __init__(self, label: str, fd: int) -> None:
        self.label = label
        self.fd = fd
        self._netlink: AsyncIPRoute | None = None

    def __repr__(self) -> str:
        return f"Namespace({self.label!r})"

    @classmethod
    @asynccontextmanager
    async def create(cls, label: str) -> AsyncIterator[Namespace]:
        """Make a namespace with `lo` up; `label` is for messages only.

        Raises:
            OSError: the kernel refused (EPERM without CAP_SYS_ADMIN).
        """
        with _own_namespace_kept():
            unshare(CLONE_NEWNET)
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _without_ipv6()
        namespace = cls(label, fd)
        try:
            await (await namespace.netlink()).link("set", index=1, state="up")
            yield namespace
        finally:
            if namespace._netlink is not None:
                namespace._netlink.close()
            os.close(fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run a block inside the namespace.

        The block must not await: a switch of coroutines would carry the namespace to code that
        knows nothing of it.
        """
        with _own_namespace_kept():
            setns(self.fd)
            yield

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that lives in this namespace."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    async def netlink(self) -> AsyncIPRoute:
        """The namespace's rtnetlink socket, opened at the first call."""
        if self._netlink is None:
            with self.entered():
                route = AsyncIPRoute()
                # Binding is what takes the namespace; it does not wait for anything.
                await route.setup_endpoint()
            self._netlink = route
        return self._netlink

    def pin(self, path: Path) -> None:
        """Bind-mount the namespace at `path`, so that `nsenter --net=PATH` reaches it.

        To be called in a mount namespace of one's own: elsewhere it would outlive the process.
        """
        path.touch()
        mount(f"/proc/self/fd/{self.fd}", str(path), "", MS_BIND)


def _without_ipv6() -> None:
    """Keep the kernel's own chatter (router solicitations, address detection) off the links."""
    for name in ("all", "default"):
        setting = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if setting.exists():
            setting.write_text("1")


@contextmanager
def _own_namespace_kept() -> Iterator[None]:
    """Return to the thread's own network namespace when the block ends."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        setns(own)
        os.close(own)
