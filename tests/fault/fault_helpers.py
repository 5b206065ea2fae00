"""Playing streams through the fault engine: what went in, what came out."""

from collections.abc import Iterable

from testbed.fault.command import Command, Observed, Send, Signalled
from testbed.fault.engine import FaultEngine
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import Side
from testbed.wire import ChannelKind

SOURCE, DESTINATION, BOTH = Side.SOURCE, Side.DESTINATION, Side.BOTH


def acts(commands: Iterable[Command]) -> list[Command]:
    """The commands that touch the connection, neighbouring sends of one direction as one."""
    done: list[Command] = []
    for command in commands:
        last = done[-1] if done else None
        if isinstance(command, Observed):
            continue
        if isinstance(command, Send) and isinstance(last, Send) and last.toward is command.toward:
            done[-1] = Send(last.toward, bytes(last.data) + bytes(command.data))
        else:
            done.append(command)
    return done


def struck(commands: Iterable[Command]) -> list[str]:
    """Where faults struck, as the log will have it."""
    return [str(told.facts["element"]) for told in strikes(commands)]


def strikes(commands: Iterable[Command]) -> list[Observed]:
    """What will be told of the faults that struck; of signals, if they changed something."""
    said = [each.struck if isinstance(each, Signalled) else each for each in commands]
    return [each for each in said if isinstance(each, Observed) and each.kind == "fault-struck"]


def run(relay: Passing, chunks: Iterable[bytes], sender: Side = SOURCE) -> list[Command]:
    """Feed chunks and the end from one side."""
    commands = [command for chunk in chunks for command in relay.received(sender, chunk)]
    return commands + relay.ended(sender)


def passed(commands: Iterable[Command], toward: Side = DESTINATION) -> bytes:
    """The bytes that went on toward that side."""
    return b"".join(c.data for c in commands if isinstance(c, Send) and c.toward is toward)


def through(engine: FaultEngine, chunks: Iterable[bytes]) -> bytes:
    """The bytes that come out of a new forward connection."""
    return passed(run(main(engine), chunks))


def main(engine: FaultEngine) -> Passing:
    """The relay of the first connection of an attempt, a main one."""
    return engine.connection(1, ChannelKind.MAIN)
