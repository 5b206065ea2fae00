"""The one log of a run: everything that happened, in order, on one monotonic clock.

Every room above `wire` writes here; expectations, verdicts and reports are queries on what was
written, so a stored log can be judged again. An event is flat and JSON-ready on purpose: a line
of `log.jsonl` read back is the same event. Nothing here knows what an event means.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

EVENTS_MAX = 200_000
"""About 100 MB. A scenario of the library writes some hundreds of events; a run that writes more
than this has a peer that makes it."""
KIND_RESERVE = 10_000
"""How many events of each kind are kept beyond `EVENTS_MAX`.

A flood of one kind (frames, lines of a serial port) must not keep out those of another that decide
(`process-ended`, `observed`). The code names all kinds, so the log has a bound all the same."""
FULL = "log-full"
"""Kind of the event that says once that a log has `EVENTS_MAX` events; fact `events_max`."""
DROPPED = "log-dropped"
"""Kind of the event that says what was not kept; fact `kinds`: how many, by kind."""


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

    At most `EVENTS_MAX` events are kept, and `KIND_RESERVE` more of each kind; `dropped` counts the
    others by kind. An error of a listener goes to the event loop's exception handler, not to
    whoever wrote the event.

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
        self._waiting: list[Callable[[Event], None]] = []
        self._beyond: Counter[str] = Counter()  # events beyond EVENTS_MAX, by kind
        self.dropped: Counter[str] = Counter()

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
        if self._keeps and len(self._events) >= EVENTS_MAX and not self._beyond:
            self._beyond[FULL] += 1
            if event.kind != FULL:
                self._keep(
                    Event(self._written, event.at_s, "run", FULL, {"events_max": EVENTS_MAX})
                )
                event = replace(event, number=self._written)
        if self._beyond and not self._is_reserved(event.kind):
            self.dropped[event.kind] += 1
        else:
            self._keep(event)
        # Whoever waits for something must see it even if it is not kept.
        self._tell(event, self._waiting)

    def note_dropped(self) -> None:
        """Write down what was not kept, if anything: `log-dropped`."""
        if self.dropped:
            self.write("run", DROPPED, kinds=dict(self.dropped))

    def _is_reserved(self, kind: str) -> bool:
        self._beyond[kind] += 1
        return self._beyond[kind] <= KIND_RESERVE

    def _keep(self, event: Event) -> None:
        if self._keeps:
            self._events.append(event)
        self._written += 1
        self._tell(event, self._listeners)

    def _tell(self, event: Event, listeners: list[Callable[[Event], None]]) -> None:
        for listener in tuple(listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - the loop's handler decides what it ends
                # The writer did not fail, and may be a library's callback that would swallow it.
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    raise error from None
                message = f"a listener of the log failed at {event.kind}"
                loop.call_exception_handler({"message": message, "exception": error})

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

        self._waiting.append(look)
        try:
            async with asyncio.timeout(within_s):
                return await found
        except TimeoutError as error:
            raise WaitExpired(what, within_s) from error
        finally:
            self._waiting.remove(look)


def matches(event: Event, kind: str | None, actor: str | None, facts: Mapping[str, Any]) -> bool:
    """True if the event is of that kind and actor (None: any) and has all of `facts`."""
    return (
        (kind is None or event.kind == kind)
        and (actor is None or event.actor == actor)
        and all(event.facts.get(name) == value for name, value in facts.items())
    )
