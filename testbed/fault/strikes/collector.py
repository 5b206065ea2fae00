"""Collects the bytes of a section as it passes."""

from __future__ import annotations

from collections.abc import Callable

from testbed.wire.element import Element, SectionFooter, SectionHeader

from .copies import COPY_BYTES_MAX


class Collector:
    """From a header to the footer, or to what follows where there is none.

    Args:
        header: of the section.
        take: told all of its bytes, or None if they were more than are kept.
    """

    def __init__(self, header: Element, take: Callable[[bytes | None], None]) -> None:
        self._header = header
        self._take = take
        self._data = bytearray()
        self._has_begun = False
        self._is_too_long = False

    def is_over(self, element: Element) -> bool:
        """True if the section ended before that element; it was taken then."""
        inside = element.section is not None and not isinstance(element.value, SectionHeader)
        over = self._has_begun and not inside
        if over:
            self._done()
        return over

    def add(self, element: Element, data: bytes) -> bool:
        """Collect an element; true if it was the last one."""
        self._has_begun |= element is self._header
        if not self._has_begun or self._is_too_long:
            pass
        elif len(self._data) + len(data) > COPY_BYTES_MAX:
            self._is_too_long = True
            self._data.clear()
        else:
            self._data += data
        over = self._has_begun and isinstance(element.value, SectionFooter)
        if over:
            self._done()
        return over

    def _done(self) -> None:
        self._take(None if self._is_too_long else bytes(self._data))
