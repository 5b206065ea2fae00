"""What a file says of an external Toxiproxy server that the run's connections also pass."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .model import Model, by_type, got

PORT_MAX = 65535


def server_address(value: str) -> str:
    """Check `HOST:PORT`, where the server's API is.

    Raises:
        ValueError: it is no such thing.
    """
    written = re.fullmatch(r"([^:\s]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", value)
    if written is None or not 0 < int(written[2]) <= PORT_MAX:
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:8474{got(value)}")
    return value


def _acts(value: str) -> str:
    if value == "noop":
        raise ValueError("noop does nothing: a scenario has no use for it")
    return value


class Toxic(Model):
    """A toxic, in the words of Toxiproxy's API; which types there are the server knows."""

    type: Annotated[str, Field(min_length=1), AfterValidator(_acts)]
    stream: Literal["upstream", "downstream"] = "downstream"
    name: Annotated[str, Field(min_length=1)] | None = None
    toxicity: Annotated[
        float | int,
        by_type("a number, more than 0 and at most 1", {int: int, float: float}),
        Field(gt=0, le=1),
    ] = 1.0
    attributes: dict[str, Any] = Field(default_factory=dict)


class Toxiproxy(Model):
    """A server, and the toxics that the run's connections have on it."""

    server: Annotated[str, AfterValidator(server_address)] = "127.0.0.1:8474"
    toxics: list[Toxic] = Field(default_factory=list)
