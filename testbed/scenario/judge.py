"""Verdicts: what a run's log says happened. Pure queries; the same log gives the same verdict.

A verdict comes from what the two sides were seen to be once they were at rest (`observed` events),
from what was seen of the guest (`guest-seen`), and from the checks of memory, device state and
loaded sections. It never comes from what a scenario expects.

The order of precedence, and why it is that one. The first that holds is the verdict:

 1. `crash`: a signal that no fault sent ended an endpoint. It is certain whatever the other side
    says, and it is QEMU's bug in any case.
 2. `unknown`: a side still exists and could not be asked. All that follows speaks of both sides.
 3. `split-brain`: both run, or the source runs a guest that the destination has run already or
    holds completely. It comes before `hang`: a hang can be waited out, diverging disks cannot.
 4. `hang`: a side was still waiting at the end of its bound, or an event that the scenario waited
    for did not come. What the sides would become is not known, so no ending is claimed.
 5. Where the destination has the guest: `crash` if it ended by itself and no fault had struck,
    `guest-lost` if it ended for another reason, holds a guest stopped that ran at the source (and
    was not started with `-S`), or its guest does not go on. Death comes before `corrupt`: wrong
    memory is of no interest in a guest that does not run.
 6. `corrupt`: the guest goes on, and its memory, device state or loaded sections are wrong.
 7. `recovered`, or else `completed`.
 8. Where the source has the guest: `guest-lost` if the guest does not go on there, `failed-clean`
    if it does and the destination was seen ended or failed, or never began.
 9. Where nobody runs it: `paused-recoverable` if both sides hold a paused postcopy, `source-lost`
    if the source's process has ended, and `guest-lost`.

A guest that nobody looked at where a side says that it runs makes 5 to 8 `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from testbed.log import Event, Log

from .loaded import Loading, loading
from .rest import NOT_BEGUN
from .units import Version

SIDES = ("source", "destination")
HOLDS_STOPPED = frozenset({"paused", "prelaunch"})
"""Run states of a guest that is whole and waits for `cont` (QEMU `qapi/run-state.json`)."""


@dataclass(frozen=True, slots=True)
class SideState:
    """One side at the end of an attempt, and all that it said until then."""

    side: str
    status: str | None = None
    error_desc: str | None = None
    run_state: str | None = None
    exit_status: int | None = None  # negative: the signal that ended it; None: it still exists
    silent: bool = False  # its process exists, and QMP gave no answer; or nobody asked
    statuses: tuple[str, ...] = ()
    stderr: tuple[str, ...] = ()
    version: tuple[int, int, int] = (0, 0, 0)
    signals: frozenset[int] = frozenset()  # that faults of the scenario sent to it
    ran: bool = False  # it ran the guest at some time of the attempt; a destination by its RESUME
    alive: bool | None = None  # its guest was seen to go on; None: nobody looked
    stopped: bool = False  # it stopped a guest that ran (its STOP)
    starts_paused: bool = False  # it runs no guest until it is told to (`-S`)

    @property
    def last_status(self) -> str | None:
        """The migration status that it reported last.

        A destination before 2.12 answers `query-migrate` with nothing: its events tell.
        """
        return self.status or (self.statuses[-1] if self.statuses else None)

    @property
    def ended(self) -> bool:
        """True if its process has ended."""
        return self.exit_status is not None

    @property
    def running(self) -> bool:
        """True if it runs the guest, by its own account."""
        return not self.ended and self.run_state == "running"

    @property
    def killed(self) -> bool:
        """True if a signal that a fault of the scenario sent ended it."""
        return self.exit_status is not None and -self.exit_status in self.signals

    @property
    def crashed(self) -> bool:
        """True if a signal ended it that no fault sent."""
        return self.exit_status is not None and self.exit_status < 0 and not self.killed


@dataclass(frozen=True, slots=True)
class Attempt:
    """One migration attempt: both sides as they were when it was over."""

    number: int
    source: SideState
    destination: SideState
    hung: tuple[str, ...] = field(default=())  # what was waited for, and did not come
    faulted: bool = False  # a fault had struck
    intact: bool | None = None  # memory; None: not looked at
    equal: bool | None = None  # device state; None: not looked at
    loading: Loading = field(default=Loading(unwatched="nobody asked"))  # of sections
    damage: tuple[str, ...] = ()  # what was found wrong with any of the three, in words
    pages_unwatched: str | None = None  # why pages beside the working set were not compared

    @property
    def verdict(self) -> str:
        """What this attempt came to: one of the verdicts of `docs/architecture.md`."""
        source, destination = self.source, self.destination
        if source.crashed or destination.crashed:
            return "crash"
        if source.silent or destination.silent:
            return "unknown"
        if source.running and (destination.running or destination.ran or self._arrived):
            return "split-brain"
        if self.hung:
            return "hang"
        if self._arrived:
            return self._of_destination()
        if destination.ended and not source.running and self._had_arrived:
            return "guest-lost" if destination.killed or self.faulted else "crash"
        if source.running:
            return self._of_source()
        return self._of_nobody()

    @property
    def _paused(self) -> bool:
        """A destination in a paused postcopy may run until it misses a page: it has not arrived."""
        return self.destination.last_status == "postcopy-paused" and not self.source.running

    @property
    def _arrived(self) -> bool:
        """The destination exists, and has all of the guest by its own account."""
        destination = self.destination
        if destination.ended or self._paused:
            return False
        return destination.running or destination.last_status == "completed"

    @property
    def _had_arrived(self) -> bool:
        return self.destination.last_status == "completed" or self.destination.ran

    def _of_destination(self) -> str:
        """The verdict where the destination has the guest."""
        destination = self.destination
        if not destination.running and destination.run_state not in HOLDS_STOPPED:
            return "guest-lost"  # io-error, internal-error, guest-panicked, shutdown, ...
        if not destination.running and self.source.stopped and not destination.starts_paused:
            return "guest-lost"  # it ran at the source, and nobody said that it shall not run here
        if destination.running and destination.alive is not True:
            return "unknown" if destination.alive is None else "guest-lost"
        if False in (self.intact, self.equal, self.loading.outcome):
            return "corrupt"
        return "recovered" if "postcopy-paused" in destination.statuses else "completed"

    def _of_source(self) -> str:
        """The verdict where the source alone runs the guest."""
        destination = self.destination
        if self.source.alive is not True:
            return "unknown" if self.source.alive is None else "guest-lost"
        gave_up = destination.ended or destination.last_status == "failed"
        return "failed-clean" if gave_up or destination.last_status in NOT_BEGUN else "hang"

    def _of_nobody(self) -> str:
        source = self.source
        if source.ended:
            return "source-lost"
        both = self._paused and source.last_status == "postcopy-paused"
        return "paused-recoverable" if both and not self.destination.ended else "guest-lost"


def attempts(log: Log) -> list[Attempt]:
    """The migration attempts of a run that came to an end, in order.

    What a side said counts until its attempt has ended. What was found by looking at it comes
    after that, and counts until the next attempt begins; so does the end of a process that nobody
    asked to end.
    """
    found: list[Attempt] = []
    said: list[Event] = []
    looked: list[Event] = []
    end: Event | None = None
    for event in log:
        if event.kind == "teardown-began":
            break  # what the testbed ends is no end of an attempt
        if event.kind == "attempt-began" and end is not None:
            found.append(_attempt(end.facts["attempt"], said, looked))
            said, looked, end = [], [], None
        if event.kind == "attempt-ended":
            end = event
        (said if end is None else looked).append(event)
    if end is not None:
        found.append(_attempt(end.facts["attempt"], said, looked))
    return found


def _attempt(number: int, said: list[Event], looked: list[Event]) -> Attempt:
    source, destination = (_side(side, said, looked) for side in SIDES)
    loaded = loading(said)
    return Attempt(
        number,
        source,
        destination,
        tuple(_awaited(said)),
        any(event.kind in ("fault-struck", "signal-sent", "toxiproxy") for event in said),
        _all_of(looked, "memory-checked", "intact"),
        _all_of(looked, "device-state-checked", "equal"),
        loaded,
        (*_details(looked), *loaded.problems),
        next(_unwatched(looked), None),
    )


def _unwatched(looked: Iterable[Event]) -> Iterator[str]:
    """Why pages beside the working set were not compared."""
    for event in looked:
        if event.kind == "memory-checked":
            if (why := event.facts.get("others_unwatched")) is not None:
                yield why
            elif unknown := event.facts.get("others_unknown"):
                yield f"{unknown} came packed, or as a difference, and were not read"


def _details(looked: Iterable[Event]) -> Iterator[str]:
    for event in looked:
        yield from event.facts.get("findings", ()) if event.kind == "memory-checked" else ()
        yield from event.facts["differences"] if event.kind == "device-state-checked" else ()


def _awaited(events: Iterable[Event]) -> Iterator[str]:
    """What did not come within its bound, but for what the scenario provided for."""
    for event in events:
        if event.kind == "wait-expired" and not event.facts.get("provided_for"):
            yield event.facts["what"]
        elif event.kind == "not-at-rest":
            yield from event.facts["awaited"]


def _all_of(events: Iterable[Event], kind: str, fact: str) -> bool | None:
    outcomes = [event.facts[fact] for event in events if event.kind == kind]
    return all(outcomes) if outcomes else None


def _side(side: str, said: list[Event], looked: list[Event]) -> SideState:
    own = [event for event in said if event.actor == side]
    seen: dict[str, Any] = {}
    for event in own:
        if event.kind == "observed":
            seen = dict(event.facts)
    ended = seen.get("exit_status")
    if ended is None:
        ended = _ended_later(side, looked)
    return SideState(
        side,
        seen.get("status"),
        seen.get("error_desc"),
        None if ended is not None else seen.get("run_state"),
        ended,
        ended is None and seen.get("silent", not seen),
        tuple(event.facts["status"] for event in own if event.kind == "migration-status"),
        tuple(event.facts["text"] for event in own if event.kind == "stderr"),
        tuple(seen.get("version", (0, 0, 0))),
        frozenset(
            Signals[f"SIG{event.facts['signal']}"]
            for event in (*said, *looked)
            if event.kind == "signal-sent" and event.facts["side"] == side
        ),
        any(_is(event, "RESUME") for event in own),
        _all_of(own, "guest-seen", "alive"),
        any(_is(event, "STOP") for event in own),
        bool(seen.get("starts_paused")),
    )


def _is(event: Event, name: str) -> bool:
    return event.kind == "qmp-event" and event.facts["event"] == name


def _ended_later(side: str, looked: Iterable[Event]) -> int | None:
    """The exit status of a side that ended by itself after it was observed; None: it did not."""
    for event in looked:
        if event.actor == side and event.kind == "process-ended" and not event.facts["asked"]:
            return exit_status(event)
    return None


def exit_status(event: Event) -> int:
    """The exit status that a `process-ended` event tells; negative: a signal."""
    if "status" in event.facts:
        return int(event.facts["status"])
    name: str = event.facts["signal"]
    # A real-time signal has a number for a name (`signal 34`).
    return -Signals[name] if name in Signals.__members__ else -int(name.split()[-1])


def versions(log: Log) -> tuple[Version, Version] | None:
    """The source's and the destination's version as they greeted; None: one of them never did."""
    found: dict[str, Version] = {}
    for event in log:
        if event.kind in ("endpoint-ready", "observed"):
            major, minor, micro = event.facts["version"]
            found.setdefault(event.actor, (major, minor, micro))
    return (found["source"], found["destination"]) if len(found) == 2 else None
