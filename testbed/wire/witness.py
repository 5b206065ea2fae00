"""Who sees the data of pages as they pass, which in bulk nobody else does.

Parsers of page records show each page to their witness, if they have one, before they return the
element that it is in. A witness is to refuse at once what it need not see: all memory of a guest
passes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import Protocol

from .element import PageRun, RamBlock, RamPage


class Witness(Protocol):
    """What is shown to it is valid until it returns."""

    def begins(self) -> None:
        """A stream begins to list its blocks; what was shown before is of another one."""

    def block(self, block: RamBlock) -> None:
        """An entry of the block list."""

    def run(self, run: PageRun, data: bytes | mmap, at: int) -> None:
        """A run of records, whose first byte is `data[at]`."""

    def page(self, page: RamPage) -> None:
        """A single record; its data may be encoded, as its flags say."""

    def wants(self, block: str, offsets_bytes: Sequence[int]) -> bool:
        """True if it has to see the data of those pages, which come in a packet of multifd."""

    def pages(self, block: str, offsets_bytes: Sequence[int], data: bytes | None) -> None:
        """The pages of a packet, back to back, that it wants; None: they are compressed."""

    def zeros(self, block: str, offsets_bytes: Sequence[int]) -> None:
        """The zero pages of a packet."""
