"""Memory blocks put together again: a file for each, sparse where pages were zero or never came."""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from testbed.files import plain_file
from testbed.wire import xbzrle
from testbed.wire.element import (
    Element,
    MappedBitmap,
    MappedPages,
    PageRun,
    RamBlock,
    RamFlag,
    RamPage,
)
from testbed.wire.runs import pages

from .channels import SourceError

NAME_BYTES_MAX = 255
"""Of a file (NAME_MAX of Linux). An idstr has as many, each of which may take three here."""
DIGEST_DIGITS = 32
BLOCK_BYTES_MAX = 1 << 44
"""Of one block; the files are sparse, and file systems have bounds of their own."""


class RamOut:
    """Writes the pages that pass to files in a folder; the last one of a page wins.

    Args:
        folder: made if it is not there; what it holds of these names is replaced.
        data: the channel, where it is mapped; pages in runs are taken from there.
    """

    def __init__(self, folder: Path, data: mmap.mmap | None) -> None:
        self._folder = folder
        self._data = data
        self._files: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._mapped: dict[str, int] = {}  # bits of mapped-ram: which of a block's pages are there
        self.unread = 0  # pages whose encoding is broken: they stay as they were

    def __enter__(self) -> RamOut:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"{self._folder}: cannot be made: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            os.close(file)

    def add(self, element: Element, page_bytes: int) -> None:
        """Write what the element has of memory.

        Raises:
            SourceError: a file cannot be written, or a block is beyond the bound.
        """
        try:
            match element.value:
                case RamBlock(idstr=block, used_bytes=used_bytes):
                    self._begin(block, used_bytes)
                case PageRun() as run:
                    self._run(run, element.offset)
                case RamPage() as page:
                    self._page(page, page_bytes)
                case MappedBitmap(block=block) as bitmap:
                    self._mapped[block] = bitmap.bits
                case MappedPages() as mapped:
                    self._pages(mapped, page_bytes)
        except OSError as error:
            where = error.filename or self._folder
            raise SourceError(f"{where}: cannot be written: {error.strerror}") from error

    def files(self) -> Iterator[tuple[str, Path]]:
        """Each block and its file."""
        for block in self._files:
            yield block, self._folder / _file_name(block)

    def _begin(self, block: str, used_bytes: int) -> None:
        if used_bytes > BLOCK_BYTES_MAX:
            raise SourceError(f"block {block} claims {used_bytes} bytes: not written")
        file = self._file(block)
        os.ftruncate(file, used_bytes)
        self._sizes[block] = used_bytes

    def _file(self, block: str) -> int:
        if block not in self._files:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
            self._files[block] = plain_file(self._folder / _file_name(block), flags)
        return self._files[block]

    def _put(self, block: str, offset_bytes: int, data: bytes | memoryview) -> None:
        if offset_bytes + len(data) <= self._sizes.get(block, BLOCK_BYTES_MAX):
            os.pwrite(self._file(block), data, offset_bytes)

    def _clear(self, block: str, offset_bytes: int, page_bytes: int) -> None:
        """A zero page: what was never written stays a hole."""
        if any(self._now(block, offset_bytes, page_bytes)):
            self._put(block, offset_bytes, bytes(page_bytes))

    def _now(self, block: str, offset_bytes: int, page_bytes: int) -> bytes:
        return os.pread(self._file(block), page_bytes, offset_bytes).ljust(page_bytes, b"\0")

    def _run(self, run: PageRun, at: int) -> None:
        assert self._data is not None, "runs are read from mapped files"
        view, size = memoryview(self._data), run.page_bytes
        for offset, zero, start in pages(run):
            if zero:
                self._clear(run.block, offset, size)
            else:
                self._put(run.block, offset, view[at + start : at + start + size])

    def _pages(self, mapped: MappedPages, page_bytes: int) -> None:
        """What the bitmap does not name was never written; the file may have anything there."""
        view, block, begin = memoryview(mapped.data), mapped.block, mapped.offset_bytes
        count = len(mapped.data) // page_bytes
        here = self._mapped.get(block, 0) >> begin // page_bytes
        for start in (index * page_bytes for index in range(count) if here >> index & 1):
            self._put(block, begin + start, view[start : start + page_bytes])

    def _page(self, page: RamPage, page_bytes: int) -> None:
        if page.flags & RamFlag.PAGE:
            data = page.data
        elif page.flags & RamFlag.ZERO and not any(page.data):
            self._clear(page.block, page.offset_bytes, page_bytes)
            return
        elif page.flags & RamFlag.ZERO:
            data = page.data * page_bytes
        elif page.flags & RamFlag.COMPRESS_PAGE:
            data = self._unpacked(page, page_bytes)
        else:
            data = self._changed(page, page_bytes)
        self._put(page.block, page.offset_bytes, data)

    def _unpacked(self, page: RamPage, page_bytes: int) -> bytes:
        try:
            return zlib.decompressobj().decompress(page.data, page_bytes)
        except zlib.error:
            self.unread += 1
            return self._now(page.block, page.offset_bytes, page_bytes)

    def _changed(self, page: RamPage, page_bytes: int) -> bytes:
        before = self._now(page.block, page.offset_bytes, page_bytes)
        try:
            return xbzrle.decode(before, page.data)
        except xbzrle.XbzrleError:
            self.unread += 1
            return before


def _file_name(block: str) -> str:
    """Any idstr as a file name, readable where it can be, and another one for each."""
    name = f"{quote(block, safe='@+,=')}.ram"
    if len(name) <= NAME_BYTES_MAX:
        return name
    digest = hashlib.sha256(block.encode()).hexdigest()[:DIGEST_DIGITS]
    return f"{name[: NAME_BYTES_MAX - DIGEST_DIGITS - len('..ram')]}.{digest}.ram"
