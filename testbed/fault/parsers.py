"""The parsers of a connection's two directions, by what it carries."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.wire import (
    ChannelKind,
    MainChannel,
    MultifdChannel,
    OpaqueChannel,
    PreemptChannel,
    ReturnPath,
    TlsChannel,
)
from testbed.wire.channel import Channel as ChannelParser
from testbed.wire.witness import Witness

from .plan import Channel, Fault, FlipBits, OffsetPlace, SetField

PAGE_BYTES = 4096
"""Of the target, until a main channel says otherwise."""
NO_WAY_BACK = "nothing comes this way on such a channel"
UNKNOWN = "of a connection that begins like no channel"
Both = tuple[ChannelParser, ChannelParser]
"""Source to destination, and back."""


def parsers(
    kind: ChannelKind | None,
    main: Both | None,
    page_bytes: int,
    whole: Iterator[tuple[int, int]],
    witness: Witness | None = None,
) -> Both:
    """New parsers for both directions.

    Args:
        kind: of the connection; None: nothing that we know.
        main: those of the last main connection; a recovery goes on where they were, and a preempt
            channel has its blocks.
        page_bytes: of the target.
        whole: what of an unknown connection has to be in one element; see `unread_places`.
        witness: sees the data of pages; a recovery's is that of the last main connection.
    """
    forward, backward = main or (None, None)
    match kind:
        case ChannelKind.RECOVERY if isinstance(forward, MainChannel):
            assert isinstance(backward, ReturnPath)
            return forward.recovered(), backward.recovered()
        case ChannelKind.MAIN | ChannelKind.RECOVERY:
            alone = kind is ChannelKind.RECOVERY
            return MainChannel(in_runs=True, recovery=alone, witness=witness), ReturnPath()
        case ChannelKind.MULTIFD:
            multifd = MultifdChannel(page_bytes=page_bytes, witness=witness)
            return multifd, OpaqueChannel(NO_WAY_BACK)
        case ChannelKind.PREEMPT:
            blocks = forward if isinstance(forward, MainChannel) else None
            return PreemptChannel(blocks, page_bytes=page_bytes), OpaqueChannel(NO_WAY_BACK)
        case ChannelKind.TLS:
            return TlsChannel(), TlsChannel()
        case _:
            return OpaqueChannel(UNKNOWN, whole), OpaqueChannel(UNKNOWN)


def page_bytes_of(parser: ChannelParser) -> int:
    """The page size of the target, as far as that parser of a main channel knows."""
    return parser.page_bytes if isinstance(parser, MainChannel) else PAGE_BYTES


def unread_places(faults: tuple[Fault, ...]) -> Iterator[tuple[int, int]]:
    """What faults strike of an unknown connection: first and last offset, in order."""
    reach = 0
    for start, size in sorted(filter(None, map(_in_unknown, faults))):
        if start >= reach:
            reach = start + size
            yield start, reach


def _in_unknown(fault: Fault) -> tuple[int, int] | None:
    """Offset and size of what a fault changes in an unknown connection."""
    match fault.place, fault.action:
        case OffsetPlace(offset, Channel.UNKNOWN), SetField(bytes(data)) | FlipBits(data):
            return offset, max(len(data), 1)
        case OffsetPlace(offset, Channel.UNKNOWN), _:
            return offset, 1
    return None
