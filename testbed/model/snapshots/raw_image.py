"""Plain files as disk images, as QEMU has them with `raw`. Source: QEMU `block/file-posix.c`."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from .image_error import ImageError


class RawImage:
    """A plain file: every byte is the guest's, so there is no room for a snapshot."""

    can_snapshot = False

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open and lock it; raises `ImageError`."""
        self.path = path
        self.read_only = read_only
        try:
            self._fd = os.open(path, os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR))
        except OSError as error:
            raise ImageError.not_opened(path, error.errno or errno.EIO) from error
        try:
            lock = fcntl.LOCK_SH if read_only else fcntl.LOCK_EX
            fcntl.flock(self._fd, lock | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ImageError.in_use(path, read_only=read_only) from error
        self.size_bytes = os.fstat(self._fd).st_size

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What the guest reads; raises `ImageError`."""
        check_range(self.size_bytes, offset_bytes, length_bytes)
        try:
            return os.pread(self._fd, length_bytes, offset_bytes)
        except OSError as error:
            raise ImageError(error.errno or errno.EIO) from error

    def write(self, offset_bytes: int, data: bytes) -> None:
        """What the guest writes; raises `ImageError`."""
        check_range(self.size_bytes, offset_bytes, len(data))
        if self.read_only:
            raise ImageError(errno.EPERM)
        try:
            if os.pwrite(self._fd, data, offset_bytes) != len(data):
                raise ImageError(errno.ENOSPC)
        except OSError as error:
            raise ImageError(error.errno or errno.EIO) from error

    def flush(self) -> None:
        """What was written is on the disk when this returns; raises `ImageError`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise ImageError(error.errno or errno.EIO) from error

    def close(self) -> None:
        """Release the lock and the file."""
        os.close(self._fd)


def check_range(size_bytes: int, offset_bytes: int, length_bytes: int) -> None:
    """Refuse what a guest asks of a disk beyond its end; raises `ImageError`."""
    if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > size_bytes:
        raise ImageError(errno.EIO)
