"""Finds page records: of a page, of a block, or with which so much of a block has passed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import ceil

from testbed.fault.plan import BlockPlace, PagePlace
from testbed.wire.element import Element, RamPage

from .place import Known, Matcher, Range, narrowed
from .records import Records

BLOCKS_MAX = 4096
"""Of a machine, as in the parser (`wire/ram.py`); what is beyond is not counted."""
NEVER = 1 << 64
DIGITS = 6
"""Of a share of pages: 0.07 of 100 are 7, whatever binary fractions make of it."""


class PageMatcher(Matcher):
    """The records of a page, or of any page of a block."""

    in_pages = True
    has_state = False

    def __init__(self, place: PagePlace) -> None:
        self._place = place

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The range in this element that the place names, or None."""
        page, place = element.value, self._place
        if not isinstance(page, RamPage) or not self._is_there(page.block, known):
            return None
        if place.page is not None and page.offset_bytes // known.page_bytes != place.page:
            return None
        return narrowed(element, place.field, place.byte, known)

    def nth_in(self, records: Records, start: int, nth: int, known: Known, /) -> int | None:
        """Which record it is."""
        if not self._is_there(records.block, known):
            return None
        if self._place.page is None:
            at = start + nth - 1
            return at if at < len(records) else None
        found = records.pages_from(self._place.page, start)
        return found[nth - 1] if nth <= len(found) else None

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> int:
        """How many there are."""
        if not self._is_there(records.block, known):
            return 0
        if self._place.page is None:
            return stop - start
        return sum(at < stop for at in records.pages_from(self._place.page, start))

    def _is_there(self, block: str, known: Known) -> bool:
        phase = self._place.phase
        in_phase = phase is None or (phase == "postcopy") == known.postcopy
        return in_phase and fnmatchcase(block, self._place.block)


class BlockMatcher(Matcher):
    """The records of a block from the one on with which so much of it has passed."""

    in_pages = True

    def __init__(self, place: BlockPlace) -> None:
        self._place = place
        self._passed: dict[str, int] = {}  # records of each block whose name fits

    def find(self, element: Element, known: Known, /) -> Range | None:
        """The record, if so much of its block has passed with it."""
        page = element.value
        if not isinstance(page, RamPage) or not self._counts(page.block):
            return None
        self._passed[page.block] = self._passed.get(page.block, 0) + 1
        reached = self._passed[page.block] >= self._wanted(page.block, known)
        return Range.whole(element) if reached else None

    def nth_in(self, records: Records, start: int, nth: int, known: Known, /) -> int | None:
        """Which record it is."""
        if not self._counts(records.block):
            return None
        missing = self._wanted(records.block, known) - self._passed.get(records.block, 0)
        at = start + max(missing - 1, 0) + nth - 1
        return at if at < len(records) else None

    def passed_over(self, records: Records, start: int, stop: int, known: Known, /) -> int:
        """How many of them there are behind it, it included."""
        if not self._counts(records.block):
            return 0
        before = self._passed.get(records.block, 0)
        self._passed[records.block] = before + stop - start
        wanted = max(self._wanted(records.block, known), before + 1)
        return max(before + stop - start - wanted + 1, 0)

    def _counts(self, block: str) -> bool:
        fits = fnmatchcase(block, self._place.block)
        return fits and (block in self._passed or len(self._passed) < BLOCKS_MAX)

    def _wanted(self, block: str, known: Known) -> int:
        """How many of its records it takes; a share is of the pages that its list entry says."""
        place = self._place
        if place.passed_bytes is not None:
            return max(ceil(place.passed_bytes / known.page_bytes), 1)
        if block not in known.blocks:
            return NEVER
        pages = known.blocks[block] / known.page_bytes * (place.share or 0.0)
        return max(ceil(round(pages, DIGITS)), 1)
