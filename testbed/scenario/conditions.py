"""The conditions of the fault language: what must hold for a place to count."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from .model import Model, listed
from .places import Place
from .units import Share

FaultName = Annotated[str, Field(min_length=1, max_length=80)]


class ConditionsModel(Model):
    """All that is said must hold at once."""

    after: Annotated[list[FaultName], BeforeValidator(listed), Field(min_length=1)] | None = None
    reached: Annotated[list[Place], BeforeValidator(listed), Field(min_length=1)] | None = None
    until: Place | None = None
    vcpus: Literal["running", "stopped"] | None = None
    chance: Share | None = None
