"""The preempt channel: urgent pages of a postcopy, as RAM records without a section.

Until 7.2 a record EOS ends it, since 8.0 nothing does. Source: QEMU `migration/ram.c`,
`ram_load_postcopy`, 7.1 to 11.1.
"""

from __future__ import annotations

from .channel import Channel
from .element import RamFlag
from .error import Cut
from .main_channel import MainChannel
from .ram import PAGES, Ram, RamSection
from .reader import Story

URGENT = {bits: flags for bits, flags in PAGES.items() if flags & (RamFlag.PAGE | RamFlag.ZERO)}
END = {int(RamFlag.EOS): RamFlag.EOS}


class PreemptChannel(Channel):
    """Parses a preempt channel incrementally; see `Channel` for feeding and ending it.

    It may carry no byte at all, and end after any record.

    Args:
        main: the main channel of the same migration, whose RAM blocks and page size hold here as
            well; they are taken over with the first byte. None: any block goes by its name.
        page_bytes: target page size where there is no `main`; 4096 on x86.
    """

    def __init__(self, main: MainChannel | None = None, *, page_bytes: int = 4096) -> None:
        self._main = main
        self._page_bytes = page_bytes
        super().__init__()

    def _story(self) -> Story[None]:
        if not (yield from self._reader.more()):
            return
        ram = (
            Ram(self._page_bytes, by_name=True, is_sure=True)
            if self._main is None
            else self._main.ram()
        )
        try:
            yield from _Urgent(ram, self._reader, self._emit, self._out, self._context).story()
        except Cut:
            if self._reader.available:
                raise


class _Urgent(RamSection):
    """The records of a preempt channel: page, zero page, EOS."""

    pages = URGENT
    marks = END
    has_block_list = False
