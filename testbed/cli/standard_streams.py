"""Standard input, output and error as a command finds them: open, closed, full, or left alone.

A descriptor that is closed when the program starts would be given to the next file or socket, and
what is printed would end up in there. A failed write to standard output has an error of its own, so
that it is not taken for one of another file. One to standard error is ignored: there is no other
place to tell it, and the exit status says more.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ReaderGone(BrokenPipeError):
    """The reader of standard output has seen enough.

    It has no `errno`: click ends with status 1 on any error that has EPIPE.
    """


class OutputFailed(OSError):
    """Standard output cannot be written: the disk is full, or the terminal is gone."""


def output_error(error: OSError) -> ReaderGone | OutputFailed:
    """Return what an error of a write to standard output is raised as."""
    if isinstance(error, BrokenPipeError):
        return ReaderGone()
    return OutputFailed(error.errno, error.strerror)


class _Output(io.FileIO):
    """Standard output, whose errors are told from those of other files."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise output_error(error) from None


class _Errors(io.FileIO):
    """Standard error, where what cannot be written is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:  # closed by its reader, or full: there is no other place to say so
            return memoryview(data).nbytes


def prepare() -> None:
    """See to it that descriptors 0 to 2 are open, and that `sys.stdout` and `sys.stderr` are files.

    To be called before anything else is opened. `sys.stdin` stays None if it was closed: a command
    that reads it says so.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            _open_null(fd, flags)
    sys.stdout = _wrapped(sys.stdout, 1, _Output, errors="strict")
    sys.stderr = _wrapped(sys.stderr, 2, _Errors, errors="backslashreplace", line_buffering=True)


def drop_output() -> None:
    """Have what is still in the buffer of standard output go nowhere, also when Python ends."""
    _open_null(1, os.O_WRONLY)


def _open_null(fd: int, flags: int) -> None:
    null = os.open(os.devnull, flags)
    if null == fd:
        os.set_inheritable(fd, True)
    else:
        os.dup2(null, fd)
        os.close(null)


def _wrapped(
    text: TextIO | None,
    fd: int,
    raw: Callable[..., io.FileIO],
    *,
    errors: str,
    line_buffering: bool = False,
) -> TextIO:
    """Return a text file on the descriptor, that encodes and buffers as `text` does."""
    encoding = None
    write_through = False
    if isinstance(text, io.TextIOWrapper):
        encoding, errors = text.encoding, text.errors or errors
        line_buffering, write_through = text.line_buffering, text.write_through
        text.detach()  # it must not write, nor close the descriptor, when Python ends
    return io.TextIOWrapper(
        io.BufferedWriter(raw(fd, "w", closefd=False)),
        encoding,
        errors,
        line_buffering=line_buffering,
        write_through=write_through,
    )
