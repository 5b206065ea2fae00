"""Values to the text that QEMU prints for them, members in the order of its hash table.

Source of the behaviour: `qobject/qobject-json.c`, `json-writer.c`, `qdict.c` (QEMU 7.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from .unicode import valid

BUCKET_COUNT = 512
"""Those of an object's hash table (`QDICT_BUCKET_MAX`)."""

KEYS_CACHED_MAX = 4096
"""A client can invent as many keys as it likes, in an `id`."""

_SPECIAL = re.compile(r"[^ !#-\[\]-~]")  # the same said by what it is takes 7 ms to compile
_SHORT = {'"': r"\"", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def dumps(value: Any) -> str:
    """Return `value` as JSON in ASCII on one line, as `qobject_to_json` does.

    Args:
        value: None, bool, int, float, str; lists, tuples and dicts of them, nested as deep as may
            be.
    """
    parts: list[str] = []
    rest: list[Any] = [value]  # what is to be printed, the next one last
    while rest:
        item = rest.pop()
        if isinstance(item, _Literal):
            parts.append(item)
        elif isinstance(item, dict):
            rest += _between("{", "}", [_member(item, key) for key in order(item)])
        elif isinstance(item, list | tuple):
            rest += _between("[", "]", [(element,) for element in item])
        else:
            parts.append(_scalar(item))
    return "".join(parts)


class _Literal(str):
    """A piece of output."""


def _member(members: dict[str, Any], key: str) -> tuple[Any, ...]:
    return _Literal(f"{_scalar(key)}: "), members[key]


def _between(opening: str, closing: str, groups: list[tuple[Any, ...]]) -> list[Any]:
    """Return what a container prints, last piece first."""
    pieces: list[Any] = [_Literal(closing)]
    for group in reversed(groups):
        pieces += reversed(group)
        pieces.append(_COMMA)
    if groups:
        pieces.pop()
    pieces.append(_Literal(opening))
    return pieces


_COMMA = _Literal(", ")


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.17g}"
        case str():
            return f'"{_SPECIAL.sub(_escape, valid(value))}"'
        case _:
            raise TypeError(f"{type(value).__name__} is not of JSON")


def line(value: dict[str, Any]) -> bytes:
    """Return `value` as one line of QMP."""
    return dumps(value).encode("ascii") + b"\r\n"


def order(keys: Iterable[str]) -> list[str]:
    """Return `keys` in the order in which QEMU goes through an object.

    By bucket; in one bucket, the one that came last is first.
    """
    return sorted(reversed(list(keys)), key=_bucket)


@lru_cache(maxsize=KEYS_CACHED_MAX)
def _bucket(key: str) -> int:
    """Return where a key goes: the hash of Samba's TDB, on unsigned integers of 32 bits."""
    data = key.encode(errors="surrogatepass").replace(b"\0", b"\xc0\x80")
    total = 0x238F13AF * len(data)
    total += sum(byte << (5 * i % 24) for i, byte in enumerate(data))
    return (1103515243 * total + 12345) % BUCKET_COUNT


def _escape(matched: re.Match[str]) -> str:
    character = matched[0]
    if short := _SHORT.get(character):
        return short
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04X}"
    return f"\\u{0xD800 + (code - 0x10000 >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}"
