"""Actions on connections, rates and processes: the commands that carry them out."""

from __future__ import annotations

from testbed.fault.command import (
    Command,
    End,
    Everywhere,
    GoDark,
    HoldBack,
    Observed,
    Shape,
    Signalled,
    StopListening,
    Wait,
)
from testbed.fault.command import HalfClose as HalfCloseCommand
from testbed.fault.command import Tarpit as TarpitCommand
from testbed.fault.plan import (
    Bandwidth,
    Blackhole,
    Close,
    DelayAccept,
    Fault,
    HalfClose,
    Latency,
    Refuse,
    Reset,
    Restore,
    Side,
    Signal,
    Slice,
    Stall,
    Tarpit,
    Truncate,
)

BETWEEN_BYTES = (
    Close,
    Reset,
    HalfClose,
    Blackhole,
    Truncate,
    Latency,
    Bandwidth,
    Slice,
    Stall,
    Restore,
    Signal,
)
"""Actions that change no byte, and strike between two of them."""


def connection_commands(
    fault: Fault, toward: Side, struck: Observed | None = None
) -> list[Command]:
    """The commands of an action that changes no byte; none for the others.

    Args:
        fault: with its action.
        toward: the side that the direction leads to in which it strikes.
        struck: what is told of a signal that changed something.
    """
    if isinstance(fault.action, Signal):
        return [Signalled(fault.action.side, fault.action.signal, struck)]
    commands = _commands(fault, toward)
    if not fault.everywhere:
        return commands
    return [
        Everywhere(each)
        if isinstance(each, HalfCloseCommand | End | GoDark | Wait | Shape)
        else each
        for each in commands
    ]


def _commands(fault: Fault, toward: Side) -> list[Command]:
    match fault.action:
        case Close(side=side):
            return [End(each, reset=False) for each in _each(side)]
        case Reset(side=side):
            return [End(each, reset=True) for each in _each(side)]
        case HalfClose(toward=side):
            return [HalfCloseCommand(each) for each in _each(side)]
        case Truncate():
            return [HalfCloseCommand(toward)]
        case Blackhole(toward=side, swallow=swallow):
            return [GoDark(each, swallow) for each in _each(side)]
        case Refuse(for_s=for_s_or_ever):
            return [StopListening(for_s_or_ever)]
        case DelayAccept(for_s=for_s):
            return [HoldBack(for_s)]
        case Tarpit():
            return [TarpitCommand()]
    return _shapes(fault)


def _shapes(fault: Fault) -> list[Command]:
    match fault.action:
        case Stall(for_s=for_s, toward=side):
            return [Wait(each, for_s) for each in _each(side)]
        case Latency(toward=side) | Bandwidth(toward=side) | Slice(toward=side):
            return [Shape(each, fault.action) for each in _each(side)]
        case Restore(toward=side):
            return [Shape(each, None) for each in _each(side)]
    return []


def _each(side: Side) -> tuple[Side, ...]:
    return (Side.SOURCE, Side.DESTINATION) if side is Side.BOTH else (side,)
