"""`-pidfile`: tells which process has it, for as long as that lives.

Source: QEMU `util/oslib-posix.c`, `qemu_write_pidfile` (7.2), its texts checked with the real one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .command_line import Usage

PREFIX = "cannot create PID file: "
MODE = 0o600


@contextmanager
def pidfile(name: str | None) -> Iterator[None]:
    """Hold a file with our number in it; without a name, nothing. It is gone afterwards.

    Raises:
        Usage: it cannot be written, or another process holds it.
    """
    if name is None:
        yield
        return
    fd = _written(name)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(name)
        os.close(fd)


def _written(name: str) -> int:
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as error:
        raise Usage(f"{PREFIX}Could not create '{name}': {_why(error)}") from error
    what = "Cannot lock"
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        what = "Failed to truncate"
        os.ftruncate(fd, 0)
        what = "Failed to write"
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(fd)
        raise Usage(f"{PREFIX}{what} pid file: {_why(error)}") from error
    return fd


def _why(error: OSError) -> str:
    return os.strerror(error.errno or 0)
