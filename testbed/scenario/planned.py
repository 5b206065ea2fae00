"""What a command is to play, and by which name its reports tell each play from all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .load import LIBRARY
from .scenario import Scenario


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of one scenario.

    Attributes:
        scenario: to be played.
        folder: of the run's files; None: they are not kept.
        number: counts the runs of one file from 1 on; None: there is only one.
    """

    scenario: Scenario
    folder: Path | None = None
    number: int | None = None

    @property
    def suite(self) -> str:
        """The file's folder as a dotted name, as CI systems group cases: `scenarios.network`.

        It is relative to the working directory if the file is below that; the library's is
        `scenarios`, wherever it is installed.
        """
        parts = [part for part in _relative(self.scenario.path).parent.parts if part.strip("/.")]
        return ".".join(part.replace(".", "_") for part in parts) or "testbed"

    @property
    def case(self) -> str:
        """The file's name without its suffix, and which of its runs it is: `rarp_ok (2)`."""
        stem = self.scenario.path.stem
        return stem if self.number is None else f"{stem} ({self.number})"

    @property
    def id(self) -> str:
        """What tells it from all other runs of the command: `scenarios.network/rarp_ok (2)`."""
        return f"{self.suite}/{self.case}"


def planned(
    scenarios: Sequence[Scenario], folders: Sequence[Path | None] | None = None
) -> list[PlannedRun]:
    """Return the runs of scenarios, in order; one that comes several times is numbered.

    Args:
        scenarios: to be played.
        folders: of the runs' files, one for each; None: they are not kept.
    """
    given = [None] * len(scenarios) if folders is None else folders
    return list(_numbered(list(zip(scenarios, given, strict=True))))


def _numbered(runs: Sequence[tuple[Scenario, Path | None]]) -> Iterator[PlannedRun]:
    counts = Counter(scenario.path for scenario, _ in runs)
    begun: Counter[Path] = Counter()
    for scenario, folder in runs:
        begun[scenario.path] += 1
        several = counts[scenario.path] > 1
        yield PlannedRun(scenario, folder, begun[scenario.path] if several else None)


def _relative(path: Path) -> Path:
    absolute, here = path.absolute(), Path.cwd()
    if absolute.is_relative_to(LIBRARY):
        return absolute.relative_to(LIBRARY.parent)
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
