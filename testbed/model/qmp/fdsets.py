"""Sets of descriptors that are opened by name, as `/dev/fdset/1`: `add-fd` and its kin.

A set lives as long as it has descriptors. When the client goes while the guest runs, all go: none
is in use by then, as what is opened is a copy. Source: `monitor/fds.c`, `util/osdep.c` (QEMU 7.2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from dataclasses import dataclass
from typing import Any

from .error import CommandError

_PATH = re.compile(r"/dev/fdset/(\d+)")


@dataclass(frozen=True, slots=True)
class Member:
    """One descriptor of a set."""

    fd: int
    opaque: str | None  # a note of the client's


class FdSets:
    """All sets, by their number."""

    def __init__(self) -> None:
        self._sets: dict[int, list[Member]] = {}

    def add(self, fd: int, set_id: int | None = None, opaque: str | None = None) -> int:
        """Put `fd`, which is the set's from now on, into a set; return its number.

        Args:
            fd: an open descriptor.
            set_id: of a set, new or not; None: a new one, with the first number that is free.
            opaque: a note.

        Raises:
            CommandError: `set_id` is negative; `fd` is closed.
        """
        if set_id is None:
            set_id = next(free for free in range(len(self._sets) + 1) if free not in self._sets)
        elif set_id < 0:
            os.close(fd)
            raise CommandError("Parameter 'fdset-id' expects a non-negative value")
        self._sets.setdefault(set_id, []).append(Member(fd, opaque))
        return set_id

    def remove(self, set_id: int, fd: int | None = None) -> None:
        """Close one descriptor of a set, or all of them.

        Raises:
            CommandError: there is none.
        """
        members = self._sets.get(set_id, [])
        leaving = [member for member in members if fd is None or member.fd == fd]
        if not leaving:
            name = f"fdset-id:{set_id}" + ("" if fd is None else f", fd:{fd}")
            raise CommandError(f"File descriptor named '{name}' not found")
        for member in leaving:
            os.close(member.fd)
            members.remove(member)
        if not members:
            del self._sets[set_id]

    def open(self, path: str, flags: int) -> int | None:
        """Return a copy of the descriptor that `path` means; None: it means no set.

        Args:
            path: such as `/dev/fdset/1`.
            flags: of `open`; the descriptor must have been opened for the same access.

        Raises:
            OSError: there is no such set, or none of its descriptors is for that access.
        """
        named = _PATH.fullmatch(path)
        if named is None:
            return None
        members = self._sets.get(int(named[1]))
        if members is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        for member in members:
            if (fcntl.fcntl(member.fd, fcntl.F_GETFL) ^ flags) & os.O_ACCMODE == 0:
                return os.dup(member.fd)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    def query(self) -> list[dict[str, Any]]:
        """Return what `query-fdsets` does: the highest number is first."""
        return [
            {"fdset-id": set_id, "fds": [_as_json(member) for member in members]}
            for set_id, members in sorted(self._sets.items(), reverse=True)
        ]

    def close(self) -> None:
        """Close all of them."""
        for set_id in list(self._sets):
            self.remove(set_id)


def _as_json(member: Member) -> dict[str, Any]:
    note = {} if member.opaque is None else {"opaque": member.opaque}
    return {"fd": member.fd, **note}
