"""File descriptors that clients pass along with commands (SCM_RIGHTS), and their names.

Each descriptor here is owned: taken out by whoever uses it, or closed. Source of the behaviour:
`monitor/misc.c`, `chardev/char-socket.c` (`tcp_get_msgfds`, `tcp_chr_recv`) (QEMU 7.2).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .commands import Commands
from .error import CommandError
from .schema import STR

RECEIVED_MAX = 16
"""Descriptors taken from one message (`TCP_MAX_FDS`)."""


class Descriptors:
    """What a monitor has been passed."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._named: dict[str, int] = {}

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

    def add_to(self, commands: Commands) -> None:
        """Add `getfd` and `closefd`."""
        commands.add("getfd", self._getfd, {"fdname": STR})
        commands.add("closefd", self._closefd, {"fdname": STR})

    def _getfd(self, arguments: dict[str, Any]) -> None:
        """Name the first descriptor that was received last; the others are closed."""
        name = arguments["fdname"]
        if not self._received:
            raise CommandError("No file descriptor supplied via SCM_RIGHTS")
        fd = self._received.pop(0)
        self.receive(())
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


def _close(fds: Any) -> None:
    for fd in fds:
        os.close(fd)
