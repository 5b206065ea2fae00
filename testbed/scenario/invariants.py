"""What must hold in every run, whatever its scenario expects: nine invariants, on the run's log.

They are watched from the first event to the beginning of the teardown. Events are taken in the
order of their own times: QEMU stamps its events and the kernel stamps frames, and the testbed may
read two of them the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.log import Event, Log

from .judge import Attempt

LOAD_FAILED = "load of migration failed"
"""On stderr of every destination that gives up. QEMU `migration/migration.c`, 2.x to 11.1."""

ANNOUNCED_WITHIN_S = 2.0
"""The first announcement goes out when the guest starts (QEMU `net/announce.c`,
`qemu_announce_self`); the second one 50 ms later. The rest is for a loaded machine."""

EARLY_S = 0.05
"""QEMU announces before it emits RESUME (migration/migration.c, process_incoming_migration_bh)."""

IMPLIED_BY: dict[str, frozenset[int]] = {
    "split-brain": frozenset({1, 3, 4}),
    "guest-lost": frozenset({2, 9}),
    "source-lost": frozenset({2}),
    "crash": frozenset({2, 6}),
    "corrupt": frozenset({8}),
}
"""Invariants that an expected verdict says are violated: that is what the scenario shows."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One invariant of a run. `detail` says what violated it, or why it was not watched."""

    number: int
    name: str
    state: Literal["held", "violated", "not watched"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What the invariants are asked of.

    Args:
        log: of the run.
        ended: its attempts.
        mac: the guest's.
        announcements_stated: the scenario says which announcements must come, where the switch
            must have the guest, or for how long it may be out of reach.
    """

    log: Log
    ended: Sequence[Attempt]
    mac: str
    announcements_stated: bool = False


def invariants(run: Run) -> list[Invariant]:
    """Return all nine, in the order of their numbers."""
    events = in_time(run.log)
    return [
        _of(1, "never two running guests", _both_running(events)),
        _of(2, "never zero recoverable copies of the guest", _no_copy(events)),
        _of(
            3,
            "no frame of the guest from the destination before the source stopped",
            _early(events, run.mac),
        ),
        _of(
            4,
            "the source resumes only if the destination was never told to run",
            _resumed_late(events),
        ),
        _answers(events),
        _of(6, "exit status, QMP status and stderr agree", _contradictions(run.ended)),
        _of(7, "endpoints leave nothing behind", _leaks(events)),
        _no_silent_success(run.ended, events),
        _announced(run, events),
    ]


def in_time(log: Log) -> list[Event]:
    """The events until the teardown, in the order of their own times."""
    watched = []
    for event in log:
        if event.kind == "teardown-began":
            break
        watched.append(event)
    return sorted(watched, key=lambda event: event.at_s)  # stable: equal times keep their order


def _of(number: int, name: str, violations: Iterator[str]) -> Invariant:
    said = list(violations)
    return Invariant(number, name, "violated" if said else "held", "; ".join(said))


def qmp_name(event: Event) -> str | None:
    """The name of a QMP event, or None for an event of another kind."""
    return str(event.facts["event"]) if event.kind == "qmp-event" else None


def _ends(event: Event) -> str | None:
    """The side whose guest this event ends for good, with its process."""
    if event.kind == "process-ended" or qmp_name(event) == "SHUTDOWN":
        return event.actor
    # The end of a killed process is read some milliseconds after it.
    if event.kind == "signal-sent" and event.facts["signal"] == "KILL":
        return str(event.facts["side"])
    return None


def both_running_s(events: Sequence[Event]) -> list[tuple[float, float]]:
    """The spans of time, as (from, to) in seconds, in which both sides ran the guest.

    A source runs from its start on, a destination from its RESUME on; STOP, and the end of the
    process, end it.
    """
    running = {"source": True, "destination": False}
    spans: list[tuple[float, float]] = []
    since: float | None = None
    for event in events:
        name, ended = qmp_name(event), _ends(event)
        if ended in running:
            running[ended] = False
        elif event.actor in running and name in ("RESUME", "STOP"):
            running[event.actor] = name == "RESUME"
        if all(running.values()):
            since = event.at_s if since is None else since
        elif since is not None:
            spans.append((since, event.at_s))
            since = None
    if since is not None:
        spans.append((since, events[-1].at_s))
    return spans


def _both_running(events: Sequence[Event]) -> Iterator[str]:
    for since, until in both_running_s(events):
        yield f"both ran for {until - since:.3f} s from {since:.3f} s on"


def _no_copy(events: Sequence[Event]) -> Iterator[str]:
    """Where a process ended that held what no other one had.

    Until the destination runs the guest, the source has all of it. From then on the newest state is
    the destination's alone; in postcopy the source holds pages of it until `completed`.
    """
    ran = completed = False
    alive = {"source": True, "destination": True}
    source_lost_at: float | None = None
    asked = _asked_to_end(events)
    for event in events:
        if event.kind == "attempt-began":
            ran, completed, alive["destination"] = False, False, True
        elif event.actor == "destination" and qmp_name(event) == "RESUME":
            ran = True
        elif _says(event, "destination", "completed"):
            completed, source_lost_at = True, None
        ended = _ends(event)
        if ended not in alive or not alive[ended] or event.number in asked:
            continue
        alive[ended] = False
        if ended == "source" and not completed:
            source_lost_at = event.at_s
        elif ended == "destination" and (ran or not alive["source"]):
            yield f"the destination ended at {event.at_s:.3f} s, and had the newest state alone"
    if source_lost_at is not None:
        yield f"the source ended at {source_lost_at:.3f} s, and the destination never completed"


def _asked_to_end(events: Sequence[Event]) -> set[int]:
    """Numbers of the events that are the end of a process which the testbed itself ended.

    It does so before the teardown with the destination of an attempt that a `retry` follows.
    """
    found: set[int] = set()
    shut_down: dict[str, int] = {}
    for event in events:
        if qmp_name(event) == "SHUTDOWN":
            shut_down[event.actor] = event.number
        elif event.kind == "process-ended":
            announced = shut_down.pop(event.actor, event.number)
            if event.facts.get("asked"):
                found |= {event.number, announced}
    return found


def _says(event: Event, side: str, status: str) -> bool:
    return (
        event.actor == side and event.kind == "migration-status" and event.facts["status"] == status
    )


def early_frames(events: Sequence[Event], mac: str) -> list[Event]:
    """Frames with the guest's MAC that came from the destination while only the source ran.

    Those that the testbed itself forged there are not among them.
    """
    source_runs, destination_ran, forged = True, False, 0
    found = []
    for event in events:
        name = qmp_name(event)
        if event.kind == "attempt-began":
            destination_ran = False
        elif event.actor == "source" and (name in ("STOP", "RESUME") or _ends(event)):
            source_runs = name == "RESUME"
        elif event.actor == "destination" and name == "RESUME":
            destination_ran = True
        elif source_runs and not destination_ran and event.facts.get("port") == "destination":
            forged += event.kind == "announce-fault" and event.facts.get("mac") == mac
            if event.kind == "frame" and event.facts["source"] == mac:
                found.append(event)
    return found[forged:]


def _early(events: Sequence[Event], mac: str) -> Iterator[str]:
    if early := early_frames(events, mac):
        yield f"{len(early)}, the first at {early[0].at_s:.3f} s"


def _resumed_late(events: Sequence[Event]) -> Iterator[str]:
    destination_ran_at: float | None = None
    for event in events:
        name = qmp_name(event)
        if event.kind == "attempt-began":
            destination_ran_at = None
        elif event.actor == "destination" and name == "RESUME":
            destination_ran_at = event.at_s
        elif event.actor == "source" and name == "RESUME" and destination_ran_at is not None:
            yield (
                f"the source resumed at {event.at_s:.3f} s, the destination ran from "
                f"{destination_ran_at:.3f} s on"
            )


def _answers(events: Sequence[Event]) -> Invariant:
    name = "QMP answers within its bound in every state"
    stopped: set[str] = set()
    ours: set[str] = set()
    silent = []
    for event in events:
        if event.kind == "signal-sent" and event.facts["signal"] in ("STOP", "CONT"):
            (stopped.add if event.facts["signal"] == "STOP" else stopped.discard)(
                event.facts["side"]
            )
        elif event.kind == "qmp-silent":
            if event.actor in stopped:
                ours.add(event.actor)
            else:
                facts = event.facts
                silent.append(
                    f"the {event.actor} gave no answer to {facts['command']} "
                    f"within {facts['within_s']:g} s"
                )
    if silent:
        return Invariant(5, name, "violated", "; ".join(silent))
    if ours:
        sides = " and ".join(sorted(ours))
        return Invariant(5, name, "not watched", f"a fault had stopped the process of the {sides}")
    return Invariant(5, name, "held")


def contradictions(attempt: Attempt) -> Iterator[str]:
    """Say where a side's exit status, QMP status and stderr contradict each other."""
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


def _contradictions(ended: Sequence[Attempt]) -> Iterator[str]:
    for attempt in ended:
        yield from contradictions(attempt)


def _leaks(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        if event.kind == "leaked":
            yield f"the {event.actor} left {event.facts['what']}"


ARRIVED = frozenset({"completed", "recovered", "corrupt"})


def _no_silent_success(ended: Sequence[Attempt], events: Sequence[Event]) -> Invariant:
    name = "no success with wrong memory or device state"
    arrived = [attempt for attempt in ended if attempt.verdict in ARRIVED]
    wrong = [f"attempt {each.number}" for each in arrived if each.verdict == "corrupt"]
    if wrong:
        return Invariant(8, name, "violated", ", ".join(wrong))
    for attempt in arrived:
        if (why := _not_looked_at(attempt, events)) is not None:
            return Invariant(8, name, "not watched", f"attempt {attempt.number}: {why}")
    return Invariant(8, name, "held")


def _not_looked_at(attempt: Attempt, events: Sequence[Event]) -> str | None:
    """Say what of an arrived guest nobody compared, or None if all of it was."""
    for what, found in (("memory", attempt.intact), ("device state", attempt.equal)):
        if found is None:
            why = next(_why_not_looked_at(events, what.replace(" ", "_")), "it was not looked at")
            return f"{what}: {why}"
    if attempt.pages_unwatched is not None:
        return f"pages beside the working set: {attempt.pages_unwatched}"
    if attempt.loading.unwatched is not None:
        return f"the sections that were loaded: {attempt.loading.unwatched}"
    return None


def _why_not_looked_at(events: Sequence[Event], what: str) -> Iterator[str]:
    for event in events:
        if event.kind == "save-failed":
            yield event.facts["error"]
        elif event.kind == "unchecked" and event.facts["what"] == what:
            yield event.facts["why"]


def _announced(run: Run, events: Sequence[Event]) -> Invariant:
    name = "the guest is announced where it arrived"
    if run.announcements_stated:
        return Invariant(
            9, name, "not watched", "the scenario states what becomes of announcements"
        )
    missing = []
    for attempt in run.ended:
        if attempt.verdict not in ARRIVED or not attempt.destination.running:
            continue
        began = _time_of_attempt(events, attempt.number)
        ran = next(
            (
                event.at_s
                for event in events
                if event.at_s >= began
                and event.actor == "destination"
                and qmp_name(event) == "RESUME"
            ),
            None,
        )
        if ran is None or not any(_announces(event, run.mac, ran) for event in events):
            missing.append(
                f"no announcement of {run.mac} within {ANNOUNCED_WITHIN_S:g} s of the guest's start"
            )
    return _of(9, name, iter(missing))


def _time_of_attempt(events: Sequence[Event], number: int) -> float:
    return next(
        event.at_s
        for event in events
        if event.kind == "attempt-began" and event.facts["attempt"] == number
    )


def _announces(event: Event, mac: str, since_s: float) -> bool:
    return (
        event.kind == "frame"
        and event.facts["port"] == "destination"
        and "rarp" in event.facts
        and event.facts["source"] == mac
        and event.at_s <= since_s + ANNOUNCED_WITHIN_S
        and event.at_s >= since_s - EARLY_S
    )
