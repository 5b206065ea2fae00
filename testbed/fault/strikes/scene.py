"""What is known of one attempt as a whole: what has been reached, who runs, what may strike yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import assert_never
from weakref import WeakSet

from testbed.fault.command import Command as Order
from testbed.fault.command import Everywhere
from testbed.fault.places.pages import BLOCKS_MAX
from testbed.fault.places.place import channel_of
from testbed.fault.places.trigger import Draw, Landmark, Lookout, Trigger
from testbed.fault.plan import (
    AfterFault,
    Before,
    Chance,
    Channel,
    Condition,
    ConnectionPlace,
    Fault,
    PagePlace,
    Place,
    Reached,
    Refuse,
    Replay,
    Side,
    StalePage,
    StatePlace,
    StreamPlace,
    Vcpus,
)
from testbed.wire.element import Command, CommandType, Element, RamBlock, SectionHeader, SectionType

from .copies import Keeper, LastBytes, OlderPage
from .ledger import Ledger
from .ways import Ways


class Scene:
    """One attempt: its faults, and what their conditions ask for.

    Args:
        attempt: its number.
        faults: of the run.
        ledger: of the run.
        chance: what draws for each fault, by its name.
    """

    def __init__(
        self, attempt: int, faults: tuple[Fault, ...], ledger: Ledger, chance: Mapping[str, Random]
    ) -> None:
        self.ledger = ledger
        self.vcpus_run = True  # of the source
        self.blocks: dict[str, int] = {}
        self.ways: WeakSet[Ways] = WeakSet()  # of connections that the engine knows of
        mine = [fault for fault in faults if fault.attempt in (None, attempt)]
        self.draws = {fault.name: Draw(fault, self._holds, chance[fault.name]) for fault in mine}
        self.triggers = [
            Trigger(fault, self.draws[fault.name])
            for fault in mine
            if isinstance(fault.place, StreamPlace)
        ]
        places = {place for fault in mine for each in fault.conditions for place in _places(each)}
        self._landmarks = {
            place: Landmark(place) for place in places if isinstance(place, StreamPlace)
        }
        self._events = {place: 0 for place in places if not isinstance(place, StreamPlace)}
        self.keepers = {fault.name: keeper for fault in mine if (keeper := _keeper(fault))}
        self._states = {fault.name: 0 for fault in mine if not isinstance(fault.place, StreamPlace)}

    def lookouts(self) -> Iterator[Lookout]:
        """All that look out in the stream, in the order in which they have to be asked."""
        yield from self._landmarks.values()
        yield from self.triggers
        yield from self.keepers.values()

    def wants(self, channel: Channel) -> bool:
        """True if somebody may look out on that channel yet, on whichever connection."""
        waiting = [draw.fault for draw in self.draws.values() if not draw.is_done]
        channels = {channel_of(place) for fault in waiting for place in _all_places(fault)}
        if channel is Channel.MAIN:  # it tells others of RAM blocks and of vCPUs
            asks = any(isinstance(each, Vcpus) for fault in waiting for each in fault.conditions)
            return asks or bool(channels & {Channel.MAIN, Channel.PREEMPT})
        return channel in channels

    def note(self, element: Element) -> None:
        """Learn from an element of the main channel."""
        match element.value:
            case SectionHeader(type=SectionType.END) | Command(command=CommandType.PACKAGED):
                self.vcpus_run = False
            case RamBlock(idstr=idstr, used_bytes=used) if len(self.blocks) < BLOCKS_MAX:
                self.blocks[idstr] = used

    def idle(self, orders: list[Order], ways: Ways) -> str | None:
        """Say why a fault's commands change nothing, on the connection with those ways."""
        reasons = []
        for order in orders:
            there = self.ways if isinstance(order, Everywhere) else (ways,)
            if any(each.idle(order) is None for each in there):
                return None
            reasons.append(ways.idle(order))
        return next(iter(reasons), None)

    def obey(self, orders: list[Order], ways: Ways) -> None:
        """Note what a fault's commands make of connections."""
        for order in orders:
            for each in list(self.ways) if isinstance(order, Everywhere) else [ways]:
                each.obey(order)

    def reported(self, side: Side, event: str, status: str | None) -> list[Fault]:
        """QMP reported that: the faults that strike now."""
        for place in self._events:
            if isinstance(place, StatePlace) and _is_said(place, side, event, status):
                self._events[place] += 1
        return [
            fault
            for fault in self._faults_at(StatePlace)
            if isinstance(fault.place, StatePlace)
            and _is_said(fault.place, side, event, status)
            and self._strikes(fault, fault.place.occurrence)
        ]

    def came(self, number: int) -> None:
        """The connection of that number came."""
        for place in self._events:
            if place == ConnectionPlace(number):
                self._events[place] += 1

    def at_connection(self, number: int, *, refusing: bool) -> list[Fault]:
        """The faults that strike at that connection, as it comes; or, `refusing`, before it does.

        Each is asked once, when its conditions hold.
        """
        return [
            fault
            for fault in self._faults_at(ConnectionPlace)
            if fault.place == ConnectionPlace(number)
            and isinstance(fault.action, Refuse) == refusing
            and not self._states[fault.name]
            and self._strikes(fault, 1)
        ]

    def _faults_at(self, kind: type[Place]) -> list[Fault]:
        draws = (draw for draw in self.draws.values() if not draw.is_done)
        return [draw.fault for draw in draws if isinstance(draw.fault.place, kind)]

    def _strikes(self, fault: Fault, occurrence: int) -> bool:
        """Count a match of a place that is none in the stream; true if the fault strikes."""
        draw = self.draws[fault.name]
        if not draw.holds():
            return False
        self._states[fault.name] += 1
        if self._states[fault.name] < occurrence or not draw.chooses():
            return False
        draw.used()
        return True

    def _holds(self, condition: Condition) -> bool:
        match condition:
            case AfterFault(fault=name):
                return name in self.ledger.struck
            case Reached(places=places):
                return all(self._is_reached(place) for place in places)
            case Before(place=place):
                return not self._is_reached(place)
            case Vcpus(running=running):
                return self.vcpus_run == running
            case Chance():
                return True  # drawn at each match: see `Draw`
            case _:
                assert_never(condition)

    def _is_reached(self, place: Place) -> bool:
        if isinstance(place, StreamPlace):
            return self._landmarks[place].is_reached
        wanted = place.occurrence if isinstance(place, StatePlace) else 1
        return self._events[place] >= wanted


def _places(condition: Condition) -> tuple[Place, ...]:
    match condition:
        case Reached(places=places):
            return places
        case Before(place=place):
            return (place,)
    return ()


def _all_places(fault: Fault) -> Iterator[Place]:
    """The places in the stream that a fault needs to see."""
    more = [fault.action.place] if isinstance(fault.action, Replay) else []
    conditions = (place for each in fault.conditions for place in _places(each))
    for place in (fault.place, *more, *conditions):
        if isinstance(place, StreamPlace):
            yield place


def _keeper(fault: Fault) -> Keeper | None:
    match fault.action, fault.place:
        case Replay(place=place), _:
            return LastBytes(place)
        case StalePage(), PagePlace() as place:
            return OlderPage(place)
    return None


def _is_said(place: StatePlace, side: Side, event: str, status: str | None) -> bool:
    said = status == place.status if place.status else event == place.event
    return place.side is side and said
