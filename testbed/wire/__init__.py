"""The migration stream: bytes to values and back, incrementally, at any chunk size.

This room is pure: bytes in, values out. Nothing here opens a socket, reads a clock, logs, or
imports another room.
"""

from . import build
from .edit import Stream
from .encode import build_command, build_message, build_section, encode
from .error import EditError, StreamError
from .identify import ChannelKind, OpaqueChannel, channel_of
from .layout import Layout
from .learned import LearnedLayout
from .main_channel import MainChannel
from .multifd import MultifdChannel
from .preempt import PreemptChannel
from .recut import recut
from .return_path import ReturnPath
from .successor import Phase
from .tls import TlsChannel

__all__ = [
    "ChannelKind",
    "EditError",
    "Layout",
    "LearnedLayout",
    "MainChannel",
    "MultifdChannel",
    "OpaqueChannel",
    "Phase",
    "PreemptChannel",
    "ReturnPath",
    "Stream",
    "StreamError",
    "TlsChannel",
    "build",
    "build_command",
    "build_message",
    "build_section",
    "channel_of",
    "encode",
    "recut",
]
