"""Waiting for two sides to come to rest: what they are then is of one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from testbed.log import Log
from testbed.scenario import resting
from testbed.scenario.resting import Resting

Facts = dict[str, Any]
ACTIVE = {"exit_status": None, "status": "active", "run_state": "running"}
INCOMING = {"exit_status": None, "status": "active", "run_state": "inmigrate"}
GONE = {"exit_status": None, "status": "completed", "run_state": "postmigrate"}
HERE = {"exit_status": None, "status": "completed", "run_state": "running"}


@dataclass(frozen=True)
class Side:
    side: str


SOURCE, DESTINATION = Side("source"), Side("destination")


@dataclass
class Sides:
    """Two sides that answer what a list says, each time that they are asked the next of it.

    What an answer comes with is called while it is under way: it writes what a side reports then.
    """

    log: Log = field(default_factory=Log)
    answers: dict[str, list[tuple[Facts, Callable[[Log], object] | None]]] = field(
        default_factory=lambda: {"source": [], "destination": []}
    )

    def answer(self, source: Facts, destination: Facts, *, while_asked: Any = None) -> None:
        self.answers["source"].append((source, while_asked))
        self.answers["destination"].append((destination, None))

    async def state(self, end: Side) -> Facts:
        answers = self.answers[end.side]
        facts, meanwhile = answers.pop(0) if len(answers) > 1 else answers[0]
        if meanwhile is not None:
            meanwhile(self.log)
        return facts

    async def rest(self) -> dict[str, Facts]:
        return await Resting(self, self.log, 0).rest(SOURCE, DESTINATION)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("REST_WITHIN_S", "QUIET_S", "AFTER_EXPIRY_S"):
        monkeypatch.setattr(resting, bound, 0.02)
    monkeypatch.setattr(resting, "LOOKS_EVERY_S", 0.005)


def resumes(log: Log) -> None:
    log.write("destination", "qmp-event", event="RESUME", data={})
    log.write("destination", "migration-status", status="completed")


async def test_answers_between_which_a_side_went_on_are_asked_for_again() -> None:
    sides = Sides()
    sides.answer(ACTIVE, {**HERE, "status": "active"}, while_asked=resumes)
    sides.answer(GONE, HERE)
    assert await sides.rest() == {"source": GONE, "destination": HERE}
    assert sides.log.first("not-at-rest") is None


async def test_so_they_are_when_the_bound_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is dark for as long as the bound lasts lets go just then."""
    monkeypatch.setattr(resting, "AFTER_EXPIRY_S", 0.0)
    sides = Sides()
    sides.answer(ACTIVE, {**HERE, "status": "active"}, while_asked=resumes)
    sides.answer(GONE, HERE)
    sides.log.write("run", "wait-expired", what="an end", within_s=1.0, provided_for=None)
    assert await sides.rest() == {"source": GONE, "destination": HERE}


async def test_sides_that_do_not_come_to_rest_are_told() -> None:
    sides = Sides()
    sides.answer(ACTIVE, INCOMING)
    assert await sides.rest() == {"source": ACTIVE, "destination": INCOMING}
    told = sides.log.first("not-at-rest")
    assert told is not None
    assert len(told.facts["awaited"]) == 2


async def test_sides_that_change_for_ever_are_waited_for_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resting, "ONE_MOMENT_WITHIN_S", 0.02)
    sides = Sides()
    sides.answer(ACTIVE, INCOMING, while_asked=resumes)
    assert await sides.rest() == {"source": ACTIVE, "destination": INCOMING}
