"""A connection that came, until it may go onward or never will."""

from __future__ import annotations

from collections.abc import Callable

from testbed.fault.plan import Side
from testbed.log import Log
from testbed.wire import channel_of

from .admission import Admission
from .connection import Connection
from .stray import NOTHING_FIRST, what_speaks

FIRST_BYTES = 4
"""Of the source: enough to tell every channel, and to satisfy a destination that peeks."""
SPEAKS_WITHIN_S = 30.0
"""A connection that must speak before it goes onward, and does not, is reset then."""


async def is_let_in(
    connection: Connection,
    admission: Admission,
    log: Log,
    *,
    paused: Callable[[], bool],
    silent_after_s: float | None,
) -> bool:
    """Wait until it may go onward; false if it never may: it has ended, or has been reset.

    Args:
        connection: is not joined yet; its source is only looked at.
        admission: says who may go.
        log: where a stranger is told.
        paused: whether a recovery is waited for.
        silent_after_s: it goes onward all the same if it has said nothing for so long; None: it is
            reset after `SPEAKS_WITHIN_S`.
    """
    source = connection.source

    def may_go() -> bool:
        first = connection.first_bytes(FIRST_BYTES) or b""
        return admission.may_go(connection.number, first, channel_of(first), paused=paused())

    def has_spoken() -> bool:
        return connection.first_bytes(FIRST_BYTES) is not None or may_go()

    def has_ended() -> bool:
        return connection.first_bytes(FIRST_BYTES) == b"" and not may_go()

    if not await connection.until(has_spoken, silent_after_s or SPEAKS_WITHIN_S):
        if silent_after_s is not None:
            return True
        tell_stray(log, connection, b"", NOTHING_FIRST)
        connection.abort()
        return False
    await connection.until(lambda: may_go() or has_ended())
    if not (source.gone or source.reset_seen or has_ended()):
        return True
    if not source.gone:
        connection.sender_ended(Side.SOURCE, source.how if source.reset_seen else "FIN")
        tell_stray(log, connection, b"", NOTHING_FIRST)
    return False


def tell_stray(log: Log, connection: Connection, first: bytes, meaning: str) -> None:
    """Say that a connection is none that a source opens, by its first bytes, and what it means."""
    log.write(
        "proxy",
        "stray-connection",
        connection=connection.number,
        what=what_speaks(first),
        meaning=meaning,
    )
