"""What a run waits for in the guest's network before its first attempt is judged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from judge_helpers import Run, scenario

from testbed.log import Log
from testbed.netns.probe import Fate, Interval, Outage
from testbed.scenario import settling
from testbed.scenario.schema import OutageExpectation
from testbed.scenario.settling import Needs, is_decided, last_due_s, needs_of, schedule_s, settled

PROBE = "network: {probe: {}}"
LOST = "network: {announce: {drop: [1]}}"
MAX = OutageExpectation(max="1s")  # type: ignore[arg-type]
MIN = OutageExpectation(min="1s")  # type: ignore[arg-type]
BOTH = OutageExpectation(min="500ms", max="1s")  # type: ignore[arg-type]

NEEDS = [
    ("", "", Needs()),
    ("memory: intact", "", Needs()),
    ("announce: {mac: guest, layout: qemu}", "", Needs(1)),
    ("forwarding: {before: source}", "", Needs()),
    ("forwarding: {after: destination}", "", Needs(1)),
    ("announce: {count: 5}", "", Needs(None)),
    ("announce: {count: {max: 4}}", "", Needs(None)),
    ("announce: {count: {min: 2}}", "", Needs(2)),
    ("announce: {schedule: [0ms], tolerance: 1ms}", "", Needs(None)),
    ("announce: {mac: [guest, guest]}", "", Needs(None)),
    ("outage: {max: 1s}", PROBE, Needs(0, MAX)),
    ("", LOST, Needs()),
    ("announce: {mac: guest}", LOST, Needs(None)),
    ("forwarding: {after: source}", LOST, Needs(None)),
]


@pytest.mark.parametrize(("expect", "head", "needs"), NEEDS, ids=[f"{e} {h}" for e, h, _ in NEEDS])
def test_what_is_waited_for(tmp_path: Path, expect: str, head: str, needs: Needs) -> None:
    said = f"verdict: completed{', ' * bool(expect)}{expect}"
    assert needs_of(scenario(tmp_path, said, head=f"mode: precopy\n{head}")) == needs


@pytest.mark.parametrize(
    ("parameters", "due_s"),
    [
        ({}, [0, 0.05, 0.2, 0.45, 0.8]),
        ({"announce-rounds": 1}, [0]),
        ({"announce-rounds": 3, "announce-initial": 100, "announce-step": 0}, [0, 0.1, 0.2]),
        ({"announce-max": 200, "announce-rounds": 6}, [0, 0.05, 0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_the_schedule_is_qemus(parameters: dict[str, int], due_s: list[float]) -> None:
    assert schedule_s(parameters) == pytest.approx(due_s)


def test_faults_may_have_the_last_one_come_later(tmp_path: Path) -> None:
    head = "mode: precopy\nnetwork: {announce: {delay: {2: 3s}}, link_up: {after: 1s}}"
    late = last_due_s(scenario(tmp_path, "verdict: completed", head=head))
    assert late == pytest.approx(0.8 + 3 + 1 + settling.LATE_S)


@pytest.mark.parametrize(
    ("expect", "outage", "decided"),
    [
        (MAX, None, True),
        (MAX, (0.5, True), True),
        (MAX, (0.5, False), False),
        (MAX, (0.0, False), False),  # the first probe is on its way
        (MAX, (1.1, False), True),
        (MIN, (0.5, True), True),
        (MIN, (0.5, False), False),
        (MIN, (1.0, False), True),
        (BOTH, (0.7, False), False),
        (BOTH, (0.7, True), True),
    ],
)
def test_an_outage_is_decided_when_it_has_ended_or_its_bound_is_passed(
    expect: OutageExpectation, outage: tuple[float, bool] | None, decided: bool
) -> None:
    assert is_decided(expect, None if outage is None else so_far(*outage)) is decided


def so_far(lost_s: float, over: bool) -> Outage:
    intervals = [Interval(Fate.NOWHERE, 0.0, lost_s)] if lost_s else []
    intervals += [Interval(Fate.RIGHT, lost_s, lost_s + 1)] if over else []
    return Outage(len(intervals), tuple(intervals))


class Measured:
    """An outage that ends when it was asked for often enough."""

    def __init__(self, asks: int) -> None:
        self.left = asks

    def outage(self) -> Outage:
        self.left -= 1
        return so_far(0.1, self.left <= 0)


def under_way(*statuses: str) -> Log:
    run = Run().begin().says("source", "active").says("destination", "active", *statuses)
    return run.event("source", "STOP").log


async def wait(it: object, log: Log, *, until_s: float = 100.0, asks: int = 0) -> int:
    """Wait, with a clock that stands still; how often the outage was asked for in the end."""
    measured = Measured(asks)
    async with asyncio.timeout(10):
        await settled(it, log, measured, since=0, until_s=until_s)  # type: ignore[arg-type]
    return asks - measured.left


async def test_a_guest_that_never_ran_there_announces_nothing(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, announce: {count: 5}")
    await wait(it, under_way("failed"))


async def test_the_run_waits_until_so_many_have_come(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, announce: {count: {min: 2}}")
    run = Run().begin().event("destination", "RESUME").rarp()
    waiting = asyncio.ensure_future(wait(it, run.log))
    await asyncio.sleep(0)
    assert not waiting.done()
    run.rarp()
    await waiting


async def test_the_run_waits_until_the_outage_is_over(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, outage: {max: 1s}", head=f"mode: precopy\n{PROBE}")
    log = Run().begin().event("destination", "RESUME").log
    assert await wait(it, log, asks=3) == 3


async def test_a_guest_that_never_ran_there_may_have_been_away(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, outage: {max: 1s}", head=f"mode: precopy\n{PROBE}")
    assert await wait(it, under_way("failed"), asks=3) == 3


async def test_the_run_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    it = scenario(tmp_path, "verdict: completed, announce: {count: 5}")
    await wait(it, Run().begin().event("destination", "RESUME").log, until_s=0.0)
