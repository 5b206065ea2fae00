"""Events and results in words: what every report says the same way."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.log import Event, Log
from testbed.scenario.result import Result

AROUND = 25
"""Events shown of a failed run: the last ones before and the first ones after the fault."""
QUIET = frozenset({"qmp-command", "progress", "serial", "process-started", "stream-totals"})
"""Kinds that say nothing of why a run failed."""
LINE_MAX = 160


def outcome(result: Result) -> str:
    """`passed`, `FAILED`, `unknown`, or `lacking` for a run that the environment prevented."""
    if result.lacks is not None:
        return "lacking"
    return {True: "passed", False: "FAILED", None: "unknown"}[result.passed]


def event_line(event: Event) -> str:
    """An event on one line: when, who, what, and its facts."""
    facts = " ".join(f"{name}={printable(value)}" for name, value in event.facts.items())
    line = f"{event.at_s:8.3f}  {event.actor:<11} {event.kind} {facts}"
    return line if len(line) <= LINE_MAX else f"{line[: LINE_MAX - 3]}..."


def printable(value: object) -> str:
    """A value as text that a terminal can show: stderr and serial lines hold anything."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def around_fault(log: Log) -> list[Event]:
    """The events that tell most of a failed run: those around the fault, or the last ones."""
    events = [event for event in log if event.kind not in QUIET]
    struck = next(
        (number for number, event in enumerate(events) if event.kind == "fault-struck"), None
    )
    if struck is None:
        return events[-AROUND:]
    first = max(0, struck - AROUND // 3)
    return events[first : first + AROUND]


def failure_lines(result: Result) -> Iterator[str]:
    """All that is said of a run that did not pass, for people."""
    if result.lacks is not None:
        yield from result.lacks.splitlines()
        yield "`testbed doctor` says what this machine offers, and how to get what it lacks"
        return
    if result.reason:
        yield from result.reason.splitlines()
    for check in result.failures:
        yield f"{check.where}: {check.name}"
        yield f"  expected: {check.expected}"
        yield f"  got:      {check.got}{'' if check.passed is False else '  (cannot tell)'}"
    yield "events around the fault:"
    for event in around_fault(result.log):
        yield f"  {event_line(event)}"
    for side in ("source", "destination"):
        lines = [event.facts["line"] for event in result.log.find("stderr", side)]
        for line in lines[-3:]:
            yield f"{side} stderr: {printable(line)}"
    yield f"repeat: {result.repeat_command}"
