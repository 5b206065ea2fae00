"""What a channel is, and the parser for it."""

from __future__ import annotations

from testbed.wire import MainChannel, ReturnPath
from testbed.wire.channel import Channel
from testbed.wire.identify import FIRST_BYTES, ChannelKind, OpaqueChannel, channel_of
from testbed.wire.learned import LearnedLayout
from testbed.wire.multifd import MultifdChannel
from testbed.wire.preempt import PreemptChannel
from testbed.wire.structs import FILE_HEADER, MAGIC, VERSION

from .channels import SourceError


def kind_of(first: bytes, name: str) -> ChannelKind:
    """The kind of a channel that begins so.

    Raises:
        SourceError: no channel of a migration does.
    """
    kind = channel_of(first)
    if kind is not None:
        return kind
    if len(first) < FIRST_BYTES and FILE_HEADER.pack(MAGIC, VERSION).startswith(first):
        return ChannelKind.MAIN  # cut within its first bytes, or empty
    raise SourceError(
        f"{name}: no migration stream: it begins with {first[:FIRST_BYTES].hex(' ')}; "
        "say --channel if it is one whose beginning is missing or damaged"
    )


def parser_for(
    kind: ChannelKind, *, in_runs: bool = False, learned: LearnedLayout | None = None
) -> Channel:
    """A new parser.

    Args:
        kind: of the channel.
        in_runs: pages come in runs where the parser can do that.
        learned: a layout of device sections where no vmdesc comes.
    """
    match kind:
        case ChannelKind.MAIN | ChannelKind.RECOVERY:
            recovery = kind is ChannelKind.RECOVERY
            return MainChannel(in_runs=in_runs, recovery=recovery, learned=learned)
        case ChannelKind.RETURN_PATH:
            return ReturnPath()
        case ChannelKind.PREEMPT:
            return PreemptChannel()
        case ChannelKind.TLS:
            return OpaqueChannel("encrypted by TLS")
        case ChannelKind.MULTIFD:
            return MultifdChannel()
