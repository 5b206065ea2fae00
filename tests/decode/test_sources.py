"""Bytes from files, pipes, packed ones and captures; what is wrong with them is told to people."""

import io
import lzma
import mmap
import os
import random
import resource
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest
from decode_helpers import PACKERS, Ends, channels_of, joined, pcap, pcapng
from wire_helpers import precopy, recorded

from testbed.decode import sources, spool
from testbed.decode.channels import PIECE_BYTES, SourceError
from testbed.decode.sources import open_source

STREAM = precopy()
NOISE = random.Random(1).randbytes(200_000)


@contextmanager
def piped(data: bytes, step: int = 1 << 16):
    """A path that is a pipe, which gives `data` in steps."""
    read_fd, write_fd = os.pipe()

    def fill():
        with open(write_fd, "wb", buffering=0) as pipe:
            for start in range(0, len(data), step):
                pipe.write(data[start : start + step])

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        yield f"/dev/fd/{read_fd}"
    finally:
        filler.join()
        os.close(read_fd)


@contextmanager
def standard_input(path: str, monkeypatch):
    with open(path, "rb", buffering=0) as raw, io.TextIOWrapper(io.BufferedReader(raw)) as text:
        monkeypatch.setattr(sys, "stdin", text)
        yield


def read(path) -> bytes:
    with open_source(str(path)) as source:
        (channel,) = source.channels
        assert (source.name, source.notes, source.began_at_s) == (str(path), (), None)
        assert (channel.name, channel.return_path, channel.ended) == (str(path), None, None)
        return joined(channel)


def read_into(got: bytearray, path) -> None:
    with open_source(str(path)) as source:
        for chunk in source.channels[0].chunks():
            got += chunk.data


def refused(path) -> str:
    with pytest.raises(SourceError) as raised:
        read(path)
    assert str(raised.value) == raised.value.what
    return raised.value.what.replace(str(path), "FILE")


def test_a_plain_file_is_mapped(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(STREAM)
    with open_source(str(path)) as source:
        (channel,) = source.channels
        assert isinstance(channel.data, mmap.mmap)
        assert channel.total_bytes == len(STREAM)
        assert channel.data[:] == STREAM
        assert joined(channel) == joined(channel) == STREAM


def test_a_plain_file_costs_nothing_however_long_it_is(tmp_path):
    path = tmp_path / "long.bin"
    with path.open("wb") as file:
        file.write(STREAM)
        file.truncate(1 << 40)
    began = time.process_time()
    with open_source(str(path)) as source:
        assert source.channels[0].total_bytes == 1 << 40
    assert time.process_time() - began < 0.1


def test_a_file_that_somebody_still_looks_at_can_be_left(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(STREAM)
    with open_source(str(path)) as source:
        view = memoryview(source.channels[0].data)
    assert bytes(view) == STREAM


@pytest.mark.parametrize("name", ["empty", os.devnull])
def test_what_is_empty_is_a_channel_without_bytes(name, tmp_path):
    (tmp_path / "empty").touch()
    with open_source(str(tmp_path / name)) as source:
        assert (source.channels[0].data, source.channels[0].total_bytes) == (b"", 0)


@pytest.mark.parametrize("step", [1, 5, 1 << 16])
def test_a_pipe_is_read_as_it_comes(step):
    data = STREAM[:2000] if step < 1000 else recorded("qemu10.0-precopy.c0.fwd")
    with piped(data, step) as path, open_source(path) as source:
        assert source.channels[0].total_bytes is None
        assert joined(source.channels[0]) == data


def test_a_pipe_gives_what_it_has_and_waits_for_no_more():
    read_fd, write_fd = os.pipe()
    os.write(write_fd, STREAM)
    with open_source(f"/dev/fd/{read_fd}") as source:
        chunks = source.channels[0].chunks()
        assert next(chunks).data == STREAM
        os.close(write_fd)
        assert list(chunks) == []
    os.close(read_fd)


@pytest.mark.parametrize("blocking", [True, False])
def test_standard_input_is_read_even_if_somebody_made_it_non_blocking(blocking, monkeypatch):
    with piped(NOISE, 1000) as path, standard_input(path, monkeypatch):
        os.set_blocking(sys.stdin.fileno(), blocking)
        assert read("-") == NOISE


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_what_is_packed_is_unpacked(kind, way, tmp_path):
    data = recorded("qemu10.0-precopy.c0.fwd")
    packed = PACKERS[kind](data)
    path = tmp_path / "x.bin"
    path.write_bytes(packed)
    if way == "file":
        assert read(path) == data
    else:
        with piped(packed, 777) as pipe:
            assert read(pipe) == data


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("zeros", [0, 4, 40_000])
def test_packed_streams_in_a_row_are_one(kind, zeros, tmp_path):
    path = tmp_path / "x.bin"
    pack = PACKERS[kind]
    path.write_bytes(pack(STREAM) + bytes(zeros) + pack(b"") + pack(NOISE) + bytes(zeros))
    assert read(path) == STREAM + NOISE


@pytest.mark.parametrize("kind", PACKERS)
def test_nothing_packed_is_a_channel_without_bytes(kind, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(PACKERS[kind](b""))
    assert read(path) == b""


@pytest.mark.parametrize("kind", PACKERS)
def test_what_unpacks_to_much_comes_in_pieces(kind, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(PACKERS[kind](b"\1" * (20 << 20)))
    with open_source(str(path)) as source:
        sizes = [len(chunk.data) for chunk in source.channels[0].chunks()]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= PIECE_BYTES


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_data_cut_short_is_read_as_far_as_it_goes(kind, tmp_path):
    path = tmp_path / "x.bin"
    packed = PACKERS[kind](NOISE)
    path.write_bytes(packed[:150_000])
    got = bytearray()
    with pytest.raises(SourceError) as raised:
        read_into(got, path)
    assert raised.value.what == f"{path}: the {kind} data is cut short after 150000 bytes"
    assert NOISE.startswith(got)
    if kind != "bzip2":  # whose blocks have up to 900 KB
        assert len(got) > 140_000


@pytest.mark.parametrize("kind", PACKERS)
def test_corrupted_packed_data_is_read_as_far_as_it_goes(kind, tmp_path):
    packed = bytearray(PACKERS[kind](recorded("qemu10.0-precopy.c0.fwd")))
    packed[70_000:70_100] = bytes(100)
    path = tmp_path / "x.bin"
    path.write_bytes(packed)
    what = refused(path)
    assert what.startswith(f"FILE: the {kind} data is corrupted at offset 0x")
    offset = int(what.partition("offset ")[2].partition(" ")[0], 16)
    # A checksum tells it only at the end of a block.
    assert 70_100 - sources.PACKED_PIECE_BYTES <= offset <= len(packed)


@pytest.mark.parametrize("kind", PACKERS)
def test_what_follows_packed_data_is_told(kind, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(PACKERS[kind](STREAM) + b"and more of it")
    assert f"the {kind} data is corrupted, or followed by something else" in refused(path)


def test_xz_data_that_asks_for_too_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "UNPACK_MEMORY_BYTES_MAX", 1 << 20)
    path = tmp_path / "x.xz"
    path.write_bytes(lzma.compress(STREAM))
    assert "emory usage limit" in refused(path)


@pytest.mark.parametrize("write", [pcap, pcapng])
@pytest.mark.parametrize("kind", [None, *PACKERS])
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_a_capture_is_known_by_its_first_bytes(write, kind, way, tmp_path):
    sent = recorded("qemu10.0-recover.c0.fwd")
    returned = recorded("qemu10.0-recover.c0.ret")
    data = write(Ends().whole(sent, returned, size=30_000))
    data = PACKERS[kind](data) if kind else data
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    want = [("10.77.0.1:40000 -> 10.77.0.2:4444", sent, returned)]
    if way == "file":
        assert channels_of(path) == want
    else:
        with piped(data) as pipe:
            assert channels_of(pipe) == want


def full_disk(buffering: int):
    return open("/dev/full", "wb", buffering=buffering)


def test_a_capture_that_does_not_fit_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full_disk)
    path = tmp_path / "x.pcap.xz"
    path.write_bytes(lzma.compress(pcap(Ends().whole(NOISE))))
    assert "temporary folder" in (what := refused(path))
    assert "No space left on device (TMPDIR names another folder)" in what


def test_the_last_of_a_disk_is_left_to_others(monkeypatch):
    monkeypatch.setattr(spool, "LEFT_BYTES_MIN", 1 << 60)
    with piped(pcap(Ends().whole(STREAM))) as path:
        assert "after 0 bytes there is room for 0 (and " in (what := refused(path))
    assert what.startswith("FILE: a capture that is no plain file is kept in the temporary folder")


def test_a_capture_through_a_pipe_is_bounded(monkeypatch):
    monkeypatch.setattr(sources, "SPOOLED_BYTES_MAX", 1000)
    with piped(pcap(Ends().whole(STREAM))) as path:
        assert refused(path) == "FILE: a capture that is no plain file, of more than 1000 bytes"


def test_files_that_cannot_be_read_are_told(tmp_path):
    assert refused(tmp_path / "none") == "FILE: cannot be opened: No such file or directory"
    assert refused(tmp_path) == "FILE: a folder, expected a file"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "x") == "FILE: cannot be opened: Not a directory"
    assert refused("x" * 300) == "FILE: cannot be opened: File name too long"
    assert refused("a\0b") == "FILE: cannot be opened: embedded null byte"
    assert refused("/proc/self/mem") == "FILE: cannot be read: Input/output error"


def test_a_file_that_may_not_be_read_is_told(tmp_path):
    path = tmp_path / "x.bin"
    path.touch(mode=0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert refused(path) == "FILE: cannot be opened: Permission denied"
    finally:
        os.seteuid(was)


def test_a_name_that_is_no_text_can_be_printed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.bin")
    with pytest.raises(SourceError) as raised, open_source(path):
        pass
    assert raised.value.what.encode().endswith(b".bin: cannot be opened: No such file or directory")


def test_standard_input_that_is_a_terminal_is_refused(monkeypatch):
    leader, follower = os.openpty()
    try:
        with standard_input(f"/dev/fd/{follower}", monkeypatch):
            assert refused("-") == "FILE: standard input is a terminal, expected a pipe or a file"
    finally:
        os.close(leader)
        os.close(follower)


def test_standard_input_that_is_closed_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("-") == "FILE: standard input is closed"


def test_opening_what_is_no_capture_imports_nothing_slow(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(STREAM)
    (tmp_path / "x.pcap").write_bytes(pcap(Ends().whole(STREAM)))
    code = (
        "import sys\n"
        "from testbed.decode.sources import open_source\n"
        "for path in sys.argv[1:]:\n"
        "    with open_source(path) as source:\n"
        "        assert list(source.channels[0].chunks())\n"
        "sys.exit(bool({'scapy', 'numpy', 'asyncio'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "x.pcap")]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["", "xz", "gzip"])
def test_memory_does_not_grow_with_what_a_pipe_brings(kind):
    """500 MB in an address space of 160 MiB, the interpreter's own included."""
    reader = textwrap.dedent("""
        import resource
        from testbed.decode.sources import open_source
        total = 0
        with open_source("-") as source:
            for chunk in source.channels[0].chunks():
                total += len(chunk.data)
        print(total)
    """)
    writer = textwrap.dedent("""
        import gzip, lzma, random, sys
        pack = {"": bytes, "xz": lambda data: lzma.compress(data, preset=0), "gzip": gzip.compress}
        block = random.Random(1).randbytes(1 << 12) * 2048 + bytes(1 << 21)
        packed = pack[sys.argv[1]](block)
        for _ in range(50):
            sys.stdout.buffer.write(packed)
    """)
    limit = 160 << 20
    with subprocess.Popen([sys.executable, "-c", writer, kind], stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            [sys.executable, "-c", reader],
            stdin=source.stdout,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
    assert (done.stderr, done.stdout) == ("", f"{50 * ((8 << 20) + (2 << 20))}\n")
