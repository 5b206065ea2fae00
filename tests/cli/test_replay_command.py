"""`testbed replay` as a user has it: its arguments, its output, its exit status."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from testbed.cli.commands import app
from testbed.fault.plan import Side
from testbed.proxy.recording import FolderRecorder

ROOT = Path(__file__).parents[2]
PRECOPY = ROOT / "tests" / "data" / "qemu7.2-precopy.c0.fwd.bin.xz"
DEVICES = ("--", "-nodefaults", "-serial", "null", "-device", "virtio-net-pci")


def replay(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults.yaml"
    path.write_text(
        "faults: [{at: {section: timer, part: footer, field: mark}, do: {set: 0x7d}, name: bad}]\n"
    )
    return path


def test_a_replay_is_told_and_reported(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = replay(PRECOPY, "--model", "--json", report, *DEVICES)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("  destination  is QEMU 7.2.22")
    assert any(line.endswith("recording    connection 1: main, 6957225 bytes") for line in lines)
    assert lines[-1] == "passed   accepted: completed, and its guest is running"
    told = json.loads(report.read_text())
    assert (told["outcome"], told["verdict"], told["unfired"]) == ("passed", "accepted", [])
    assert told["destination"]["run_state"] == "running"
    assert told["connections"][0]["sent_bytes"] == 6957225


def test_what_is_refused_fails_unless_that_was_expected(faults: Path) -> None:
    done = replay(PRECOPY, "--model", "--faults", faults, *DEVICES)
    assert (done.exit_code, done.stderr) == (1, "")
    assert "proxy        bad strikes" in done.stdout
    assert done.stdout.splitlines()[-1] == "    expected: accepted"
    assert (
        "FAILED   refused: it ended with status 1: Missing section footer for timer" in done.stdout
    )
    done = replay(PRECOPY, "--model", "--faults", faults, "--expect", "refused", *DEVICES)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith("passed   refused: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say where it goes: one of --to ADDR, --qemu COMMAND, --model"),
        (["--to", ":1", "--model"], "say where it goes"),
        (["--to", "nowhere"], "--to: not an address: 'nowhere'"),
        (["--to", ":0"], "--to: ':0': nobody listens on port 0"),
        (["--to", ":1", "--paused"], "are for a destination that is started"),
        (["--to", ":1", "--profile", "2.9"], "--profile is a model's"),
        (["--qemu", "'"], "--qemu: No closing quotation"),
        (["--model", "--parameter", "x"], "--parameter: expected NAME=VALUE, got 'x'"),
        (["--model", "--faults", "nosuch.yaml"], "nosuch.yaml: no such file"),
        (["--model", "--json", "nosuch/it.json"], "nosuch/it.json: cannot be written"),
        (["--model", "--migration", "2"], "no migration 2: there is 1"),
        (["--model", "--within", "0"], "'--within'"),
        (["--model", "--within", "nan"], "'--within': expected 0.1 to 86400 seconds, got nan"),
        (["--model", "--within", "inf"], "'--within': expected 0.1 to 86400 seconds, got inf"),
        (["--model", "--within", "1e300"], "'--within': expected 0.1 to 86400 seconds, got 1e+300"),
        (["--model", "--expect", "nothing"], "'--expect'"),
    ],
)
def test_an_option_that_makes_no_sense_is_said(arguments: list[str], said: str) -> None:
    done = replay(PRECOPY, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--qemu", "no-such-qemu"], "no-such-qemu is not there: No such file or directory"),
        (["--qemu", "false"], "destination: it ended with status 1 before it opened QMP"),
        (["--to", "unix:/nosuch"], "unix:/nosuch: nobody takes the connection: ENOENT No such"),
        (["--to", ":1"], ":1: nobody takes the connection: ECONNREFUSED Connection refused"),
    ],
)
def test_a_destination_that_is_not_there_is_said(arguments: list[str], said: str) -> None:
    done = replay(PRECOPY, *arguments)
    assert done.exit_code == 3
    assert done.stderr.startswith(said)
    assert "--source-qemu" not in done.stderr


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    done = replay(tmp_path, "--model")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path}: not a recording: no recording.jsonl in it\n"


def test_what_begins_as_no_channel_is_noted_and_sent_as_it_is(tmp_path: Path) -> None:
    (stream := tmp_path / "notes.txt").write_text("no stream at all")
    done = replay(stream, "--model")
    assert done.exit_code == 1
    noted = "note: connection 1 begins with 6e 6f 20 73"
    assert done.stdout.startswith(noted)
    assert done.stdout.count("note: ") == 1
    assert "stderr: Not a migration stream" in done.stdout


def test_a_report_that_cannot_be_written_is_said_by_its_name() -> None:
    done = replay(PRECOPY, "--model", "--json", "/dev/full", *DEVICES)
    assert done.exit_code == 3
    assert done.stderr == "/dev/full: cannot be written: No space left on device\n"


def test_a_recording_whose_times_nobody_waits_for_is_refused(tmp_path: Path) -> None:
    ticks = iter([0.0, 1.0, 2.0, 7200.5, 7201.0])
    recorder = FolderRecorder(tmp_path, pytest.fail, clock=lambda: next(ticks))
    recorder.opened(1)
    for data in (b"QEVM", bytes.fromhex("00000003")):
        recorder.received(1, Side.SOURCE, data)
    recorder.ended(1, "FIN")
    recorder.close()
    done = replay(tmp_path, "--model", "--speed", "as-recorded")
    assert (done.exit_code, done.stderr) == (
        2,
        f"{tmp_path}: for 7198.5 s nothing came in the recording, and no replay waits for more "
        "than 3600 s: --speed fast\n",
    )
    assert replay(tmp_path, "--model").exit_code == 1  # and that it is refused for what it is


def test_an_interrupted_replay_says_so(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults: [{at: {section: ram}, do: {stall: {for: 10m}}}]\n")
    arguments = [PRECOPY, "--model", "--faults", faults, "--within", "600", *DEVICES]
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", "replay", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("fault_1 strikes" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (
        130,
        "interrupted: the replay is not judged, and what it started is gone\n",
    )
