"""What faults and peers have made of a connection's two ways: which commands change nothing now."""

from __future__ import annotations

from dataclasses import replace

from testbed.fault.command import Command, End, Everywhere, GoDark, HalfClose, Shape, Wait
from testbed.fault.plan import Bandwidth, Latency, Side, Slice

SHAPED = "rate and time toward the {} are"


class Ways:
    """The ways toward both sides of one connection, as far as the fault engine knows them.

    What is on its way in the proxy is not known here: a way that was shaped may have bytes to pass
    after its sender has ended, and is never said to be over for that.
    """

    def __init__(self) -> None:
        self._ends: dict[Side, bool] = {}  # sides that faults have ended; True: by RST
        self._senders_ended: set[Side] = set()
        self._shut: set[Side] = set()  # ways, by the side they lead to, that pass nothing more
        self._dark: dict[Side, bool] = {}  # True: what comes is still read
        self._shapes: dict[Side, dict[type, Latency | Bandwidth | Slice]] = {}

    def ended(self, sender: Side) -> None:
        """That side has ended by itself."""
        self._senders_ended.add(sender)

    def obey(self, command: Command) -> None:
        """Note what a command has made of it; the same one twice is the same as once."""
        match command:
            case Everywhere(command=inner):
                self.obey(inner)
            case End(side=side, reset=reset):
                self._ends[side] = reset or self._ends.get(side, False)
            case HalfClose(toward=toward):
                self._shut.add(toward)
            case GoDark(toward=toward, swallow=swallow):
                self._dark[toward] = swallow and self._dark.get(toward, True)
            case Shape(toward=toward, shape=None):
                self._shapes.pop(toward, None)
            case Shape(toward=toward, shape=shape) if shape is not None:
                shapes = self._shapes.setdefault(toward, {})
                shapes[type(shape)] = replace(shape, toward=toward)

    def idle(self, command: Command) -> str | None:
        """Say why a command would change nothing here; None if it would change something."""
        match command:
            case Everywhere(command=inner):
                return self.idle(inner)
            case End(side=side, reset=reset):
                return self._ended_already(side, reset=reset)
            case GoDark(toward=toward, swallow=swallow):
                if toward in self._dark and (swallow or not self._dark[toward]):
                    return f"nothing passed toward the {toward} any more"
                return self._over(toward) if swallow or self._is_gone(toward) else None
            case HalfClose(toward=toward) | Wait(toward=toward):
                return self._over(toward)
            case Shape(toward=toward, shape=None):
                return None if toward in self._shapes else f"{SHAPED.format(toward)} not changed"
            case Shape(toward=toward, shape=shape) if shape is not None:
                now = self._shapes.get(toward, {}).get(type(shape))
                same = now == replace(shape, toward=toward)
                return f"{SHAPED.format(toward)} so already" if same else self._over(toward)
        return None

    def _ended_already(self, side: Side, *, reset: bool) -> str | None:
        was_reset = self._ends.get(side)
        if was_reset is None or (reset and not was_reset):
            return None
        return f"the {side}'s side was {'reset' if was_reset else 'closed'} already"

    def _over(self, toward: Side) -> str | None:
        if toward in self._shut or toward in self._dark or self._ends or self._is_gone(toward):
            return f"nothing passed toward the {toward} any more"
        return None

    def _is_gone(self, toward: Side) -> bool:
        """True if the sender has ended, and nothing of what it sent can be on its way."""
        return toward.other in self._senders_ended and toward not in self._shapes
