"""Disks: what `-drive` and `-device ide-hd` describe, opened.

Source of syntax and texts: QEMU `blockdev.c`, `block.c` (7.2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from testbed.model.qmp.fdsets import FdSets
from testbed.model.snapshots.image_error import ImageError
from testbed.model.snapshots.images import Images
from testbed.model.snapshots.snapshots import Drive

from .command_line import Option

BOOT_BYTES = 1 << 16
"""Of a disk, to be looked at for something to boot."""
SQLITE = b"SQLite format 3\0"
"""What an image of the model's own begins with."""
BUSES = ("none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen")
"""Of which the model has two."""
FORMATS = {"raw": False, "model": True}
"""By name: whether they are the model's own. Without a name the file's beginning tells."""


def opened(options: Sequence[Option], images: Images, sets: FdSets) -> list[Drive]:
    """Open them, in order.

    Raises:
        Usage: one cannot be opened.
    """
    drives: list[Drive] = []
    for option in options:
        drive = _opened(option, len(drives), images, sets)
        if any(each.name == drive.name for each in drives):
            raise option.refused(f"Duplicate ID '{drive.name}' for drive")
        drives.append(drive)
    return drives


def boot_image(drives: Sequence[Drive], devices: Sequence[Option]) -> bytes:
    """What the first disk begins with that is plugged; empty without a disk."""
    plugged = [device.values.get("drive") for device in devices if device.first == "ide-hd"]
    for drive in drives:
        if drive.image is not None and (drive.name in plugged or drive.name.startswith("ide")):
            with suppress(ImageError):
                return drive.image.read(0, min(BOOT_BYTES, drive.image.size_bytes))
    return b""


def _opened(option: Option, count: int, images: Images, sets: FdSets) -> Drive:
    values = option.values
    kind = values.get("if", "ide")
    if kind not in BUSES:
        raise option.refused(f"unsupported bus type '{kind}'")
    if kind not in ("none", "ide"):
        raise option.refused("the model has only if=none and if=ide")
    name = values.get("id") or (
        f"ide{count // 2}-hd{count % 2}" if kind == "ide" else f"none{count}"
    )
    file = values.get("file") or values.get("file.filename")
    if file is None:
        return Drive(name, None)
    own = values.get("format")
    if own is not None and own not in FORMATS:
        raise option.refused(f"Unknown driver '{own}'")
    read_only = option.is_on("readonly")
    try:
        path = _path(file, sets, read_only=read_only)
        if FORMATS[own] if own is not None else _is_own(path):
            return Drive(name, images.open(path, read_only=read_only))
        return Drive(name, images.open_raw(path, read_only=read_only))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise option.refused(f"Could not open '{file}': {why}") from error
    except ImageError as error:
        if error.number == errno.EISDIR:
            why = f"'file' driver requires '{file}' to be a regular file"
            raise option.refused(why) from error
        raise option.refused(str(error)) from error


def _path(file: str, sets: FdSets, *, read_only: bool) -> Path:
    """A file's path; that of a descriptor set is its descriptor's."""
    fd = sets.open(file, os.O_RDONLY if read_only else os.O_RDWR)
    return Path(file) if fd is None else Path(f"/proc/self/fd/{fd}")


def _is_own(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE
