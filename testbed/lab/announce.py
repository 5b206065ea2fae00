"""Faults on the destination's announcements (RARP, EtherType 0x8035) as plain values.

Source of the frames: QEMU `net/announce.c`, `qemu_announce_self_iter`; they leave the destination
when loading has succeeded (precopy) or at POSTCOPY_RUN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from testbed.fault.plan import StatePlace

EVERY = 0
"""Stands for every announcement that has no entry of its own number."""


class Port(StrEnum):
    """A port of the switch: where what a host sends comes in."""

    SOURCE = "source"
    DESTINATION = "destination"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Alteration:
    """Bytes that are written over a frame's, `offset` from its first byte (the Ethernet header's).

    `name` says what stands there, such as `sender`; None: the scenario named bytes.
    """

    offset: int
    data: bytes
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Forged:
    """An announcement that no endpoint sent: it comes in at a port of the switch.

    Right before or right after the destination's nth, or at a state that QMP reports; one of them.
    """

    mac: str
    port: Port
    before: int | None = None
    after: int | None = None
    at: StatePlace | None = None

    def __str__(self) -> str:
        return f"forged announcement of {self.mac} at the {self.port}'s port"


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The destination's uplink passes nothing until `after_s` seconds after that state."""

    after_s: float
    at: StatePlace


@dataclass(frozen=True, slots=True)
class AnnounceFaults:
    """What is hit, by number, counted from 1 as announcements come from the destination.

    `EVERY` stands for all that have no entry of their own. A share is dropped by chance, each one
    drawn from `seed`.
    """

    drop: frozenset[int] = frozenset()
    drop_share: float | None = None
    seed: int = 0
    delay_s: Mapping[int, float] = field(default_factory=dict)
    copies: Mapping[int, int] = field(default_factory=dict)
    alter: Mapping[int, tuple[Alteration, ...]] = field(default_factory=dict)
    forge: tuple[Forged, ...] = ()
    link_up: LinkUp | None = None
