"""The memory that a source sent, but for what the guest's own rule covers: digests, page by page.

The firmware's blocks (`pc.bios`, `pc.rom`, option ROMs, ACPI tables), video memory, and what of the
main memory is not the guest's working set are no rule's: what a destination must hold there is what
came from the source last, before any fault. A digest of each page that is not zero is kept; of the
working set, which is nearly all that passes, nothing is looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from mmap import mmap

from testbed.guest import GuestSpec
from testbed.guest.rule import (
    FIRST_PAGE,
    PAGE_BYTES,
    STACK_BYTES,
    STATE_AT,
    STATE_WORDS_BYTES,
)
from testbed.wire import xbzrle
from testbed.wire.element import PageRun, RamBlock, RamFlag, RamPage
from testbed.wire.runs import offsets_bytes, pages, zeros

DIGEST_BYTES = 8
"""A page that differs is taken for equal once in 2**64 times."""
DIGESTS_MAX = 1 << 20
"""Pages whose digest is kept: 4 GiB that are no rule's. Firmware and tables are some 300."""
FINDINGS_MAX = 8
ZEROS = bytes(PAGE_BYTES)
STEADY = slice(STATE_WORDS_BYTES, PAGE_BYTES - STACK_BYTES)
"""Of the state page: what a guest that runs on does not write to."""
NOT_AS_SENT = "it is not as it was sent"


@dataclass(frozen=True, slots=True)
class SentReport:
    """What a destination holds, compared with what was sent.

    `pages` were compared; of `unknown` ones it is not known what was sent (they came as a
    difference to an older page, or packed in a way that we do not read). `damaged` differ, and
    `findings` names the first of them. `unwatched` says why nothing was compared, or is None.
    """

    pages: int = 0
    unknown: int = 0
    damaged: int = 0
    findings: tuple[str, ...] = ()
    unwatched: str | None = None


class SentMemory:
    """A `Witness` of all page records of a run; `compare` says what became of the pages.

    Args:
        guest: whose working set is checked by its rule. It lies in the largest block, as does its
            state page, whose first words and last ones (its stack) a guest that runs on changes.
    """

    def __init__(self, guest: GuestSpec) -> None:
        self._start = FIRST_PAGE * PAGE_BYTES
        self._end = self._start + guest.page_count * PAGE_BYTES
        self.begins()

    # As a witness

    def begins(self) -> None:
        """Another stream: forget what the one before it sent."""
        self._sizes: dict[str, int] = {}
        self._main = ""
        self._digests: dict[str, dict[int, bytes | None]] = {}
        self._count = 0
        self._state_page = ZEROS  # as it was sent last; no bytes: not known

    def block(self, block: RamBlock) -> None:
        """Remember its size; the guest's memory is the largest of them."""
        self._sizes[block.idstr] = block.used_bytes
        if block.used_bytes > self._sizes.get(self._main, -1):
            self._main = block.idstr

    def run(self, run: PageRun, data: bytes | mmap, at: int) -> None:
        """Take the digests of those pages of a run that are no rule's."""
        offsets = offsets_bytes(run)
        if not self.wants(run.block, offsets):
            return
        if zeros(run) == len(offsets):
            self.zeros(run.block, offsets)
            return
        view = memoryview(data)
        for offset, is_zero, begins in pages(run):
            end = at + begins + run.page_bytes
            self._take(run.block, offset, None if is_zero else view[at + begins : end])

    def page(self, page: RamPage) -> None:
        """Take the digest of a page that came by itself."""
        if not self.wants(page.block, (page.offset_bytes,)):
            return
        if page.flags & RamFlag.ZERO:
            self._take(page.block, page.offset_bytes, None if page.data == b"\0" else b"")
        elif page.flags & RamFlag.PAGE:
            self._take(page.block, page.offset_bytes, page.data)
        elif page.flags & RamFlag.COMPRESS_PAGE:
            self._take(page.block, page.offset_bytes, _unpacked(page.data))
        elif page.block == self._main and page.offset_bytes == STATE_AT:
            self._take(page.block, page.offset_bytes, _changed(self._state_page, page.data))
        else:
            self._take(page.block, page.offset_bytes, b"")

    def wants(self, block: str, offsets_bytes: Sequence[int]) -> bool:
        """True if one of these pages is no rule's."""
        if block != self._main:
            return True
        if isinstance(offsets_bytes, range):
            first, last = offsets_bytes[0], offsets_bytes[-1]
        else:
            first, last = min(offsets_bytes), max(offsets_bytes)
        return first < self._start or last >= self._end

    def pages(self, block: str, offsets_bytes: Sequence[int], data: bytes | None) -> None:
        """Take the digests of a packet's pages."""
        view = memoryview(data or b"")
        size = len(view) // len(offsets_bytes)
        for number, offset in enumerate(offsets_bytes):
            self._take(block, offset, view[number * size : (number + 1) * size])

    def zeros(self, block: str, offsets_bytes: Sequence[int]) -> None:
        """These pages are zero now."""
        if block == self._main and STATE_AT in offsets_bytes:
            self._state_page = ZEROS
        known = self._digests.get(block)
        if known is None:
            return
        if len(known) < len(offsets_bytes):
            among = offsets_bytes if isinstance(offsets_bytes, range) else set(offsets_bytes)
            gone = [offset for offset in known if offset in among]
        else:
            gone = [offset for offset in offsets_bytes if offset in known]
        for offset in gone:
            self._forget(known, offset)

    def _take(self, block: str, offset: int, data: bytes | memoryview | None) -> None:
        """Remember a page: None is zero, and no bytes are what is not known."""
        if block == self._main and self._start <= offset < self._end:
            return
        known = self._digests.setdefault(block, {})
        page = None if data is None else bytes(data)
        if block == self._main and offset == STATE_AT:
            self._state_page = ZEROS if page is None else page
        if page is None or (page and page == ZEROS):
            self._forget(known, offset)
            return
        if offset not in known:
            if self._count >= DIGESTS_MAX:
                return
            self._count += 1
        known[offset] = _digest(page) if page else None

    def _forget(self, known: dict[int, bytes | None], offset: int) -> None:
        if offset in known:
            del known[offset]
            self._count -= 1

    # What became of it

    def compare(
        self,
        held: Mapping[str, bytearray | memoryview],
        *,
        ran: bool,
        written: Mapping[str, Collection[int]] | None = None,
    ) -> SentReport:
        """Compare all pages that are no rule's with what a machine holds.

        Args:
            held: its blocks by name, as it saved them.
            ran: its guest has run, and may have written its state and its stack, and nothing else.
            written: offsets of its pages that may be other than zero; None: all.
        """
        if not self._sizes:
            return SentReport(unwatched="no list of blocks passed that could be read")
        if self._count >= DIGESTS_MAX:
            return SentReport(unwatched=f"more than {DIGESTS_MAX} pages are no rule's")
        compared = unknown = 0
        findings: list[str] = []
        for name, size in self._sizes.items():
            if name not in held or len(held[name]) != size:
                got = f"{len(held[name])} bytes" if name in held else "no such block"
                findings.append(f"{name}: {size} bytes were sent, it holds {got}")
                continue
            known = self._digests.get(name, {})
            may_differ = None if written is None else {*known, *written[name]}
            for offset in self._offsets(name, size):
                if may_differ is not None and offset not in may_differ:
                    compared += 1
                    continue
                page = bytes(held[name][offset : offset + PAGE_BYTES])
                if ran and name == self._main and offset == STATE_AT and self._state_page:
                    compared += 1
                    if page[STEADY] != self._state_page[STEADY]:
                        findings.append(f"page {offset // PAGE_BYTES} of {name}: {NOT_AS_SENT}")
                    continue
                if offset in known and known[offset] is None:
                    unknown += 1
                    continue
                compared += 1
                if (why := _difference(known.get(offset), page)) is not None:
                    findings.append(f"page {offset // PAGE_BYTES} of {name}: {why}")
        return SentReport(compared, unknown, len(findings), tuple(findings[:FINDINGS_MAX]))

    def _offsets(self, name: str, size: int) -> Iterator[int]:
        """Of the pages of a block that are no rule's."""
        step = PAGE_BYTES
        if name != self._main:
            yield from range(0, size, step)
            return
        yield from range(0, self._start, step)
        yield from range(self._end, size, step)


def _difference(sent: bytes | None, page: bytes) -> str | None:
    """How a page differs from the one with that digest, which is None of a zero page."""
    is_zero = page == ZEROS
    if sent is None:
        return None if is_zero else "a page of zeroes was sent, it holds another"
    if is_zero:
        return "it holds a page of zeroes, another was sent"
    return None if _digest(page) == sent else NOT_AS_SENT


def _digest(page: bytes) -> bytes:
    return blake2b(page, digest_size=DIGEST_BYTES).digest()


def _changed(page: bytes, difference: bytes) -> bytes:
    """What XBZRLE makes of a page; nothing, if that is not known."""
    try:
        return xbzrle.decode(page, difference) if page else b""
    except xbzrle.XbzrleError:
        return b""


def _unpacked(data: bytes) -> bytes:
    """A page that the capability `compress` has packed; nothing, if it is not one."""
    inflating = zlib.decompressobj()
    try:
        page = inflating.decompress(data, PAGE_BYTES)
    except zlib.error:
        return b""
    return page if len(page) == PAGE_BYTES else b""
