"""Copies of what has passed, for faults that send it again: bounded, of what a fault names."""

from __future__ import annotations

import zlib

from testbed.fault.places.pages import PageMatcher
from testbed.fault.places.place import Known, Miss, Range, occurrence_of
from testbed.fault.places.records import Records
from testbed.fault.places.trigger import Lookout, matcher_of
from testbed.fault.plan import Channel, PagePlace, Place, SectionPlace, StreamPlace
from testbed.wire import xbzrle
from testbed.wire.element import Element, RamFlag, RamPage

COPY_BYTES_MAX = 16 << 20
"""Of what is kept to be sent twice, later, or in another order."""
BLOCKS_MAX = 64
"""RAM blocks whose names fit a fault's; each has one page kept."""


class LastBytes(Lookout):
    """What passed last at a place, as it came; of a whole section, a collector brings it.

    A place with an occurrence beyond the first one is that one alone.
    """

    def __init__(self, place: StreamPlace) -> None:
        super().__init__(place, matcher_of(place))
        self._occurrence = occurrence_of(place)
        self._count = 0
        self._takes_last = self._occurrence == 1 and not self._matcher.has_state
        self.passed: int | None = None  # of the records that passed over, the last one to keep
        self.is_section = is_whole_section(place)
        self._data: bytes | None = None
        self._why = "nothing has passed there before"

    def wanted_in(self, records: Records, start: int, known: Known, /) -> int | None:
        """The first record of a run from `start` on whose bytes it keeps, one by one."""
        if self._takes_last:
            return None
        nth = max(self._occurrence - self._count, 1)
        return self._matcher.nth_in(records, start, nth, known)

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> None:
        """Count the matches among them."""
        matches = self._matcher.passed_over(records, start, stop, known)
        self._count += matches
        last = matches and self._takes_last
        self.passed = self._matcher.nth_in(records, start, matches, known) if last else None

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range that is kept, or None."""
        found = self._matcher.find(element, known)
        self._count += found is not None
        return found if self._occurrence in (1, self._count) else None

    def keep(self, data: bytes | None) -> None:
        """Keep these bytes; None: they were too many."""
        if data is None:
            self.lose(f"what passed there was more than {COPY_BYTES_MAX} bytes")
        self._data = data

    def lose(self, why: str) -> None:
        """What passed there last cannot be sent again."""
        self._data, self._why = None, why

    def last(self) -> bytes:
        """What to put in again.

        Raises:
            Miss: there is nothing.
        """
        if self._data is None:
            raise Miss(self._why)
        return self._data


class OlderPage(Lookout):
    """The data of a page as it was sent last, of each block whose name fits."""

    def __init__(self, place: PagePlace) -> None:
        super().__init__(place, PageMatcher(PagePlace(place.block, place.page)))
        self._pages: dict[str, bytes | None] = {}

    def is_on(self, channel: Channel, _number: int | None) -> bool:
        """On both channels whose records carry one page each."""
        return channel in (Channel.MAIN, Channel.PREEMPT)

    def keep(self, page: RamPage, page_bytes: int) -> None:
        """Keep the page's data, or that it cannot be known."""
        if page.block in self._pages or len(self._pages) < BLOCKS_MAX:
            self._pages[page.block] = page_data(page, self._pages.get(page.block), page_bytes)

    def before(self, page: RamPage, page_bytes: int) -> bytes:
        """What it was before the one that passes now.

        Raises:
            Miss: it was not sent before, cannot be known, or was the same.
        """
        if page.block not in self._pages:
            raise Miss("it has not been sent before")
        older = self._pages[page.block]
        if older is None:
            raise Miss("its older data is not known: it came as a difference to what nobody kept")
        if older == page_data(page, older, page_bytes):
            raise Miss("its data is the same as the time before")
        return older


Keeper = LastBytes | OlderPage


def is_whole_section(place: Place) -> bool:
    """True if the place is a section from header to footer."""
    return isinstance(place, SectionPlace) and place.part == "section" and place.byte is None


def page_data(page: RamPage, older: bytes | None, page_bytes: int) -> bytes | None:
    """All bytes of the page that a record carries; None where they cannot be known."""
    if page.flags & RamFlag.ZERO:
        return page.data * page_bytes
    if page.flags & RamFlag.XBZRLE:
        try:
            return None if older is None else xbzrle.decode(older, page.data)
        except xbzrle.XbzrleError:
            return None
    if page.flags & RamFlag.COMPRESS_PAGE:
        try:
            data = zlib.decompressobj().decompress(page.data, page_bytes)
        except zlib.error:
            return None
        return data if len(data) == page_bytes else None
    return page.data
