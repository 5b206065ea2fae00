"""Lines on their way out: nobody waits for who reads them."""

from __future__ import annotations

import os
import threading

import pytest

from testbed.standalone import writer as writer_module
from testbed.standalone.writer import Writer


def test_what_is_written_comes_out_in_order() -> None:
    read, write = os.pipe()
    with open(read) as out, open(write, "w") as into:
        writer = Writer(into)
        for number in range(100):
            writer.write(f"{number}\n")
        writer.close()
        into.close()
        assert out.read() == "".join(f"{number}\n" for number in range(100))
    assert writer.dropped == 0


def test_a_reader_that_sleeps_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WAITING_MAX", 10)
    monkeypatch.setattr(writer_module, "LEFT_S", 0.01)
    read, write = os.pipe()
    with open(read) as out, open(write, "w") as into:
        writer = Writer(into)
        for _ in range(100):  # far more than the pipe and the queue hold
            writer.write("x" * 10_000)
        assert writer.dropped > 50
        writer.close()  # gives up on it
        assert any(thread.daemon for thread in threading.enumerate())
        out.read(1_000_000 - 10_000 * writer.dropped)  # it wakes up: what was written comes
        writer._thread.join(10)


def test_a_reader_that_is_gone_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    failed: list[OSError] = []
    into = open(write, "w")
    writer = Writer(into, failed.append)
    for _ in range(10):
        writer.write("it\n")
    writer.close()
    assert failed == []
    with pytest.raises(BrokenPipeError):
        into.close()


def test_a_full_disk_is_told_once() -> None:
    failed: list[OSError] = []
    into = open("/dev/full", "w")
    writer = Writer(into, failed.append)
    for _ in range(3):
        writer.write("it\n")
        writer.write("it\n" * 10_000)
    writer.close()
    assert [error.strerror for error in failed] == ["No space left on device"]
    with pytest.raises(OSError, match="No space"):
        into.close()


@pytest.mark.parametrize("closed", [True, False])
def test_where_there_is_no_output_nothing_is_written(closed: bool) -> None:
    file = open(os.devnull, "w") if closed else None
    if file is not None:
        file.close()
    writer = Writer(file)
    writer.write("it\n")
    writer.close()
    assert writer.dropped == 0
