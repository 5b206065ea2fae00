"""Events and results in words: what every report says the same way."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.log import Event, Log
from testbed.scenario.result import Result
from testbed.tasks import ALSO

from .cause import refusal

AROUND = 25
"""Lines shown of a failed run's log: around the fault, and the last ones."""
BEFORE = 8
"""How many of them come before the fault."""
LAST = 6
"""How many of them are the last ones of the run, where those are not around the fault."""
QUIET = frozenset(
    {
        "qmp-command",
        "progress",
        "serial",
        "process-started",
        "stream-totals",
        "run-broke",
        "run-unkept",
    }
)
"""Kinds that say nothing of why a run failed, or are told as its reason."""
LINE_MAX = 160
TEXT_MAX = 1000
"""Characters shown of what was expected or got: stderr may be of any length."""
REASON_LINES_MAX = 40
STDERR_LINES = 3
FRAME = " |+-"
"""What a traceback of several errors draws at the left of its lines."""


def outcome(result: Result) -> str:
    """`passed`, `FAILED`, `unknown`, or `lacking` for a run that the environment prevented."""
    if result.lacks is not None:
        return "lacking"
    return {True: "passed", False: "FAILED", None: "unknown"}[result.passed]


def printable(value: object) -> str:
    """A value as text that a terminal can show: stderr and serial lines hold anything."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def shortened(text: str, characters_max: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= characters_max else f"{text[: characters_max - 3]}..."


def event_line(event: Event) -> str:
    """An event on one line: when, who, what, and its facts."""
    facts = dict(event.facts)
    if event.kind == "stderr":
        facts = {"line": facts["line"]}  # its `text` is the same without the program's name
    said = "".join(f" {name}={printable(value)}" for name, value in facts.items())
    return shortened(f"{event.at_s:8.3f}  {event.actor:<11} {event.kind}{said}", LINE_MAX)


def log_lines(log: Log) -> Iterator[str]:
    """What tells most of a failed run: its log around the fault, and its end; `AROUND` lines."""
    events = sorted((event for event in log if event.kind not in QUIET), key=lambda it: it.at_s)
    struck = next((at for at, event in enumerate(events) if event.kind == "fault-struck"), None)
    first = 0 if struck is None else max(0, struck - BEFORE)
    if struck is None or len(events) - first <= AROUND:
        yield "the last events:" if struck is None else "events around the fault:"
        yield from (f"  {event_line(event)}" for event in events[-AROUND:])
        return
    yield "events around the fault, and the last ones:"
    yield from (f"  {event_line(event)}" for event in events[first : first + AROUND - LAST - 1])
    yield "       ..."
    yield from (f"  {event_line(event)}" for event in events[-LAST:])


def reason_line(result: Result) -> str:
    """Why a run did not pass, in one line.

    What the destination refused, where it should not have; else the first check that failed; or of
    a traceback the error.
    """
    if result.lacks is not None:
        return printable(next(iter(result.lacks.splitlines()), "the environment lacks something"))
    if (cause := refusal(result)) is not None:
        return printable(shortened(cause, TEXT_MAX))
    if result.passed is False:
        failed = next(check for check in result.checks if check.passed is False)
        text = f"{failed.name}: expected {failed.expected}, got {failed.got}"
        return printable(shortened(text, TEXT_MAX))
    lines = [line.strip(FRAME) for line in result.reason.splitlines()]
    said = [line for line in lines if line and not line.startswith(ALSO)]
    said = said or [f"{check.name}: cannot tell, {check.got}" for check in result.failures[:1]]
    return printable(shortened(said[-1] if said else "the testbed could not tell", TEXT_MAX))


def failure_lines(result: Result) -> Iterator[str]:
    """All that is said of a run that did not pass, for people; every line can be shown."""
    return map(printable, _failure_lines(result))


def _failure_lines(result: Result) -> Iterator[str]:
    if result.lacks is not None:
        yield from result.lacks.splitlines()
        yield "`testbed doctor` says what this machine offers, and how to get what it lacks"
        return
    reason = result.reason.splitlines()
    if len(reason) > REASON_LINES_MAX:
        yield "..."
    yield from reason[-REASON_LINES_MAX:]
    if (cause := refusal(result)) is not None:
        yield shortened(cause, TEXT_MAX)
    for check in result.failures:
        yield f"{check.where}: {check.name}"
        yield f"  expected: {shortened(check.expected, TEXT_MAX)}"
        unsure = "" if check.passed is False else "  (cannot tell)"
        yield f"  got:      {shortened(check.got, TEXT_MAX)}{unsure}"
    yield from log_lines(result.log)
    for side in ("source", "destination"):
        for event in list(result.log.find("stderr", side))[-STDERR_LINES:]:
            yield f"{side} stderr: {shortened(event.facts['line'], TEXT_MAX)}"
    yield f"source: {result.source}; destination: {result.destination}"
    yield f"repeat: {result.repeat_command}"
