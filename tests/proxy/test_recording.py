"""Recordings: what is told is on the disk at once, and is read back as it came."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.fault.plan import Side
from testbed.proxy import recording
from testbed.proxy.recording import (
    INDEX,
    Chunk,
    Direction,
    FolderRecorder,
    Recording,
    RecordingError,
)

FORWARD, RETURN_PATH = Direction.FORWARD, Direction.RETURN_PATH
HEAD = '{"format": "migration-testbed recording", "version": 1}\n'


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, told: list[str]) -> FolderRecorder:
    ticks = count()
    return FolderRecorder(tmp_path / "it", told.append, clock=lambda: float(next(ticks)))


def some(recorder: FolderRecorder) -> None:
    recorder.opened(1)
    recorder.received(1, Side.SOURCE, b"QEVM")
    recorder.opened(2)
    recorder.received(1, Side.DESTINATION, memoryview(b"pong"))
    recorder.received(2, Side.SOURCE, b"other")
    recorder.received(1, Side.SOURCE, b"more")
    recorder.ended(1, "FIN")


SOME = [
    Chunk(2.0, 1, FORWARD, 0, b"QEVM"),
    Chunk(4.0, 1, RETURN_PATH, 0, b"pong"),
    Chunk(5.0, 2, FORWARD, 0, b"other"),
    Chunk(6.0, 1, FORWARD, 4, b"more"),
]


def test_what_was_told_is_read_back_in_order(recorder: FolderRecorder) -> None:
    some(recorder)
    recorder.close()
    read = Recording.open(recorder.folder)
    assert list(read.chunks()) == SOME
    assert list(read.chunks(2)) == SOME[2:3]
    one, two = read.connections.values()
    assert (one.opened_at_s, one.ended_at_s, one.how) == (1.0, 7.0, "FIN")
    assert (two.opened_at_s, two.ended_at_s, two.how) == (3.0, None, None)
    assert one.length == {FORWARD: 8, RETURN_PATH: 4}
    assert read.file(1, FORWARD).read_bytes() == b"QEVMmore"
    assert not read.file(2, RETURN_PATH).exists()
    assert not read.is_cut
    assert read.began


def test_nothing_waits_in_memory(recorder: FolderRecorder) -> None:
    some(recorder)
    assert list(Recording.open(recorder.folder).chunks()) == SOME  # it was not closed


def test_what_is_long_comes_in_pieces(
    recorder: FolderRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PIECE_BYTES_MAX", 3)
    recorder.opened(1)
    recorder.received(1, Side.SOURCE, b"12345678")
    chunks = list(Recording.open(recorder.folder).chunks())
    assert [(each.at_s, each.offset, each.data) for each in chunks] == [
        (2.0, 0, b"123"),
        (2.0, 3, b"456"),
        (2.0, 6, b"78"),
    ]


def test_more_connections_than_files_may_be_open(
    recorder: FolderRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FILES_MAX", 3)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 11):
        recorder.opened(number)
    for round_ in (b"a", b"b"):
        for number in range(1, 11):
            recorder.received(number, Side.SOURCE, round_ * number)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    read = Recording.open(recorder.folder)
    for number in range(1, 11):
        assert read.file(number, FORWARD).read_bytes() == b"a" * number + b"b" * number
    recorder.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_full_disk_ends_only_the_recording(recorder: FolderRecorder, told: list[str]) -> None:
    """A file that may not grow is as good as a full disk."""
    recorder.opened(1)
    recorder.received(1, Side.SOURCE, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        recorder.received(1, Side.DESTINATION, bytes((1 << 16) + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.received(1, Side.SOURCE, b"after")
    recorder.ended(1, "FIN")
    recorder.close()
    assert told == [f"{recorder.folder}: File too large"]
    read = Recording.open(recorder.folder)
    assert [each.data for each in read.chunks()] == [b"before"]


def test_a_link_that_waits_in_the_folder_is_not_written_through(
    recorder: FolderRecorder, told: list[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (recorder.folder / "c1.fwd.bin").symlink_to(other)
    recorder.opened(1)
    recorder.received(1, Side.SOURCE, b"QEVM")
    recorder.close()
    assert other.read_text() == "precious"
    assert told == [f"{recorder.folder}: a symbolic link, which is not followed"]


def test_it_may_have_so_many_bytes(tmp_path: Path, told: list[str]) -> None:
    recorder = FolderRecorder(tmp_path, told.append, bytes_max=10)
    recorder.opened(1)
    for _ in range(4):
        recorder.received(1, Side.SOURCE, b"four")
    assert told == [f"{tmp_path}: it has as many bytes as it may have"]
    assert [each.data for each in Recording.open(tmp_path).chunks()] == [b"four", b"four", b"fo"]


def test_a_disk_that_is_full_already_is_said_before_anything_passes(tmp_path: Path) -> None:
    """In a process of its own, which may write no byte into a file."""
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from testbed.proxy.recording import FolderRecorder, RecordingError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n"
        "    FolderRecorder(Path(sys.argv[1]), print)\n"
        "except RecordingError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}: cannot be recorded into: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_leaves_what_can_be_read(tmp_path: Path) -> None:
    """The kernel writes a part of what is told, and then no more: in a process of its own."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from testbed.fault.plan import Side\n"
        "from testbed.proxy.recording import FolderRecorder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "recorder = FolderRecorder(Path(sys.argv[1]), print)\n"
        "recorder.opened(1)\n"
        "for _ in range(5): recorder.received(1, Side.SOURCE, bytes(1000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}: File too large\n"
    read = Recording.open(tmp_path)
    assert [len(each.data) for each in read.chunks()] == [1000] * 4
    assert read.file(1, FORWARD).stat().st_size == 4096
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_process_that_is_killed_has_lost_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from testbed.fault.plan import Side\n"
        "from testbed.proxy.recording import FolderRecorder\n"
        "recorder = FolderRecorder(Path(sys.argv[1]), print)\n"
        "recorder.opened(1)\n"
        "recorder.received(1, Side.SOURCE, b'all of it')\n"
        "print('told', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"told\n"
        process.send_signal(signal.SIGKILL)
    assert [each.data for each in Recording.open(tmp_path).chunks()] == [b"all of it"]


def test_a_last_line_that_is_cut_is_left_out(recorder: FolderRecorder) -> None:
    some(recorder)
    index = recorder.folder / INDEX
    whole = index.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for stop in range(last + 1, len(whole)):
        index.write_bytes(whole[:stop])
        read = Recording.open(recorder.folder)
        assert read.is_cut
        assert list(read.chunks()) == SOME
        assert read.connections[1].how is None


def test_a_folder_with_a_recording_is_not_written_over(recorder: FolderRecorder) -> None:
    with pytest.raises(RecordingError, match="a recording is there already; name another folder"):
        FolderRecorder(recorder.folder, print)


@pytest.mark.parametrize(
    ("path", "said"),
    [("file", "not a folder"), ("file/in", "Not a directory"), ("/proc/it", "No such file")],
)
def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=said):
        FolderRecorder(tmp_path / path, print)


BAD = [
    ("", ":1: not a recording"),
    ("{}\n", ":1: not a recording"),
    ("[1]\n", ":1: not a recording"),
    (HEAD.replace("1}", "2}"), "expected version 1 of the format, got 2"),
    (HEAD + "[]\n", ":2: not a line of a recording: expected a JSON object"),
    (HEAD + "\0\0\n", ":2: not a line of a recording"),
    (HEAD + "[" * 3000 + "\n", ":2: not a line of a recording"),
    (HEAD + '{"event": "opened", "at_s": 1}\n', "`connection` is missing"),
    (HEAD + '{"event": "opened", "at_s": "x", "connection": 1}\n', "'x'"),
    (HEAD + '{"event": "opened", "at_s": 1, "connection": "../1"}\n', "cannot be '../1'"),
    (HEAD + '{"event": "opened", "at_s": 1, "connection": -1}\n', "cannot be -1"),
    (HEAD + '{"event": "other", "at_s": 1, "connection": 1}\n', "`other` is missing or unknown"),
    (HEAD + '{"event": "opened", "at_s": NaN, "connection": 1}\n', "`at_s` cannot be nan"),
    (HEAD + '{"event": "opened", "at_s": 1e300, "connection": 1}\n', "`at_s` cannot be 1e+300"),
    (HEAD + '{"event": "opened", "at_s": -1, "connection": 1}\n', "`at_s` cannot be -1.0"),
    (HEAD + f'{{"event": "opened", "at_s": {10**400}, "connection": 1}}\n', "too large"),
    (HEAD + f'{{"event": "opened", "at_s": {"9" * 4000}, "connection": 1}}\n', "not a line"),
    (HEAD + '{"event": [], "at_s": 1, "connection": 1}\n', "unhashable"),
    (HEAD + '{"event": "ended", "at_s": 1, "connection": 1, "how": "FIN"}\n', "1 is not open"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_what_is_no_recording_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(RecordingError) as error:
        Recording.open(tmp_path)
    assert said in str(error.value)
    assert str(tmp_path / INDEX) in str(error.value)


EVENTS = st.fixed_dictionaries(
    {"event": st.sampled_from(["opened", "bytes", "ended", "other"])},
    optional={
        name: st.one_of(st.integers(-2, 5), st.floats(), st.sampled_from(["forward", "FIN", None]))
        for name in ("at_s", "connection", "direction", "offset", "length", "how")
    },
)
LINES = st.lists(st.one_of(EVENTS.map(json.dumps), st.text()).map(str.encode), max_size=6)


@given(LINES, st.binary(max_size=8))
def test_any_bytes_are_a_recording_or_say_why_not(lines: list[bytes], data: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / INDEX).write_bytes(HEAD.encode() + b"\n".join(lines))
        (folder / "c1.fwd.bin").write_bytes(data)
        try:
            read = Recording.open(folder)
        except RecordingError:
            return
        came = b"".join(each.data for each in read.chunks())
        assert came == data[: len(came)]


def bytes_line(offset: int, length: object, direction: str = "forward") -> str:
    facts = {"connection": 1, "direction": direction, "offset": offset, "length": length}
    return json.dumps({"at_s": 1, "event": "bytes", **facts}) + "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (bytes_line(5, 1), "expected offset 0, got 5"),
        (bytes_line(0, -1), "`length` cannot be -1"),
        (bytes_line(0, 1.5), "`length` cannot be 1.5"),
        (bytes_line(0, 1, "up"), "'up' is not a valid Direction"),
        (bytes_line(0, 1, "return-path"), "c1.ret.bin: cannot be read: No such file"),
        (bytes_line(0, 5), "c1.fwd.bin: expected 5 bytes, as recording.jsonl says, got 3"),
    ],
)
def test_a_recording_that_is_damaged_is_said(tmp_path: Path, line: str, said: str) -> None:
    opened = '{"event": "opened", "at_s": 1, "connection": 1}\n'
    (tmp_path / INDEX).write_text(HEAD + opened + line)
    (tmp_path / "c1.fwd.bin").write_bytes(b"abc")
    with pytest.raises(RecordingError) as error:
        Recording.open(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("path", "said"), [("no", "no such folder"), (".", "no recording.jsonl"), ("file", "Not a dir")]
)
def test_where_no_recording_is_is_said(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=said):
        Recording.open(tmp_path / path)
