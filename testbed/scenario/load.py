"""From a file to a scenario: one clear sentence, with its place, for each thing that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import schema
from .document import Document, KeyPath, Problem, ScenarioError, not_there, whole_file
from .faults import plan_fault
from .scenario import Scenario, Variant
from .sense import problems
from .sentences import THE_KEY, translated
from .variants import merged, where_written

__all__ = ["Problem", "ScenarioError", "find", "load"]


LIBRARY = (Path(__file__).parents[1] / "scenarios").resolve()
"""The scenarios that come with the testbed: the folder of that name at the top of the repository,
which is a part of the installed package."""


def find(paths: Iterable[Path]) -> list[Path]:
    """The scenario files that paths name: themselves, and those in folders, sorted.

    A bare name that is no path (`rarp_ok`) is a scenario of the library.

    Raises:
        ScenarioError: a path is not there, or a folder has no scenario.
    """
    found: list[Path] = []
    for path in paths:
        try:
            found += _files(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if len(path.parts) != 1 or path.suffix:
                raise not_there(path) from error
            library = {each.stem: each for each in sorted(LIBRARY.rglob("*.yaml"))}
            if path.name not in library:
                raise not_there(path, library) from error
            found.append(library[path.name])
        except OSError as error:  # a folder on the way may not be looked into
            raise whole_file(path, f"cannot be read: {error.strerror}") from error
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.rglob("*.yaml"))
        if not files:
            raise whole_file(path, "a folder without a scenario (*.yaml) in it")
        return files
    path.stat()
    return [path]


def load(path: Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ScenarioError: with everything that is wrong with it.
    """
    document = Document(path)
    written = document.value()
    scenario = _checked(written, _Places(document))
    variants: list[Variant] = []
    wrong: list[Problem] = []
    for number, variant in enumerate(scenario.model.variants):
        places = _Places(document, number, written["variants"][number])
        try:
            variants.append(Variant(variant.when, _checked(merged(written, number), places)))
        except ScenarioError as error:
            wrong += error.problems
    if wrong:
        raise ScenarioError(path, wrong)
    return replace(scenario, variants=tuple(variants))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where in the file a path is, of the scenario itself or under its `number`th variant."""

    document: Document
    number: int | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)

    def where(self, at: KeyPath) -> str:
        """`file:line:column`."""
        return self.document.where(self._of_variant(at) or at)

    def problem(self, at: KeyPath, message: str, *, key: bool = False) -> Problem:
        """What is wrong at a path; if a variant makes it so, that is where it is shown."""
        if self.number is None:
            return self.document.problem(at, message, key=key)
        said = self._of_variant(at)
        if said is not None:
            return self.document.problem(said, message, key=key)
        title = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)[1:]
        return self.document.problem(("variants", self.number), f"makes `{title}` wrong: {message}")

    def _of_variant(self, at: KeyPath) -> KeyPath | None:
        return None if self.number is None else where_written(self.variant, self.number, at)


def _checked(written: Any, places: _Places) -> Scenario:
    """The scenario of plain values, as the file has them or as a variant makes them.

    Raises:
        ScenarioError: with everything that is wrong with it.
    """
    path = places.document.path
    try:
        model = schema.ScenarioModel.model_validate(written)
    except ValidationError as error:
        raise ScenarioError(path, translated(error, places.problem)) from error
    scenario = Scenario(
        path,
        model,
        tuple(
            plan_fault(fault, number, places.where(("faults", number - 1)))
            for number, fault in enumerate(model.faults, 1)
        ),
        places.where,
    )
    found = [
        places.problem(at[:-1], message, key=True)
        if at[-1:] == (THE_KEY,)
        else places.problem(at, message)
        for at, message in problems(scenario)
    ]
    if found:
        raise ScenarioError(path, found)
    return scenario
