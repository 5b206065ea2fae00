"""Files in folders that a user names: never written through a link that somebody put there.

A folder such as one below `/tmp` may be another user's to write to. A link that waits there under
the name of a file of ours would have any file of the caller's overwritten.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TextIO

MODE = 0o666  # less the umask


def new_text_file(path: Path) -> TextIO:
    """Open a text file in UTF-8 that must not be there yet.

    Raises:
        FileExistsError: something is there, a link that leads nowhere included.
        OSError: it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, MODE), "w", encoding="utf-8")


def plain_file(path: Path, flags: int, *, follow: bool = False) -> int:
    """Open a regular file, which may be there, and return its descriptor.

    Args:
        path: of the file.
        flags: of open(2); O_CREAT and an access mode, for example.
        follow: a symbolic link, too: to read what the user put there.

    Raises:
        OSError: it cannot be opened, or what is there is no regular file.
    """
    try:
        # O_NONBLOCK: a FIFO would be waited for.
        links = 0 if follow else os.O_NOFOLLOW
        fd = os.open(path, flags | links | os.O_NONBLOCK | os.O_CLOEXEC, MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", path) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "something else than a file is there", path)
    return fd


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that a user named, so that whoever reads it sees the old or the new content.

    What is no regular file (`/dev/stdout`, a pipe) is written to as it is, and so is a file in a
    folder in which nothing can be made. Of a link, the file that it leads to is replaced.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = plain_file(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    except PermissionError:  # the file may be the user's to write, and its folder another's
        path.write_bytes(content)
        return
    try:
        with open(fd, "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError:
        new.unlink()
        raise
