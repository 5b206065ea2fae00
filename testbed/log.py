"""The one log of a run: everything that happened, in order, on one monotonic clock.

Every room above `wire` writes here; expectations, verdicts and reports are queries on what was
written, so a stored log can be judged again. An event is flat and JSON-ready on purpose: a line
of `log.jsonl` read back is the same event. Nothing here knows what an event means.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

EVENTS_MAX = 200_000
"""A run that writes more is one whose peer made it; what follows is counted, not kept."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    `number` counts from 0 without gaps; `at_s` is seconds since the log began; `actor` is who did
    or saw it (`run`, `source`, `destination`, `proxy`, `switch`, `client`); `facts` is JSON.
    """

    number: int
    at_s: float
    actor: str
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the event as one line of JSON, without the newline."""
        return json.dumps(
            {
                "number": self.number,
                "at_s": round(self.at_s, 6),
                "actor": self.actor,
                "kind": self.kind,
                **({"facts": self.facts} if self.facts else {}),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Event:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: the line is not an event.
        """
        record = json.loads(line)
        try:
            return cls(
                record["number"],
                record["at_s"],
                record["actor"],
                record["kind"],
                record.get("facts", {}),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event of a log: {line!r}") from error


class WaitExpired(Exception):
    """What was waited for did not happen within its bound."""

    def __init__(self, what: str, within_s: float) -> None:
        super().__init__(f"waited {within_s:g} s for {what}: it did not come")
        self.what, self.within_s = what, within_s


class Log:
    """Events in order; listeners are called with each as it is written.

    Args:
        clock: monotonic seconds.
        keeps: False for what may run for months: the listeners are all that the events are for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, keeps: bool = True) -> None:
        self._clock = clock
        self._keeps = keeps
        self._began = clock()
        self._written = 0
        self._events: list[Event] = []
        self._listeners: list[Callable[[Event], None]] = []
        self.dropped = 0

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, number: int) -> Event:
        return self._events[number]

    @classmethod
    def of(cls, events: Iterable[Event]) -> Log:
        """Return a log that holds `events`, such as those of a stored run."""
        log = cls()
        log._events.extend(events)
        log._written = len(log._events)
        return log

    def now_s(self) -> float:
        """Seconds since the log began."""
        return self._clock() - self._began

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; return the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def write(self, actor: str, kind: str, /, at_s: float | None = None, **facts: Any) -> Event:
        """Add an event that happened now, or at `at_s` where the kernel stamped it."""
        event = Event(self._written, self.now_s() if at_s is None else at_s, actor, kind, facts)
        self.add(event)
        return event

    def add(self, event: Event) -> None:
        """Add an event as it is: how a log is carried from one process to another."""
        if self._keeps:
            if len(self._events) >= EVENTS_MAX:
                self.dropped += 1
                return
            self._events.append(event)
        self._written += 1
        for listener in tuple(self._listeners):
            listener(event)

    def find(
        self, kind: str | None = None, actor: str | None = None, /, **facts: Any
    ) -> Iterator[Event]:
        """Events of that kind and actor whose facts include `facts`, in order."""
        for event in self._events:
            if matches(event, kind, actor, facts):
                yield event

    def first(
        self, kind: str | None = None, actor: str | None = None, /, **facts: Any
    ) -> Event | None:
        """The first that `find` gives, or None."""
        return next(self.find(kind, actor, **facts), None)

    async def wait(
        self,
        wanted: Callable[[Event], bool],
        *,
        what: str,
        within_s: float,
        since: int = 0,
    ) -> Event:
        """Return the first event from number `since` on that is wanted, waiting for it.

        Raises:
            WaitExpired: none came within `within_s` seconds.
        """
        for event in self._events[since:]:
            if wanted(event):
                return event
        found: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def look(event: Event) -> None:
            if not found.done() and wanted(event):
                found.set_result(event)

        stop = self.listen(look)
        try:
            async with asyncio.timeout(within_s):
                return await found
        except TimeoutError as error:
            raise WaitExpired(what, within_s) from error
        finally:
            stop()


def matches(event: Event, kind: str | None, actor: str | None, facts: Mapping[str, Any]) -> bool:
    """True if the event is of that kind and actor (None: any) and has all of `facts`."""
    return (
        (kind is None or event.kind == kind)
        and (actor is None or event.actor == actor)
        and all(event.facts.get(name) == value for name, value in facts.items())
    )
