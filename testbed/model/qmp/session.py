"""One client of a QMP monitor, from greeting to end: bytes in, bytes and calls of commands out.

Commands are executed one after the other, in the order in which they came, and an error of the
input takes its place among them. Until the client negotiated `oob`, nothing is read while a command
waits or is executed; from then on, up to `QUEUE_MAX` commands wait, and what comes as `exec-oob` is
executed at once.

Pure: the shell executes each `Call` that `next_call` returns and hands the result to `answer`.
Source of the behaviour: `monitor/qmp.c`, `qapi/qmp-dispatch.c`, `docs/interop/qmp-spec.txt` (7.2).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from .commands import Command, Commands, Version
from .error import CommandError
from .json import JsonError, Message, MessageParser
from .output import line, order

QUEUE_MAX = 8
"""Commands that wait behind the one that is executed (`QMP_REQ_QUEUE_LEN_MAX`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A command to be executed, with arguments of the right types."""

    command: Command
    arguments: dict[str, Any]
    oob: bool
    echo: dict[str, Any]  # {"id": ...} if the client gave one


class Session:
    """What one connection has said and is to be told.

    Args:
        commands: what it can execute.
        version: told in the greeting.
    """

    def __init__(self, commands: Commands, version: Version) -> None:
        self._commands = commands
        self._parser = MessageParser()
        self._queue: deque[Message | CommandError] = deque()
        self._oob_waiting: Message | None = None
        self._executed: Call | None = None
        self._negotiated = self._oob = False
        self.output = bytearray()
        """What is to be sent; the shell takes from its beginning what it has sent."""
        self._say({"QMP": {"version": version.as_json(), "capabilities": ["oob"]}})

    @property
    def wants_input(self) -> bool:
        """Whether it would look at more input; once `next_call` returned None."""
        if self._oob:
            return len(self._queue) < QUEUE_MAX
        return not self._queue and self._executed is None

    def receive(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._parser.feed(data)

    def next_call(self, *, in_band: bool = True) -> Call | None:
        """Return what is to be executed next; None: nothing, for now.

        Args:
            in_band: false while a command of an earlier client is still being executed.
        """
        while True:
            self._read()
            request: Message | CommandError
            if self._oob_waiting is not None:
                request, self._oob_waiting = self._oob_waiting, None
            elif in_band and self._executed is None and self._queue:
                request = self._queue.popleft()
            else:
                return None
            if (call := self._dispatch(request)) is not None:
                if not call.oob:
                    self._executed = call
                return call

    def answer(self, call: Call, result: Any) -> None:
        """Tell the client what became of `call`.

        Args:
            call: as `next_call` returned it.
            result: a `CommandError`, or what it returns; None: an empty object.
        """
        if call is self._executed:
            self._executed = None
        self._answer(call.echo, result)

    def event(self, name: str, data: dict[str, Any] | None, time_us: int) -> None:
        """Tell the client of an event, if it has finished the negotiation.

        Args:
            name: such as `MIGRATION`.
            data: None: the event has none.
            time_us: since the epoch.
        """
        if not self._negotiated:
            return
        seconds, microseconds = divmod(time_us, 1_000_000)
        event: dict[str, Any] = {
            "event": name,
            "timestamp": {"seconds": seconds, "microseconds": microseconds},
        }
        if data is not None:
            event["data"] = data
        self._say(event)

    def _read(self) -> None:
        """Put into the queue what has come, until it is full."""
        while self.wants_input and self._oob_waiting is None:
            try:
                message = self._parser.next_message()
            except JsonError as error:
                self._queue.append(CommandError(str(error)))
                continue
            if message is None:
                return
            value = message.value
            if isinstance(value, dict) and "exec-oob" in value and "execute" not in value:
                self._oob_waiting = message
            else:
                self._queue.append(message)

    def _dispatch(self, request: Message | CommandError) -> Call | None:
        """Return the call that `request` asks for; None: it is answered already."""
        if isinstance(request, CommandError):
            self._answer({}, request)
            return None
        value = request.value
        echo = {"id": value["id"]} if isinstance(value, dict) and "id" in value else {}
        try:
            name, oob = self._name(value)
            if not self._negotiated and name != "qmp_capabilities":
                raise CommandError(
                    "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"
                )
            command = self._commands.find(name, oob=oob)
            arguments = command.arguments.check(value.get("arguments", {}), "", "null")
        except CommandError as error:
            self._answer(echo, error)
            return None
        if self._negotiated:
            return Call(command, arguments, oob, echo)
        self._negotiated = True
        self._oob = "oob" in arguments.get("enable", ())
        self._answer(echo, None)
        return None

    def _name(self, value: Any) -> tuple[str, bool]:
        """Return the command that `value` names, and whether it is to be executed out of band.

        Raises:
            CommandError: it is not of the form that commands have.
        """
        if not isinstance(value, dict):
            raise CommandError("QMP input must be a JSON object")
        names: dict[str, str] = {}
        for member in order(value):
            said = f"QMP input member '{member}'"
            if member == "execute" or (member == "exec-oob" and self._oob):
                if not isinstance(value[member], str):
                    raise CommandError(f"{said} must be a string")
                if names:
                    raise CommandError(f"{said} clashes with '{next(iter(names))}'")
                names[member] = value[member]
            elif member == "arguments":
                if not isinstance(value[member], dict):
                    raise CommandError(f"{said} must be an object")
            elif member != "id":
                raise CommandError(f"{said} is unexpected")
        if not names:
            raise CommandError("QMP input lacks member 'execute'")
        ((how, name),) = names.items()
        return name, how == "exec-oob"

    def _answer(self, echo: dict[str, Any], result: Any) -> None:
        if isinstance(result, CommandError):
            self._say({"error": result.as_json(), **echo})
        else:
            self._say({"return": {} if result is None else result, **echo})

    def _say(self, value: dict[str, Any]) -> None:
        self.output += line(value)
