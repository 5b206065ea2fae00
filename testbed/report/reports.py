"""The files of a command that plays scenarios: up to date whenever and however it is ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from testbed.scenario.planned import PlannedRun
from testbed.scenario.result import Result

from .jsonfile import write_json
from .junit import write_junit

SHARE_MAX = 0.05
"""Of the time, for writing the files again: with thousands of results one takes a second."""


class Reports:
    """The JUnit and JSON files that a command was asked for."""

    def __init__(self, junit: Path | None, json: Path | None) -> None:
        self._junit, self._json = junit, json
        self._began = datetime.now(UTC)
        self._not_before = 0.0

    def update(self, runs: Sequence[PlannedRun], results: Sequence[Result]) -> None:
        """Bring them up to date, as the next run begins: the command may be killed during it.

        What is no file (a pipe, `/dev/stdout`) is written to once, when the command ends. That one
        cannot be written now is no reason to end the runs: `write` says so if it is still so then.
        """
        now = time.monotonic()
        if now >= self._not_before:
            with suppress(OSError):
                self._write(_file(self._junit), _file(self._json), runs, results, under_way=True)
            done = time.monotonic()
            self._not_before = done + (done - now) / SHARE_MAX

    def write(
        self, runs: Sequence[PlannedRun], results: Sequence[Result], *, under_way: bool
    ) -> None:
        """Write them.

        Args:
            runs: all that the command is to play, in order.
            results: of the first of them.
            under_way: the first run without a result has begun.

        Raises:
            OSError: one cannot be written.
        """
        self._write(self._junit, self._json, runs, results, under_way=under_way)

    def _write(
        self,
        junit: Path | None,
        json: Path | None,
        runs: Sequence[PlannedRun],
        results: Sequence[Result],
        *,
        under_way: bool,
    ) -> None:
        if junit is not None:
            write_junit(junit, runs, results, began=self._began, under_way=under_way)
        if json is not None:
            write_json(json, runs, results, under_way=under_way)


def _file(path: Path | None) -> Path | None:
    """The path, if a file is there or can be made there."""
    return path if path is not None and (path.is_file() or not path.exists()) else None
