"""The console on a terminal, in a pipe, and where the reader has gone."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_helpers import FAILED, PASSED, WHERE, result, run_log

from testbed.log import Event, Log
from testbed.report.console import ERASE, Console
from testbed.scenario.load import load
from testbed.scenario.scenario import Scenario

ROOT = Path(__file__).parents[2]
SCENARIO = ROOT / "scenarios" / "bad_footer_mark.yaml"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load(SCENARIO)


class Screen:
    """A pseudo terminal, and all that was written on it."""

    def __init__(self) -> None:
        self.text = ""
        self._leader, follower = pty.openpty()
        self.file = os.fdopen(follower, "w", encoding="utf-8")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        said = b""
        try:
            while data := os.read(self._leader, 1 << 16):
                said += data
        except OSError:  # how Linux says that the other end is closed
            pass
        self.text = said.decode()

    def close(self) -> None:
        self.file.close()
        self._reader.join()
        os.close(self._leader)


@contextmanager
def screen() -> Iterator[Screen]:
    opened = Screen()
    try:
        yield opened
    finally:
        opened.close()


def play(console: Console, scenario: Scenario) -> None:
    """What a run of the command does with its console."""
    console.began(scenario)
    events = list(run_log())
    events.insert(5, Event(5, 0.1, "proxy", "progress", progress(1_000_000, "setup")))
    events.insert(6, Event(6, 0.2, "proxy", "progress", progress(9_000_000, "iterate")))
    events.insert(7, Event(7, 0.2, "proxy", "progress", progress(7_000, None, "multifd 1")))
    for event in events:
        console.event(event)
        console.tick()
    console.ended(result(PASSED))
    console.summary([result(PASSED)])


def progress(count: int, phase: str | None, channel: str = "main") -> dict[str, object]:
    return {
        "connection": 1,
        "direction": "forward",
        "channel": channel,
        "bytes": count,
        "pages": count >> 12,
        "phase": phase,
    }


def test_on_a_terminal_one_line_shows_phase_bytes_rate_and_what_struck(scenario: Scenario) -> None:
    with screen() as seen:
        play(Console(seen.file), scenario)
    live = seen.text.split(ERASE)
    assert "bad_footer_mark" in live[1]
    assert "starting" in live[1]
    assert any("wait for guest" in line for line in live)
    assert any(
        "migrate · active · damage_mark struck · iterate · 9.0 MB, 80 MB/s" in line for line in live
    )
    assert not any("\n" in line for line in live[:-1])
    assert "\x1b[32mpassed" in live[-1]
    assert "1 scenario: 1 passed in 1.2 s" in live[-1]


def test_the_live_line_never_wraps_and_nothing_moves_the_cursor(scenario: Scenario) -> None:
    with screen() as seen:
        console = Console(seen.file)
        console.began(scenario)
        name = "a\x1b[1mlong\nname" * 50
        console.event(Event(0, 0.1, "proxy", "fault-struck", {"fault": name}))
        console.tick()
    last = seen.text.split(ERASE)[-1]
    assert len(last) == 99
    assert last.isprintable()


def test_no_color_is_respected_on_a_terminal(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with screen() as seen:
        play(Console(seen.file), scenario)
    assert "\x1b[3" not in seen.text
    assert "passed   bad_footer_mark" in seen.text


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", "unknown")])
def test_a_terminal_that_cannot_go_back_gets_plain_lines(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with screen() as seen:
        play(Console(seen.file), scenario)
    assert "\x1b" not in seen.text
    assert seen.text.splitlines()[0].startswith("passed   bad_footer_mark")


@pytest.mark.parametrize("forced", [False, True])
def test_elsewhere_it_is_a_line_at_a_time(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, forced: bool
) -> None:
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    play(Console(file), scenario)
    assert "\r" not in file.getvalue()
    assert ("\x1b[32m" in file.getvalue()) is forced
    assert len(file.getvalue().splitlines()) == 2


def test_a_failure_is_told_as_it_is_written_whatever_is_in_it() -> None:
    file = io.StringIO()
    log = Log()
    log.write("source", "stderr", line="[red]not markup[/] :100: \\", text="")
    Console(file).ended(result(FAILED, log=log, name="[bold]"))
    lines = file.getvalue().splitlines()
    assert lines[0].split() == ["FAILED", "[bold]", "1.2", "s", "failed-clean"]
    assert lines[1] == f"    {WHERE}: expect.destination.exit"
    assert "    source stderr: [red]not markup[/] :100: \\" in lines


def test_of_a_single_run_the_story_is_told_too() -> None:
    file = io.StringIO()
    Console(file).ended(result(PASSED), told=True)
    *story, last = file.getvalue().splitlines()
    assert any("damage_mark strikes: set at the footer of FULL cpu" in line for line in story)
    assert any("says: Missing section footer for cpu" in line for line in story)
    assert any("its process ends: 1" in line for line in story)
    assert last.startswith("passed")


def test_what_a_character_set_lacks_is_replaced(scenario: Scenario) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file)
    console.ended(result(PASSED, name="wieder_zurück"))
    console.listing([scenario])
    file.flush()
    assert b"passed   wieder_zur?ck" in raw.getvalue()


def test_the_summary_counts_each_outcome() -> None:
    file = io.StringIO()
    outcomes = [result(PASSED), result(PASSED), result(FAILED), result(lacks="no QEMU")]
    Console(file).summary(outcomes)
    assert file.getvalue() == "4 scenarios: 2 passed, 1 FAILED, 1 skipped in 5.0 s\n"


def test_a_listing_has_a_line_for_each_scenario(scenario: Scenario) -> None:
    file = io.StringIO()
    Console(file).listing([scenario])
    (line,) = file.getvalue().splitlines()
    assert line.split()[:3] == ["bad_footer_mark", "precopy", "failed-clean"]
    assert line.endswith(scenario.model.description.strip())
