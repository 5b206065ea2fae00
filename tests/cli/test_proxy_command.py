"""`testbed proxy` as a user has it: a process, its output, its signals, its exit status."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner, Result
from wire_helpers import precopy

from testbed.cli.proxy import proxy_command
from testbed.proxy.recording import Direction, Recording

COMMAND = [sys.executable, "-m", "testbed", "proxy"]
LOOPBACK = "127.0.0.1"
WITHIN_S = 30
STREAM = precopy()
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
FAULTS = """\
faults:
  - name: cut_it
    at: {section: ram, kind: part}
    do: reset
"""


def refused(*arguments: str | Path) -> Result:
    """What the command says to arguments that it does not like; it does not get far."""
    done = CliRunner().invoke(proxy_command, [*map(str, arguments)])
    assert done.stdout == ""
    return done


class Running:
    """The command between a destination of ours and whoever connects to it."""

    def __init__(self, process: subprocess.Popen[str], listener: socket.socket) -> None:
        self.process = process
        self._listener = listener
        self.lines: list[str] = []
        self.port = int(self.until(LISTENING)[1])

    def until(self, wanted: re.Pattern[str]) -> re.Match[str]:
        """Read lines until one has what is wanted."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := wanted.search(line):
                return found
        raise AssertionError(f"{wanted.pattern} did not come: {self.lines}")

    def rest(self) -> str:
        """What it still writes, until it ends."""
        out, _ = self.process.communicate(timeout=WITHIN_S)
        return out

    @contextmanager
    def connected(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection that has carried the first bytes."""
        with socket.create_connection((LOOPBACK, self.port), WITHIN_S) as source:
            source.sendall(STREAM[:8])
            destination, _ = self._listener.accept()
            with destination:
                destination.settimeout(WITHIN_S)
                assert destination.recv(8, socket.MSG_WAITALL) == STREAM[:8]
                yield source, destination

    def migrate(self) -> bytes:
        """Send all of the stream; what arrived."""
        with self.connected() as (source, destination):
            source.sendall(STREAM[8:])
            source.shutdown(socket.SHUT_WR)
            got = STREAM[:8]
            while more := destination.recv(1 << 16):
                got += more
            destination.close()
            assert source.recv(1) == b""
        return got


@contextmanager
def running(*arguments: str | Path, stdout: int | IO[str] = subprocess.PIPE) -> Iterator[Running]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(WITHIN_S)
        upstream = f"{LOOPBACK}:{listener.getsockname()[1]}"
        addresses = ["--listen", f"{LOOPBACK}:0", "--upstream", upstream]
        with subprocess.Popen(
            [*COMMAND, *addresses, *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Running(process, listener)
            finally:
                process.kill()


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults.yaml"
    path.write_text(FAULTS)
    return path


GOOD = ("--listen", f"{LOOPBACK}:0", "--upstream", f"{LOOPBACK}:1")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--listen", "here", "--upstream", ":1"), 2, "--listen: not an address: 'here'"),
        (("--listen", ":0", "--upstream", ":x"), 2, "--upstream: not an address: ':x'"),
        (("--listen", ":0", "--upstream", ":0"), 2, "--upstream: ':0': nobody listens on port 0"),
        ((*GOOD, "--record-max", "9"), 2, "--record-max says how much may be recorded: --record"),
        ((*GOOD, "--control-public"), 2, "--control-public says who may reach the control server"),
        ((*GOOD, "--unread", "--live"), 2, "--unread knows of connections only"),
        ((*GOOD, "--nbd-listen", ":0"), 2, "--nbd-listen and --nbd-upstream go together"),
        ((*GOOD, "--nbd-listen", "x", "--nbd-upstream", ":1"), 2, "--nbd-listen: not an address"),
        ((*GOOD, "--record", "/proc/it"), 2, "/proc/it: cannot be recorded into"),
        ((*GOOD, "--json-log", "/nosuch/it"), 2, "/nosuch/it: cannot be written: No such file"),
        ((*GOOD, "--faults", "nosuch.yaml"), 2, "nosuch.yaml: no such file"),
        (("--listen", "h\udcff:1", "--upstream", ":1"), 2, "not an address: 'h\\udcff:1'"),
        (("--listen", ":0", "--upstream", "h\udcff:1"), 2, "not an address: 'h\\udcff:1'"),
        (("--listen", "192.0.2.1:1", "--upstream", ":1"), 3, "192.0.2.1:1: cannot be listened on"),
        (("--listen", ":0", "--upstream", "nosuch.invalid:1"), 3, "nosuch.invalid:1: "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = refused(*arguments)
    assert done.exit_code == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_wrong_with_faults_is_said_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(FAULTS.replace("section:", "sektion:"))
    done = refused(*GOOD, "--faults", path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{path}:3:9: faults[0].at: unknown key `sektion`")


def test_faults_of_what_is_in_a_stream_are_refused_for_storage(faults: Path) -> None:
    storage = ("--nbd-listen", f"{LOOPBACK}:0", "--nbd-upstream", f"{LOOPBACK}:1")
    done = refused(*GOOD, *storage, "--nbd-faults", faults)
    assert done.exit_code == 2
    assert done.stderr == (
        f"{faults}:2:5: cut_it: NBD is not read, only passed on: "
        "a place there is `connection`, or the `offset` of what the source sends\n"
    )


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "recording.jsonl").touch()
    done = refused(*GOOD, "--record", tmp_path)
    assert done.exit_code == 2
    assert "a recording is there already" in done.stderr


def test_once_ends_with_the_migration_and_tells_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with running("--once", "--json-log", log) as proxy:
        assert proxy.migrate() == STREAM
        told = proxy.rest()
        assert proxy.process.returncode == 0
    for said in ("connection 1 is the main channel", "migration 1 begins"):
        assert f"  {said}\n" in told
    assert "migration 1 is over: the stream was whole" in told
    assert '"kind":"migration-ended"' in log.read_text()


def test_a_fault_that_strikes_is_told(faults: Path) -> None:
    with running("--once", "--faults", faults) as proxy:
        with proxy.connected() as (source, _):
            source.sendall(STREAM[8:])
            proxy.until(re.compile("fault cut_it strikes: reset at the header of PART ram"))
            with pytest.raises(ConnectionResetError):
                source.recv(1)
        proxy.rest()
        assert proxy.process.returncode == 0


def test_a_fault_that_never_strikes_is_told_and_is_the_exit_status(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(FAULTS.replace("section: ram", "section: nosuch"))
    with running("--once", "--faults", path) as proxy:
        assert proxy.migrate() == STREAM
        assert "fault 1 (cut_it) never fired: no section nosuch" in proxy.rest()
        assert proxy.process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with running() as proxy:
        proxy.process.send_signal(number)
        assert proxy.rest() == ""
        assert proxy.process.returncode == 0


def test_two_signals_in_a_migration_leave_what_passed_recorded(tmp_path: Path) -> None:
    with running("--record", tmp_path / "it") as proxy:
        with proxy.connected() as (source, destination):
            destination.sendall(b"pong")
            assert source.recv(4, socket.MSG_WAITALL) == b"pong"
            proxy.process.send_signal(signal.SIGINT)
            proxy.until(re.compile("still open: connection 1; once more to reset"))
            proxy.process.send_signal(signal.SIGINT)
            proxy.rest()
        assert proxy.process.returncode == 130
    read = Recording.open(tmp_path / "it")
    assert read.file(1, Direction.FORWARD).read_bytes() == STREAM[:8]
    assert read.file(1, Direction.RETURN_PATH).read_bytes() == b"pong"
    assert read.connections[1].how == "RST"


def test_a_reader_that_has_seen_enough_does_not_end_a_migration() -> None:
    with running("--once") as proxy:
        assert proxy.process.stdout is not None
        proxy.process.stdout.close()
        assert proxy.migrate() == STREAM
        assert proxy.process.wait(WITHIN_S) == 0
        assert proxy.process.stderr is not None
        assert proxy.process.stderr.read() == ""


def test_it_ends_while_nobody_reads_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    os.mkfifo(log)
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)))  # it is full
    arguments = [*COMMAND, *GOOD, "--json-log", str(log)]
    with subprocess.Popen(arguments, stdout=writer) as process:
        try:
            with log.open() as lines:
                assert LISTENING.pattern.split()[0] in lines.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)


def test_a_path_that_is_not_utf8_is_one(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    listen, upstream, log = (folder + b"/" + name + b"\xff" for name in (b"l", b"u", b"log"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(upstream)
        listener.listen()
        addresses = ["--listen", b"unix:" + listen, "--upstream", b"unix:" + upstream]
        arguments = [*addresses, "--control", f"{LOOPBACK}:0", "--json-log", log]
        with subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        ) as process:
            try:
                assert process.stdout is not None
                assert rf"/l\xff, going on to unix:{tmp_path}/u\xff" in process.stdout.readline()
                control = LISTENING.search(process.stdout.readline())
                assert control is not None
                for path in ("/proxies", "/metrics"):
                    http = HTTPConnection(LOOPBACK, int(control[1]), timeout=WITHIN_S)
                    http.request("GET", path)
                    with http.getresponse() as response:
                        assert response.status == 200
                        assert b"/l" in response.read()
                    http.close()
                with socket.socket(socket.AF_UNIX) as source:
                    source.connect(listen)
                    source.sendall(STREAM[:8])
                    destination, _ = listener.accept()
                    with destination:
                        assert destination.recv(8, socket.MSG_WAITALL) == STREAM[:8]
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=WITHIN_S)
                assert (process.returncode, said) == (0, "")
            finally:
                process.kill()
        assert not os.path.exists(listen)


def test_it_works_without_any_output(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    arguments = [*COMMAND, *GOOD, "--json-log", str(log)]
    os.mkfifo(log)
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", *arguments], stderr=subprocess.PIPE
    ) as process:
        with log.open() as lines:
            assert LISTENING.pattern.split()[0] in lines.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 0


def test_on_a_terminal_a_picture_is_drawn() -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    with os.fdopen(ours, "r", newline="") as terminal:
        with os.fdopen(theirs, "w") as side, socket.create_server((LOOPBACK, 0)) as listener:
            upstream = f"{LOOPBACK}:{listener.getsockname()[1]}"
            process = subprocess.Popen(
                [*COMMAND, "--listen", f"{LOOPBACK}:0", "--upstream", upstream, "--live"],
                stdout=side,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            )
        written = ""
        while "waiting for a migration" not in written:
            written += terminal.readline()
        process.send_signal(signal.SIGINT)
        try:
            while more := terminal.readline():
                written += more
        except OSError:  # EIO: nobody has its other end open any more
            pass
        assert process.wait(WITHIN_S) == 0
    assert LISTENING.search(written)
    assert "\x1b[1F\x1b[J" in written  # drawn over


def test_a_live_picture_is_lines_where_there_is_no_terminal() -> None:
    with running("--live") as proxy:
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.rest() == ""
        assert "\x1b" not in "".join(proxy.lines)
