"""The human monitor, as `human-monitor-command` reaches it: one line in, text out.

Source of the behaviour: `monitor/hmp.c` (`monitor_parse_arguments`, `get_str`) (QEMU 7.2).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from .error import CommandError

HmpHandler = Callable[[dict[str, Any]], str | Awaitable[str]]
"""Takes the arguments that were given; returns what is printed. May refuse with `CommandError`."""

_WORD = re.compile(r"\s*([^\s/]*)")
_GRAPH = re.compile(r"\S*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\'\\nr])*)"')
_ESCAPES = {"n": "\n", "r": "\r"}


class HmpCommand(NamedTuple):
    """One command."""

    names: str  # such as "stop|s"
    handler: HmpHandler
    arguments: Mapping[str, str]
    params: str
    does: str


class Hmp:
    """The commands of the human monitor; those of `info` are a table of their own.

    Args:
        error_prefix: before the text of a command that is refused; 2.9 has none.
    """

    def __init__(self, error_prefix: str = "Error: ") -> None:
        self._error_prefix = error_prefix
        self._tables: dict[str, list[HmpCommand]] = {"": [], "info ": []}

    def add(
        self, names: str, handler: HmpHandler, arguments: str = "", *, params: str = "", does: str
    ) -> None:
        """Add a command.

        Args:
            names: as in `hmp-commands.hx`, such as `stop|s` or `info status`.
            handler: what executes it.
            arguments: as there: `detach:-d,uri:s`; `s` is a word, `s?` one that may be left out,
                `b` the word `on` or `off`, `-d` an option.
            params: what the help says of the arguments.
            does: what the help says it does.
        """
        table = "info " if names.startswith("info ") else ""
        types = dict(part.split(":", 1) for part in arguments.split(",") if part)
        self._tables[table].append(
            HmpCommand(names.removeprefix(table), handler, types, params, does)
        )

    async def execute(self, command_line: str) -> str:
        """Execute `command_line`; return what it prints, or why it did not, by lines."""
        return (await self._execute(command_line)).replace("\n", "\r\n")

    async def _execute(self, command_line: str) -> str:
        table = ""
        word = _match(_WORD, command_line, 0)
        if word[1] == "info":
            follows = _match(_WORD, command_line, word.end())
            if not follows[1]:
                return self._help("info ")
            table, word = "info ", follows
        elif not word[0].strip() and word.end() == len(command_line):
            return ""
        full_name = command_line[: word.end()]
        command = self._find(table, word[1])
        if command is None:
            return f"unknown command: '{full_name}'\n"
        try:
            arguments = _arguments(command, command_line[word.end() :])
        except _WrongArguments as error:
            return f'{error}\nTry "help {full_name}" for more information\n'
        try:
            printed = command.handler(arguments)
            return printed if isinstance(printed, str) else await printed
        except CommandError as error:
            return f"{self._error_prefix}{error.desc}\n"

    def _find(self, table: str, name: str) -> HmpCommand | None:
        for command in self._tables[table]:
            if name in command.names.split("|"):
                return command
        return None

    def _help(self, table: str) -> str:
        return "".join(
            f"{table}{command.names} {command.params} -- {command.does}\n"
            for command in sorted(self._tables[table], key=lambda command: command.names)
        )


class _WrongArguments(Exception):
    """Arguments that a command does not take."""


def _arguments(command: HmpCommand, rest: str) -> dict[str, Any]:
    """Read the arguments of `command` from `rest`, each by its type."""
    options = [kind[1] for kind in command.arguments.values() if kind[0] == "-"]
    arguments: dict[str, Any] = {}
    rest = rest.lstrip()
    for name, kind in command.arguments.items():
        if kind[0] == "-":
            if rest.startswith("-"):
                if rest[1:2] not in options:
                    raise _WrongArguments(f"{command.names}: unsupported option -{rest[1:2]}")
                if rest[1] == kind[1]:
                    arguments[name] = True
                    rest = rest[2:].lstrip()
            options.remove(kind[1])
        elif kind == "b":
            word = _match(_GRAPH, rest, 0)[0]
            if word not in ("on", "off"):
                raise _WrongArguments("Expected 'on' or 'off'")
            arguments[name], rest = word == "on", rest[len(word) :].lstrip()
        elif rest or kind != "s?":
            found = _string(rest)
            if found is None:
                raise _WrongArguments(f"{command.names}: string expected")
            arguments[name], rest = found[0], found[1].lstrip()
    if rest:
        raise _WrongArguments(f"{command.names}: extraneous characters at the end of line")
    return arguments


def _string(text: str) -> tuple[str, str] | None:
    """Return the word at the beginning of `text`, or what is quoted there, and what follows."""
    if not text.startswith('"'):
        word = _match(_GRAPH, text, 0)[0]
        return (word, text[len(word) :]) if word else None
    quoted = _QUOTED.match(text)
    if quoted is None:
        return None
    plain = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted[1])
    return plain, text[quoted.end() :]


def _match(pattern: re.Pattern[str], text: str, position: int) -> re.Match[str]:
    """Match a pattern that always does."""
    matched = pattern.match(text, position)
    assert matched is not None
    return matched
