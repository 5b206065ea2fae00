"""One proxied connection: what happens on its two sides in, commands for its two sockets out."""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap

from testbed.wire import MainChannel, ReturnPath

from .command import Command, End, HalfClose, Observed, Send
from .edit import connection_commands
from .lane import Lane
from .plan import Fault, Side, Truncate
from .watch import Watch

Due = tuple[Fault, str]
"""A fault whose state has come, and what was reported."""


class Passing:
    """A connection that nobody parses: bytes and ends go on as they come.

    `opening` are commands to be carried out before anything passes. `watch` is what sees the bytes
    of the source, and `phase` where a main channel is; None where nobody parses.
    """

    opening: Sequence[Command] = ()
    watch: Watch | None = None

    @property
    def phase(self) -> str | None:
        """Of a main channel's parser: see `testbed.wire`."""
        return None

    def received(self, sender: Side, data: bytes) -> list[Command]:
        """Bytes came from that side."""
        return [Send(_other(sender), data)]

    def received_window(self, sender: Side, data: mmap, start: int, end: int) -> list[Command]:
        """Bytes `data[start:end]` came from that side; nothing of them is copied.

        The buffer must stay as it is until the next bytes of that side were received, and not be
        theirs; what is in `data[:start]` is written over. Views of it are in what is answered.
        """
        return [Send(_other(sender), memoryview(data)[start:end])]

    def is_passing(self, _sender: Side, /) -> bool:
        """True if nothing parses, watches or shapes what that side sends, from now on."""
        return True

    def ended(self, sender: Side) -> list[Command]:
        """That side will send no more."""
        return [HalfClose(_other(sender))]

    def was_reset(self, sender: Side) -> list[Command]:
        """That side has reset the connection."""
        return [End(_other(sender), reset=True)]

    def undecided(self, _sender: Side, /) -> bool:
        """True while there are bytes of that side whose meaning or way depends on what follows."""
        return False

    def silence(self, _sender: Side, /) -> list[Command]:
        """That side has been silent for a while, and `undecided`."""
        return []


class Relay(Passing):
    """A main connection: both directions, their parsers, the faults between them.

    `number` counts the main connections of an attempt from 1; `due` are faults whose state came
    before the connection did.
    """

    def __init__(
        self,
        number: int,
        forward: Lane[MainChannel],
        backward: Lane[ReturnPath],
        due: Sequence[Due],
    ) -> None:
        self.number = number
        self.forward = forward
        self.backward = backward
        self.watch = forward.watch
        self.opening = self.strike(due)

    @property
    def phase(self) -> str | None:
        """Of the main channel's parser."""
        return str(self.forward.parser.phase)

    @property
    def is_over(self) -> bool:
        """Both directions have ended."""
        return self.forward.is_over and self.backward.is_over

    def received(self, sender: Side, data: bytes) -> list[Command]:
        """Bytes came from that side."""
        return self._obeyed(self._lane(sender).received(data))

    def received_window(self, sender: Side, data: mmap, start: int, end: int) -> list[Command]:
        """Bytes `data[start:end]` came from that side."""
        return self.received(sender, data[start:end])

    def is_passing(self, _sender: Side, /) -> bool:
        """True if nothing parses, watches or shapes what that side sends, from now on."""
        return False

    def ended(self, sender: Side) -> list[Command]:
        """That side will send no more."""
        return self._obeyed(self._lane(sender).ended())

    def was_reset(self, sender: Side) -> list[Command]:
        """That side has reset the connection."""
        return self._obeyed(self._lane(sender).was_reset())

    def undecided(self, sender: Side, /) -> bool:
        """True while there are bytes of that side whose meaning or way depends on what follows."""
        return self._lane(sender).undecided

    def silence(self, sender: Side, /) -> list[Command]:
        """That side has been silent for a while: what waits for more is decided now."""
        return self._obeyed(self._lane(sender).silence())

    def strike(self, due: Sequence[Due]) -> list[Command]:
        """The commands of faults whose state has come, in order; none of them sends bytes."""
        commands: list[Command] = []
        for fault, reported in due:
            action = type(fault.action).__name__.lower()
            facts = {"fault": fault.name, "action": action, "element": reported}
            commands.append(Observed("fault-struck", facts))
            if isinstance(fault.action, Truncate):
                commands += self.forward.truncate()
            commands += connection_commands(fault)
        return self._obeyed(commands)

    def _lane(self, sender: Side) -> Lane[MainChannel] | Lane[ReturnPath]:
        return self.forward if sender is Side.SOURCE else self.backward

    def _obeyed(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            self.forward.obey(command)
            self.backward.obey(command)
        return commands


def _other(side: Side) -> Side:
    return Side.DESTINATION if side is Side.SOURCE else Side.SOURCE
