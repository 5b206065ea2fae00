"""What looks out for places: faults that may strike there, and what only notes that it passed.

All of it belongs to one attempt, and outlives the connections of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import assert_never

from testbed.fault.plan import (
    BlockPlace,
    Chance,
    Channel,
    CommandPlace,
    Condition,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Point,
    SectionPlace,
    SetField,
    StalePage,
    StreamPlace,
    Swap,
)
from testbed.wire.element import Element

from .elements import ElementMatcher, NamedMatcher, OffsetMatcher
from .pages import BlockMatcher, PageMatcher
from .place import (
    Known,
    Matcher,
    Miss,
    Range,
    channel_of,
    number_of,
    occurrence_of,
)
from .records import Records
from .sections import SectionMatcher

REPLACES = (SetField, FlipBits, Delete, Duplicate, Swap, StalePage)
"""Actions on the bytes at the place, not between two of them."""


def matcher_of(place: StreamPlace, *, at_end: bool = False, between: bool = True) -> Matcher:
    """What finds the place; see `SectionMatcher` for the rest."""
    match place:
        case SectionPlace():
            return SectionMatcher(place, at_end=at_end, between=between)
        case PagePlace():
            return PageMatcher(place)
        case BlockPlace():
            return BlockMatcher(place)
        case CommandPlace() | MessagePlace():
            return NamedMatcher(place)
        case ElementPlace():
            return ElementMatcher(place)
        case OffsetPlace():
            return OffsetMatcher(place)
        case _:
            assert_never(place)


class Lookout:
    """Looks out for a place on the connections that have its channel, and counts its matches."""

    def __init__(self, place: StreamPlace, matcher: Matcher) -> None:
        self.place = place
        self.channel = channel_of(place)
        self.number = number_of(place)
        self._matcher = matcher

    @property
    def in_pages(self) -> bool:
        """It may want to see a single record of a run."""
        return self._matcher.in_pages

    @property
    def in_bulk(self) -> bool:
        """It may have to see what is not copied otherwise."""
        return self._matcher.in_bulk

    @property
    def is_done(self) -> bool:
        """There is nothing more to look out for."""
        return False

    def is_on(self, channel: Channel, number: int | None) -> bool:
        """True if it looks out there; None: which of several the channel is, is not known yet."""
        return self.channel is channel and (number is None or self.number in (None, number))

    def wanted_in(self, records: Records, start: int, known: Known, /) -> int | None:
        """The first record of a run from `start` on that it has to see by itself."""
        return self._matcher.nth_in(records, start, 1, known)

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> None:
        """These records of a run pass, and it need not see them."""
        self._matcher.passed_over(records, start, stop, known)

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that is meant, or None; to be called with each, in order.

        Raises:
            Miss: the element is the one, but it lacks the field or byte.
        """
        return self._matcher.find(element, known)


class Counting(Lookout):
    """Finds a match from the one on whose occurrence its place names."""

    def __init__(self, place: StreamPlace, matcher: Matcher) -> None:
        super().__init__(place, matcher)
        self._count = 0
        self._occurrence = occurrence_of(place)

    def wanted_in(self, records: Records, start: int, known: Known, /) -> int | None:
        """The first record that is the occurrence, or one behind it."""
        if self.is_done or not self._counts():
            return None
        nth = max(self._occurrence - self._count, 1)
        return self._matcher.nth_in(records, start, nth, known)

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> None:
        """Count the matches among them."""
        matches = self._matcher.passed_over(records, start, stop, known)
        if self._counts():
            self._count += matches

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range, of an occurrence that counts."""
        miss = None
        try:
            found = self._matcher.find(element, known)
        except Miss as error:
            found, miss = None, error
        if (found is None and miss is None) or self.is_done or not self._counts():
            return None
        self._count += 1
        if self._count < self._occurrence or not self._chooses():
            return None
        self._used()
        if miss is not None:
            raise miss
        return found

    def _counts(self) -> bool:
        """True if a match counts now."""
        return True

    def _chooses(self) -> bool:
        """True if this occurrence is taken."""
        return True

    def _used(self) -> None:
        """This occurrence was taken."""


class Landmark(Counting):
    """A place that conditions wait for: it has been reached, or it has not."""

    def __init__(self, place: StreamPlace) -> None:
        super().__init__(place, matcher_of(place))
        self.is_reached = False

    @property
    def is_done(self) -> bool:
        """It was reached."""
        return self.is_reached

    def _used(self) -> None:
        self.is_reached = True


class Trigger(Counting):
    """A fault that may strike in the stream.

    Args:
        fault: its place is in the stream.
        draw: whether it strikes at a match.
    """

    def __init__(self, fault: Fault, draw: Draw) -> None:
        assert isinstance(fault.place, StreamPlace)
        self.fault = fault
        self.draw = draw
        between = not isinstance(fault.action, REPLACES)
        at_end = between and fault.point is Point.AFTER
        super().__init__(fault.place, matcher_of(fault.place, at_end=at_end, between=between))

    @property
    def is_done(self) -> bool:
        """It struck, or missed, as often as it is to."""
        return self.draw.is_done

    def _counts(self) -> bool:
        return self.draw.holds()

    def _chooses(self) -> bool:
        return self.draw.chooses()

    def _used(self) -> None:
        self.draw.used()


class Draw:
    """Whether a fault strikes at a match: its conditions, its chance, how often it is to strike."""

    def __init__(self, fault: Fault, holds: Callable[[Condition], bool], chance: Random) -> None:
        self.fault = fault
        self._holds = holds
        self._random = chance
        self._times = 0

    @property
    def is_done(self) -> bool:
        """It was used as often as it is to be."""
        return self.fault.times is not None and self._times >= self.fault.times

    def holds(self) -> bool:
        """All conditions hold that do not depend on chance."""
        conditions = self.fault.conditions
        return all(self._holds(each) for each in conditions if not isinstance(each, Chance))

    def chooses(self) -> bool:
        """Draw for this match."""
        chances = [each.probability for each in self.fault.conditions if isinstance(each, Chance)]
        return all([self._random.random() < probability for probability in chances])

    def used(self) -> None:
        """It strikes, or misses, here."""
        self._times += 1


def chances(faults: tuple[Fault, ...], seed: int) -> Mapping[str, Random]:
    """What draws for each fault: another seed draws otherwise, other faults do not."""
    return {fault.name: Random(f"{seed} {fault.name}") for fault in faults}  # noqa: S311
