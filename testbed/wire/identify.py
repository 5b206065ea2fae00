"""Which channel of a migration some first bytes are of."""

from __future__ import annotations

from enum import StrEnum


class ChannelKind(StrEnum):
    """The connections of a migration, and the return path of the main one."""

    MAIN = "main"
    RECOVERY = "recovery"
    MULTIFD = "multifd"
    PREEMPT = "preempt"
    RETURN_PATH = "return-path"
    TLS = "tls"


def channel_of(first: bytes) -> ChannelKind | None:
    """The channel that begins so; None if none does."""
    if first.startswith(b"QEVM"):
        return ChannelKind.MAIN
    if first[:2] in (b"\0\1", b"\0\2", b"\0\3"):
        return ChannelKind.RETURN_PATH
    return None
