"""A regular file read ahead, in windows of a few buffers: two threads read while one looks.

Reading costs as much as everything else that is done with a stream. Pages of a mapped file would
have to be mapped one by one, by the one thread that looks, and a file that is cut meanwhile would
end the process by a signal.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread

HEADROOM_BYTES = 64 << 10
"""In front of each window, for what is left over of the one before."""
WINDOW_BYTES = 2 << 20
THREADS = 2
BUFFERS = 2
"""Of each thread: one that is looked at, one that is filled."""

Window = tuple[mmap.mmap, int]
"""A buffer, and where in it the window ends; it begins after the headroom."""


class _Reader:
    """One thread: every so-manieth window of the file."""

    def __init__(self, fd: int, size_bytes: int, number: int) -> None:
        self.windows: SimpleQueue[Window | OSError] = SimpleQueue()
        self.free = Semaphore(BUFFERS)
        self.stopped = False
        self._fd, self._size = fd, size_bytes
        self._first = number * WINDOW_BYTES
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        buffers = [mmap.mmap(-1, HEADROOM_BYTES + WINDOW_BYTES) for _ in range(BUFFERS)]
        starts = range(self._first, self._size, THREADS * WINDOW_BYTES)
        for turn, start in enumerate(starts):
            self.free.acquire()
            if self.stopped:
                return
            buffer = buffers[turn % BUFFERS]
            count = min(WINDOW_BYTES, self._size - start)
            try:
                end = HEADROOM_BYTES + self._fill(buffer, start, count)
            except OSError as error:
                self.windows.put(error)
                return
            self.windows.put((buffer, end))

    def _fill(self, buffer: mmap.mmap, start: int, count: int) -> int:
        """Read up to so many bytes from there on; fewer if the file ends."""
        done = 0
        with memoryview(buffer) as view:
            while done < count:
                at = HEADROOM_BYTES + done
                with view[at : HEADROOM_BYTES + count] as rest:
                    got = os.preadv(self._fd, [rest], start + done)
                if not got:
                    break
                done += got
        return done


def windows(fd: int, size_bytes: int) -> Iterator[Window]:
    """The windows of a file in order; each is good until the one after the next is asked for.

    Fewer bytes come if the file has become shorter.

    Raises:
        OSError: it cannot be read any further.
    """
    count = -(-size_bytes // WINDOW_BYTES)
    readers = [_Reader(fd, size_bytes, number) for number in range(min(THREADS, count))]
    try:
        for number in range(count):
            reader = readers[number % THREADS]
            found = reader.windows.get()
            if isinstance(found, OSError):
                raise found
            yield found
            if number:
                readers[(number - 1) % THREADS].free.release()
    finally:
        for reader in readers:
            reader.stopped = True
            reader.free.release()
        for reader in readers:
            reader.thread.join()
