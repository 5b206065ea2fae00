"""Where `testbed decode` gets its bytes: a file, a pipe, either packed, or a packet capture.

What something is its first bytes say, never its name. A plain file is mapped, not read; a pipe and
a packed file pass through in pieces; a capture is walked once and stays where it is, or in an
unnamed temporary file if it came through a pipe or packed.
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import IO, Protocol

from .channels import PIECE_BYTES, Chunk, Source, SourceChannel, SourceError
from .foreign import Named, Peek, foreign
from .packets import PCAP_MAGICS, PCAPNG_MAGIC
from .spool import Spool

STDIN = "-"
HEAD_BYTES = 10
"""What tells a format: bzip2's magic is the longest."""
PACKED_PIECE_BYTES = 16 << 10
"""Unpacked at a time: so near is the place of an error told."""
UNPACK_MEMORY_BYTES_MAX = 1 << 30
"""For one xz stream; `xz -9` asks for 65 MiB."""
SPOOLED_BYTES_MAX = 1 << 36
"""Of a capture that came through a pipe or packed; it lies in the folder for temporary files."""


class Unpacker(Protocol):
    """What `lzma` and `bz2` have alike: unpacks one stream, some of it at a time."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take packed bytes, return at most `max_length` others."""

    @property
    def eof(self) -> bool:
        """The stream's end was reached."""

    @property
    def needs_input(self) -> bool:
        """Nothing more comes without more packed bytes."""

    @property
    def unused_data(self) -> bytes:
        """What follows the stream's end."""


class Gunzip:
    """`zlib` as an `Unpacker`."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._full = False

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take packed bytes, return at most `max_length` others."""
        unpacked = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(unpacked) == max_length
        return unpacked

    @property
    def eof(self) -> bool:
        """The stream's end was reached."""
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """Nothing more comes without more packed bytes."""
        return not self._full and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What follows the stream's end."""
        return self._zlib.unused_data


def _unxz() -> Unpacker:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACK_MEMORY_BYTES_MAX)


PACKED: dict[bytes, tuple[str, Callable[[], Unpacker]]] = {
    b"\xfd7zXZ\0": ("xz", _unxz),
    b"\x1f\x8b\x08": ("gzip", Gunzip),
    **{
        b"BZh%d" % level + first: ("bzip2", bz2.BZ2Decompressor)
        for level in range(1, 10)
        for first in (b"1AY&SY", b"\x17rE8P\x90")
    },
}
"""Format and its unpacker by magic; bzip2's is followed by its first block's, or the end's."""


@contextmanager
def open_source(path: str, *, silent_s: float | None = None) -> Iterator[Source]:
    """Open what the user named, `-` for standard input, until the block ends.

    Args:
        path: what was named.
        silent_s: how long a pipe may bring nothing, or wait for somebody to write into it; None:
            as long as it likes.

    Raises:
        SourceError: it cannot be read, or is a capture without a migration. What cannot be read
            only further on is raised by `SourceChannel.chunks`.
    """
    name = os.fsencode(path).decode(errors="replace")
    with ExitStack() as stack:
        opened = _standard_input() if path == STDIN else stack.enter_context(_opened(path, name))
        _await(opened, name, silent_s)
        mapped = _mapped(opened, stack) if path != STDIN else None
        if mapped is not None:
            head = mapped[:HEAD_BYTES]
            if _is_capture(head):
                yield _captured(mapped, name)
                return
            if _packing(head) is None:
                _check_readable(head, partial(_slice, mapped), Named(path), name)
                channel = SourceChannel(name, len(mapped), mapped, fd=opened.fileno())
                yield Source(name, (channel,))
                return
        head, pieces = _headed(_pieces(opened, name, silent_s))
        named = Named(None if path == STDIN else path)
        if (packing := _packing(head)) is not None:
            head, pieces = _headed(_unpacked(pieces, *packing, name))
            named = replace(named, unpacked_with=f"{packing[0]} -dc")
        _check_readable(head, Ahead(pieces).peek, named, name)
        if not head:
            yield Source(name, (SourceChannel(name, 0, b""),))
        elif _is_capture(head):
            yield _captured(_spooled(pieces, name, stack), name)
        else:
            yield Source(name, (SourceChannel(name, None, carried=partial(_chunks, pieces)),))


def _opened(path: str, name: str) -> IO[bytes]:
    try:
        # Without O_NONBLOCK, to open a FIFO waits until somebody writes into it.
        opened = open(path, "rb", buffering=0, opener=_without_waiting)
        os.set_blocking(opened.fileno(), True)
        return opened
    except IsADirectoryError:
        raise SourceError(f"{name}: a folder, expected a file") from None
    except OSError as error:
        raise SourceError(f"{name}: cannot be opened: {error.strerror}") from None
    except ValueError as error:  # a zero byte in its name
        raise SourceError(f"{name}: cannot be opened: {error}") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _await(opened: IO[bytes], name: str, silent_s: float | None) -> None:
    """Wait until a pipe has something to read, or is over. A FIFO without a writer reads as over.

    Raises:
        SourceError: it had nothing for too long.
    """
    if not stat.S_ISFIFO(os.fstat(opened.fileno()).st_mode):
        return
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    if not poll.poll(None if silent_s is None else silent_s * 1000):
        raise SourceError(f"{name}: nothing came through the pipe for {silent_s:g} s")


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise SourceError("-: standard input is closed")
    if sys.stdin.isatty():
        raise SourceError("-: standard input is a terminal, expected a pipe or a file")
    # A buffered reader would take a moment without bytes for the end, if somebody made it so.
    raw: IO[bytes] = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return raw


def _mapped(opened: IO[bytes], stack: ExitStack) -> mmap.mmap | None:
    """The whole of a regular file; None if it is none, is empty, or cannot be mapped."""
    status = os.fstat(opened.fileno())
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return None
    try:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    stack.callback(_unmap, mapped)
    return mapped


def _unmap(mapped: mmap.mmap) -> None:
    with suppress(BufferError):  # somebody still looks at it; it goes with the last one who does
        mapped.close()


def _pieces(opened: IO[bytes], name: str, silent_s: float | None) -> Iterator[bytes]:
    while True:
        if silent_s is not None:
            _await(opened, name, silent_s)
        try:
            piece = opened.read(PIECE_BYTES)
        except OSError as error:
            raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
        if piece is None:  # somebody made the pipe non-blocking
            select.select([opened], [], [])
        elif piece:
            yield piece
        else:
            return


def _headed(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, and all pieces with them."""
    rest = iter(pieces)
    first = b""
    while len(first) < HEAD_BYTES and (piece := next(rest, b"")):
        first += piece
    return first[:HEAD_BYTES], chain((first,) if first else (), rest)


def _chunks(pieces: Iterator[bytes]) -> Iterator[Chunk]:
    return (Chunk(None, piece) for piece in pieces)


def _is_capture(head: bytes) -> bool:
    return head[:4] in PCAP_MAGICS or head[:4] == PCAPNG_MAGIC


def _packing(head: bytes) -> tuple[str, Callable[[], Unpacker]] | None:
    return next((what for magic, what in PACKED.items() if head.startswith(magic)), None)


def _check_readable(head: bytes, peek: Peek, named: Named, name: str) -> None:
    what = foreign(head, peek, named)
    if what is not None:
        raise SourceError(f"{name}: {what}")


def _slice(mapped: mmap.mmap, start: int, size: int) -> bytes:
    return mapped[start : start + size]


class Ahead:
    """Pieces that come one after another, to be looked at from ascending offsets on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data = b""
        self._offset = 0  # of the data

    def peek(self, start: int, size: int) -> bytes:
        """The bytes from an offset on, as many as there are."""
        while self._offset + len(self._data) < start + size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            skipped = min(max(start - self._offset, 0), len(self._data))
            self._offset += skipped
            self._data = self._data[skipped:] + piece
        at = start - self._offset
        return self._data[at : at + size] if at >= 0 else b""


def _captured(buffer: mmap.mmap | bytes, name: str) -> Source:
    from .capture import read_capture

    return read_capture(buffer, name)


def _spooled(pieces: Iterable[bytes], name: str, stack: ExitStack) -> mmap.mmap | bytes:
    """A capture in an unnamed temporary file, mapped."""
    what = "a capture that is no plain file"
    spool = Spool(name, what, stack, total_bytes=None, bytes_max=SPOOLED_BYTES_MAX)
    for piece in pieces:
        spool.add(piece)
    return _mapped(spool.file, stack) or b""


def _unpacked(
    pieces: Iterable[bytes], kind: str, make: Callable[[], Unpacker], name: str
) -> Iterator[bytes]:
    """Unpack the streams that lie one after another in a packed file, zeros between them or not.

    Raises:
        SourceError: what is packed is corrupted, is cut short, or something else follows it.
    """
    offset = 0
    unpacker: Unpacker | None = None
    streams = 0
    for packed in _small(pieces):
        data = packed
        while data or (unpacker is not None and not unpacker.needs_input):
            if unpacker is None:
                data = data.lstrip(b"\0") if streams else data
                if not data:
                    break
                unpacker, streams = make(), streams + 1
            try:
                unpacked = unpacker.decompress(data, PIECE_BYTES)
            except (lzma.LZMAError, zlib.error, OSError, ValueError) as error:
                what = "corrupted" if streams == 1 else "corrupted, or followed by something else,"
                raise SourceError(
                    f"{name}: the {kind} data is {what} at offset {offset:#x} or within "
                    f"{len(packed)} bytes after it: {error}"
                ) from None
            if unpacked:
                yield unpacked
            data = b""
            if unpacker.eof:
                data, unpacker = unpacker.unused_data, None
        offset += len(packed)
    if unpacker is not None:
        raise SourceError(f"{name}: the {kind} data is cut short after {offset} bytes")


def _small(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), PACKED_PIECE_BYTES):
            yield piece[start : start + PACKED_PIECE_BYTES]
