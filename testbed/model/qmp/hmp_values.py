"""Values of parameters as the human monitor reads them: text to what QMP would be given.

Source of the behaviour: `util/cutils.c` (`do_strtosz`), `qapi/string-input-visitor.c`,
`monitor/hmp-cmds.c`, `hmp_migrate_set_parameter`; 7.2, and early 2017.
"""

from __future__ import annotations

import re
from typing import Any

from testbed.model.qmp.settings import Parameter

from .error import CommandError
from .schema import BOOL, INT, STR, Array, Enum, Integer

_SIZE = re.compile(r"\s*\+?(\d+)(\.\d*)?([BKMGTPE]?)", re.IGNORECASE | re.ASCII)
_HEX_SIZE = re.compile(r"\s*\+?0x([0-9a-f]+)([BKMGTPE]?)", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\s*([+-]?)(0x[0-9a-f]+|\d+)", re.IGNORECASE | re.ASCII)
_DECIMAL = re.compile(r"\s*[+-]?\d+", re.ASCII)
_WORDS = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}
_2_64 = 1 << 64


def read_value(parameter: Parameter, text: str) -> Any:
    """Return what `text` means as the value of a parameter.

    Raises:
        CommandError: it means none; the rest is checked as if it came by QMP.
    """
    name, kind = parameter.name, parameter.type
    if name == "max-bandwidth":
        return _bandwidth(text)
    if kind is INT:
        return _int(text)
    if kind is BOOL:
        return _bool(name, text)
    if isinstance(kind, Integer):
        return _size_of(name, text) if kind.bits == 64 else _uint(name, kind, text)
    if isinstance(kind, Enum):
        return kind.check(text, name, name)
    if isinstance(kind, Array):
        raise CommandError(f"The {name} parameter can only be set through QMP")
    return STR.check(text, name, name)


def _bandwidth(text: str) -> int:
    """Without a suffix, of mebibytes."""
    size = size_bytes(text, unit="M")
    if size is None or size >= 1 << 63:
        raise CommandError(f"Invalid size {text}")
    return size


def _size_of(name: str, text: str) -> int:
    size = size_bytes(text, unit="B")
    if size is None:
        raise CommandError(
            f"Parameter '{name}' expects a non-negative number below 2^64\n"
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
            "and exabytes, respectively."
        )
    if size >= _2_64:
        raise CommandError(f"Value '{text}' is out of range for parameter '{name}'")
    if name == "xbzrle-cache-size" and size >= 1 << 63:
        raise CommandError(f"Invalid size {text}")
    return size


def size_bytes(text: str, *, unit: str) -> int | None:
    """Return the size that `text` means, be it beyond 64 bits; None: it means none.

    Args:
        text: digits, a fraction if it is not of bytes, a letter. Behind hexadecimal digits QEMU
            takes the letter too, and warns.
        unit: the letter that counts if there is none.
    """
    if found := _HEX_SIZE.fullmatch(text):
        return int(found[1], 16) * _factor(found[2] or unit)
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    factor = _factor(found[3] or unit)
    # 64 bits behind the point, as QEMU has them, and rounded as there.
    fraction = int(float(f"0{found[2] or '.0'}0") * _2_64)
    if factor == 1 and fraction:
        return None
    return int(found[1]) * factor + (fraction * factor + _2_64 // 2) // _2_64


def _factor(letter: str) -> int:
    return 1 << 10 * "BKMGTPE".index(letter.upper())


def _uint(name: str, kind: Integer, text: str) -> int:
    """As C reads an unsigned number: of any base, and what is negative counts from 2^64 down."""
    found = _NUMBER.fullmatch(text)
    value = None if found is None else _strtoul(found[2])
    if found is None or value is None or value >= _2_64:
        raise CommandError(f"Parameter '{name}' expects uint64")
    return kind.check(-value if found[1] == "-" else value, name, name)


def _strtoul(digits: str) -> int | None:
    if digits.lower().startswith("0x"):
        return int(digits, 16)
    if digits.startswith("0"):
        return int(digits, 8) if set(digits) <= set("01234567") else None
    return int(digits)


def _bool(name: str, text: str) -> bool:
    if text not in _WORDS:
        raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
    return _WORDS[text]


def _int(text: str) -> int:
    """2.9's way with all integers."""
    if _DECIMAL.fullmatch(text) is None or not -1 << 63 <= int(text) < 1 << 63:
        raise CommandError(f"Unable to parse '{text}' as an int")
    return int(text)
