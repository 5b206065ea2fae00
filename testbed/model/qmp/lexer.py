"""Bytes of QMP input to JSON tokens, as QEMU's lexer cuts them; pure and incremental.

More is let in than JSON has: strings in single quotes. What fits no token is a `Stray`, and the
lexer then passes over bytes until one that may begin a new token for certain: a bracket, a brace,
a comma, a colon, a control character other than TAB, 0xFE or 0xFF. These last two are part of no
token at all, so a client that does not know how a connection was left sends 0xFF before its first
command, and has one error more to read.

Source of the behaviour: `qobject/json-lexer.c`, `docs/interop/qmp-spec.txt` 2.6 (QEMU 7.2), and
7.2.22 itself, which the live test asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

TOKEN_BYTES_MAX = 64 << 20
"""Bytes of one token, and of all tokens of one message (`MAX_TOKEN_SIZE`)."""

STRUCTURAL = b"{}[]:,"
"""Tokens of one byte; a token that is an `int` is one of these."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Bytes that fit no token, the one that showed it included."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Oversized:
    """A token longer than `TOKEN_BYTES_MAX`; its bytes are forgotten."""


Token = int | bytes | Stray | Oversized
"""A structural byte; a string (with its quotes), number or keyword; or what is neither."""


class _State(IntEnum):
    """Where in a token the lexer is; from `END` on: what the byte at hand does to the token."""

    START = 0
    RECOVERY = 1
    DQ_STRING = 2
    DQ_ESCAPE = 3
    SQ_STRING = 4
    SQ_ESCAPE = 5
    SIGN = 6
    ZERO = 7
    DIGITS = 8
    POINT = 9
    FRACTION = 10
    E = 11
    E_SIGN = 12
    EXPONENT = 13
    KEYWORD = 14

    END = 15  # it is the last of its token
    END_BEFORE = 16  # it belongs to what comes after the token
    ERROR = 17  # it cannot be there


_IN_STRING = bytes(range(0x20, 0xFE))
_DIGIT = b"0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_CONTROL = bytes(range(0x20))

_RULES: dict[_State, tuple[_State, dict[bytes, _State]]] = {
    # state: (what other bytes do, {bytes: what they do}); a later entry overrides an earlier one
    _State.START: (
        _State.ERROR,
        {
            b" \t\r\n": _State.START,
            STRUCTURAL: _State.END,
            b'"': _State.DQ_STRING,
            b"'": _State.SQ_STRING,
            b"-": _State.SIGN,
            b"0": _State.ZERO,
            b"123456789": _State.DIGITS,
            _LOWER: _State.KEYWORD,
        },
    ),
    _State.RECOVERY: (
        _State.RECOVERY,
        {_CONTROL + b"\xfe\xff" + STRUCTURAL: _State.END_BEFORE, b"\t": _State.RECOVERY},
    ),
    _State.DQ_STRING: (
        _State.ERROR,
        {_IN_STRING: _State.DQ_STRING, b"\\": _State.DQ_ESCAPE, b'"': _State.END},
    ),
    _State.DQ_ESCAPE: (_State.ERROR, {_IN_STRING: _State.DQ_STRING}),
    _State.SQ_STRING: (
        _State.ERROR,
        {_IN_STRING: _State.SQ_STRING, b"\\": _State.SQ_ESCAPE, b"'": _State.END},
    ),
    _State.SQ_ESCAPE: (_State.ERROR, {_IN_STRING: _State.SQ_STRING}),
    _State.SIGN: (_State.ERROR, {b"0": _State.ZERO, b"123456789": _State.DIGITS}),
    _State.ZERO: (_State.END_BEFORE, {_DIGIT: _State.ERROR, b".": _State.POINT}),
    _State.DIGITS: (
        _State.END_BEFORE,
        {_DIGIT: _State.DIGITS, b".": _State.POINT, b"eE": _State.E},
    ),
    _State.POINT: (_State.ERROR, {_DIGIT: _State.FRACTION}),
    _State.FRACTION: (_State.END_BEFORE, {_DIGIT: _State.FRACTION, b"eE": _State.E}),
    _State.E: (_State.ERROR, {_DIGIT: _State.EXPONENT, b"+-": _State.E_SIGN}),
    _State.E_SIGN: (_State.ERROR, {_DIGIT: _State.EXPONENT}),
    _State.EXPONENT: (_State.END_BEFORE, {_DIGIT: _State.EXPONENT}),
    _State.KEYWORD: (_State.END_BEFORE, {_LOWER: _State.KEYWORD}),
}


def _row(state: _State) -> bytes:
    """Return what each of the 256 bytes does in `state`."""
    others, rules = _RULES[state]
    row = bytearray([others]) * 256
    for members, then in rules.items():
        for member in members:
            row[member] = then
    return bytes(row)


def _run(state: _State, row: bytes) -> re.Pattern[bytes] | None:
    """Match the bytes that leave `state` as it is: long tokens are not read byte by byte."""
    same = b"".join(re.escape(bytes([byte])) for byte in range(256) if row[byte] == state)
    return re.compile(b"[%s]*" % same) if same else None


_NEXT = [_row(state) for state in _RULES]
_RUN = [_run(state, row) for state, row in zip(_RULES, _NEXT, strict=True)]


class Lexer:
    """Cuts what it is fed into tokens.

    Args:
        token_bytes_max: a token may be this long.
    """

    def __init__(self, token_bytes_max: int = TOKEN_BYTES_MAX) -> None:
        self._token_bytes_max = token_bytes_max
        self._data = b""
        self._position = 0
        self._state: int = _State.START
        self._held = bytearray()  # of a token whose end has not come

    @property
    def unread_bytes(self) -> int:
        """How much of what was fed `next_token` has not looked at."""
        return len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        """Append `data` to what is unread."""
        self._data = self._data[self._position :] + data
        self._position = 0

    def next_token(self) -> Token | None:
        """Return the next token; None: more bytes are needed."""
        data, end, state = self._data, len(self._data), self._state
        start = position = self._position
        longest = self._token_bytes_max - len(self._held)
        while position < end:
            between = state <= _State.RECOVERY
            if run := _RUN[state]:
                until = end if between else min(end, start + longest + 1)
                if matched := run.match(data, position, until):
                    position = matched.end()
            if between:
                start = position  # nothing to hold
            if position == end or position - start > longest:
                break
            then = _NEXT[state][data[position]]
            if then < _State.END:
                state = then
                position += 1
            elif state == _State.RECOVERY:
                state = _State.START
            else:
                position += then != _State.END_BEFORE
                return self._end(start, position, stray=then == _State.ERROR)
        self._position, self._state = position, state
        if position - start > longest:
            self._held.clear()
            self._state = _State.START
            return Oversized()
        self._held += data[start:position]
        return None

    def _end(self, start: int, position: int, *, stray: bool) -> Token:
        text = bytes(self._held) + self._data[start:position]
        self._held.clear()
        self._position = position
        self._state = _State.RECOVERY if stray else _State.START
        if stray:
            return Stray(text)
        return text[0] if len(text) == 1 and text in STRUCTURAL else text
