"""What goes wrong with disk images, in QEMU's words.

Source of the texts: QEMU 7.2, `block.c`, `block/file-posix.c`, `block/qcow2.c`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

FORMAT = "model"
"""What QEMU would name the format, as in `Image is not in qcow2 format`."""


class ImageError(Exception):
    """An image could not be used. `number` is the errno, `str()` what QEMU says of it."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text or os.strerror(number))
        self.number = number

    @classmethod
    def not_opened(cls, path: Path, number: int) -> ImageError:
        """The file is not there, or may not be used."""
        return cls(number, f"Could not open '{path}': {os.strerror(number)}")

    @classmethod
    def in_use(cls, path: Path, *, read_only: bool) -> ImageError:
        """Somebody else has it open; QEMU since 2.10, which was the first to look."""
        lock = 'shared "write" lock' if read_only else '"write" lock'
        return cls(
            errno.EAGAIN, f"Failed to get {lock}\nIs another process using the image [{path}]?"
        )

    @classmethod
    def not_ours(cls) -> ImageError:
        """A file of another kind."""
        return cls(errno.EINVAL, f"Image is not in {FORMAT} format")

    @classmethod
    def corrupt(cls, path: Path) -> ImageError:
        """It is ours, and does not hold what it must."""
        return cls(errno.EIO, f"Could not open '{path}': the image is damaged")
