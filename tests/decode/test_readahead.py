"""A file read ahead in windows: its bytes in order, whatever becomes of it meanwhile."""

import os
import random
import threading
from contextlib import closing

import pytest

from testbed.decode import readahead
from testbed.decode.channels import SourceChannel
from testbed.decode.readahead import HEADROOM_BYTES, windows
from testbed.decode.reading import read
from testbed.wire import MainChannel


@pytest.fixture
def file_of(tmp_path, monkeypatch):
    """The descriptor of a file of those bytes, which is read in windows of 1000."""
    monkeypatch.setattr(readahead, "WINDOW_BYTES", 1000)
    opened = []

    def make(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDWR))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)
    assert threading.active_count() == 1


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 3500, 12_345])
def test_all_bytes_come_in_order(file_of, size):
    data = random.Random(size).randbytes(size)
    fd = file_of(data)
    found = b"".join(buffer[HEADROOM_BYTES:end] for buffer, end in windows(fd, size))
    assert found == data


def test_a_window_is_good_until_the_one_after_the_next_is_asked_for(file_of):
    data = random.Random(1).randbytes(9000)
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    found = windows(file_of(data), len(data))
    before, _ = next(found)
    for piece, (buffer, _) in zip(pieces, found, strict=False):
        assert before[HEADROOM_BYTES : HEADROOM_BYTES + 1000] == piece
        before = buffer


def test_who_has_seen_enough_leaves_no_thread(file_of):
    with closing(windows(file_of(bytes(100_000)), 100_000)) as several:
        next(several)
        assert threading.active_count() > 1
    assert threading.active_count() == 1


def test_a_file_that_was_cut_meanwhile_is_a_broken_stream(file_of):
    fd = file_of(bytes(2500))
    channel = SourceChannel("file", 5000, fd=fd)
    batches = list(read(channel, MainChannel()))
    assert batches[-1].lost == "the file was cut to 2500 bytes while it was read"


def test_a_file_that_cannot_be_read_further_is_a_broken_stream(file_of, monkeypatch):
    fd = file_of(bytes(5000))
    real = os.preadv

    def failing(fd, buffers, offset):
        if offset >= 2000:
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    batches = list(read(SourceChannel("file", 5000, fd=fd), MainChannel()))
    why = "the file cannot be read after 2000 bytes: Input/output error"
    assert batches[-1].lost == why
