"""A scenario as the run and the judge see it: complete, checked, with places for messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.fault.plan import Fault

from . import schema
from .units import Version, size_of

POSTCOPY_AFTER_PAGES = 500
"""Page records of precopy before the default steps switch over: there is some, and more to come."""


@dataclass(frozen=True)
class Variant:
    """The scenario as it is between certain versions."""

    when: schema.When
    scenario: Scenario


@dataclass(frozen=True)
class Scenario:
    """One scenario file, loaded. `where` gives `file:line:column` for a path of keys."""

    path: Path
    model: schema.ScenarioModel
    faults: tuple[Fault, ...]
    where: Callable[[tuple[str | int, ...]], str]
    variants: tuple[Variant, ...] = ()

    def between(self, source: Version, destination: Version) -> Scenario:
        """What is played between these versions: the first variant that is for them, or itself."""
        for variant in self.variants:
            if variant.when.holds(source, destination):
                return variant.scenario
        return self

    @property
    def name(self) -> str:
        """Its name: what the file says, or the file's own."""
        return self.model.name or self.path.stem

    @property
    def capabilities(self) -> dict[str, bool]:
        """Of both sides; postcopy needs its own."""
        implied = {"postcopy-ram": True} if self.model.mode == "postcopy" else {}
        return {**implied, **self.model.capabilities}

    @property
    def parameters(self) -> dict[str, Any]:
        """Of both sides; a size such as `32M` is a number of bytes."""
        return {name: size_of(value) for name, value in self.model.parameters.items()}

    @property
    def steps(self) -> list[schema.StepModel]:
        """What is done in order: as the file says, or as its mode and expectations need."""
        if self.model.steps is not None:
            return self.model.steps
        expect = self.model.expect
        postcopy = {"after": {"pages": POSTCOPY_AFTER_PAGES}}
        steps: list[dict[str, Any]] = [{"wait_for_guest": {}}, {"migrate": {}}]
        steps += [{"start_postcopy": postcopy}] * (self.model.mode == "postcopy")
        steps += [{"wait": {}}]
        steps += [{"retry": {}}] * (expect.retry is not None)
        steps += [{"check_device_state": {}}] * (expect.device_state is not None)
        steps += [{"check_memory": {}}] * (expect.memory is not None)
        return [schema.StepModel.model_validate(step) for step in steps]

    def resolved(self) -> dict[str, Any]:
        """Everything filled in, JSON-ready: what a run really did."""
        plain = self.model.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            **plain,
            "name": self.name,
            "capabilities": self.capabilities,
            "steps": [
                {step.name: step.step.model_dump(mode="json", by_alias=True, exclude_none=True)}
                for step in self.steps
            ],
        }
