"""Lines on their way to a terminal, a pipe or a file: whoever is slow there holds up nobody.

A terminal can be stopped (Ctrl-S) and a pipe's reader can sleep; what is written then waits, and a
proxy that waits with it holds up a guest. So a thread writes, and what does not fit is counted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

WAITING_MAX = 4096
"""Pieces that wait to be written."""
LEFT_S = 2.0
"""For what still waits at the end."""


class Writer:
    """Writes texts to a file in their order, in a thread of its own; `close` ends it.

    Args:
        file: None, or one that turns out to be closed or full: nothing is written to it any more.
        on_failed: is told once, in that thread, if writing fails; a reader that is gone is no
            failure.
    """

    def __init__(
        self, file: TextIO | None, on_failed: Callable[[OSError], None] | None = None
    ) -> None:
        self.dropped = 0
        self._file = file
        self._on_failed = on_failed
        self._waiting: queue.Queue[str | None] = queue.Queue(WAITING_MAX)
        # A daemon: it may hang in a write for as long as the reader likes.
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def write(self, text: str) -> bool:
        """Have the text written; drop it, and say so by False, if too many wait."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def close(self, last: str = "") -> bool:
        """Have what waits written, and this, if that does not take long; true if all of it is."""
        with suppress(queue.Full):
            self._waiting.put(last, timeout=LEFT_S)
            self._waiting.put(None, timeout=LEFT_S)
        self._thread.join(LEFT_S)
        return not self._thread.is_alive()

    def _write_all(self) -> None:
        file = self._file
        while (text := self._waiting.get()) is not None:
            if file is None:
                continue
            try:
                file.write(text)
                if self._waiting.empty():
                    file.flush()
            except BrokenPipeError:
                file = None
            except ValueError:  # closed
                file = None
            except OSError as error:
                file = None
                if self._on_failed is not None:
                    self._on_failed(error)
