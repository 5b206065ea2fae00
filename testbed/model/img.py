"""`python -m testbed.model.img`: makes images of the model's own, and looks at them.

In the manner of `qemu-img`. Source of the texts: QEMU `qemu-img.c`, `block/qapi.c` (7.2).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .process.command_line import SIZE_ADVICE, size
from .snapshots.image_error import FORMAT, ImageError
from .snapshots.images import Images, Snapshot, create
from .snapshots.texts import TEXTS

NAME = "qemu-model-img"
USAGE = f"""\
usage: {NAME} create FILE SIZE
       {NAME} info FILE
       {NAME} snapshot -l FILE
"""
BLOCK_BYTES = 512
"""What `st_blocks` counts."""
UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
OURS = TEXTS["7.2"]


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; return the exit status.

    Args:
        arguments: without the program's name.
    """
    match arguments:
        case ["create", file, given]:
            size_bytes = size(given, unit="b")
            if size_bytes is None:
                said = f"Invalid image size specified. {SIZE_ADVICE}"
                sys.stderr.write(f"{NAME}: {said}\n")
                return 1
            work = partial(_create, Path(file), size_bytes)
        case ["info", file]:
            work = partial(_info, Path(file))
        case ["snapshot", "-l", file]:
            work = partial(_list, Path(file))
        case ["-h" | "--help"]:
            sys.stdout.write(USAGE)
            return 0
        case _:
            sys.stderr.write(USAGE)
            return 1
    try:
        sys.stdout.write(work())
    except ImageError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return 1
    return 0


def _create(path: Path, size_bytes: int) -> str:
    create(path, size_bytes)
    return f"Formatting '{path}', fmt={FORMAT} size={size_bytes}\n"


def _info(path: Path) -> str:
    with Images() as images:
        image = images.open(path, read_only=True)
        lines = [
            f"image: {path}",
            f"file format: {FORMAT}",
            f"virtual size: {_human(image.size_bytes)} ({image.size_bytes} bytes)",
            f"disk size: {_human(path.stat().st_blocks * BLOCK_BYTES)}",
        ]
        return "".join(f"{line}\n" for line in (*lines, *_table(image.snapshots())))


def _list(path: Path) -> str:
    with Images() as images:
        table = _table(images.open(path, read_only=True).snapshots())
        return "".join(f"{line}\n" for line in table)


def _table(snapshots: Sequence[Snapshot]) -> list[str]:
    if not snapshots:
        return []
    rows = [OURS.row_of(each, each.id) for each in snapshots]
    return ["Snapshot list:", OURS.heading, *rows]


def _human(count: int) -> str:
    """`size_to_str`: three digits, and a unit."""
    scale = 0
    while scale + 1 < len(UNITS) and count >> 10 * (scale + 1):
        scale += 1
    return f"{count / (1 << 10 * scale):0.3g} {UNITS[scale]}B"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
