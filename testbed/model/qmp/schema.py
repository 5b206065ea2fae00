"""The types of commands' arguments, and how QEMU says that an argument is not of its type.

A command's arguments are written as QAPI writes them: `{"uri": STR, "*blk": BOOL}`, an asterisk
for what may be left out. Members are looked at in that order, and what is none of them after all.

Errors name an argument by its whole path (`capabilities[0].state`) or, for enumerations and
integers out of range, by its last name alone, which an element of an array does not have: QEMU then
says "null". Source: `qapi/qobject-input-visitor.c`, `qapi-visit-core.c` (QEMU 7.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .error import CommandError
from .output import order


class Type(Protocol):
    """What an argument may be."""

    def check(self, value: Any, path: str, name: str) -> Any:
        """Return `value` as a handler gets it.

        Args:
            value: of the input.
            path: from the outermost argument on.
            name: the last of its names, or "null".

        Raises:
            CommandError: it is of another type.
        """


@dataclass(frozen=True, slots=True)
class Plain:
    """A string, a boolean, or null."""

    of: type
    expected: str

    def check(self, value: Any, path: str, name: str) -> Any:  # noqa: ARG002
        """Return `value` itself."""
        if not isinstance(value, self.of):
            raise _mistyped(path, self.expected)
        return value


@dataclass(frozen=True, slots=True)
class Anything:
    """Whatever JSON has."""

    def check(self, value: Any, path: str, name: str) -> Any:  # noqa: ARG002
        """Return `value` itself."""
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer of so many bits. What is written with a point or an exponent is none."""

    bits: int
    signed: bool

    def check(self, value: Any, path: str, name: str) -> int:
        """Return `value`, which must be in range; below zero counts from 2^64 down if unsigned."""
        if isinstance(value, bool) or not isinstance(value, int):
            value = None
        if self.signed:
            if value is None or value >= 1 << 63:
                raise _mistyped(path, "integer")
            in_range = -1 << self.bits - 1 <= value < 1 << self.bits - 1
        else:
            if value is None:
                raise CommandError(f"Parameter '{path}' expects uint64")
            value %= 1 << 64
            in_range = value < 1 << self.bits
        if not in_range:
            kind = "int" if self.signed else "uint"
            raise CommandError(f"Parameter '{name}' expects {kind}{self.bits}_t")
        number: int = value
        return number


@dataclass(frozen=True, slots=True)
class Enum:
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any, path: str, name: str) -> str:
        """Return `value` itself."""
        if not isinstance(value, str):
            raise _mistyped(path, "string")
        if value not in self.words:
            raise CommandError(f"Parameter '{name}' does not accept value '{value}'")
        return value


@dataclass(frozen=True, slots=True)
class Alternate:
    """Something of one of several types that JSON tells apart; its name is QAPI's."""

    name: str
    of: tuple[type, ...]

    def check(self, value: Any, path: str, name: str) -> Any:  # noqa: ARG002
        """Return `value` itself."""
        if not isinstance(value, self.of):
            raise _mistyped(name, self.name)
        return value


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of values of one type."""

    of: Type

    def check(self, value: Any, path: str, name: str) -> list[Any]:  # noqa: ARG002
        """Return the checked elements."""
        if not isinstance(value, list):
            raise _mistyped(path, "array")
        return [self.of.check(item, f"{path}[{i}]", "null") for i, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class Struct:
    """Members by name; `*` before a name: it may be left out, and the handler does not get it."""

    members: Mapping[str, Type]

    def check(self, value: Any, path: str, name: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the checked members."""
        if not isinstance(value, dict):
            raise _mistyped(path, "object")
        within = f"{path}." if path else ""
        checked = {}
        for member, of in self.members.items():
            key = member.removeprefix("*")
            if key in value:
                checked[key] = of.check(value[key], within + key, key)
            elif key == member:
                raise CommandError(f"Parameter '{within}{key}' is missing")
        for key in order(value):
            if key not in checked:
                raise CommandError(f"Parameter '{within}{key}' is unexpected")
        return checked


STR = Plain(str, "string")
BOOL = Plain(bool, "boolean")
ANY = Anything()
INT = Integer(64, signed=True)
SIZE = UINT64 = Integer(64, signed=False)
UINT8, UINT16, UINT32 = (Integer(bits, signed=False) for bits in (8, 16, 32))
STR_OR_NULL = Alternate("StrOrNull", (str, type(None)))


def _mistyped(path: str, expected: str) -> CommandError:
    return CommandError(f"Invalid parameter type for '{path}', expected: {expected}")
