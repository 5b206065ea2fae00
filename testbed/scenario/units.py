"""The small languages inside a scenario: durations, sizes, hex bytes, version ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
SIZE = re.compile(r"(\d+)\s*([KMG]?)i?B?")
SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
VERSION = r"(\d+)(?:\.(\d+))?(?:\.(\d+))?"
BOUND = re.compile(rf"(<=|>=|<|>|=)?\s*{VERSION}")
BETWEEN = re.compile(rf"{VERSION}\s*-\s*{VERSION}")
Version = tuple[int, int, int]


def _duration(value: Any) -> Any:
    if isinstance(value, str) and (found := DURATION.fullmatch(value.strip())):
        return float(found[1]) * SECONDS[found[2]]
    raise ValueError(f"expected a duration such as 500ms, 20s or 2m, got {value!r}")


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := SIZE.fullmatch(value.strip())):
        return int(found[1]) * SIZE_FACTORS[found[2]]
    raise ValueError(f"expected a size such as 64M, 1G or a number of bytes, got {value!r}")


def size_of(value: Any) -> Any:
    """The number of a text such as `32M`; any other value as it is."""
    return _size(value) if isinstance(value, str) and SIZE.fullmatch(value) else value


def hex_bytes(value: Any) -> bytes:
    """Bytes of a hexadecimal text; blanks between them are allowed.

    Raises:
        ValueError: it is no such text.
    """
    if isinstance(value, str):
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass
    raise ValueError(f'expected hexadecimal bytes such as "00ff", in quotes, got {value!r}')


Duration = Annotated[float, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size)]
HexBytes = Annotated[bytes, BeforeValidator(hex_bytes)]


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions of QEMU: `>=7.2`, `<10`, `5.2-9.2`, `>=7.2 <10`; `*` is all of them.

    A bound names a whole series: `<=9.2` and `5.2-9.2` include 9.2.4.
    """

    text: str
    bounds: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Read a range.

        Raises:
            ValueError: it is none.
        """
        stripped = text.strip()
        if stripped == "*":
            return cls(text, ())
        if found := BETWEEN.fullmatch(stripped):
            parts = found.groups()
            return cls(text, ((">=", _numbers(parts[:3])), ("<=", _numbers(parts[3:]))))
        bounds = []
        for word in stripped.split():
            found = BOUND.fullmatch(word)
            if found is None:
                raise ValueError(
                    f'expected a version range such as ">=7.2", "<10" or "5.2-9.2", got {text!r}'
                )
            bounds.append((found[1] or "=", _numbers(found.groups()[1:])))
        if not bounds:
            raise ValueError("expected a version range, got an empty text")
        return cls(text, tuple(bounds))

    def matches(self, version: Version) -> bool:
        """True if the version lies in the range."""
        return all(_holds(version, sign, bound) for sign, bound in self.bounds)


def _numbers(parts: tuple[str | None, ...]) -> tuple[int, ...]:
    return tuple(int(part) for part in parts if part is not None)


def _holds(version: Version, sign: str, bound: tuple[int, ...]) -> bool:
    series = version[: len(bound)]
    match sign:
        case "<":
            return series < bound
        case "<=":
            return series <= bound
        case ">":
            return series > bound
        case ">=":
            return series >= bound
    return series == bound


ByVersion = str | None | Mapping[str, str | None]
"""A text for all versions, or one for each range of versions; None: no text is expected."""


def for_version(value: ByVersion, version: Version) -> tuple[bool, str | None]:
    """Whether anything is said for that version, and what."""
    if not isinstance(value, Mapping):
        return True, value
    for text, chosen in value.items():
        if VersionRange.parse(text).matches(version):
            return True, chosen
    return False, None
