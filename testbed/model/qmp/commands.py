"""The commands that a monitor knows: name, types of the arguments, who executes them.

Source of the texts: `qapi/qmp-dispatch.c`, `monitor/qmp-cmds.c`, `monitor/qmp.c` (QEMU 7.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from .error import CommandError
from .schema import Array, Enum, Struct, Type

Handler = Callable[[dict[str, Any]], Any | Awaitable[Any]]
"""Takes the checked arguments; returns what is answered (None: an empty object), now or awaited.

Raises `CommandError` to refuse. Whatever else it raises is a mistake of ours and ends the process.
"""


class Version(NamedTuple):
    """What `query-version` and the greeting say."""

    major: int
    minor: int
    micro: int
    package: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a `VersionInfo`."""
        numbers = {"major": self.major, "minor": self.minor, "micro": self.micro}
        return {"qemu": numbers, "package": self.package}

    def __str__(self) -> str:
        """Return it as HMP's `info version` does: nothing stands before the package."""
        return f"{self.major}.{self.minor}.{self.micro}{self.package}"


class Command(NamedTuple):
    """One command."""

    name: str
    handler: Handler
    arguments: Struct
    allow_oob: bool  # may be executed by `exec-oob`, while another is being executed
    allow_preconfig: bool  # may be executed before there is a machine


class Commands:
    """All commands of a monitor; the one that was added last is listed first.

    Args:
        machine_ready: whether there is a machine yet. Asked for every command but those that
            `allow_preconfig`.
    """

    def __init__(self, machine_ready: Callable[[], bool] = lambda: True) -> None:
        self._machine_ready = machine_ready
        self._by_name: dict[str, Command] = {}
        self.add("qmp_capabilities", _refuse_negotiation, NEGOTIATION, allow_preconfig=True)
        self.add("query-commands", self._query_commands, allow_preconfig=True)

    def add(
        self,
        name: str,
        handler: Handler,
        arguments: Mapping[str, Type] | None = None,
        *,
        allow_oob: bool = False,
        allow_preconfig: bool = False,
    ) -> None:
        """Add a command.

        Args:
            name: as in QEMU's schema.
            handler: what executes it. One that `allow_oob` must return at once.
            arguments: their types, as `Struct` takes them.
            allow_oob: a client that negotiated it may have it executed out of band.
            allow_preconfig: it needs no machine.
        """
        assert name not in self._by_name, name
        self._by_name[name] = Command(
            name, handler, Struct(arguments or {}), allow_oob, allow_preconfig
        )

    def find(self, name: str, *, oob: bool) -> Command:
        """Return the command that may be executed under `name`, now.

        Raises:
            CommandError: there is none, or it may not.
        """
        command = self._by_name.get(name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        if oob and not command.allow_oob:
            raise CommandError(f"The command {name} does not support OOB")
        if not command.allow_preconfig and not self._machine_ready():
            raise CommandError(
                f"The command '{name}' is permitted only after machine initialization has completed"
            )
        return command

    def _query_commands(self, arguments: dict[str, Any]) -> Any:  # noqa: ARG002
        return [{"name": name} for name in reversed(self._by_name)]


NEGOTIATION: Mapping[str, Type] = {"*enable": Array(Enum(("oob",)))}
"""The arguments of `qmp_capabilities`."""


def _refuse_negotiation(arguments: dict[str, Any]) -> Any:  # noqa: ARG001
    raise CommandError(
        "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
    )
