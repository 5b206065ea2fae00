"""What the fault engine answers with: commands that the proxy's sockets carry out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Side


@dataclass(frozen=True, slots=True)
class Send:
    """Write bytes toward that side."""

    toward: Side
    data: bytes


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Nothing more goes toward that side: FIN after what was sent."""

    toward: Side


@dataclass(frozen=True, slots=True)
class End:
    """End the connection with that side: with RST, or in order."""

    side: Side
    reset: bool


@dataclass(frozen=True, slots=True)
class GoDark:
    """Pass nothing more toward that side; read and drop what comes for it only if `swallow`."""

    toward: Side
    swallow: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Hold what goes toward that side for a time."""

    toward: Side
    for_s: float


@dataclass(frozen=True, slots=True)
class Observed:
    """Something for the log."""

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Command = Send | HalfClose | End | GoDark | Wait | Observed
