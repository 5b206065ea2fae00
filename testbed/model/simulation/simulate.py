"""A source and a destination against each other in one process, on a clock of their own.

No socket and no waiting: whatever happens is an event at its time, and those of one time happen in
the order in which they were caused. Same cores, link, guests and seed: same events, same outcome.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from testbed.model.guest.guest import Guest
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import (
    Became,
    Effect,
    Exit,
    GuestMayRun,
    HangUp,
    ResumeGuest,
    Say,
    Send,
    StopGuest,
    Trace,
)
from testbed.model.migration.source import Source

SOURCE, DESTINATION = "source", "destination"
UNTIL_S = 60.0
"""A migration that has not come to rest by then, on its own clock, does not do so."""
EVENTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Link:
    """What a connection goes over."""

    latency_s: float = 0.0001
    bytes_per_s: float = 1e9
    buffer_bytes: int = 1 << 18
    """Sent, and neither on the wire nor waited for: what is lost of it nobody is told."""
    cut_at_bytes: int | None = None
    """Behind so many bytes to the destination the connection is lost, for both."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it came to rest."""

    statuses: tuple[tuple[str, ...], tuple[str, ...]]
    """Of source and destination, in order."""
    said: tuple[tuple[str, ...], tuple[str, ...]]
    exit_status: int | None
    """The destination's; None while it is there."""
    runs_at: frozenset[str]
    sent_bytes: int
    at_s: float


class _Connection:
    """One connection; when it is lost nothing that was sent before is, but for what was cut."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sent_bytes = 0
        self.free_at_s = 0.0  # the wire has nothing to send from then on
        self.is_lost = False  # what is sent now does not arrive
        self.source_knows = self.destination_knows = False

    def accepted_at_s(self) -> float:
        """When all that was sent is on the wire, or in the buffer before it."""
        return self.free_at_s - self.link.buffer_bytes / self.link.bytes_per_s

    def transmit(self, size_bytes: int, now_s: float) -> tuple[int, float]:
        """How many of these bytes arrive, and when."""
        left = size_bytes
        if self.link.cut_at_bytes is not None:
            left = min(left, self.link.cut_at_bytes - self.sent_bytes)
        self.sent_bytes += left
        self.free_at_s = max(self.free_at_s, now_s) + size_bytes / self.link.bytes_per_s
        return left, self.free_at_s + self.link.latency_s


class Simulation:
    """Both sides, connected.

    Args:
        source: not begun.
        destination: not begun.
        link: between them.
        guests: of source and destination; the first one runs, or is to.
        random: in how many pieces what is sent arrives; None: in one.
    """

    def __init__(
        self,
        source: Source,
        destination: Destination,
        link: Link,
        *,
        guests: tuple[Guest, Guest] | None = None,
        random: Random | None = None,
    ) -> None:
        self.source, self.destination = source, destination
        self.now_s = 0.0
        self.runs_at = {SOURCE}
        self.exit_status: int | None = None
        self.forward: list[bytes] = []
        """What came to the destination."""
        self.effects: tuple[list[Effect], list[Effect]] = [], []
        """Of source and destination."""
        self._guests, self._random = guests, random
        self._connection = _Connection(link)
        self._events: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._caused = 0
        self._migrating = 0  # events that are not a guest's
        self._turn_due = False
        self._guest_due = [False, False]
        self._guest_waits = False
        self._began = False

    # What is done to it

    def run(self, until_s: float = UNTIL_S) -> Outcome:
        """Go on until nothing but guests will do anything, or the time is up."""
        if not self._began:
            self._began = True
            self._of_destination(self.destination.begin())
            self._of_source(self.source.begin(self.now_s))
            if self._guests is not None:
                self._guests[0].resume(self.now_s)
                self._guest_next(0)
        for _ in range(EVENTS_MAX):
            if not self._migrating or self._events[0][0] > until_s:
                break
            self.now_s, _, of_guest, happens = heapq.heappop(self._events)
            self._migrating -= not of_guest
            happens()
        return self.outcome()

    def later(self, when_s: float, happens: Callable[[], None]) -> None:
        """Have something be done at that time, such as a command be given to a side."""
        self._at(when_s, happens)

    def recover(self, link: Link) -> Outcome:
        """Connect both again after a pause, and go on."""
        self._connection = _Connection(link)
        self._of_destination(self.destination.recover())
        self._of_source(self.source.recover())
        return self.run(self.now_s + UNTIL_S)

    def outcome(self) -> Outcome:
        """How it stands."""
        statuses, said = [], []
        for effects in self.effects:
            statuses.append(tuple(str(e.status) for e in effects if isinstance(e, Became)))
            said.append(tuple(e.line for e in effects if isinstance(e, Say)))
        return Outcome(
            (statuses[0], statuses[1]),
            (said[0], said[1]),
            self.exit_status,
            frozenset(self.runs_at),
            sum(map(len, self.forward)),
            self.now_s,
        )

    # Time

    def _at(self, when_s: float, happens: Callable[[], None], *, of_guest: bool = False) -> None:
        self._caused += 1
        self._migrating += not of_guest
        heapq.heappush(self._events, (max(when_s, self.now_s), self._caused, of_guest, happens))

    def _next_turn(self) -> None:
        source = self.source
        if self._turn_due or source.is_over or source.waits:
            return
        self._turn_due = True
        self._at(max(source.next_at_s, self._connection.accepted_at_s()), self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if not self.source.is_over:
            self._of_source(self.source.advance(self.now_s))

    # Guests

    def _guest_next(self, number: int) -> None:
        assert self._guests is not None
        at_s = self._guests[number].next_at_s
        if at_s is not None and not self._guest_due[number]:
            self._guest_due[number] = True
            self._at(at_s, lambda: self._guest_turn(number), of_guest=True)

    def _guest_turn(self, number: int) -> None:
        assert self._guests is not None
        self._guest_due[number] = False
        missing = self._guests[number].advance(self.now_s).missing
        self._guest_waits = missing is not None
        if missing is not None:
            self._of_destination(self.destination.want(missing))
        self._guest_next(number)

    # The source

    def _of_source(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self.effects[0].append(effect)
            match effect:
                case Send(data):
                    self._send(data)
                case StopGuest():
                    self._stop(0)
                case ResumeGuest():
                    self.runs_at.add(SOURCE)
                    if self._guests is not None:
                        self._guests[0].resume(self.now_s)
                        self._guest_next(0)
                case HangUp():
                    self._source_hangs_up()
                case Say() | Became():
                    pass
                case GuestMayRun() | Exit() | Trace():
                    raise AssertionError(f"{effect} is of a destination")
        self._next_turn()

    def _send(self, data: bytes) -> None:
        connection = self._connection
        if connection.source_knows:
            self._at(self.now_s, lambda: self._write_fails(connection))
            return
        if connection.is_lost:
            return
        left, arrives_s = connection.transmit(len(data), self.now_s)
        pieces = [data[:left]]
        if self._random is not None and left > 1:
            middle = self._random.randrange(1, left)
            pieces = [data[:middle], data[middle:left]]
        for piece in filter(None, pieces):
            self._at(arrives_s, lambda piece=piece: self._arrives(connection, piece))  # type: ignore[misc]
        if left < len(data):
            connection.is_lost = True
            self._at(arrives_s, lambda: self._destination_ends(connection))
            self._at(arrives_s + connection.link.latency_s, lambda: self._source_ends(connection))

    def _write_fails(self, connection: _Connection) -> None:
        if connection is self._connection:
            said = os.strerror(errno.EPIPE)
            self._of_source(self.source.write_failed(-errno.EPIPE, said))

    def _source_ends(self, connection: _Connection) -> None:
        """The source can know that the connection is lost: what it still has to write fails."""
        if connection is not self._connection or connection.source_knows:
            return
        connection.source_knows = connection.is_lost = True
        waits_for_room = connection.accepted_at_s() > self.now_s
        if self.source.has_return_path:
            self._of_source(self.source.back_ended())
        if waits_for_room and not self.source.is_over:
            self._write_fails(connection)

    def _source_hangs_up(self) -> None:
        connection = self._connection
        if not connection.source_knows:
            connection.source_knows = connection.is_lost = True
            arrives_s = max(connection.free_at_s, self.now_s) + connection.link.latency_s
            self._at(arrives_s, lambda: self._destination_ends(connection))

    def _stop(self, number: int) -> None:
        self.runs_at.discard((SOURCE, DESTINATION)[number])
        if self._guests is not None:
            self._guests[number].stop()

    # The destination

    def _arrives(self, connection: _Connection, data: bytes) -> None:
        if connection is self._connection and not connection.destination_knows:
            self.forward.append(data)
            self._of_destination(self.destination.feed(data))
            if self._guest_waits:
                self._guest_turn(1)

    def _destination_ends(self, connection: _Connection) -> None:
        if connection is self._connection and not connection.destination_knows:
            connection.destination_knows = True
            self._of_destination(self.destination.end())

    def _of_destination(self, effects: Iterable[Effect]) -> None:
        connection = self._connection
        for effect in effects:
            self.effects[1].append(effect)
            match effect:
                case Send(data):
                    self._answer(connection, data)
                case GuestMayRun():
                    self.runs_at.add(DESTINATION)
                    if self._guests is not None:
                        self._guests[1].loaded()
                        self._guests[1].resume(self.now_s)
                        self._guest_next(1)
                case HangUp():
                    self._destination_hangs_up(connection)
                case Exit(status):
                    self.exit_status = status
                    self._stop(1)
                    self._destination_hangs_up(connection)
                case Say() | Trace() | Became():
                    pass
                case StopGuest() | ResumeGuest():
                    raise AssertionError(f"{effect} is of a source")

    def _answer(self, connection: _Connection, data: bytes) -> None:
        def arrives() -> None:
            if connection is self._connection and not connection.source_knows:
                self._of_source(self.source.back(data))

        if not connection.destination_knows and not connection.is_lost:
            self._at(self.now_s + connection.link.latency_s, arrives)

    def _destination_hangs_up(self, connection: _Connection) -> None:
        if not connection.destination_knows:
            connection.destination_knows = True
            arrives_s = self.now_s + connection.link.latency_s
            self._at(arrives_s, lambda: self._source_ends(connection))
