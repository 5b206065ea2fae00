"""`-trace`: the events that the model has, in the lines that QEMU's backend `log` writes.

Source: QEMU `trace/control.c`, `migration/trace-events`; `scripts/tracetool/backend/log.py`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase

from testbed.model.profile import Profile

from .command_line import Option

EVENTS = (
    "qemu_loadvm_state_section_command",
    "qemu_loadvm_state_section_partend",
    "qemu_loadvm_state_section_startfull",
    "loadvm_process_command",
    "loadvm_process_command_ping",
)


def traced(
    options: Sequence[Option], profile: Profile, say: Callable[[str], None]
) -> frozenset[str]:
    """The events that options turn on; a name that is none is told, a pattern for none is not.

    Args:
        options: `-trace`, in order; `-name` turns an event off again.
        profile: whose words these are.
        say: writes a line on stderr.
    """
    found: set[str] = set()
    for option in options:
        pattern = option.first.removeprefix("-")
        matching = {event for event in EVENTS if fnmatchcase(event, pattern)}
        if not matching and not {"*", "?"} & set(pattern):
            said = f"trace event '{pattern}' does not exist"
            say(f"WARNING: {said}" if profile.traces_numbers else f"{option.text}: warning: {said}")
        found = found - matching if option.first.startswith("-") else found | matching
    return frozenset(found)


def tracer(profile: Profile) -> Callable[[str, str], None]:
    """What writes an event and its arguments on stderr."""

    def write(event: str, arguments: str) -> None:
        before = ""
        if profile.traces_numbers:
            now_us = time.time_ns() // 1000
            before = f"{os.getpid()}@{now_us // 10**6}.{now_us % 10**6:06d}:"
        with suppress(OSError):  # nobody reads it
            sys.stderr.write(f"{before}{event} {arguments}\n")
            sys.stderr.flush()

    return write
