"""What `testbed proxy` shows: a line for each thing that happens, and a live picture below them.

The picture is for terminals that can go back; elsewhere there are only lines. Nothing here waits
for who reads: a writer has a thread for that.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import datetime
from io import StringIO, TextIOWrapper
from typing import TextIO

from rich.console import Console as RichConsole

from testbed.log import Event
from testbed.standalone.picture import Picture
from testbed.standalone.writer import Writer

from .journal import Journal
from .picture import drawn

FALLBACK_SIZE = (80, 24)
LINES_MAX = 1000
"""Between two pictures; then the oldest go."""


class Watching:
    """Writes to a text file, such as standard output.

    Args:
        file: None, if the process has none.
        began: when the log did, by the clock on the wall.
        live: draw pictures, if it is a terminal that can.
    """

    def __init__(self, file: TextIO | None, began: datetime, *, live: bool) -> None:
        if isinstance(file, TextIOWrapper):
            file.reconfigure(errors="replace")
        rich = RichConsole(file=file)
        self.is_live = live and file is not None and rich.is_terminal and not rich.is_dumb_terminal
        self._has_color = rich.color_system is not None
        self._journal = Journal(began)
        self._own = _own_file(file)
        self._writer = Writer(self._own or file)
        self._lines: list[str] = []  # that wait for the next picture
        self._height = 0  # of the picture that is there

    def event(self, event: Event) -> None:
        """Something happened."""
        line = self._journal.line(event)
        if line is None:
            return
        if self.is_live:
            self._lines.append(line)
            if len(self._lines) > LINES_MAX:
                del self._lines[0]
        else:
            self._writer.write(f"{line}\n")

    def draw(self, picture: Picture) -> None:
        """Write the lines that came since, and the picture below them."""
        frame = self._frame(picture)
        back = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        text = "".join(f"{line}\n" for line in self._lines)
        if self._writer.write(f"{back}{text}{''.join(frame)}"):
            self._height = len(frame)
            self._lines.clear()

    def close(self) -> None:
        """Nothing more comes."""
        for line in self._lines:
            self._writer.write(f"{line}\n")
        dropped = self._writer.dropped
        left_out = f"{dropped} times nobody read in time, and something was left out\n"
        has_ended = self._writer.close(left_out if dropped else "")
        if self._own is not None and has_ended:
            with suppress(OSError):  # of a reader that is gone
                self._own.close()

    def _frame(self, picture: Picture) -> list[str]:
        width, height = shutil.get_terminal_size(FALLBACK_SIZE)
        out = StringIO()
        rich = RichConsole(
            file=out,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
            force_terminal=True,
            color_system="auto" if self._has_color else None,
        )
        rich.print(drawn(picture))
        return out.getvalue().splitlines(keepends=True)[: height - 1]


def _own_file(file: TextIO | None) -> TextIO | None:
    """Return another file on the same descriptor, for the writer's thread; None: it has none.

    Who ends must not wait for what the thread still holds: that of standard output would.
    """
    if file is None:
        return None
    try:
        fd = os.dup(file.fileno())
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return None
    return open(fd, "w", encoding=file.encoding, errors="replace")
