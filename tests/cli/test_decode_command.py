"""`testbed decode` as a user has it: fed by files, pipes and captures, cut off, interrupted."""

import fcntl
import lzma
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from decode_helpers import Ends, pcap, pcapng
from wire_helpers import recorded

ROOT = Path(__file__).parents[2]
DECODE = [sys.executable, "-m", "testbed", "decode"]
WITHIN_S = 60
PRECOPY = "qemu10.0-precopy.c0.fwd"
BEFORE, AFTER = "qemu7.2-recover.c0", "qemu7.2-recover.rec.c0"
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
FIRST, SECOND = Ends(), Ends(source_port=40010)
BESIDE = Ends(source_port=50000, destination_port=22)


def decode(*arguments, stdin=subprocess.DEVNULL):
    """The command's exit status, its output, and what it says beside it."""
    done = subprocess.run(
        [*DECODE, *map(str, arguments)],
        cwd=ROOT,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def decoding_a_pipe(data):
    """The command reading a pipe that has brought `data` and stays open, and the pipe's end."""
    with subprocess.Popen(
        [*DECODE, "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def migration_packets():
    """A postcopy that is recovered, each connection whole, and another one between them."""
    sent, returned = recorded(f"{BEFORE}.fwd"), recorded(f"{BEFORE}.ret")
    again, answered = recorded(f"{AFTER}.fwd"), recorded(f"{AFTER}.ret")
    return [
        *FIRST.whole(sent, returned, size=20_000),
        *BESIDE.whole(SSH),
        *SECOND.whole(again, answered, size=20_000),
    ]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none", "FILE: cannot be opened: No such file or directory"),
        ("folder", "FILE: a folder, expected a file"),
        ("x.zst", "FILE: zstd data; read it with: zstd -dc < "),
        ("x.pcap", "FILE: no migration in this capture: 1 TCP connection: "),
        ("empty.pcap", "FILE: no migration in this capture: no TCP connection; packets: 0"),
        ("x.xz", "FILE: the xz data is corrupted at offset 0x0 or within 106 bytes after it: "),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(name, what, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.zst").write_bytes(bytes.fromhex("28b52ffd") + bytes(100))
    (tmp_path / "x.pcap").write_bytes(pcap(BESIDE.whole(SSH)))
    (tmp_path / "empty.pcap").write_bytes(pcap([]))
    (tmp_path / "x.xz").write_bytes(b"\xfd7zXZ\0" + bytes(100))
    status, output, told = decode(tmp_path / name)
    assert (status, output) == (2, "")
    assert told.replace(f"{tmp_path / name}", "FILE", 1).startswith(what)
    assert told.count("\n") == 1


def test_a_closed_standard_input_is_said():
    shell = f"{sys.executable} -m testbed decode - <&-"
    done = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "-: standard input is closed\n"


def test_a_pipe_says_what_a_file_says(tmp_path):
    path = tmp_path / "x.xz"
    path.write_bytes(lzma.compress(recorded(PRECOPY)))
    _, of_the_file, _ = decode(path)
    with path.open("rb") as file:
        status, output, told = decode("-", stdin=file)
    assert (status, told) == (0, "")
    assert output == of_the_file.replace(f"{path}", "-")


def test_what_a_pipe_brought_is_shown_while_it_is_open():
    with decoding_a_pipe(recorded(PRECOPY)[:2000]) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0] == b"-: main channel\n"
        assert b"file header" in lines[1]
        assert process.poll() is None


def test_an_interrupt_ends_it_without_a_word():
    with decoding_a_pipe(recorded(PRECOPY)[:2000]) as process:
        assert process.stdout.readline() == b"-: main channel\n"
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(WITHIN_S) == 130


@pytest.mark.parametrize("kind", ["stream", "capture"])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(kind, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(recorded(PRECOPY) if kind == "stream" else pcap(migration_packets()))
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)  # less than it has to say: it cannot be done
    with subprocess.Popen(
        [*DECODE, "--json", str(path)], cwd=ROOT, stdout=write_fd, stderr=subprocess.PIPE
    ) as process:
        os.close(write_fd)
        assert os.read(read_fd, 10)
        os.close(read_fd)
        told = process.stderr.read().decode()
        assert process.wait(WITHIN_S) == 141
    assert "Traceback" not in told
    assert "Broken pipe" not in told


def test_data_cut_short_shows_what_came_before(tmp_path):
    path = tmp_path / "x.xz"
    path.write_bytes(lzma.compress(recorded(PRECOPY))[:100_000])
    status, output, told = decode(path)
    assert status != 0
    assert "START ram" in output
    assert "the xz data is cut short after 100000 bytes" in output + told


@pytest.mark.parametrize("write", [pcap, pcapng])
def test_a_capture_shows_each_connection_of_the_migration(write, tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(write(migration_packets()))
    _, output, told = decode(path)
    assert told == (
        f"{path}: passed over: 1 TCP connection: "
        "10.77.0.1:50000 -> 10.77.0.2:22 (begins with 'SSH-2.0-')\n"
    )
    at = [
        output.index(text)
        for text in (
            "10.77.0.1:40000 -> 10.77.0.2:4444: main channel",
            "PACKAGED",
            "<- REQ_PAGES",
            "10.77.0.1:40010 -> 10.77.0.2:4444: recovery channel",
            "<- RECV_BITMAP",
            "<- RESUME_ACK",
        )
    ]
    assert at == sorted(at)


def test_a_capture_that_lost_bytes_says_where_the_stream_breaks(tmp_path):
    packets = FIRST.whole(recorded(f"{BEFORE}.fwd"), recorded(f"{BEFORE}.ret"))
    del packets[100]
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(packets))
    status, output, told = decode(path)
    assert status == 1
    assert "1448 bytes are missing in the capture" in output
    connection = "10.77.0.1:40000 -> 10.77.0.2:4444"
    assert told == f"{path}: {connection}: 1448 bytes are not in the capture\n"
