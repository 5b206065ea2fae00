"""What can be replayed, and how it is told that something cannot."""

import lzma
import os
import socket
import struct
from contextlib import contextmanager

import pytest
from decode_helpers import Ends
from decode_helpers import pcap as capture_of
from replay_helpers import PRECOPY, recorded, recording

from testbed.decode import spool
from testbed.fault.plan import Side
from testbed.proxy.recording import FolderRecorder
from testbed.replay import recording as recording_module
from testbed.replay.recording import Arrivals, ReplayError, replayable
from testbed.replay.replay import needs
from testbed.replay.survey import machine_arguments, place_of, survey
from testbed.wire import ChannelKind, encode
from testbed.wire.build import page

HEADER = bytes.fromhex("5145564d00000003")


def folder_of(folder, *connections):
    """A recording of connections, one after another, each of some bytes."""
    recorder = FolderRecorder(folder, on_stopped=pytest.fail)
    for number, data in enumerate(connections, 1):
        recorder.opened(number)
        if data:
            recorder.received(number, Side.SOURCE, data)
        recorder.ended(number, "FIN")
    recorder.close()
    return str(folder)


def refusal(path, migration=None):
    with pytest.raises(ReplayError) as caught, replayable(str(path), migration):
        pytest.fail("it was opened")
    return str(caught.value)


@pytest.mark.parametrize(
    ("open_at_end", "said"),
    [
        ([], ()),
        ([1], ("the recording stops while connection 1 was open: more may have passed",)),
        (
            range(1, 11),
            (
                "the recording stops while connections 1, 2, 3, 4, 5, 6, 7, 8 and 2 more were "
                "open: more may have passed",
            ),
        ),
    ],
)
def test_a_recording_that_ended_too_early_is_noted(tmp_path, open_at_end, said) -> None:
    recorder = FolderRecorder(tmp_path, on_stopped=pytest.fail)
    for number in range(1, 12):
        recorder.opened(number)
        recorder.received(number, Side.SOURCE, HEADER if number == 1 else bytes(8))
        if number not in open_at_end:
            recorder.ended(number, "FIN")
    recorder.close()
    with replayable(str(tmp_path)) as found:
        assert tuple(each for each in found.notes if "stops" in each) == said


@pytest.mark.parametrize("packed", [True, False])
def test_a_raw_stream_is_one_connection(tmp_path, packed) -> None:
    path = PRECOPY if packed else tmp_path / "stream"
    if not packed:
        path.write_bytes(recorded("precopy.c0"))
    with replayable(str(path)) as found:
        (only,) = found.connections
        assert only.kind is ChannelKind.MAIN
        assert only.read(0, only.size_bytes) == recorded("precopy.c0")
        assert only.arrivals.when(0) is None


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("multifd", ["main", "multifd", "multifd"]),
        ("preempt", ["main", "preempt"]),
        ("recover", ["main", "recovery"]),
    ],
)
def test_a_folder_has_all_connections_by_what_they_are(tmp_path, kind, channels) -> None:
    with replayable(recording(tmp_path / "r", kind)) as found:
        assert [each.channel for each in found.connections] == channels


@pytest.mark.parametrize(
    ("kind", "capabilities", "parameters"),
    [
        ("precopy", {}, {}),
        ("multifd", {"multifd": True}, {"multifd-channels": 2}),
        ("postcopy", {"postcopy-ram": True}, {}),
        ("preempt", {"postcopy-ram": True, "postcopy-preempt": True}, {}),
        ("recover", {"postcopy-ram": True}, {}),
    ],
)
def test_what_a_destination_needs_the_connections_tell(
    tmp_path, kind, capabilities, parameters
) -> None:
    with replayable(recording(tmp_path / "r", kind)) as found:
        surveys = survey(found)
        assert needs(found, surveys) == (capabilities, parameters)
        assert machine_arguments(surveys) == ("-M", "pc-i440fx-7.2", "-m", "size=16777216B")


def test_a_connection_without_a_byte_beside_a_postcopy_is_a_preempt_channel(tmp_path) -> None:
    path = folder_of(tmp_path / "r", recorded("postcopy.c0"), b"")
    with replayable(path) as found:
        assert needs(found, survey(found))[0]["postcopy-preempt"]


def test_pages_of_a_preempt_channel_are_known(tmp_path) -> None:
    pages = [page("pc.ram", 4096 * number, b"data" * 1024) for number in (7, 8, 300)]
    urgent = b"".join(map(encode, pages))
    with replayable(folder_of(tmp_path / "r", recorded("postcopy.c0"), urgent)) as found:
        assert survey(found)[2].urgent == {("pc.ram", 4096 * number) for number in (7, 8, 300)}


def test_later_connections_open_after_what_came_before_them(tmp_path) -> None:
    with replayable(folder_of(tmp_path / "r", HEADER + b"x" * 92, b"y", b"z")) as found:
        assert [each.opens_after for each in found.connections] == [{}, {1: 100}, {1: 100, 2: 1}]


def test_arrivals_tell_when_a_byte_had_come() -> None:
    arrivals = Arrivals([10, 30], [0.5, 1.5])
    assert [arrivals.when(offset) for offset in (0, 9, 10, 29, 30)] == [0.5, 0.5, 1.5, 1.5, None]
    assert [arrivals.together(offset) for offset in (0, 10, 30)] == [10, 30, None]
    assert [arrivals.before(at_s) for at_s in (0.4, 0.5, 2.0)] == [0, 10, 30]


def test_of_several_migrations_one_must_be_named(tmp_path) -> None:
    path = folder_of(tmp_path / "r", HEADER + b"1", b"more", HEADER + b"2")
    assert refusal(path) == f"{path}: 2 migrations; say which one: --migration 1 to 2"
    assert refusal(path, 3) == f"{path}: no migration 3: there are 2"
    with replayable(path, 2) as found:
        assert [each.number for each in found.connections] == [3]


def test_what_is_encrypted_cannot_be_replayed(tmp_path) -> None:
    path = folder_of(tmp_path / "r", bytes.fromhex("16030100a5") + bytes(50))
    assert "connection 1 is encrypted by TLS" in refusal(path)


def test_a_return_path_is_no_stream(tmp_path) -> None:
    path = tmp_path / "ret"
    path.write_bytes(recorded("postcopy.c0", "ret"))
    assert (
        refusal(path) == f"{path}: a return path, what a destination sent; replayed is what a "
        "source sent"
    )


def test_nothing_to_replay_is_said(tmp_path) -> None:
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty") == f"{tmp_path}/empty: holds not a byte that a source sent"
    assert "not a recording" in refusal(tmp_path)
    assert "cannot be opened" in refusal(tmp_path / "nosuch")


def test_what_is_packed_and_cut_is_said(tmp_path) -> None:
    path = tmp_path / "cut.xz"
    path.write_bytes(PRECOPY.read_bytes()[:50_000])
    assert "the xz data is cut short" in refusal(path)


def test_a_file_that_shrinks_meanwhile_is_said(tmp_path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(HEADER + bytes(100))
    with replayable(str(path)) as found:
        path.write_bytes(HEADER)
        with pytest.raises(ReplayError, match="its file was cut while it was read"):
            found.connections[0].read(0, 108)


def frame(sequence, data, flags):
    """An Ethernet frame of a TCP connection from 10.0.0.1:40000 to 10.0.0.2:4444."""
    tcp = struct.pack(">HHIIBBHHH", 40000, 4444, sequence, 1, 5 << 4, flags, 8192, 0, 0) + data
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0)
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    return bytes(12) + b"\x08\x00" + ip + addresses + tcp


def pcap(path, *frames):
    raw = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for at, each in enumerate(frames):
        raw += struct.pack("<IIII", at, 0, len(each), len(each)) + each
    path.write_bytes(raw)
    return path


def test_a_capture_tells_the_times(tmp_path) -> None:
    path = pcap(
        tmp_path / "c.pcap", frame(99, b"", 2), frame(100, HEADER, 24), frame(108, b"abc", 24)
    )
    with replayable(str(path)) as found:
        (only,) = found.connections
        assert only.read(0, 11) == HEADER + b"abc"
        assert only.arrivals.when(10) - only.arrivals.when(0) == 1.0


def test_a_hole_in_a_capture_cannot_be_replayed(tmp_path) -> None:
    path = pcap(
        tmp_path / "c.pcap", frame(99, b"", 2), frame(100, HEADER, 24), frame(208, b"abc", 24)
    )
    assert "100 bytes at offset 0x8 are missing in the capture" in refusal(path)


@pytest.mark.parametrize(
    ("offset", "place"),
    [
        (0, "file header"),
        (0x1F00, "pages of pc.ram of PART ram"),
        (0x67BAC8, "section header of FULL cpu"),
        (0x67C000, "payload of FULL cpu"),
        (0x68A370, "vm description"),
        (1 << 40, "the end"),
    ],
)
def test_an_offset_is_a_place_in_words(offset, place) -> None:
    with replayable(str(PRECOPY)) as found:
        assert place_of(found.connections[0], offset) == place


def test_a_packed_stream_through_a_pipe_is_the_same(tmp_path, monkeypatch) -> None:
    packed = tmp_path / "p"
    packed.write_bytes(lzma.compress(HEADER + b"x"))
    with packed.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        with replayable("-") as found:
            assert found.connections[0].read(0, 9) == HEADER + b"x"


@contextmanager
def held_open(data: bytes):
    """A path that is a pipe: some bytes are in it, and its writer neither goes on nor ends."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    try:
        yield f"/dev/fd/{read_fd}"
    finally:
        os.close(write_fd)
        os.close(read_fd)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (bytes.fromhex("16030100a5") + bytes(50), "connection 1 is encrypted by TLS"),
        (recorded("postcopy.c0", "ret")[:20], "a return path, what a destination sent"),
        (b"no stream at all" * 9, "begins with 6e 6f 20 73, as no channel does"),
    ],
)
def test_the_first_bytes_of_a_pipe_tell_before_all_of_it_is_kept(first, said) -> None:
    with held_open(first) as path:
        assert said in refusal(path)


@pytest.mark.parametrize("first", [b"", HEADER])
def test_a_pipe_that_falls_silent_is_not_waited_for_without_end(first, monkeypatch) -> None:
    monkeypatch.setattr(recording_module, "SILENT_S", 0.05)
    with held_open(first) as path:
        assert refusal(path) == f"{path}: nothing came through the pipe for 0.05 s"


def test_a_fifo_that_nobody_writes_into_is_not_waited_for_without_end(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(recording_module, "SILENT_S", 0.05)
    os.mkfifo(tmp_path / "it")
    assert "nothing came through the pipe for 0.05 s" in refusal(tmp_path / "it")


def test_a_fifo_in_the_place_of_a_recordings_index_is_no_recording(tmp_path) -> None:
    os.mkfifo(tmp_path / "recording.jsonl")
    assert "not a recording: something else than a file is there" in refusal(tmp_path)


def test_there_must_be_room_for_what_is_kept_meanwhile(monkeypatch) -> None:
    monkeypatch.setattr(spool, "LEFT_BYTES_MIN", 1 << 60)
    assert "what is no plain file is kept in the temporary folder" in (what := refusal(PRECOPY))
    assert "there is room for 0 " in what


def test_a_capture_asks_for_its_room_before_it_is_written(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(capture_of(Ends().whole(HEADER + bytes(50))))
    monkeypatch.setattr(spool, "LEFT_BYTES_MIN", 1 << 60)
    assert "it has 58 bytes, there is room for 0 " in refusal(path)
