"""Verdicts: what a run's log says happened. Pure queries; the same log gives the same verdict.

A verdict comes from what the two sides were seen to be (`observed` events) and from the checks of
memory and device state, never from what a scenario expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from testbed.log import Event, Log

from .loaded import Loading, loading
from .units import Version

SIDES = ("source", "destination")
LOAD_FAILED = "load of migration failed"
"""On stderr of every destination that gives up. QEMU `migration/migration.c`, 2.x to 11.1."""


@dataclass(frozen=True, slots=True)
class SideState:
    """One side at the end of an attempt, and all that it said until then."""

    side: str
    status: str | None = None
    error_desc: str | None = None
    run_state: str | None = None
    exit_status: int | None = None  # negative: the signal that ended it; None: it runs
    silent: bool = False  # its process runs, and QMP gave no answer; or nobody asked
    statuses: tuple[str, ...] = ()
    stderr: tuple[str, ...] = ()
    version: tuple[int, int, int] = (0, 0, 0)
    killed: bool = False  # a fault of the scenario sent it KILL

    @property
    def last_status(self) -> str | None:
        """Its migration status, by its own account or, as a destination before 2.12 has none, by
        the last of its events."""
        return self.status or (self.statuses[-1] if self.statuses else None)

    @property
    def running(self) -> bool:
        """True if it runs the guest."""
        return self.exit_status is None and self.run_state == "running"

    @property
    def died(self) -> bool:
        """True if a signal ended it that no fault sent."""
        return self.exit_status is not None and self.exit_status < 0 and not self.killed


@dataclass(frozen=True, slots=True)
class Attempt:
    """One migration attempt: both sides as they were when it was over."""

    number: int
    source: SideState
    destination: SideState
    hung: tuple[str, ...] = field(default=())
    intact: bool | None = None  # memory; None: not looked at
    equal: bool | None = None  # device state; None: not looked at
    loading: Loading = field(default=Loading(unwatched="nobody asked"))  # of sections
    damage: tuple[str, ...] = ()  # what was found wrong with any of the three, in words

    @property
    def verdict(self) -> str:
        """What this attempt came to: one of the verdicts of `docs/architecture.md`."""
        source, destination = self.source, self.destination
        if source.died or destination.died:
            return "crash"
        if source.running and destination.running:
            return "split-brain"
        if self.hung:
            return "hang"
        # A destination that has paused may run on until it misses a page, and has not arrived.
        paused = destination.last_status == "postcopy-paused" and not source.running
        if not paused and (destination.running or destination.last_status == "completed"):
            return self._arrived()
        if source.running:
            return "failed-clean"
        if source.silent or destination.silent:
            return "unknown"
        if source.exit_status is not None:
            return "source-lost"
        both = paused and source.last_status == "postcopy-paused"
        return "paused-recoverable" if both else "guest-lost"

    def _arrived(self) -> str:
        if self.source.running:
            return "split-brain"
        if False in (self.intact, self.equal, self.loading.outcome):
            return "corrupt"
        return "recovered" if "postcopy-paused" in self.destination.statuses else "completed"


def attempts(log: Log) -> list[Attempt]:
    """The migration attempts of a run that came to an end, in order.

    What a side said counts until its attempt has ended; what was found by looking at it comes
    after that, and counts until the next attempt begins.
    """
    found: list[Attempt] = []
    said: list[Event] = []
    looked: list[Event] = []
    end: Event | None = None
    for event in log:
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
    source, destination = (_side(side, said) for side in SIDES)
    loaded = loading(said)
    return Attempt(
        number,
        source,
        destination,
        tuple(
            event.facts["what"]
            for event in said
            if event.kind == "wait-expired" and not event.facts.get("provided_for")
        ),
        _all_of(looked, "memory-checked", "intact"),
        _all_of(looked, "device-state-checked", "equal"),
        loaded,
        (*_details(looked), *loaded.problems),
    )


def _details(looked: Iterable[Event]) -> Iterator[str]:
    for event in looked:
        yield from event.facts.get("findings", ()) if event.kind == "memory-checked" else ()
        yield from event.facts["differences"] if event.kind == "device-state-checked" else ()


def _all_of(events: Iterable[Event], kind: str, fact: str) -> bool | None:
    outcomes = [event.facts[fact] for event in events if event.kind == kind]
    return all(outcomes) if outcomes else None


def _side(side: str, events: list[Event]) -> SideState:
    own = [event for event in events if event.actor == side]
    seen: dict[str, Any] = {}
    for event in own:
        if event.kind == "observed":
            seen = dict(event.facts)
    return SideState(
        side,
        seen.get("status"),
        seen.get("error_desc"),
        seen.get("run_state"),
        seen.get("exit_status"),
        seen.get("silent", not seen),
        tuple(event.facts["status"] for event in own if event.kind == "migration-status"),
        tuple(event.facts["text"] for event in own if event.kind == "stderr"),
        tuple(seen.get("version", (0, 0, 0))),
        any(
            event.kind == "signal-sent"
            and (event.facts["side"], event.facts["signal"]) == (side, "KILL")
            for event in events
        ),
    )


def versions(log: Log) -> tuple[Version, Version] | None:
    """The source's and the destination's version as they greeted; None: one of them never did."""
    found: dict[str, Version] = {}
    for event in log:
        if event.kind in ("endpoint-ready", "observed"):
            major, minor, micro = event.facts["version"]
            found.setdefault(event.actor, (major, minor, micro))
    return (found["source"], found["destination"]) if len(found) == 2 else None


def both_running_s(log: Log) -> float:
    """Seconds during which both sides ran the guest: invariant 1 says none.

    A source runs from its first event on, a destination from its RESUME; STOP and the end of the
    process end it. What happens once an attempt was looked at does not count: whoever loses its
    peer because the testbed takes the world down may well run on.
    """
    running: dict[str, bool] = {"source": True, "destination": False}
    since: float | None = None
    total, counts = 0.0, True
    for event in log:
        if event.kind == "attempt-ended":
            total += 0.0 if since is None else event.at_s - since
            since, counts = None, False
        elif event.kind == "attempt-began":
            running["destination"], counts = False, True
        if event.actor not in running:
            continue
        name = event.facts.get("event") if event.kind == "qmp-event" else event.kind
        if name == "RESUME":
            running[event.actor] = True
        elif name in ("STOP", "SHUTDOWN", "process-ended"):
            running[event.actor] = False
        both = counts and all(running.values())
        if both and since is None:
            since = event.at_s
        elif not both and since is not None:
            total += event.at_s - since
            since = None
    if since is not None and len(log):
        total += log[len(log) - 1].at_s - since
    return total


def disagreements(attempt: Attempt) -> Iterator[str]:
    """Where a side's exit status, QMP status and stderr contradict each other: invariant 2."""
    for side in (attempt.source, attempt.destination):
        status = side.last_status
        failures = [line for line in side.stderr if LOAD_FAILED in line]
        if (side.exit_status or 0) > 0 and status == "completed":
            yield f"the {side.side} exited with {side.exit_status}, and QMP says completed"
        if (side.exit_status or 0) > 0 and not side.stderr:
            yield f"the {side.side} exited with {side.exit_status}, and stderr says nothing"
        if side.exit_status == 0 and status == "failed":
            yield f"the {side.side} exited with 0, and QMP says failed"
        if status == "completed" and failures:
            yield f"QMP says the {side.side} completed, and stderr says {failures[0]!r}"


def early_frames(log: Log, mac: str) -> list[Event]:
    """Frames with the guest's MAC from the destination before the source stopped: invariant 3.

    Those that the testbed itself forged there are not among them.
    """
    stop = next(
        (event for event in log.find("qmp-event", "source") if event.facts.get("event") == "STOP"),
        None,
    )
    early = [
        event
        for event in log
        if (stop is None or event.at_s < stop.at_s)
        and event.kind in ("frame", "announce-fault")
        and event.facts.get("port") == "destination"
    ]
    forged = sum(event.kind == "announce-fault" and event.facts["mac"] == mac for event in early)
    return [event for event in early if event.kind == "frame" and event.facts["source"] == mac][
        forged:
    ]
