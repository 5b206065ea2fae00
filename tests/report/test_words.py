"""What every report says of a run that did not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_helpers import FAILED, PASSED, UNSURE, WHERE, result, run_log

from testbed.log import Event, Log
from testbed.report.words import (
    AROUND,
    LINE_MAX,
    REASON_LINES_MAX,
    TEXT_MAX,
    event_line,
    failure_lines,
    outcome,
    reason_line,
)
from testbed.scenario.result import Check, Result

TRACEBACK = "Traceback (most recent call last):\n  File 'x.py', line 3\nValueError: no such thing"
OF_A_GROUP = "  + Exception Group Traceback:\n    | TypeError: too many\n    +-----------------"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (result(PASSED), "passed"),
        (result(PASSED, FAILED, UNSURE), "FAILED"),
        (result(PASSED, UNSURE), "unknown"),
        (result(FAILED, verdict="unknown"), "unknown"),
        (result(lacks="no QEMU"), "skipped"),
        (replace(result(), refused="no such device"), "invalid"),
    ],
)
def test_an_outcome_is_passed_only_if_every_check_did(given: Result, expected: str) -> None:
    assert outcome(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (result(PASSED, UNSURE, FAILED), "expect.destination.exit: expected 7, got 1"),
        (result(verdict="unknown", reason=TRACEBACK), "ValueError: no such thing"),
        (result(FAILED, verdict="unknown", reason=OF_A_GROUP), "TypeError: too many"),
        (result(UNSURE), "expect.memory: cannot tell, it was never looked at"),
        (result(verdict="unknown"), "the testbed could not tell"),
        (result(lacks="no QEMU\nget one"), "no QEMU"),
    ],
)
def test_the_reason_in_one_line(given: Result, expected: str) -> None:
    assert reason_line(given) == expected


def test_a_failure_has_its_checks_its_events_both_stderrs_and_how_to_repeat_it() -> None:
    lines = list(failure_lines(result(PASSED, FAILED, UNSURE)))
    assert lines[:6] == [
        f"{WHERE}: expect.destination.exit",
        "  expected: 7",
        "  got:      1",
        f"{WHERE}: expect.memory",
        "  expected: intact",
        "  got:      it was never looked at  (cannot tell)",
    ]
    assert lines[6] == "events around the fault:"
    assert any("fault-struck" in line and "damage_mark" in line for line in lines)
    assert not any("process-started" in line for line in lines)
    assert lines[-4:] == [
        "destination stderr: qemu-system-x86_64: Missing section footer for cpu",
        "destination stderr: qemu-system-x86_64: load of migration failed: Invalid argument",
        "source: model of QEMU 7.2.22, machine pc-i440fx-7.2; "
        "destination: QEMU 10.0.13, machine pc-i440fx-7.2",
        "repeat: testbed run scenarios/bad_footer_mark.yaml --seed 7",
    ]


def test_of_a_long_log_the_fault_and_the_end_are_shown_and_no_more() -> None:
    lines = list(
        failure_lines(result(FAILED, log=run_log(sections_before=500, sections_after=500)))
    )
    begin = lines.index("events around the fault, and the last ones:") + 1
    shown = lines[begin : lines.index("       ...") + 7]
    assert len(shown) == AROUND
    assert "section=before_499" in shown[7]
    assert "fault-struck" in shown[8]
    assert "section=after_0" in shown[9]
    assert "run-ended" in shown[-1]


def test_of_a_log_without_a_fault_the_end_is_shown() -> None:
    log = Log.of(Event(n, n / 10, "proxy", "section", {"nth": n}) for n in range(1000))
    lines = list(failure_lines(result(FAILED, log=log)))
    begin = lines.index("the last events:") + 1
    assert "nth=975" in lines[begin]
    assert "nth=999" in lines[begin + AROUND - 1]


def test_events_are_in_the_order_in_which_they_happened() -> None:
    log = Log.of(
        [
            Event(0, 0.5, "destination", "stderr", {"line": "second"}),
            Event(1, 0.4, "source", "qmp-event", {"event": "first"}),
        ]
    )
    lines = list(failure_lines(result(FAILED, log=log)))
    assert [line.split("=")[-1] for line in lines[4:6]] == ["first", "second"]


def test_whatever_qemu_says_a_line_stays_a_line_that_a_terminal_can_show() -> None:
    log = Log()
    wild = "\x1b[2J\x07 two\nlines \u202e\udc80" + "x" * 10_000
    log.write("source", "stderr", line=wild, text=wild)
    check = Check("expect.source.stderr", False, wild, wild, WHERE)
    lines = list(failure_lines(result(check, log=log, reason=wild)))
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines[3:])) <= TEXT_MAX + 20
    assert len(event_line(log[0])) <= LINE_MAX


def test_a_long_traceback_is_told_from_its_end() -> None:
    reason = "\n".join(f"frame {number}" for number in range(1000))
    lines = list(failure_lines(result(verdict="unknown", reason=reason)))
    assert lines[0] == "..."
    assert lines[REASON_LINES_MAX] == "frame 999"


def test_of_an_environment_that_lacks_something_only_that_is_said() -> None:
    lines = list(failure_lines(result(UNSURE, lacks="no /dev/net/tun\nmodprobe tun")))
    assert lines[:2] == ["no /dev/net/tun", "modprobe tun"]
    assert "testbed doctor" in lines[2]
    assert len(lines) == 3
