"""The folders of runs below the one that a user names: one for each, none of them used twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


class FolderTaken(Exception):
    """A run's folder cannot be had; the sentence says why, and what to do."""


def run_folders(below: Path, names: Sequence[str]) -> list[Path]:
    """Return a folder for each run. Nothing is made.

    Args:
        below: the folder that the user names.
        names: of the scenarios, in the order in which they are run. One that comes several times
            is numbered from 1 on: `NAME.1`, `NAME.2`.

    Raises:
        FolderTaken: one of them is there already, with something in it, or is no folder.
    """
    counts, begun = Counter(names), Counter[str]()
    taken = {_safe(name) for name in names if counts[name] == 1}
    folders = []
    for name in names:
        folder = _safe(name)
        while counts[name] > 1 and (folder == _safe(name) or folder in taken):
            begun[name] += 1
            folder = f"{_safe(name)}.{begun[name]}"
        taken.add(folder)
        folders.append(below / folder)
    for path in folders:
        _require_free(path)
    return folders


def _safe(name: str) -> str:
    """A name that is not `.` or `..`: the file `..yaml` is allowed to be a scenario."""
    return name if name.strip(".") else "scenario"


def _require_free(path: Path) -> None:
    try:
        if path.is_symlink():
            raise FolderTaken(f"{path}: a symbolic link, which is not followed: remove it")
        if os.listdir(path):
            raise FolderTaken(
                f"{path}: an earlier run's files are there, and would be lost: remove them, or "
                "name another folder with --out"
            )
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderTaken(f"{path}: cannot be used: {error.strerror}") from error
