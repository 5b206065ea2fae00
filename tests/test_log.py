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
    assert (len(log), log.dropped) == (0, 0)


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "EVENTS_MAX", 10)
    log = Log()
    for _ in range(25):
        log.write("proxy", "it")
    assert [event.number for event in log] == list(range(10))
    assert log.dropped == 15


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
