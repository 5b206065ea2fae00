"""The first cause of a run that failed, where the destination itself has named it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from testbed.log import Event, Log
from testbed.scenario.invariants import LOAD_FAILED
from testbed.scenario.result import Result

DEVICE = re.compile(r"of device '([^']+)'")
WARNING = re.compile(r"(^|: )warning: ")
"""QEMU `util/error-report.c`; a machine type or an option that is deprecated, mostly."""


def refusal(result: Result) -> str | None:
    """Why the destination refused a migration that should have arrived, in one line and its words.

    None: it refused none, or the scenario expects that it does.
    """
    failed = {check.name for check in result.checks if check.passed is False}
    unexpected = {
        1: bool(failed & {"expect.verdict", "expect.destination.exit"}),
        2: "expect.retry" in failed,
    }
    for number, said in enumerate(_attempts(result.log), 1):
        if unexpected.get(number) and any(LOAD_FAILED in text for text in said):
            return _line(number, said)
    return None


def _attempts(log: Log) -> Iterator[list[str]]:
    """What the destination of each attempt said on stderr, but for warnings."""
    said: list[str] | None = None
    for event in log:
        if event.kind == "attempt-began":
            if said is not None:
                yield said
            said = []
        elif said is not None and _tells(event):
            said.append(event.facts["text"])
    if said is not None:
        yield said


def _tells(event: Event) -> bool:
    of_destination = event.kind == "stderr" and event.actor == "destination"
    return of_destination and WARNING.search(event.facts["text"]) is None


def _line(number: int, said: list[str]) -> str:
    first = said[0]  # a cascade begins with the innermost cause, and so does what precedes a chain
    device = next((found[1] for text in said if (found := DEVICE.search(text))), None)
    where = f" (loading {device})" if device is not None and device not in first else ""
    attempt = "" if number == 1 else " of the retry"
    return f"the destination{attempt} refused the migration: {first}{where}"
