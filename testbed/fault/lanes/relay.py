"""One proxied connection: what happens on its two sides in, commands for its two sockets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from mmap import mmap

from testbed.fault.command import Command, End, Everywhere, HalfClose, Observed, Send
from testbed.fault.plan import Channel, Side
from testbed.fault.strikes.ways import Ways
from testbed.wire.channel import Channel as ChannelParser

from .lane import Lane
from .watch import Watch


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
        return [Send(sender.other, data)]

    def received_window(self, sender: Side, data: mmap, start: int, end: int) -> list[Command]:
        """Bytes `data[start:end]` came from that side; nothing of them is copied.

        The buffer must stay as it is until the next bytes of that side were received, and not be
        theirs; what is in `data[:start]` is written over. Views of it are in what is answered.
        """
        return [Send(sender.other, memoryview(data)[start:end])]

    def is_passing(self, _sender: Side, /) -> bool:
        """True if nothing parses, watches or shapes what that side sends, from now on."""
        return True

    def goes_at_once(self, _sender: Side, _data: bytes | memoryview, /) -> bool:
        """True if this, coming next from that side, goes on as it is.

        Who sends it on without asking need not carry out the Send that answers for it.
        """
        return True

    def ended(self, sender: Side) -> list[Command]:
        """That side will send no more."""
        return [HalfClose(sender.other)]

    def was_reset(self, sender: Side) -> list[Command]:
        """That side has reset the connection."""
        return [End(sender.other, reset=True)]

    def undecided(self, _sender: Side, /) -> bool:
        """True while there are bytes of that side whose meaning or way depends on what follows."""
        return False

    def silence(self, _sender: Side, /) -> list[Command]:
        """That side has been silent for a while, and `undecided`."""
        return []


class Relay(Passing):
    """Both directions of a connection, their parsers, the faults between them.

    Args:
        number: of the connection in its attempt.
        channel: what it carries; `index` is its number, where it is one of several.
        connection: the how-manieth main connection of the attempt it belongs to.
        forward: source to destination.
        backward: destination to source.
        ways: of both.
        answered: told what is answered, before it is carried out; what it gives is added.
    """

    def __init__(
        self,
        number: int,
        channel: Channel,
        connection: int,
        forward: Lane[ChannelParser],
        backward: Lane[ChannelParser],
        ways: Ways,
        answered: Callable[[list[Command]], list[Command]],
    ) -> None:
        self.number = number
        self.channel = channel
        self.connection = connection
        self.forward = forward
        self.backward = backward
        self.ways = ways
        self.watch = forward.watch
        self._answered = answered

    @property
    def phase(self) -> str | None:
        """Of the main channel's parser."""
        return self.forward.phase

    @property
    def is_over(self) -> bool:
        """Both directions have ended."""
        return self.forward.is_over and self.backward.is_over

    def received(self, sender: Side, data: bytes) -> list[Command]:
        """Bytes came from that side."""
        return self._obeyed(self._lane(sender).received(data))

    def received_window(self, sender: Side, data: mmap, start: int, end: int) -> list[Command]:
        """Bytes `data[start:end]` came from that side; nothing of them is copied."""
        return self._obeyed(self._lane(sender).received_window(data, start, end))

    def is_passing(self, sender: Side, /) -> bool:
        """True if nothing parses, watches or shapes what that side sends, from now on."""
        return self._lane(sender).is_passing

    def goes_at_once(self, sender: Side, data: bytes | memoryview, /) -> bool:
        """True if this, coming next from that side, goes on as it is."""
        return self._lane(sender).goes_at_once(data)

    def ended(self, sender: Side) -> list[Command]:
        """That side will send no more."""
        return self._over(sender, HalfClose(sender.other))

    def was_reset(self, sender: Side) -> list[Command]:
        """That side has reset the connection."""
        return self._over(sender, End(sender.other, reset=True))

    def undecided(self, sender: Side, /) -> bool:
        """True while there are bytes of that side whose meaning or way depends on what follows."""
        return self._lane(sender).undecided

    def silence(self, sender: Side, /) -> list[Command]:
        """That side has been silent for a while: what waits for more is decided now."""
        return self._obeyed(self._lane(sender).silence())

    def struck(self, commands: list[Command]) -> list[Command]:
        """The commands of faults that strike here without a place in the stream, obeyed."""
        return self._obeyed(commands)

    def obey(self, command: Command) -> None:
        """What a command on this connection means for both directions."""
        self.ways.obey(command)
        self.forward.outlet.obey(command)
        self.backward.outlet.obey(command)

    def _lane(self, sender: Side) -> Lane[ChannelParser]:
        return self.forward if sender is Side.SOURCE else self.backward

    def _over(self, sender: Side, end: Command) -> list[Command]:
        """That direction is over, which is told to the other side unless a fault was first."""
        lane = self._lane(sender)
        self.ways.ended(sender)
        commands = self._obeyed(lane.finish())
        return commands if lane.outlet.shut else [*commands, end]

    def _obeyed(self, commands: list[Command]) -> list[Command]:
        if len(commands) == 1 and isinstance(commands[0], Send):  # nearly always
            return commands
        for command in commands:
            if not isinstance(command, Send | Observed | Everywhere):
                self.obey(command)
        return commands + self._answered(commands)
