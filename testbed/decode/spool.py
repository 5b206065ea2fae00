"""Bytes kept in an unnamed temporary file while they are read, as far as there is room for them."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import IO

from .channels import SourceError

LEFT_BYTES_MIN = 64 << 20
"""Of the folder for temporary files, that other programs need, too."""


class Spool:
    """A temporary file that grows; gone when `stack` is closed.

    The free space is asked for before the first byte is written, and again when what was free then
    is used up: a full disk would end other programs, too.

    Args:
        name: of what is read, for messages.
        what: it is, in words: `a capture that is no plain file`.
        stack: closes the file.
        total_bytes: that will come; None: nobody knows.
        bytes_max: that may come.

    Raises:
        SourceError: there is no room for it.
    """

    def __init__(
        self, name: str, what: str, stack: ExitStack, *, total_bytes: int | None, bytes_max: int
    ) -> None:
        self._name, self._what, self._bytes_max = name, what, bytes_max
        self.size_bytes = 0
        try:
            self.file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            self._room_bytes = self._free_bytes()
        except OSError as error:
            raise self._refused(error.strerror) from None
        if total_bytes is not None and total_bytes > self._room_bytes:
            raise self._refused(f"it has {total_bytes} bytes, {self._there_are(self._room_bytes)}")

    def add(self, data: bytes) -> None:
        """Write more of it.

        Raises:
            SourceError: there is no room for it, or it is more than may come.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._bytes_max:
            raise SourceError(f"{self._name}: {self._what}, of more than {self._bytes_max} bytes")
        try:
            if self.size_bytes > self._room_bytes:
                free = self._free_bytes()
                if free < len(data):
                    so_far = self.size_bytes - len(data)
                    raise self._refused(f"after {so_far} bytes {self._there_are(free)}")
                self._room_bytes = self.size_bytes + free - len(data)
            left = memoryview(data)
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise self._refused(error.strerror) from None

    def _free_bytes(self) -> int:
        """What may still be written into it."""
        status = os.fstatvfs(self.file.fileno())
        return max(status.f_bavail * status.f_frsize - LEFT_BYTES_MIN, 0)

    def _there_are(self, free: int) -> str:
        return f"there is room for {free} (and {LEFT_BYTES_MIN >> 20} MiB that are left alone)"

    def _refused(self, why: str | None) -> SourceError:
        return SourceError(
            f"{self._name}: {self._what} is kept in the temporary folder {tempfile.gettempdir()} "
            f"while it is read: {why} (TMPDIR names another folder)"
        )
