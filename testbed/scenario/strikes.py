"""A fault as a file states it: where, what, when, how often. `faults.py` makes a plan of it."""

from __future__ import annotations

from typing import Annotated, Literal

from .actions import Action
from .conditions import ConditionsModel, FaultName
from .model import Model, Positive, by_type
from .places import Place

OrEvery = Annotated[
    Literal["every"] | Positive,
    by_type("a number from 1 on, or every", {str: Literal["every"], int: Positive}),
]


class FaultModel(Model):
    """One fault."""

    name: FaultName | None = None
    at: Place
    do: Action
    point: Literal["before", "after"] = "before"
    when: ConditionsModel = ConditionsModel()
    times: OrEvery = 1
    attempt: OrEvery = 1
    connection: Positive | None = None
    connections: Literal["all"] | None = None
