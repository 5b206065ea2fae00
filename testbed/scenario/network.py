"""What a file says of the guest network; `network_faults.py` makes of it what the lab takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from testbed.netns.rarp import RARP_FRAME_BYTES

from .model import Model, Natural, Positive, SideName, by_type, got, keyed
from .qapi import EventName, MigrationStatus
from .units import Duration, HexBytes, Mac, Share, SomeTime, mac_address

COPIES_MAX = 1000
PortName = Literal["source", "destination", "client"]
"""A port of the switch."""
GuestOrMac = Annotated[
    str, AfterValidator(lambda value: value if value == "guest" else mac_address(value))
]
NTH = "all, or a number from 1 on"
DROPPED = "all, a list of numbers, or {share: 50%}"


def _all_or(expected: str) -> Any:
    """The word `all`, where the other forms are not texts."""

    def check(value: str) -> str:
        if value != "all":
            raise ValueError(f"expected {expected}{got(value)}")
        return value

    return Annotated[str, AfterValidator(check)]


Nth = Annotated[str | int, by_type(NTH, {str: _all_or(NTH), int: Positive})]
Copies = Annotated[int, Field(ge=1, le=COPIES_MAX)]


class Reported(Model):
    """A migration status or an event that QMP reports."""

    side: SideName
    state: MigrationStatus | None = None
    event: EventName | None = None
    occurrence: Positive = 1


class ShareOf(Model):
    """Each one by chance, from the scenario's seed."""

    share: Share


class NewMac(Model):
    """Another MAC, wherever the announcement has it."""

    mac: Mac


class NewAddresses(Model):
    """Another MAC in the Ethernet header, or as the RARP's sender or target."""

    source: Mac | None = None
    sender: Mac | None = None
    target: Mac | None = None


class NewBytes(Model):
    """Other bytes from one on, counted from the first of the Ethernet header."""

    byte: Annotated[Natural, Field(lt=RARP_FRAME_BYTES)]
    hex: HexBytes


ALTERATIONS: dict[str, type[Model]] = {
    "mac": NewMac,
    "source": NewAddresses,
    "sender": NewAddresses,
    "target": NewAddresses,
    "byte": NewBytes,
    "hex": NewBytes,
}
Alteration = Annotated[NewMac | NewAddresses | NewBytes, keyed(ALTERATIONS, "what is altered")]


class Forge(Model):
    """An announcement that no endpoint sent, and the port of the switch where it comes in."""

    port: PortName
    mac: GuestOrMac = "guest"
    before: Positive | None = None
    after: Positive | None = None
    at: Reported | None = None


class Announce(Model):
    """What becomes of the destination's announcements on its uplink, counted from 1."""

    drop: Annotated[
        str | list[int] | ShareOf,
        by_type(DROPPED, {str: _all_or(DROPPED), list: list[Positive], dict: ShareOf}),
    ] = Field(default_factory=list)
    delay: dict[Nth, Duration] = Field(default_factory=dict)
    duplicate: Annotated[
        list[Nth] | dict[Nth, Copies],
        by_type(
            "a list of numbers, or numbers with how many copies",
            {list: list[Nth], dict: dict[Nth, Copies]},
        ),
    ] = Field(default_factory=list)
    alter: dict[Nth, Alteration] = Field(default_factory=dict)
    forge: list[Forge] = Field(default_factory=list)


class LinkUp(Model):
    """The destination's uplink passes frames from so long after a state on."""

    after: Duration
    at: Reported = Reported(side="destination", event="RESUME")


class ProbeModel(Model):
    """The client's probe of the guest's MAC."""

    every: SomeTime = 0.005


class Network(Model):
    """The guest network."""

    announce: Announce = Announce()
    link_up: LinkUp | None = None
    probe: ProbeModel | None = None

    @property
    def hits_announcements(self) -> bool:
        """True if any is touched, or one forged."""
        return self.link_up is not None or self.announce != Announce()
