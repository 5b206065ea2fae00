"""What `testbed proxy` writes, to terminals and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import StringIO
from typing import TextIO

import pytest

from testbed.log import Event
from testbed.report.watching import Watching
from testbed.standalone import writer
from testbed.standalone.picture import ConnectionSample, Picture, Sample

BEGAN = datetime(2026, 11, 26)
OPENED = Event(0, 1.0, "proxy", "connection-opened", {"connection": 1})
LINE = "2026-11-26 00:00:01.000  connection 1\n"


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TextIO, TextIO]]:
    """Both ends of one that can go back: what is written, and what it is written to."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, newline="") as seen, os.fdopen(theirs, "w") as file:
        yield seen, file


def test_without_a_terminal_there_are_lines() -> None:
    out = StringIO()
    watching = Watching(out, BEGAN, live=True)
    assert not watching.is_live
    watching.event(OPENED)
    watching.event(Event(1, 1.0, "proxy", "progress", {"bytes": 1}))
    watching.close()
    assert out.getvalue() == LINE


def test_on_a_terminal_a_picture_is_drawn_over_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = Picture()
    with terminal(monkeypatch) as (seen, file):
        watching = Watching(file, BEGAN, live=True)
        assert watching.is_live
        watching.draw(picture)
        picture.sampled(Sample(1.0, (ConnectionSample(1, 5, 6),)))
        watching.event(OPENED)
        watching.draw(picture)
        watching.draw(picture)
        watching.close()
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", seen.readline()).strip() for _ in range(8)]
    assert lines[0] == "waiting for a migration"
    assert lines[1] == f"\x1b[1F\x1b[J{LINE.strip()}"  # the line takes the picture's place
    assert lines[2] == "waiting for a migration"
    assert lines[4].split() == ["1", "ends", "5", "B", "0", "B", "6", "B", "0", "B"]
    assert lines[5] == "\x1b[3F\x1b[Jwaiting for a migration"  # and stays


def test_a_picture_is_never_higher_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture([f"fault_{number}" for number in range(8)])
    with terminal(monkeypatch) as (seen, file):
        monkeypatch.setenv("LINES", "4")
        watching = Watching(file, BEGAN, live=True)
        watching.draw(picture)
        watching.draw(picture)
        watching.close()
        text = "".join(seen.readline() for _ in range(6))
    assert "\x1b[3F\x1b[J" in text
    assert "fault_2" not in text


def test_what_nobody_read_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WAITING_MAX", 3)
    read, write = os.pipe()
    with open(read) as out, open(write, "w") as into:
        watching = Watching(into, BEGAN, live=False)
        wide = Event(0, 1.0, "proxy", "stopping", {"sentence": "x" * 300})
        for _ in range(1000):  # more than the pipe, the file's buffer and the queue hold
            watching.event(wide)
        assert watching._writer.dropped > 0
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.append(out.read()))
        reader.start()
        watching.close()
        into.close()
        reader.join()
    last = got[0].splitlines()[-1]
    assert re.fullmatch(r"\d+ times nobody read in time, and something was left out", last)
