"""Whether a guest goes on: what QMP calls `running` may be halted, reset, or deaf to its timer.

The guest says on its serial line how many pages it has stamped, ten times a second. A guest that
goes on says more than it had said when it was migrated, and does not begin anew. Where the line is
silent (its device may be what a fault has hit), the guest's state page is read twice instead.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

from testbed.endpoint.base import Endpoint, EndpointError, QmpRefused
from testbed.guest import GuestSpec
from testbed.guest.rule import STATE_AT
from testbed.guest.serial import stamps_said, start_said
from testbed.log import Event, Log, WaitExpired

SPEAKS_WITHIN_S = 5.0
"""Fifty of the guest's lines: a guest that lives is late by so much on no machine that we know."""
BOOTS_WITHIN_S = 20.0
"""For a guest that was migrated before it had said anything: its firmware is still at work."""
READ_TWICE_AFTER_S = 0.5
"""Fifty ticks of the guest's timer."""
STATE_WORDS = 5
"""Of the state page: magic (two words), index, pass, ticks; see `testbed/guest/rule.py`."""


@dataclass(frozen=True, slots=True)
class GuestSeen:
    """Whether a guest goes on, and how that was seen."""

    alive: bool
    how: str


async def see_guest(end: Endpoint, log: Log, guest: GuestSpec) -> GuestSeen:
    """Watch a guest that runs, by its endpoint's account, until it is seen to go on.

    Args:
        end: the endpoint that says that it runs the guest.
        log: of the run; the guest's serial lines are in it.
        guest: what the guest was started with.

    Returns:
        The finding, after at most `SPEAKS_WITHIN_S` or, of a guest that had not booted yet,
        `BOOTS_WITHIN_S` seconds.
    """
    heard = list(log.find("serial"))
    others = [event for event in heard if event.actor != end.side]
    booted = any(start_said(event.facts["line"]) for event in heard)
    # What it had said where it came from; a guest that stayed says more than it did here.
    before = _stamps_last_said(others if end.side == "destination" else heard)
    since = len(log)
    if end.side == "destination" and others and (reset := _reset(log, end.side, 0)) is not None:
        return reset
    within_s = SPEAKS_WITHIN_S if booted else BOOTS_WITHIN_S

    def tells(event: Event) -> bool:
        if event.actor != end.side:
            return False
        if event.kind == "process-ended" or _is_reset(event):
            return True
        if event.kind != "serial":
            return False
        said = stamps_said(event.facts["line"])
        if said is None:
            # Before its first boot is over, whatever it says shows that it goes on.
            return not booted or start_said(event.facts["line"])
        # At no pages a second it says the same number each time.
        return before is None or said > before or not guest.pages_per_second

    try:
        event = await log.wait(
            tells, what=f"the guest at the {end.side} to go on", within_s=within_s, since=since
        )
    except WaitExpired:
        return await _read_twice(end, within_s)
    if event.kind == "process-ended":
        return GuestSeen(alive=False, how="its process ended")
    if _is_reset(event):
        return GuestSeen(alive=False, how="it was reset")
    if booted and start_said(event.facts["line"]):
        return GuestSeen(alive=False, how="it began anew, from the firmware on")
    return GuestSeen(alive=True, how=event.facts["line"].strip())


def _stamps_last_said(lines: list[Event]) -> int | None:
    said = [stamps_said(event.facts["line"]) for event in lines]
    return max((number for number in said if number is not None), default=None)


def _is_reset(event: Event) -> bool:
    """True if the guest's machine was reset by the guest: by a triple fault, for instance."""
    return (
        event.kind == "qmp-event"
        and event.facts["event"] == "RESET"
        and bool(event.facts["data"].get("guest"))
    )


def _reset(log: Log, side: str, since: int) -> GuestSeen | None:
    """The finding for a guest that has begun anew already, or None."""
    own: Iterator[Event] = (event for event in log if event.number >= since and event.actor == side)
    for event in own:
        if _is_reset(event):
            return GuestSeen(alive=False, how="it was reset")
        if event.kind == "serial" and start_said(event.facts["line"]):
            return GuestSeen(alive=False, how="it began anew, from the firmware on")
    return None


async def _read_twice(end: Endpoint, within_s: float) -> GuestSeen:
    """Compare two readings of the guest's state page; the guest may be alive and mute."""
    silent = f"it said nothing new for {within_s:g} s"
    try:
        first = await _state(end)
        await asyncio.sleep(READ_TWICE_AFTER_S)
        second = await _state(end)
    except (EndpointError, QmpRefused) as error:
        return GuestSeen(alive=False, how=f"{silent}, and its memory cannot be read: {error}")
    if first is None or first == second:
        return GuestSeen(alive=False, how=f"{silent}, and its state page stands still")
    return GuestSeen(alive=True, how="its state page changes; its serial line is silent")


async def _state(end: Endpoint) -> tuple[int, ...] | None:
    """The words of the guest's state page, by HMP `xp`; None: it has no such command."""
    said = await end.command(
        "human-monitor-command", {"command-line": f"xp /{STATE_WORDS}wx {STATE_AT:#x}"}
    )
    words = re.findall(r"0x([0-9a-f]{8})", said)
    return tuple(int(word, 16) for word in words) if len(words) >= STATE_WORDS else None
