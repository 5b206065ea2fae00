"""Which migrations pass: when one begins, and when it is over. Events in, changes out.

A proxy that stands between two hosts is told of no migration; it sees connections. One begins with
a main channel's file header, or with the first TLS connection, which hides it. It is over when its
last connection has ended: unless it is in postcopy and not yet through, because then a recovery may
come, an hour later. That it will not is known when the next file header passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.log import Event

CARRIERS = frozenset({"main", "recovery", "multifd", "preempt", "tls"})
"""Channels that a migration has."""
POSTCOPY_COMMANDS = frozenset({"POSTCOPY_LISTEN", "POSTCOPY_RUN"})


@dataclass(slots=True)
class Migration:
    """What was seen of one migration.

    `shut` is the value that the destination closed the return path with: 0 is success. `whole` if
    the stream's end went on to the destination. `struck` are faults' names, in order, once each.
    """

    number: int
    began_s: float
    in_postcopy: bool = False
    whole: bool = False
    encrypted: bool = False
    shut: int | None = None
    bytes_forward: int = 0
    bytes_back: int = 0
    struck: list[str] = field(default_factory=list)

    @property
    def may_be_recovered(self) -> bool:
        """Its connections may be lost, and it may still go on."""
        return self.in_postcopy and not self.whole

    @property
    def outcome(self) -> str:
        """How it ended, as far as the stream tells: whoever was asked by QMP knows better."""
        if self.encrypted:
            return "encrypted"
        if self.shut:
            return "refused"
        if self.whole:
            return "whole"
        return "paused" if self.in_postcopy else "cut"


@dataclass(frozen=True, slots=True)
class Began:
    """A migration has begun."""

    migration: Migration


@dataclass(frozen=True, slots=True)
class Ended:
    """A migration is over."""

    migration: Migration


Change = Began | Ended


class Migrations:
    """Follows the events of one proxy."""

    def __init__(self) -> None:
        self.current: Migration | None = None
        self._count = 0
        self._carriers: dict[int, str] = {}  # live connections that belong to a migration

    def event(self, event: Event) -> list[Change]:
        """Take an event; what it begins or ends, in order."""
        facts = event.facts
        match event.kind:
            case "connection-identified" if facts["channel"] in CARRIERS:
                self._carriers[facts["connection"]] = facts["channel"]
                if facts["channel"] == "tls" and self.current is None:
                    return self._begin(event, encrypted=True)
            case "file-header" if facts["connection"] in self._carriers:
                self._leave_behind(event.facts["connection"])
                return self._begin(event)
            case "connection-ended":
                return self._connection_ended(event)
            case _ if self.current is not None:
                self._note(self.current, event)
        return []

    def _begin(self, event: Event, *, encrypted: bool = False) -> list[Change]:
        ended = self._end()
        self._count += 1
        self.current = Migration(self._count, event.at_s, encrypted=encrypted)
        return [*ended, Began(self.current)]

    def _end(self) -> list[Change]:
        migration, self.current = self.current, None
        return [] if migration is None else [Ended(migration)]

    def _leave_behind(self, main: int) -> None:
        """What came before a main channel is an earlier migration's, and says nothing of this one.

        A connection that went dark may outlive its migration: both ends have given it up.
        """
        self._carriers = {each: of for each, of in self._carriers.items() if each >= main}

    def _connection_ended(self, event: Event) -> list[Change]:
        channel = self._carriers.pop(event.facts["connection"], None)
        if channel is None or self.current is None:
            return []
        self.current.bytes_forward += event.facts["bytes_forward"]
        self.current.bytes_back += event.facts["bytes_back"]
        if self._carriers or self.current.may_be_recovered:
            return []
        return self._end()

    def _note(self, migration: Migration, event: Event) -> None:
        match event.kind:
            case "command" if event.facts["command"] in POSTCOPY_COMMANDS:
                migration.in_postcopy = True
            case "eof":
                migration.whole = True
            case "message" if event.facts["message"] == "SHUT":
                migration.shut = event.facts["value"]
            case "fault-struck" if event.facts["fault"] not in migration.struck:
                migration.struck.append(event.facts["fault"])
