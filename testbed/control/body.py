"""Bodies of requests: JSON into plain values, with an error that says which field is wrong.

As Toxiproxy's: a field that is null or not there has its default, as has each if the whole is null;
an unknown one is ignored, names of fields are the same in upper and lower case, and what follows
the first value is not looked at.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import bad_body

INTEGER_END = 2**63
"""Toxiproxy's integers are Go's int64."""
FLOAT32 = struct.Struct("f")
FLOAT32_DIGITS = 9
"""So many tell any two apart."""


def read(body: bytes) -> Any:
    """The first JSON value of a body; what is not UTF-8 in its texts is U+FFFD.

    Raises:
        ApiError: 400, there is none.
    """
    try:
        text = body.decode("utf-8", errors="replace").lstrip(" \t\r\n")
        if not text:
            raise bad_body("it is empty; expected JSON")
        return json.JSONDecoder(parse_constant=_no_number).raw_decode(text)[0]
    except RecursionError as error:
        raise bad_body("it is nested too deep") from error
    except ValueError as error:
        raise bad_body(f"it is not JSON: {error}") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


class Fields:
    """The fields of a JSON object.

    Args:
        value: what should be one; null is one without fields.
        path: what it is in the body, for messages.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        value = {} if value is None else value
        if not isinstance(value, dict):
            where = f"{path}: " if path else ""
            raise bad_body(f"{where}expected an object, got {shown(value)}")
        self._values = {name.lower(): each for name, each in value.items()}
        self._path = f"{path}." if path else ""

    def has(self, name: str) -> bool:
        """It is there, and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """A text; half a pair of surrogates is U+FFFD."""
        if not self.has(name):
            return default
        text: str = self._typed(name, str, "a text")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return default if not self.has(name) else self._typed(name, bool, "true or false")

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number, as far as 64 bits go, and written as one: 5.0 is none."""
        if not self.has(name):
            return default
        value = self._values[name]
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad_body(f"{self._path}{name}: expected a whole number, got {shown(value)}")
        if not -INTEGER_END <= value < INTEGER_END:
            raise bad_body(f"{self._path}{name}: expected 64 bits at most, got {shown(value)}")
        return value

    def number(self, name: str, default: float) -> float:
        """A number, as near as a float32 comes."""
        if not self.has(name):
            return default
        value = self._values[name]
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise bad_body(f"{self._path}{name}: expected a number, got {shown(value)}")
        try:
            return _float32(value)
        except OverflowError as error:
            raise bad_body(f"{self._path}{name}: too large: {shown(value)}") from error

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


def _float32(value: float) -> float:
    """The shortest number that is the same float32; whole if it can be.

    Raises:
        OverflowError: no float32 is so large.
    """
    (near,) = FLOAT32.unpack(FLOAT32.pack(float(value)))
    if math.isinf(near):
        raise OverflowError
    digits = (float(f"{near:.{count}g}") for count in range(1, FLOAT32_DIGITS + 1))
    short = next(number for number in digits if FLOAT32.pack(number) == FLOAT32.pack(near))
    return int(short) if short.is_integer() and abs(short) < INTEGER_END else short


def shown(value: Any) -> str:
    """A value in a message; not all of a long one."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
