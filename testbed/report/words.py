"""Events and results in words: what every report says the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testbed.log import Event, Log
from testbed.scenario.result import Check, Result
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
    """One of the outcomes of `docs/reports.md`."""
    if result.refused is not None:
        return "invalid"
    if result.lacks is not None:
        return "skipped"
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


def _never_struck(result: Result) -> list[Check]:
    """The checks of faults that did not strike; `got` is a sentence that says why."""
    return [each for each in result.failures if each.name.startswith("faults.")]


def reason_line(result: Result) -> str:
    """Why a run did not pass, in one line.

    A fault that never struck, without which nothing can be as expected; else what the destination
    refused, where it should not have; else the first check that failed; else an error's last line.
    """
    if result.refused is not None:
        return printable(next(iter(result.refused.splitlines()), ""))
    if result.lacks is not None:
        return printable(next(iter(result.lacks.splitlines()), "the environment lacks something"))
    if unstruck := _never_struck(result):
        return printable(shortened(unstruck[0].got, TEXT_MAX))
    if (cause := refusal(result)) is not None:
        return printable(shortened(cause, TEXT_MAX))
    if result.passed is False:
        roots, _ = roots_and_following(result.failures)
        failed = next(check for check in roots if check.passed is False)
        text = f"{failed.name}: expected {failed.expected}, got {failed.got}"
        return printable(shortened(text, TEXT_MAX))
    lines = [line.strip(FRAME) for line in result.reason.splitlines()]
    said = [line for line in lines if line and not line.startswith(ALSO)]
    said = said or [f"{check.name}: cannot tell, {check.got}" for check in result.failures[:1]]
    return printable(shortened(said[-1] if said else "the testbed could not tell", TEXT_MAX))


FOLLOWS_VERDICT = (
    "expect.source.",
    "expect.destination.",
    "expect.running",
    "expect.memory",
    "expect.device_state",
    "expect.retry",
    "expect.wire",
    "expect.announce",
    "expect.forwarding",
    "expect.outage",
)
"""Names, or their beginnings, of checks that differ because the run came to another verdict."""


def roots_and_following(failures: Sequence[Check]) -> tuple[list[Check], list[Check]]:
    """Divide failed checks into those that stand for themselves and those that follow from one.

    A fault that never struck comes first: nothing can be as expected then. Where the verdict is
    another one, what both sides came to is another thing as well.
    """
    unstruck = [each for each in failures if each.name.startswith(("faults.", "network"))]
    others = [each for each in failures if each not in unstruck]
    if not any(each.name == "expect.verdict" for each in others):
        return [*unstruck, *others], []
    following = [each for each in others if each.name.startswith(FOLLOWS_VERDICT)]
    return [*unstruck, *(each for each in others if each not in following)], following


def invariant_lines(result: Result) -> Iterator[str]:
    """How many invariants held; one line more for each that was violated or not watched."""
    if result.invariants:
        held = sum(each.state == "held" for each in result.invariants)
        yield f"invariants: {held} of {len(result.invariants)} held"
        for each in result.invariants:
            if each.state != "held":
                text = f"{each.state}: {each.name} ({each.detail})"
                yield f"  {shortened(printable(text), TEXT_MAX)}"


def _stderr_lines(log: Log) -> Iterator[str]:
    """The last lines of stderr of each side, those of each attempt by themselves."""
    said: dict[tuple[int, str], list[str]] = {}
    attempt = 1
    for event in log:
        if event.kind == "attempt-began":
            attempt = event.facts["attempt"]
        elif event.kind == "stderr":
            said.setdefault((attempt, event.actor), []).append(event.facts["line"])
    for (number, side), lines in sorted(said.items()):
        which = f", attempt {number}" if attempt > 1 else ""
        for line in lines[-STDERR_LINES:]:
            yield f"{side} stderr{which}: {shortened(line, TEXT_MAX)}"


def failure_lines(result: Result) -> Iterator[str]:
    """All that is said of a run that did not pass, for people; every line can be shown."""
    return map(printable, _failure_lines(result))


def _failure_lines(result: Result) -> Iterator[str]:
    if result.refused is not None:
        yield from result.refused.splitlines()
        yield f"repeat: {result.repeat_command}"
        return
    if result.lacks is not None:
        yield from result.lacks.splitlines()
        yield "`testbed doctor` says what this machine offers, and how to get what it lacks"
        return
    yield from (shortened(each.got, TEXT_MAX) for each in _never_struck(result))
    reason = result.reason.splitlines()
    if len(reason) > REASON_LINES_MAX:
        yield "..."
    yield from reason[-REASON_LINES_MAX:]
    if (cause := refusal(result)) is not None:
        yield shortened(cause, TEXT_MAX)
    roots, following = roots_and_following(result.failures)
    for check in roots:
        yield f"{check.where}: {check.name}"
        yield f"  expected: {shortened(check.expected, TEXT_MAX)}"
        unsure = "" if check.passed is False else "  (cannot tell)"
        yield f"  got:      {shortened(check.got, TEXT_MAX)}{unsure}"
    if following:
        yield "what follows from that:"
        for check in following:
            text = f"{check.name}: expected {check.expected}, got {check.got}"
            yield f"  {shortened(text, LINE_MAX)}"
    yield from log_lines(result.log)
    yield from invariant_lines(result)
    yield from _stderr_lines(result.log)
    yield f"source: {result.source}; destination: {result.destination}"
    if result.folder is not None:
        yield f"files: {result.folder}"
    yield f"repeat: {result.repeat_command}"
