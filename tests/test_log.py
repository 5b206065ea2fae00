"""The log: what it keeps, and what it only tells."""

from __future__ import annotations

import asyncio

import pytest

from testbed import log as log_module
from testbed.log import Event, Log


def test_what_is_not_kept_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "EVENTS_MAX", 10)
    log, told = Log(keeps=False), list[Event]()
    log.listen(told.append)
    for _ in range(25):
        log.write("proxy", "it")
    assert [event.number for event in told] == list(range(25))
    assert (len(log), log.dropped.total()) == (0, 0)


def small(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log of ten events, and two more of each kind."""
    monkeypatch.setattr(log_module, "EVENTS_MAX", 10)
    monkeypatch.setattr(log_module, "KIND_RESERVE", 2)
    return Log()


def test_a_flood_of_one_kind_keeps_out_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log = small(monkeypatch)
    for _ in range(25):
        log.write("switch", "frame")
    for kind in ("qmp-event", "process-ended", "observed"):
        log.write("source", kind)
    log.note_dropped()
    kinds = [event.kind for event in log]
    assert kinds[:10] == ["frame"] * 10
    assert kinds[10:] == [
        "log-full", "frame", "frame", "qmp-event", "process-ended", "observed", "log-dropped"
    ]  # fmt: skip
    assert [event.number for event in log] == list(range(len(log)))
    assert log.first("log-full").facts == {"events_max": 10}
    assert log.first("log-dropped").facts == {"kinds": {"frame": 13}}


def test_a_full_log_is_carried_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    log, copy = small(monkeypatch), Log()
    log.listen(copy.add)
    for _ in range(25):
        log.write("switch", "frame")
    log.write("source", "observed")
    log.note_dropped()
    assert list(copy) == list(log)


def test_a_log_that_loses_nothing_says_nothing_of_that() -> None:
    log = Log()
    log.write("source", "observed")
    log.note_dropped()
    assert [event.kind for event in log] == ["observed"]


async def test_what_is_dropped_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log = small(monkeypatch)
    for _ in range(25):
        log.write("switch", "frame")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(log.wait(lambda _: True, what="it", within_s=10, since=99))
        await asyncio.sleep(0)
        log.write("switch", "frame", of="the guest")
    assert waiting.result().facts == {"of": "the guest"}


async def test_what_is_not_kept_can_be_waited_for() -> None:
    log = Log(keeps=False)
    log.write("proxy", "it")  # not this one: it is gone
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(log.wait(lambda _: True, what="it", within_s=10))
        await asyncio.sleep(0)
        log.write("proxy", "it")
    assert waiting.result().number == 1


def test_a_stored_log_goes_on() -> None:
    log = Log.of([Event(0, 0.5, "proxy", "it")])
    assert log.write("proxy", "that").number == 1
