"""File descriptors that clients pass along with commands (SCM_RIGHTS), and their names.

Each descriptor here is owned: taken out by whoever uses it, or closed. Source of the behaviour:
`monitor/misc.c`, `monitor/qmp-cmds.c`, `chardev/char-socket.c` (`tcp_get_msgfds`, `tcp_chr_recv`)
(QEMU 7.2).
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence
from typing import Any

from .commands import Commands
from .error import CommandError
from .fdsets import FdSets
from .schema import INT, STR

RECEIVED_MAX = 16
"""Descriptors taken from one message (`TCP_MAX_FDS`)."""


class Descriptors:
    """What a monitor has been passed."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._named: dict[str, int] = {}
        self.sets = FdSets()

    def receive(self, fds: Sequence[int]) -> None:
        """Keep `fds` for the next command that asks; those of an earlier message are closed."""
        _close(self._received)
        self._received = list(fds)

    def take(self, name: str) -> int:
        """Return the descriptor of that name, which is the caller's from now on.

        Raises:
            CommandError: there is none.
        """
        if name not in self._named:
            raise CommandError(f"File descriptor named '{name}' has not been found")
        return self._named.pop(name)

    def close(self) -> None:
        """Close all of them."""
        self.receive(())
        _close(self._named.values())
        self._named.clear()
        self.sets.close()

    def add_to(self, commands: Commands) -> None:
        """Add the commands that have to do with descriptors."""
        commands.add("getfd", self._getfd, {"fdname": STR})
        commands.add("closefd", self._closefd, {"fdname": STR})
        commands.add("add-fd", self._add_fd, {"*fdset-id": INT, "*opaque": STR})
        commands.add("remove-fd", self._remove_fd, {"fdset-id": INT, "*fd": INT})
        commands.add("query-fdsets", lambda _: self.sets.query())

    def _take_received(self) -> int:
        """Return the first descriptor that was received last; the others are closed."""
        if not self._received:
            raise CommandError("No file descriptor supplied via SCM_RIGHTS")
        fd = self._received.pop(0)
        self.receive(())
        return fd

    def _getfd(self, arguments: dict[str, Any]) -> None:
        name, fd = arguments["fdname"], self._take_received()
        if name[:1] in tuple("0123456789"):
            os.close(fd)
            raise CommandError("Parameter 'fdname' expects a name not starting with a digit")
        if name in self._named:
            os.close(self._named[name])
        self._named[name] = fd

    def _closefd(self, arguments: dict[str, Any]) -> None:
        name = arguments["fdname"]
        if name not in self._named:
            raise CommandError(f"File descriptor named '{name}' not found")
        os.close(self._named.pop(name))

    def _add_fd(self, arguments: dict[str, Any]) -> dict[str, Any]:
        fd = self._take_received()
        set_id = self.sets.add(fd, arguments.get("fdset-id"), arguments.get("opaque"))
        return {"fdset-id": set_id, "fd": fd}

    def _remove_fd(self, arguments: dict[str, Any]) -> None:
        self.sets.remove(arguments["fdset-id"], arguments.get("fd"))


def receive(connected: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Receive up to `count` bytes, and the descriptors that were passed along with the first.

    A receive by itself would also return, with bytes that came before them, descriptors of a later
    message: a command would be given what belongs to the next. QEMU reads byte by byte always; here
    that is done where descriptors are near.

    Args:
        connected: an AF_UNIX stream that does not block.
        count: at most.
    """

    if _passed_soon(connected, count):
        count = 1
    return _receive(connected, count)


def _passed_soon(connected: socket.socket, count: int) -> bool:
    """Whether descriptors come with the next `count` bytes, or soon after; all stays where it is.

    Linux, when asked to look only, tells of those of the next message too.
    """
    _, copies = _receive(connected, count, socket.MSG_PEEK)
    _close(copies)
    return bool(copies)


def _receive(connected: socket.socket, count: int, flags: int = 0) -> tuple[bytes, list[int]]:
    # Not `socket.recv_fds`: it forgets the flags it is given (CPython 3.11).
    fds = array("i")
    data, ancillary, _, _ = connected.recvmsg(
        count, socket.CMSG_SPACE(RECEIVED_MAX * fds.itemsize), flags | socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def _close(fds: Any) -> None:
    for fd in fds:
        os.close(fd)
