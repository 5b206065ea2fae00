"""Which connections of an attempt go onward, and when.

Connecting to a waiting QEMU is not harmless: a bare connection ends it or blocks its main loop. So
the connection that goes onward first does so only with its first bytes in hand, in one write; and
it is the one that came first, for a QEMU before 8.0 takes what comes first for the main channel,
unless a main channel shows itself: then what came before it and is silent is a stranger. Later ones
go onward at once, since the destination may wait for one that has nothing to say yet (preempt).
So does the one that came first while postcopy is paused: who recovers it may ask the destination
whether it does before the source has said a word, and a stranger can at worst have it pause again.
Source: QEMU `migration/channel.c`, `migration_channel_read_peek`, 8.0 to 11.1; seen on 11.1.
"""

from __future__ import annotations

from testbed.wire import ChannelKind

LEADERS = frozenset({ChannelKind.MAIN, ChannelKind.RECOVERY, ChannelKind.TLS})
"""What a main channel can begin as."""


class Admission:
    """Of one attempt. Connections are told apart by when they came: a number that grows."""

    def __init__(self) -> None:
        self._opened_by: int | None = None  # the connection that went onward first
        self._onward: set[int] = set()
        self._waiting: set[int] = set()

    @property
    def is_open(self) -> bool:
        """A connection has gone onward, and one that has is not over."""
        return self._opened_by is not None

    def came(self, number: int) -> None:
        """A connection came; it waits."""
        self._waiting.add(number)

    def may_go(
        self, number: int, first: bytes, kind: ChannelKind | None, *, paused: bool = False
    ) -> bool:
        """True if a connection that waits may go onward, with these bytes in hand.

        `paused`: the destination waits for a postcopy to be recovered.
        """
        if self._opened_by is not None:
            return bool(first) or number > self._opened_by
        if self._onward:
            return False  # one is about to
        if not first:
            return paused and number == min(self._waiting)
        return kind in LEADERS or number == min(self._waiting)

    def goes(self, number: int) -> None:
        """It is about to go onward."""
        self._waiting.discard(number)
        self._onward.add(number)

    def went(self, number: int) -> None:
        """It has gone onward."""
        if self._opened_by is None:
            self._opened_by = number

    def ended(self, number: int) -> None:
        """It is over, wherever it was. After the last one, the next begins anew."""
        self._waiting.discard(number)
        self._onward.discard(number)
        if not self._onward:
            self._opened_by = None
