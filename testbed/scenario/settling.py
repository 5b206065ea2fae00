"""What the guest's network still has to do when both sides have settled, and whether it is done.

QEMU announces the guest on a schedule of its own, which goes on after the migration has completed,
and an outage lasts until the switch has heard an announcement. Who expects something of either has
the run wait for it. `settled` waits; all else is pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.log import Event, Log, WaitExpired, matches
from testbed.netns.probe import Outage

from . import schema
from .scenario import Scenario

ROUNDS, INITIAL_MS, STEP_MS, MAX_MS = 5, 50, 100, 550
"""The parameters announce-rounds, -initial, -step and -max unless they are set: QEMU
`migration/options.c`; before 4.0 they are constants of `migration/savevm.c`."""
LATE_S = 0.3
"""So late may an announcement be, by its schedule; the library's own allow for 40 ms."""
RESUMES_WITHIN_S = 1.0
"""After a destination has said `completed`: for its RESUME, which comes before that in QEMU."""
POLL_S = 0.01


class Measures(Protocol):
    """What tells of the outage so far: the lab."""

    def outage(self) -> Outage | None:
        """Since the source stopped; None: nobody measures it, or the source never stopped."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a scenario's expectations have to see of the network before they can be judged.

    `announcements` is how many have to come at least, or None: all that are on the schedule have
    to have had their time, since one too many counts, or since faults hit them.
    """

    announcements: int | None = 0
    outage: schema.OutageExpectation | None = None

    @property
    def nothing(self) -> bool:
        """The run need not wait."""
        return self.announcements == 0 and self.outage is None


def needs_of(scenario: Scenario) -> Needs:
    """What has to be seen for the expectations of a scenario."""
    expect = scenario.model.expect
    announce, outage = expect.announce, expect.outage
    expects_some = announce is not None or (
        expect.forwarding is not None and expect.forwarding.after is not None
    )
    if scenario.model.network.hits_announcements and (expects_some or outage is not None):
        return Needs(None, outage)
    return Needs(_announcements(announce) if announce else int(expects_some), outage)


def _announcements(expect: schema.AnnounceExpectation) -> int | None:
    if expect.schedule is not None or isinstance(expect.mac, list):
        return None
    match expect.count:
        case None:
            return 1
        case schema.Count(min=least, max=None):
            return least
    return None


def schedule_s(parameters: Mapping[str, Any]) -> list[float]:
    """When each announcement is due, in seconds from the first one.

    Source: QEMU `net/announce.c`, `qemu_announce_self_once` and `qemu_announce_timer_step`, 4.0 to
    11.1; `migration/savevm.c` before that.
    """
    rounds, initial, step, most = (
        value if isinstance(value := parameters.get(f"announce-{name}", usual), int) else usual
        for name, usual in (
            ("rounds", ROUNDS),
            ("initial", INITIAL_MS),
            ("step", STEP_MS),
            ("max", MAX_MS),
        )
    )
    due_ms = [0]
    for passed in range(rounds - 1):
        due_ms.append(due_ms[-1] + min(initial + passed * step, most))
    return [each / 1000 for each in due_ms]


def last_due_s(scenario: Scenario) -> float:
    """Seconds from the guest's start at the destination until its last announcement is through."""
    network = scenario.model.network
    late = max(network.announce.delay.values(), default=0.0)
    up = network.link_up.after if network.link_up is not None else 0.0
    return schedule_s(scenario.parameters)[-1] + late + up + LATE_S


def is_decided(expect: schema.OutageExpectation, outage: Outage | None) -> bool:
    """True if an outage has ended, or its bound cannot be kept any more, or nobody measures it."""
    if outage is None or outage.until_s is not None:
        return True
    if expect.max is not None:
        return outage.total_s > expect.max
    return outage.total_s >= expect.min


def arrived(events: Iterable[Event]) -> int:
    """How many announcements have come to the switch from the destination."""
    return sum(
        event.kind == "frame" and event.facts["port"] == "destination" and "rarp" in event.facts
        for event in events
    )


async def settled(
    scenario: Scenario, log: Log, measures: Measures, *, since: int, until_s: float
) -> None:
    """Wait until the network has done what the scenario's expectations are about.

    Returns at once if they ask for nothing; a guest that never ran at the destination announces
    nothing there, but it may have been away.

    Args:
        scenario: as it is played between these versions.
        log: of the run.
        measures: tells of the outage.
        since: the number of the event with which the attempt began.
        until_s: by the log's clock: for no longer.
    """
    needs = needs_of(scenario)
    if needs.nothing:
        return
    resumed = await _resumed(log, since)
    due_s = 0.0 if resumed is None else resumed.at_s + last_due_s(scenario)
    while log.now_s() < until_s:
        count = needs.announcements
        came = arrived(log[number] for number in range(since, len(log)))
        over = log.now_s() >= due_s or (count is not None and came >= count)
        if over and (needs.outage is None or is_decided(needs.outage, measures.outage())):
            return
        await asyncio.sleep(POLL_S)


async def _resumed(log: Log, since: int) -> Event | None:
    """The event of the guest's start at the destination, or None if it did not start there."""
    statuses = [
        event.facts["status"]
        for event in log.find("migration-status", "destination")
        if event.number >= since
    ]

    def is_start(event: Event) -> bool:
        return event.number >= since and matches(
            event, "qmp-event", "destination", {"event": "RESUME"}
        )

    if statuses[-1:] != ["completed"]:
        return next(filter(is_start, log), None)
    what = "the guest to run at the destination"
    try:
        return await log.wait(is_start, what=what, within_s=RESUMES_WITHIN_S, since=since)
    except WaitExpired:
        return None
