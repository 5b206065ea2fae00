"""What a connection is, by its first bytes; and the channel for what nobody here reads.

A preempt channel has no mark of its own: it begins with a page record, whose be64 has less than
48 bits on any machine, or it carries no byte at all and only its company tells what it is.
Source: QEMU `migration/migration.c`, `migration_ioc_process_incoming`, 5.2 to 10.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from .channel import Channel
from .element import CommandType, MessageType, Opaque, SectionType
from .reader import Story
from .structs import MAGIC, MULTIFD_MAGIC, U32

FIRST_BYTES = 4
"""Of a connection: enough to tell every channel."""


class ChannelKind(StrEnum):
    """What one direction of a connection carries."""

    MAIN = "main"
    RECOVERY = "recovery"
    """The main channel of a postcopy's recovery: it has no file header."""
    MULTIFD = "multifd"
    PREEMPT = "preempt"
    TLS = "tls"
    """Any of them, encrypted."""
    RETURN_PATH = "return-path"
    """The other direction of a main channel: nothing that a source sends begins so."""


STARTS = (
    (U32.pack(MAGIC), ChannelKind.MAIN),
    (bytes([SectionType.COMMAND, 0, CommandType.RECV_BITMAP]), ChannelKind.RECOVERY),
    (U32.pack(MULTIFD_MAGIC), ChannelKind.MULTIFD),
    (b"\x16\x03", ChannelKind.TLS),  # a record of its handshake, SSL 3.0 to TLS 1.3
    (b"\0\0", ChannelKind.PREEMPT),
    *((bytes([0, kind]), ChannelKind.RETURN_PATH) for kind in MessageType if kind),
)


def channel_of(first: bytes) -> ChannelKind | None:
    """What begins with these bytes, `FIRST_BYTES` of them or more.

    None: nothing that we know, or fewer bytes than it takes to tell.
    """
    return next((kind for start, kind in STARTS if first.startswith(start)), None)


class OpaqueChannel(Channel):
    """A channel that nobody here reads, TLS or unknown: each chunk is one `Opaque` element.

    Args:
        why: what the elements say.
        whole: ranges of offsets whose bytes come as an element of their own, however they were
            fed; in order, and none of them empty.
    """

    def __init__(self, why: str, whole: Iterable[tuple[int, int]] = ()) -> None:
        self._why = why
        self._whole = tuple(whole)
        super().__init__()

    def _story(self) -> Story[None]:
        for start, end in self._whole:
            while self._reader.offset < start and (yield from self._reader.more()):
                self._some(start)
            if self._reader.offset == start:
                yield from self._reader.need(end - start, self._why)
                self._some(end)
        while (yield from self._reader.more()):
            self._opaque(self._why)

    def _some(self, upto: int) -> None:
        """Emit what is in hand, up to an offset."""
        size = min(self._reader.available, upto - self._reader.offset)
        self._emit(Opaque(self._why), size)
