"""What may be done to storage migration: its connections are NBD, which nobody here reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from testbed.fault.plan import (
    AfterFault,
    Before,
    Chance,
    Channel,
    ConnectionPlace,
    Fault,
    OffsetPlace,
    OnConnection,
    OnTime,
    Place,
    Reached,
)

PLACES = "a place is `connection` or `offset` there"
ACTIONS = "connections and their time are all that can be touched there"


def storage_problems(faults: Iterable[Fault]) -> Iterator[str]:
    """What of the faults cannot be done to NBD connections: a line for each, with its place."""
    for fault in faults:
        if (why := _problem(fault)) is not None:
            yield f"{fault.where}: {fault.name}: NBD is not read, only passed on: {why}"


def _problem(fault: Fault) -> str | None:
    if not all(map(_is_known, _places(fault))):
        return PLACES
    if not isinstance(fault.action, OnConnection | OnTime):
        return ACTIONS
    if not all(
        isinstance(each, AfterFault | Reached | Before | Chance) for each in fault.conditions
    ):
        return "nothing tells there whether the vCPUs run"
    return None


def _places(fault: Fault) -> Iterator[Place]:
    yield fault.place
    for condition in fault.conditions:
        match condition:
            case Reached(places=places):
                yield from places
            case Before(place=place):
                yield place


def _is_known(place: Place) -> bool:
    match place:
        case ConnectionPlace():
            return True
        case OffsetPlace(channel=channel):
            return channel in (Channel.MAIN, Channel.RETURN_PATH)
    return False
