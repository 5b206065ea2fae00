"""Text as QEMU holds it: modified UTF-8, in which NUL is C0 80, and not all characters are valid.

Source of the behaviour: `util/unicode.c`, `mod_utf8_codepoint` (QEMU 7.2).
"""

from __future__ import annotations

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SEQUENCE = re.compile(
    rb"[\x00-\x7f]+|[\xc0-\xdf][\x80-\xbf]{0,1}|[\xe0-\xef][\x80-\xbf]{0,2}"
    rb"|[\xf0-\xf7][\x80-\xbf]{0,3}|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|.",
    re.DOTALL,
)
"""ASCII, or a lead byte with what follows of its sequence: replaced as one if it is wrong."""

_INVALID = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef]|["
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
"""Surrogates and what Unicode calls noncharacters."""


def is_valid(code: int) -> bool:
    """Whether QEMU takes the code point for a character."""
    return code < 0x110000 and _INVALID.match(chr(code)) is None


def is_text(data: bytes) -> bool:
    """Whether all of `data` is valid modified UTF-8; it may have no NUL byte."""
    try:
        text = data.replace(b"\xc0\x80", b"0").decode()
    except UnicodeDecodeError:
        return False
    return _INVALID.search(text) is None


def decode(data: bytes) -> str:
    """Return `data` as text up to its first NUL; U+FFFD stands for each sequence not valid."""
    data = data.partition(b"\0")[0]
    if data.isascii():
        return data.decode("ascii")
    return "".join(_character(sequence[0]) for sequence in _SEQUENCE.finditer(data))


def _character(sequence: bytes) -> str:
    if sequence == b"\xc0\x80":
        return "\0"
    return sequence.decode() if is_text(sequence) else REPLACEMENT


def valid(text: str) -> str:
    """Return `text` with U+FFFD for each character that QEMU would not print."""
    return _INVALID.sub(REPLACEMENT, text)
