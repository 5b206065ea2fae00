"""Bodies of requests: JSON into plain values, with an error that says which field is wrong.

As Toxiproxy's: a field that is null or not there has its default, an unknown one is ignored, names
of fields are the same in upper and lower case, and what follows the first value is not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import bad_body

INTEGER_MAX = 2**63 - 1
"""Toxiproxy's integers are Go's int64."""


def read(body: bytes) -> Any:
    """The first JSON value of a body.

    Raises:
        ApiError: 400, there is none.
    """
    try:
        text = body.decode("utf-8").lstrip(" \t\r\n")
        if not text:
            raise bad_body("it is empty; expected JSON")
        return json.JSONDecoder(parse_constant=_no_number).raw_decode(text)[0]
    except UnicodeDecodeError as error:
        raise bad_body("it is not UTF-8") from error
    except RecursionError as error:
        raise bad_body("it is nested too deep") from error
    except ValueError as error:
        raise bad_body(f"it is not JSON: {error}") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


class Fields:
    """The fields of a JSON object.

    Args:
        value: what should be one.
        path: what it is in the body, for messages.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict):
            where = f"{path}: " if path else ""
            raise bad_body(f"{where}expected an object, got {shown(value)}")
        self._values = {name.lower(): each for name, each in value.items()}
        self._path = f"{path}." if path else ""

    def has(self, name: str) -> bool:
        """It is there, and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return default if not self.has(name) else self._typed(name, str, "a text")

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return default if not self.has(name) else self._typed(name, bool, "true or false")

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number, as far as 64 bits go."""
        if not self.has(name):
            return default
        value = self._values[name]
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole or value != math.floor(value) or abs(value) > INTEGER_MAX:
            raise bad_body(f"{self._path}{name}: expected a whole number, got {shown(value)}")
        return int(value)

    def number(self, name: str, default: float) -> float:
        """A number."""
        if not self.has(name):
            return default
        value = self._values[name]
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise bad_body(f"{self._path}{name}: expected a number, got {shown(value)}")
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty if it is not there."""
        return [] if not self.has(name) else self._typed(name, list, "a list")

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object as it is; empty if it is not there."""
        return {} if not self.has(name) else self._typed(name, dict, "an object")

    def _typed(self, name: str, kind: type, words: str) -> Any:
        value = self._values[name]
        if not isinstance(value, kind):
            raise bad_body(f"{self._path}{name}: expected {words}, got {shown(value)}")
        return value


def shown(value: Any) -> str:
    """A value in a message; not all of a long one."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
