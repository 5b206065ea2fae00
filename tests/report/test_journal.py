"""The journal of a proxy: a line for what a person would want to know."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from testbed.log import Event
from testbed.report.journal import Journal

BEGAN = datetime(2026, 11, 26, 23, 59, 59, 500_000)
ENDED = {"ended_by": "source", "how": "FIN", "bytes_forward": 12_345_678, "bytes_back": 40}
STRUCK = {"fault": "cut_it", "action": "set", "element": "footer of FULL cpu", "offset": 77}


def line(kind: str, **facts: Any) -> str | None:
    return Journal(BEGAN).line(Event(0, 1.25, "proxy", kind, facts))


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("connection-opened", {"connection": 3, "peer": None}, "connection 3"),
        (
            "connection-opened",
            {"connection": 3, "peer": "[2001:db8::1]:49999"},
            "connection 3 from [2001:db8::1]:49999",
        ),
        (
            "connection-identified",
            {"connection": 3, "channel": "multifd"},
            "connection 3 is a multifd channel",
        ),
        (
            "connection-ended",
            {"connection": 3, **ENDED},
            "connection 3 ended by the source (FIN); 12.3 MB to the destination, 40 B back",
        ),
        (
            "connection-ended",
            {"connection": 3, **ENDED, "ended_by": "fault", "how": "RST"},
            "connection 3 ended by a fault (RST); 12.3 MB to the destination, 40 B back",
        ),
        (
            "fault-struck",
            {**STRUCK, "connection": 3, "before": "7e", "after": "00"},
            "fault cut_it strikes: set at the footer of FULL cpu, connection 3, offset 77: "
            "7e -> 00",
        ),
        (
            "fault-struck",
            {"fault": "no", "action": "refuse", "connection": None},
            "fault no strikes: refuse",
        ),
        (
            "message",
            {"connection": 1, "message": "SHUT", "value": 1},
            "connection 1: the destination shuts the return path: it failed (1)",
        ),
        (
            "migration-ended",
            {"migration": 4, "outcome": "whole", "bytes_forward": 5e9, "took_s": 12.34},
            "migration 4 is over: the stream was whole; 5.0 GB in 12.3 s",
        ),
    ],
)
def test_what_happens_is_a_line(kind: str, facts: dict[str, Any], said: str) -> None:
    assert line(kind, **facts) == f"2026-11-27 00:00:00.750  {said}"


@pytest.mark.parametrize("kind", ["progress", "section", "vmdesc", "stream-totals", "what-else"])
def test_what_a_person_need_not_know_is_no_line(kind: str) -> None:
    assert line(kind, direction="forward", section="ram") is None


def test_a_page_request_is_no_line() -> None:
    assert line("message", connection=1, message="REQ_PAGES", offset=3) is None


def test_storage_is_told_apart() -> None:
    event = Event(0, 1.25, "nbd", "connection-opened", {"connection": 3})
    assert Journal(BEGAN).line(event) == "2026-11-27 00:00:00.750  NBD: connection 3"


def test_proxies_that_the_api_has_made_are_told_apart() -> None:
    assert line("connection-opened", connection=3, proxy="other") == (
        "2026-11-27 00:00:00.750  proxy other: connection 3"
    )


def test_a_stray_is_told_once_with_what_it_is() -> None:
    assert line("connection-identified", connection=1, channel="unknown") is None
    facts = {"what": "an HTTP request", "meaning": "a waiting QEMU ends"}
    assert line("stray-connection", connection=1, **facts) == (
        "2026-11-27 00:00:00.750  connection 1 is not a migration's: an HTTP request; "
        "a waiting QEMU ends"
    )


def test_what_a_peer_says_cannot_break_a_line() -> None:
    facts = {"fault": "it", "action": "reset", "element": "a\n\x1b[2Jb" + "x" * 1000}
    text = line("fault-struck", **facts)
    assert text is not None
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) == 400
