"""The parser of each kind of channel."""

from __future__ import annotations

from testbed.wire import MainChannel, ReturnPath
from testbed.wire.channel import Channel
from testbed.wire.identify import ChannelKind

FIRST_BYTES = 16
"""Enough to tell every kind of channel."""


def parser_for(kind: ChannelKind, *, in_runs: bool = False) -> Channel:
    """A new parser.

    Args:
        kind: of the channel.
        in_runs: pages come in runs where the parser can do that.
    """
    match kind:
        case ChannelKind.RETURN_PATH:
            return ReturnPath()
        case _:
            return MainChannel(in_runs=in_runs)
