"""QMP input to JSON values, with QEMU's rules, limits and error texts; pure and incremental.

A message is a value at the top level. It is looked at when the last bracket of it has come, or one
too many; until then nothing is said of it. After an error reading starts over with the next token.
Objects are `dict`, whose keys stand in the order of the input.

Source of the behaviour: `qobject/json-streamer.c`, `json-parser.c`, `util/unicode.c` (QEMU 7.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .lexer import TOKEN_BYTES_MAX, Lexer, Oversized, Stray
from .unicode import decode, is_text, is_valid

TOKEN_COUNT_MAX = 2 << 20
"""Tokens of one message (`MAX_TOKEN_COUNT`)."""

NESTING_MAX = 1 << 10
"""Brackets and braces that are open at once (`MAX_NESTING`)."""

INTEGER_DIGITS_MAX = 20
"""Those of the largest integer that QEMU has, an unsigned one of 64 bits."""


WHAT_MAX = 1023
"""Characters of what the parser (not the lexer) says is wrong; the rest is cut."""


class JsonError(Exception):
    """The input is no JSON that QEMU would read; the text is QEMU's."""


@dataclass(frozen=True, slots=True)
class Message:
    """One value of the input."""

    value: Any


class MessageParser:
    """Takes input as it comes; gives one message after the other.

    Args:
        token_bytes_max: bytes of one message, white space not counted.
        token_count_max: tokens of one message.
    """

    def __init__(
        self,
        token_bytes_max: int = TOKEN_BYTES_MAX,
        token_count_max: int = TOKEN_COUNT_MAX,
    ) -> None:
        self._bytes_max = token_bytes_max
        self._count_max = token_count_max
        self._lexer = Lexer(token_bytes_max)
        self._start_over()

    @property
    def unread_bytes(self) -> int:
        """How much of what was fed belongs to messages that nobody has asked for."""
        return self._lexer.unread_bytes

    def feed(self, data: bytes) -> None:
        """Append `data` to the input."""
        self._lexer.feed(data)

    def next_message(self) -> Message | None:
        """Return the next message; None: more input is needed.

        Raises:
            JsonError: the next message is none. The one after it can be asked for.
        """
        while (token := self._lexer.next_token()) is not None:
            if isinstance(token, Stray):
                self._start_over()
                raise JsonError(f"JSON parse error, stray '{decode(token.text)}'")
            self._count(token)
            if not isinstance(token, Oversized):
                self._tokens.append(token)
            if self._braces < 0 or self._brackets < 0 or self._braces == self._brackets == 0:
                tokens = self._tokens
                self._start_over()
                return Message(_parse(tokens))
        return None

    def _start_over(self) -> None:
        self._tokens: list[int | bytes] = []
        self._bytes = self._braces = self._brackets = 0

    def _count(self, token: int | bytes | Oversized) -> None:
        """Hold `token` to the limits.

        Raises:
            JsonError: it is one too many, and the whole message is forgotten.
        """
        if isinstance(token, int):
            size = 1
            self._braces += (token == _LBRACE) - (token == _RBRACE)
            self._brackets += (token == _LBRACKET) - (token == _RBRACKET)
        else:
            size = self._bytes_max if isinstance(token, Oversized) else len(token)
        limit = None
        if self._bytes + size + 1 > self._bytes_max:
            limit = "token size"
        elif len(self._tokens) + 1 > self._count_max:
            limit = "token count"
        elif self._braces + self._brackets > NESTING_MAX:
            limit = "nesting depth"
        if limit is not None:
            self._start_over()
            raise JsonError(f"JSON {limit} limit exceeded")
        self._bytes += size


_LBRACE, _RBRACE, _LBRACKET, _RBRACKET, _COLON, _COMMA = b"{}[]:,"


class _Array:
    """An array of which more is to come."""

    def __init__(self) -> None:
        self.value: list[Any] = []
        self.wants_value = True
        self._fresh = True

    def add(self, value: Any) -> None:
        self.value.append(value)
        self.wants_value = False

    def mark(self, token: int | bytes) -> bool:
        """Take a token between values; true: it is the last."""
        if token == _RBRACKET:
            return True
        if token != _COMMA:
            raise _error("expected separator in list")
        self.wants_value = True
        self._fresh = False
        return False

    def closes(self, token: int | bytes) -> bool:
        """Whether `token`, where a value is wanted, ends it."""
        return self._fresh and token == _RBRACKET


class _Object:
    """An object of which more is to come."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.wants_value = True
        self._fresh = True
        self._key: str | None = None
        self._in_value = False

    def add(self, value: Any) -> None:
        self.wants_value = False
        if not self._in_value:
            if not isinstance(value, str):
                raise _error("key is not a string in object")
            self._key = value
            return
        assert self._key is not None
        if self._key in self.value:
            raise _error("duplicate key")
        self.value[self._key] = value

    def mark(self, token: int | bytes) -> bool:
        """Take a token between values; true: it is the last."""
        if self._in_value:
            if token == _RBRACE:
                return True
            if token != _COMMA:
                raise _error("expected separator in dict")
        elif token != _COLON:
            raise _error("missing : in object pair")
        self._in_value = not self._in_value
        self.wants_value = True
        self._fresh = False
        return False

    def closes(self, token: int | bytes) -> bool:
        """Whether `token`, where a key is wanted, ends it."""
        return self._fresh and token == _RBRACE


def _parse(tokens: Iterable[int | bytes]) -> Any:
    """Return the value that `tokens` are; a bracket too many in them is an error by itself."""
    open_values: list[_Array | _Object] = []
    value: Any = None
    for token in tokens:
        inmost = open_values[-1] if open_values else None
        if inmost is None or (inmost.wants_value and not inmost.closes(token)):
            if token == _LBRACE:
                open_values.append(_Object())
                continue
            if token == _LBRACKET:
                open_values.append(_Array())
                continue
            value = _scalar(token)
        elif inmost.wants_value or inmost.mark(token):
            value = open_values.pop().value
        else:
            continue
        if open_values:
            open_values[-1].add(value)
    return value


_KEYWORDS: dict[bytes, Any] = {b"true": True, b"false": False, b"null": None}


def _scalar(token: int | bytes) -> Any:
    if isinstance(token, int):
        raise _error("expecting value")
    if token[0] in b"\"'":
        return _string(token)
    if token in _KEYWORDS:
        return _KEYWORDS[token]
    if token[0] in b"-0123456789":
        return _number(token)
    raise _error(f"invalid keyword '{decode(token)}'")


def _number(token: bytes) -> int | float:
    """Return an integer if it is one of QEMU's, signed or not; a float for all others."""
    if len(token) <= INTEGER_DIGITS_MAX and token.lstrip(b"-").isdigit():
        value = int(token)
        if -(1 << 63) <= value < 1 << 64:
            return value
    return float(token)


_ESCAPED = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_UNICODE_ESCAPE_BYTES = len(rb"\u0000")


def _string(token: bytes) -> str:
    """Return the text of a string token."""
    parts = []
    position, end = 1, len(token) - 1
    while position < end:
        if token[position] != ord("\\"):
            until = token.find(b"\\", position, end)
            until = until if until >= 0 else end
            part = token[position:until]
            if not is_text(part):
                raise _error("invalid UTF-8 sequence in string")
            parts.append(decode(part))
            position = until
        elif token[position + 1] == ord("u"):
            character, position = _unicode_escape(token, position)
            parts.append(character)
        elif (plain := _ESCAPED.get(token[position + 1])) is not None:
            parts.append(plain)
            position += 2
        else:
            raise _error("invalid escape sequence in string")
    return "".join(parts)


_HEX4 = re.compile(rb"\\u([0-9a-fA-F]{4})")


def _unicode_escape(token: bytes, position: int) -> tuple[str, int]:
    """Return the character that is escaped at `position`, and where the escape ends."""
    first = _HEX4.match(token, position)
    end = position + _UNICODE_ESCAPE_BYTES
    if first is not None:
        code = int(first[1], 16)
        second = _HEX4.match(token, end) if 0xD800 <= code < 0xDC00 else None
        if second is not None and 0xDC00 <= (trail := int(second[1], 16)) < 0xE000:
            code = 0x10000 + ((code - 0xD800) << 10) + (trail - 0xDC00)
            end = second.end()
        if is_valid(code):
            return chr(code), end
    raise _error(f"{decode(token[position:end])} is not a valid Unicode character")


def _error(what: str) -> JsonError:
    return JsonError(f"JSON parse error, {what[:WHAT_MAX]}")
