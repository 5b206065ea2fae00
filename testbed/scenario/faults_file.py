"""Faults without a scenario: a file that has nothing else, and a single one of somebody's JSON.

Where they are used there are no endpoints and no QMP, only the stream: what needs more is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from testbed.fault import plan

from .actions import SignalIt
from .document import Document, KeyPath, Problem, ScenarioError
from .fault_sense import Finding, fault_problems, places_of
from .faults import plan_fault
from .model import Model, Natural
from .places import StateAt
from .sentences import translated
from .strikes import FaultModel

NO_QMP = "nobody reports states here: a state needs endpoints, as `testbed run` has them"
NO_PROCESS = "there is no process to signal here: this needs endpoints, as `testbed run` has them"


class FaultsModel(Model):
    """A file of faults alone."""

    description: Annotated[str, Field(min_length=1)] | None = None
    seed: Natural = 1
    faults: Annotated[list[FaultModel], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class FaultsFile:
    """A file of faults, loaded. `seed` is that of chance and jitter."""

    path: Path
    faults: tuple[plan.Fault, ...]
    seed: int = 1
    description: str | None = None


def load_faults(path: Path) -> FaultsFile:
    """Read and check a file of faults: `faults`, and if wanted `seed` and `description`.

    Raises:
        ScenarioError: with everything that is wrong with it.
    """
    document = Document(path, "`faults`")
    try:
        model = FaultsModel.model_validate(document.value())
    except ValidationError as error:
        raise ScenarioError(path, translated(error, document.problem)) from error
    faults = tuple(
        plan_fault(each, number, document.where(("faults", number - 1)))
        for number, each in enumerate(model.faults, 1)
    )
    wrong = [document.problem(("faults", *at), why) for at, why in _problems(faults, model.faults)]
    if wrong:
        raise ScenarioError(path, wrong)
    return FaultsFile(path, faults, model.seed, model.description)


def is_faults_file(path: Path) -> bool:
    """True for a file that has `faults` and nothing that makes a scenario of it."""
    try:
        written = Document(path).value()
    except ScenarioError:
        return False
    return "faults" in written and not {"mode", "expect"} & written.keys()


def parse_fault(value: Any, name: str) -> plan.Fault:
    """One fault of plain values, as JSON has them: what stands in a file's list of faults.

    Args:
        value: a mapping with `at` and `do`, and what else a fault may have.
        name: of the fault, if the mapping says none.

    Raises:
        ValueError: with everything that is wrong with it, a line each, with the path of keys.
    """

    def problem(at: KeyPath, message: str, *, key: bool = False) -> Problem:  # noqa: ARG001
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
        return Problem(0, 0, shown.removeprefix("."), message)

    try:
        model = FaultModel.model_validate(value)
    except ValidationError as error:
        raise _refused(translated(error, problem)) from error
    fault = plan_fault(model.model_copy(update={"name": model.name or name}), 1, "")
    wrong = [problem(at[1:], why) for at, why in _problems((fault,), [model])]
    if wrong:
        raise _refused(iter(wrong))
    return fault


def _refused(wrong: Iterator[Problem]) -> ValueError:
    return ValueError(
        "\n".join(f"{each.key}{': ' if each.key else ''}{each.message}" for each in wrong)
    )


def _problems(faults: tuple[plan.Fault, ...], models: list[FaultModel]) -> Iterator[Finding]:
    yield from fault_problems(faults, models)
    for number, written in enumerate(models):
        for at, place in places_of(written):
            if isinstance(place, StateAt):
                yield (number, *at), NO_QMP
        if isinstance(written.do, SignalIt):
            yield (number, "do"), NO_PROCESS
