"""Output to whoever does not read: nothing waits for it, and nothing of it is lost."""

from __future__ import annotations

import io
import os
import pty
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.report import unblocked as unblocked_module
from testbed.report.console import ERASE, Console
from testbed.report.unblocked import Unblocked, unblocked
from testbed.scenario.load import load

LINES = [f"line {number}: {'é' * 60}\n" for number in range(5000)]
"""More than a pipe, a socket or a terminal holds."""
SCENARIO = Path(__file__).parents[2] / "scenarios/precopy_ok.yaml"
HANGS_S = 120


class Reader(threading.Thread):
    """Reads all that comes, once it is let go."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._fd = fd

    def run(self) -> None:
        with suppress(OSError):  # of a terminal whose other end is closed
            while piece := os.read(self._fd, 65536):
                self.data += piece


@pytest.fixture(params=["pipe", "socket", "stopped terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A descriptor to read, and one to write that takes little or nothing before."""
    if request.param == "pipe":
        reader, writer = os.pipe()
    elif request.param == "socket":
        reader, writer = (end.detach() for end in socket.socketpair())
    else:
        reader, writer = pty.openpty()
        tty.setraw(writer)
        termios.tcflow(writer, termios.TCOOFF)
    yield reader, writer
    os.close(reader)


def test_nothing_waits_and_all_comes_in_its_order(ends: tuple[int, int]) -> None:
    reader, writer = ends
    with open(writer, "w", encoding="utf-8") as file:
        blocks = os.get_blocking(writer)
        out = unblocked(file)
        assert isinstance(out, Unblocked)
        for line in LINES:
            out.write(line)
        assert out.waits
        assert os.get_blocking(writer) is blocks  # others have the same open file
        reading = Reader(reader)
        reading.start()
        if os.isatty(writer):
            termios.tcflow(writer, termios.TCOON)
        out.finish()
        out.close()
    reading.join(HANGS_S)
    assert reading.data.decode() == "".join(LINES)


def test_without_its_own_open_file_it_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unblocked_module, "_own_description", lambda fd: fd)
    reader, writer = os.pipe()
    with open(writer, "w") as file, open(reader, "rb") as read:
        out = unblocked(file)
        for line in LINES:
            out.write(line)
        assert out.waits
        out.close()
        file.close()
        assert "".join(LINES).encode().startswith(read.read())


def test_a_file_is_written_where_it_is(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as file:
        file.write("before\n")
        out = unblocked(file)
        out.write("within\n")
        assert not out.waits
        out.close()
        file.write("after\n")
    assert (tmp_path / "out").read_text() == "before\nwithin\nafter\n"


def test_what_has_no_descriptor_stays_as_it_is() -> None:
    out = io.StringIO()
    assert unblocked(out) is out


def test_what_nobody_reads_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unblocked_module, "KEPT_BYTES_MAX", 100_000)
    reader, writer = os.pipe()
    with open(writer, "w") as file:
        out = unblocked(file)
        for line in LINES:
            out.write(line)
        reading = Reader(reader)
        reading.start()
        out.finish()
        out.close()
    reading.join(HANGS_S)
    os.close(reader)
    *kept, note = reading.data.decode().splitlines(keepends=True)
    assert kept == LINES[: len(kept)]
    assert note == f"{len(LINES) - len(kept)} pieces were left out here: nobody read them in time\n"


def test_a_reader_that_is_gone_is_told_once() -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as file:
        out = unblocked(file)
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            out.write("it\n")
        out.finish()
        out.close()


def test_a_live_line_of_the_past_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    tty.setraw(writer)
    with open(writer, "w") as file:
        console = Console(unblocked(file))
        termios.tcflow(writer, termios.TCOOFF)
        console.began(load(SCENARIO))
        for _ in range(20):
            console.tick()
        termios.tcflow(writer, termios.TCOON)
        reading = Reader(reader)
        reading.start()
        console.finish()
    reading.join(HANGS_S)
    os.close(reader)
    assert reading.data.decode().count(ERASE) == 1


# A run whose terminal is stopped


def run_command(folder: Path) -> list[str]:
    words = ["-m", "testbed", "run", str(SCENARIO), "--json", str(folder / "it.json")]
    return [sys.executable, *words]


class ReportReader(threading.Thread):
    """Reads a report from a FIFO: first the command tries if it can be written, then it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.text = ""
        self._path = path
        os.mkfifo(path)

    def run(self) -> None:
        for _ in range(2):
            self.text = self._path.read_text()


@pytest.mark.live
def test_a_stopped_terminal_stops_no_run(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    report = ReportReader(tmp_path / "it.json")
    report.start()
    with subprocess.Popen(run_command(tmp_path), stdout=writer) as process:
        try:
            report.join(HANGS_S)
            assert '"outcome": "passed"' in report.text  # while the terminal is stopped
            termios.tcflow(writer, termios.TCOON)
            os.close(writer)
            reading = Reader(reader)
            reading.start()
            assert process.wait(HANGS_S) == 0
        finally:
            process.kill()
    reading.join(HANGS_S)
    os.close(reader)
    assert b"1 scenario: 1 passed" in reading.data


IN_BACKGROUND = """
import fcntl, os, subprocess, sys, termios
os.setsid()
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
attributes = termios.tcgetattr(1)
attributes[3] |= termios.TOSTOP
termios.tcsetattr(1, termios.TCSANOW, attributes)
process = subprocess.Popen(sys.argv[1:], process_group=0)
_, status = os.waitpid(process.pid, os.WUNTRACED)
if os.WIFSTOPPED(status):
    os.killpg(process.pid, 9)
    sys.exit(100)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.live
def test_a_terminal_that_stops_the_background_stops_no_run(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    reading = Reader(reader)
    reading.start()
    argv = [sys.executable, "-c", IN_BACKGROUND, *run_command(tmp_path)]
    done = subprocess.run(argv, stdout=writer, timeout=HANGS_S, check=False)
    os.close(writer)
    reading.join(HANGS_S)
    os.close(reader)
    assert done.returncode == 0
    assert b"1 scenario: 1 passed" in reading.data
