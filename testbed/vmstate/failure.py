"""The errors of this room."""

from __future__ import annotations

import errno

EINVAL = -errno.EINVAL
EIO = -errno.EIO
ENOENT = -errno.ENOENT


class VmStateFailed(Exception):
    """State could not be loaded or saved; hooks raise it too.

    `ret` is what QEMU's function returns: a negative errno, or a bare -1. `lines` is what QEMU
    says on stderr, in order, without the program's name; there may be none.
    """

    def __init__(self, ret: int, *lines: str) -> None:
        super().__init__(ret, *lines)
        assert ret < 0, "a failure is a negative errno"
        self.ret = ret
        self.lines = lines

    def __str__(self) -> str:
        return " | ".join((*self.lines, f"error {self.ret}"))

    def within(self, line: str) -> VmStateFailed:
        """The same failure, of which what is around has one line more to say."""
        return VmStateFailed(self.ret, *self.lines, line)


class DeviceCrash(Exception):
    """A device's own code does not survive what it loads: QEMU is ended by SIGSEGV there."""
