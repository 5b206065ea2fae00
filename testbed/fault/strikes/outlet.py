"""What goes on toward one side: ranges of what came, bytes put in, commands between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testbed.fault.command import Command, End, Everywhere, GoDark, HalfClose, Observed, Send, Shape
from testbed.fault.plan import Side

from .kept import Kept

JOINED_BYTES_MAX = 1 << 16
"""Pieces that are sent at once as one: a segment each would be slow."""


class Outlet:
    """The way toward a side.

    `shut`: nothing more goes that way. `ahead` is the offset up to which bytes have gone on before
    it was known what they are.
    """

    def __init__(self, toward: Side) -> None:
        self.toward = toward
        self.kept = Kept()
        self.ahead = 0
        self.shut = False
        self.is_shaped = False
        self._commands: list[Command] = []
        self._start = self._end = 0  # bytes that go on as they came
        self._sent_bytes = 0

    def pass_on(self, start: int, end: int) -> None:
        """The bytes from offset `start` to `end` go on as they came."""
        if start >= end or self.shut:
            return
        if start != self._end:
            self._flush()
            self._start = start
        self._end = end

    def put(self, data: bytes | memoryview) -> None:
        """These bytes go on."""
        self._flush()
        if data and not self.shut:
            self._sent_bytes += len(data)
            self._commands.append(Send(self.toward, data))

    def do(self, command: Command) -> None:
        """Then that is done."""
        self._flush()
        self._commands.append(command)
        self.obey(command)

    def say(self, kind: str, facts: Mapping[str, object]) -> None:
        """Then that is told."""
        self._flush()
        self._commands.append(Observed(kind, facts))

    def obey(self, command: Command) -> None:
        """Send nothing more, and not the end either, once a command has ended the way."""
        match command:
            case Everywhere(command=inner):
                self.obey(inner)
            case End():
                self.shut = True
            case GoDark(toward=toward) | HalfClose(toward=toward):
                self.shut |= toward is self.toward
            case Shape(toward=toward, shape=shape) if toward is self.toward:
                self.is_shaped = shape is not None

    def taken(self) -> list[Command]:
        """All that there is to do now, in order."""
        self._flush()
        commands, self._commands = self._commands, []
        return joined(commands) if len(commands) > 1 else commands

    def apart(self, work: Callable[[], None]) -> tuple[list[Command], int]:
        """What that work makes to do, and how many bytes it sends; not done yet."""
        self._flush()
        commands, self._commands = self._commands, []
        sent_bytes = self._sent_bytes
        work()
        self._flush()
        commands, self._commands = self._commands, commands
        return commands, self._sent_bytes - sent_bytes

    def add(self, commands: list[Command]) -> None:
        """Then do what was made apart."""
        self._commands += commands

    def _flush(self) -> None:
        start, end = self._start, self._end
        if start == end:
            return
        self._start = end
        self._sent_bytes += end - start
        self._commands += [Send(self.toward, part) for part in self.kept.parts(start, end)]


def joined(commands: list[Command]) -> list[Command]:
    """The same commands, with small pieces that are sent in a row as one."""
    done: list[Command] = []
    run: list[bytes | memoryview] = []
    size = 0
    for command in [*commands, None]:
        if isinstance(command, Send) and size + len(command.data) <= JOINED_BYTES_MAX:
            toward = command.toward
            run.append(command.data)
            size += len(command.data)
            continue
        if run:
            done.append(Send(toward, run[0] if len(run) == 1 else b"".join(run)))
            run, size = [], 0
        if isinstance(command, Send) and len(command.data) <= JOINED_BYTES_MAX:
            run, size = [command.data], len(command.data)
        elif command is not None:
            done.append(command)
    return done
