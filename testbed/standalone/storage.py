"""What may be done to storage migration: its connections are NBD, which nobody here reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from testbed.fault.plan import (
    AfterFault,
    Before,
    Chance,
    Channel,
    Condition,
    ConnectionPlace,
    Fault,
    OffsetPlace,
    OnConnection,
    OnTime,
    Place,
    Reached,
)

PLACES = "a place there is `connection`, or the `offset` of what the source sends"
ACTIONS = "connections and their time are all that can be touched there"
VCPUS = "nothing tells there whether the vCPUs run"


def storage_problems(faults: Iterable[Fault]) -> Iterator[str]:
    """What of the faults cannot be done to NBD connections: a line for each, with its place."""
    for fault in faults:
        if (why := _problem(fault)) is not None:
            yield f"{fault.where}: {fault.name}: NBD is not read, only passed on: {why}"


def of_storage(fault: Fault) -> Fault:
    """The same fault, of connections that are no migration's.

    A file of faults names the source's bytes of a connection as those of the main channel.
    """
    conditions = tuple(map(_condition, fault.conditions))
    return replace(fault, place=_place(fault.place), conditions=conditions)


def _problem(fault: Fault) -> str | None:
    if not all(map(_is_known, _places(fault))):
        return PLACES
    if not isinstance(fault.action, OnConnection | OnTime):
        return ACTIONS
    if not all(
        isinstance(each, AfterFault | Reached | Before | Chance) for each in fault.conditions
    ):
        return VCPUS
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
        case OffsetPlace(channel=Channel.MAIN):
            return True
    return False


def _condition(condition: Condition) -> Condition:
    match condition:
        case Reached(places=places):
            return Reached(tuple(map(_place, places)))
        case Before(place=place):
            return Before(_place(place))
    return condition


def _place(place: Place) -> Place:
    return replace(place, channel=Channel.UNKNOWN) if isinstance(place, OffsetPlace) else place
