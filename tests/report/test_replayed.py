"""A replay told: which events are, and what is said in the end."""

import io
from collections.abc import Sequence

import pytest

from testbed.log import Log
from testbed.replay.recording import Replayable
from testbed.replay.verdict import Carried, Pages, Process, Reaction
from testbed.report.replayed import LINES_MAX, ReplayConsole

ALL = Carried(1, "main", 100, 100, 100, sent_all=True, ended="FIN", shut=None)
CUT = Carried(2, "multifd", 100, 60, 50, False, "RST", None, place="init packet")
QEMU = Process("7.2.22", status="failed", exit_status=1, error_desc="no", stderr=("a", "b"))


def told(log: Log) -> list[str]:
    out = io.StringIO()
    console = ReplayConsole(out)
    for event in log:
        console.replayed(event)
    return [line.removeprefix("  0.000  ") for line in out.getvalue().splitlines()]


def ended(reaction: Reaction, expect: str = "accepted") -> Sequence[str]:
    out = io.StringIO()
    ReplayConsole(out).reacted(reaction, expect)
    return out.getvalue().splitlines()


def test_what_happens_is_told_by_who_does_it() -> None:
    log = Log(lambda: 0.0)
    log.write("destination", "destination-ready", version=[7, 2, 22])
    log.write("destination", "qmp-command", command="cont")
    log.write("source", "connection-opened", connection=1, channel="main", bytes=7)
    log.write("proxy", "connection-opened", connection=1, attempt=1)
    log.write("proxy", "fault-struck", fault="it", action="reset", element="EOF")
    log.write("source", "message", connection=1, message="PONG", value=1)
    log.write("source", "message", connection=1, message="SHUT", value=1)
    log.write("source", "sent-all", connection=1, bytes=7)
    log.write("source", "destination-ended", connection=1, how="RST", sent=7)
    log.write("recording", "replay-over")
    log.write("destination", "stderr", line="x", text="killed")
    assert told(log) == [
        "destination  is QEMU 7.2.22",
        "recording    connection 1: main, 7 bytes",
        "proxy        it strikes: reset at the EOF",
        "destination  answers SHUT 1",
        "recording    connection 1: all is sent",
        "destination  resets connection 1; 7 bytes were sent",
    ]


def test_a_destination_that_talks_without_end_is_cut_off() -> None:
    log = Log(lambda: 0.0)
    for _ in range(LINES_MAX + 50):
        log.write("destination", "stderr", line="x", text="\x1b[31m")
    lines = told(log)
    assert lines == ["destination  says: ?[31m"] * LINES_MAX + ["..."]


class Gone(io.StringIO):
    """Nobody reads any more."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_a_reader_who_is_gone_does_not_disturb_the_replay() -> None:
    console, log = ReplayConsole(Gone()), Log()
    log.listen(console.replayed)
    log.write("destination", "stderr", line="x", text="x")
    log.write("destination", "stderr", line="y", text="y")
    with pytest.raises(BrokenPipeError):
        console.reacted(Reaction([ALL]), "taken")


def test_notes_of_a_capture_come_first() -> None:
    out = io.StringIO()
    ReplayConsole(out).began_replay(Replayable("x", (), ("cut short",)))
    assert out.getvalue() == "note: cut short\n"


def test_an_end_as_expected_is_short() -> None:
    process = Process("7.2.22", status="completed", run_state="running", stderr=("warning",))
    assert ended(Reaction([ALL], process=process)) == [
        "    QEMU 7.2.22: migration completed, guest running",
        "passed   accepted: completed, and its guest is running",
    ]


def test_an_end_that_was_not_expected_is_told_with_all_that_is_known() -> None:
    reaction = Reaction([ALL, CUT], process=QEMU, pages=Pages(5, 2, 1, 3), unfired=["fault 1"])
    assert ended(reaction) == [
        "    QEMU 7.2.22: migration failed, ended",
        "    error: no",
        "    stderr: a",
        "    stderr: b",
        "    connection 2 (multifd): 50 of 100 bytes were taken, in init packet",
        "    pages: 5 asked for, 2 of them sent ahead; 1 left out, as it had them",
        "    3 of the pages that it asked for were never recorded",
        "    fault 1",
        "FAILED   refused: it ended with status 1: no",
        "    expected: accepted",
    ]


@pytest.mark.parametrize(
    ("reaction", "expect", "word"),
    [
        (Reaction([ALL]), "accepted", "unknown"),
        (Reaction([ALL]), "taken", "passed"),
        (Reaction([ALL], unfired=["fault 1"]), "taken", "FAILED"),
        (Reaction([CUT]), "accepted", "FAILED"),
        (Reaction([CUT]), "refused", "passed"),
    ],
)
def test_the_word_for_it_depends_on_what_was_expected(reaction, expect, word) -> None:
    (line,) = (each for each in ended(reaction, expect) if each[0] != " ")
    assert line.split()[0] == word
