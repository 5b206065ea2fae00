"""The story of a run: short, in order, and nothing of it lost that matters."""

from __future__ import annotations

from report_helpers import run_log

from testbed.log import Event, Log
from testbed.report.story import LINES_MAX, story


def rarp(at_s: float, port: str = "destination") -> Event:
    facts = {"port": port, "source": "52:54:00:12:34:56", "rarp": {}}
    return Event(0, at_s, "switch", "frame", facts)


def test_it_tells_what_happened_in_order_of_time() -> None:
    told = list(story(run_log()))
    texts = [line[9:] for line in told]
    assert texts[:3] == [
        "source       active",
        "proxy        connection 1",
        "proxy        damage_mark strikes: set at the footer of FULL cpu",
    ]
    assert [line[:7] for line in told] == sorted(line[:7] for line in told)


def test_announcements_are_told_once_and_counted() -> None:
    told = list(story(Log.of([rarp(0.1, "source"), rarp(1.0), rarp(1.05), rarp(1.2)])))
    assert len(told) == 2
    assert "RARP for 52:54:00:12:34:56 comes in from the destination" in told[0]
    assert "3 announcements" in told[1]


def test_what_was_done_to_announcements_is_told() -> None:
    log = Log()
    for facts in (
        {"nth": 1, "what": "drop", "offset": 0, "before": "ff", "after": ""},
        {"nth": 2, "what": "alter", "offset": 22, "before": "52", "after": "53"},
        {"nth": 2, "what": "forge", "port": "source", "mac": "52:54:00:12:34:56"},
    ):
        log.write("switch", "announce-fault", **facts)
    log.write("switch", "link-up", port="destination", lost=4)
    assert [line.split("switch")[1].strip() for line in story(log)] == [
        "announcement 1: drop",
        "announcement 2: alter at byte 22",
        "a forged announcement of 52:54:00:12:34:56 at the source's port",
        "the destination's uplink comes up; 4 frames were lost",
    ]


def test_what_was_looked_at_is_told_and_what_was_not() -> None:
    log = Log()
    memory = {"pages": 9, "intact": True, "others_unknown": 0}
    devices = {"differences": [], "content": True}
    log.write("destination", "memory-checked", **memory)
    log.write("destination", "memory-checked", **{**memory, "others_unknown": 3})
    log.write("destination", "device-state-checked", **devices)
    log.write("destination", "device-state-checked", **{**devices, "content": False})
    log.write("run", "unchecked", what="device_state", why="so it is")
    assert [line[22:].strip() for line in story(log)] == [
        "guest memory: 9 pages, intact",
        "guest memory: 9 pages, intact; of 3 others it is not known what was sent",
        "device state: as the source sent it",
        "device state: all sections are there; of a guest that ran no content is compared",
        "device state not checked: so it is",
    ]


def test_it_has_an_end() -> None:
    log = Log()
    for _ in range(1000):
        log.write("source", "stderr", line="noise", text="noise")
    told = list(story(log))
    assert len(told) == LINES_MAX + 1
    assert told[-1].strip() == "..."


def test_a_process_that_was_asked_to_end_is_no_news() -> None:
    log = Log()
    log.write("source", "process-ended", status=0, asked=True)
    log.write("destination", "process-ended", signal="SIGSEGV", asked=False)
    (line,) = story(log)
    assert line.endswith("its process ends: SIGSEGV")
