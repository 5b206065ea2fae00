"""What the fault engine answers with: commands that the data plane carries out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Bandwidth, Latency, Side, Slice


@dataclass(frozen=True, slots=True)
class Send:
    """Write bytes toward that side. A view is valid until the command was carried out."""

    toward: Side
    data: bytes | memoryview


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
class Shape:
    """What goes toward that side from now on goes so; None: as if no fault had touched it.

    Each kind of shape is by itself: a latency does not end a bandwidth.
    """

    toward: Side
    shape: Latency | Bandwidth | Slice | None


@dataclass(frozen=True, slots=True)
class Observed:
    """Something for the log."""

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signalled:
    """Send that signal (`KILL`, `STOP`, `CONT`) to the process of the endpoint on that side.

    `struck` is to be told if the signal changed something, which only who sends it can see. If it
    did not, the engine is to be told why: `FaultEngine.changed_nothing`.
    """

    side: Side
    signal: str
    struck: Observed | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Carry the command out on every live connection of the attempt, this one included."""

    command: HalfClose | End | GoDark | Wait | Shape


@dataclass(frozen=True, slots=True)
class StopListening:
    """Refuse connections for a time (None: for the rest of the attempt)."""

    for_s: float | None


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Of the connection that just came, read nothing and take nothing onward for a time."""

    for_s: float


@dataclass(frozen=True, slots=True)
class Tarpit:
    """Never read the connection that just came, take nothing onward, and keep it open."""


Command = (
    Send
    | HalfClose
    | End
    | GoDark
    | Wait
    | Shape
    | Signalled
    | Everywhere
    | StopListening
    | HoldBack
    | Tarpit
    | Observed
)
