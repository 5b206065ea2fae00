"""Waiting until both sides of an attempt are at rest, and what they are then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from testbed.log import Event, Log, WaitExpired
from testbed.tasks import together

from .rest import awaited

REST_WITHIN_S = 30.0
"""For both sides to come to rest after the last step, while pages still go out."""
QUIET_S = 10.0
"""For the same, while nothing moves: longer than any stall that a scenario of ours makes."""
AFTER_EXPIRY_S = 2.0
"""For the same, once a wait has expired. The verdict is `hang` by then, unless both come to run."""
ONE_MOMENT_WITHIN_S = 2.0
"""For answers that speak of one moment, beyond these bounds. Sides that are asked in the very
moment in which they go on change within milliseconds, and then no more."""
LAST_WORDS_S = 1.0
"""For the exit of a destination that says `failed`: QEMU exits some milliseconds after it."""
LOOKS_EVERY_S = 0.1
"""A change of the run state that is neither STOP nor RESUME has no event, so it is asked for."""
CHANGES = frozenset({"STOP", "RESUME", "SHUTDOWN"})
"""QMP events of another run state."""


class Side(Protocol):
    """A side that can be asked: an endpoint."""

    side: str


class Asks(Protocol):
    """Who asks a side what it is: the lab."""

    async def state(self, end: Any, /) -> dict[str, Any]:
        """What the side says, or that it does not; see `Lab.state`."""


Facts = Mapping[str, Any]


class Resting:
    """One attempt whose sides are to come to rest.

    Args:
        asks: who asks a side.
        log: of the run.
        since: the number of the event with which the attempt began.
    """

    def __init__(self, asks: Asks, log: Log, since: int) -> None:
        self._asks = asks
        self._log = log
        self._since = since

    async def rest(self, *ends: Side) -> dict[str, dict[str, Any]]:
        """Wait until both sides are at rest, within bounds; write what they still wait for.

        Args:
            ends: source and destination.

        Returns:
            The facts of each side by its name (`Lab.state`): all of one moment, in which neither
            changed.
        """
        began = moved = self._log.now_s()
        within_s = AFTER_EXPIRY_S if self._hung() else REST_WITHIN_S
        mark: object = None
        while True:
            asked = len(self._log)
            facts = await self._facts(ends)
            changed = any(map(_is_change, self._events_since(asked)))
            missing = awaited(facts["source"], facts["destination"])
            now = self._log.now_s()
            if not missing and not changed and not self._says_last_words(facts, began):
                return facts
            if (seen := self._movement(facts)) != mark:
                mark, moved = seen, now
            late_s = max(now - began - within_s, now - moved - QUIET_S)
            if late_s > (ONE_MOMENT_WITHIN_S if changed else 0):
                if missing:
                    self._log.write(
                        "run", "not-at-rest", awaited=missing, within_s=round(now - began, 3)
                    )
                return facts
            if not changed:
                await self._something_happens()

    async def _facts(self, ends: tuple[Side, ...]) -> dict[str, dict[str, Any]]:
        states = await together(*map(self._asks.state, ends))
        return {
            end.side: self._told(end.side, state) for end, state in zip(ends, states, strict=True)
        }

    def _told(self, side: str, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts, with the status that a destination before 2.12 tells by events alone."""
        said = self._statuses(side)
        if facts.get("status") is None and not facts.get("silent") and said:
            return {**facts, "status": said[-1]}
        return facts

    def _statuses(self, side: str) -> list[str]:
        return statuses(self._log, side, self._since)

    def _says_last_words(self, facts: Mapping[str, Facts], began: float) -> bool:
        """True while a destination that failed has yet to exit: `failed` may come just before."""
        destination = facts["destination"]
        failed = destination.get("status") == "failed" and destination.get("exit_status") is None
        return failed and self._log.now_s() - began < LAST_WORDS_S

    def _hung(self) -> bool:
        return any(
            not event.facts.get("provided_for")
            for event in self._events_since(self._since)
            if event.kind in ("wait-expired", "not-at-rest")
        )

    def _movement(self, facts: Mapping[str, Facts]) -> object:
        """Something that changes while a migration still gets on."""
        transferred = facts["source"].get("transferred")
        return transferred, [self._statuses(side) for side in facts]

    def _events_since(self, number: int) -> list[Event]:
        return [self._log[each] for each in range(number, len(self._log))]

    async def _something_happens(self) -> None:
        """Wait for an event of a side's, or for the time to ask again."""
        with suppress(WaitExpired):
            await self._log.wait(
                _is_change, what="a side to change", within_s=LOOKS_EVERY_S, since=len(self._log)
            )


def statuses(log: Log, side: str, since: int) -> list[str]:
    """The migration statuses that a side has reported since that event."""
    return [
        event.facts["status"]
        for event in log.find("migration-status", side)
        if event.number >= since
    ]


def _is_change(event: Event) -> bool:
    """True if a side is not what it was before."""
    if event.actor not in ("source", "destination"):
        return False
    if event.kind == "qmp-event":
        return event.facts["event"] in CHANGES
    return event.kind in ("migration-status", "process-ended")
