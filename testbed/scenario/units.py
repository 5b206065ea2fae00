"""The small languages inside a scenario: durations, sizes, hex bytes, version ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

SHOWN_MAX = 60
DURATION = re.compile(r"([0-9]{1,32}(?:\.[0-9]{1,32})?)\s*(ms|s|m)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
DURATION_S_MAX = 24 * 3600
"""A day: the longest that the event loop sleeps at once (`MAXIMUM_SELECT_TIMEOUT` of asyncio)."""
SIZE = re.compile(r"([0-9]{1,32})\s*([KMG]?)i?B?")
INT_MAX = (1 << 63) - 1
"""Of sizes, offsets, counts: QEMU's own are signed numbers of 64 bits (`off_t`, `int64_t`)."""
SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SHARE = re.compile(r"([0-9]{1,32}(?:\.[0-9]{1,32})?)\s*%")
VERSION = r"([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?"
BOUND = re.compile(rf"(<=|>=|<|>|=)?\s*{VERSION}")
BETWEEN = re.compile(rf"{VERSION}\s*-\s*{VERSION}")
Version = tuple[int, int, int]


def shown(value: Any) -> str:
    """A value of a file as a message shows it: in YAML's words, short, on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return f"a mapping of {', '.join(map(str, value))}" if value else "an empty mapping"
        case list():
            return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


def _duration(value: Any) -> Any:
    if isinstance(value, str) and (found := DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * SECONDS[found[2]]
        if seconds > DURATION_S_MAX:
            hours = DURATION_S_MAX // 3600
            raise ValueError(f"expected {hours} hours or less ({hours * 60}m), got {shown(value)}")
        return seconds
    raise ValueError(f"expected a duration such as 500ms, 20s or 2m, got {shown(value)}")


def _some_time(value: Any) -> Any:
    if not (seconds := _duration(value)):
        raise ValueError(f"expected more than no time, got {shown(value)}")
    return seconds


def _size(value: Any) -> Any:
    size_bytes = None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size_bytes = value
    elif isinstance(value, str) and (found := SIZE.fullmatch(value.strip())):
        size_bytes = int(found[1]) * SIZE_FACTORS[found[2]]
    if size_bytes is not None and size_bytes > INT_MAX:
        raise ValueError(f"expected less than 8 EiB (2^63 bytes), got {shown(value)}")
    if size_bytes is not None:
        return size_bytes
    raise ValueError(f"expected a size such as 64M, 1G or a number of bytes, got {shown(value)}")


def _some_size(value: Any) -> Any:
    if not (size_bytes := _size(value)):
        raise ValueError(f"expected 1 byte or more, got {shown(value)}")
    return size_bytes


def size_of(value: Any) -> Any:
    """The number of a text such as `32M`; any other value as it is."""
    return _size(value) if isinstance(value, str) and SIZE.fullmatch(value) else value


def _share(value: Any) -> Any:
    if isinstance(value, str) and (found := SHARE.fullmatch(value.strip())):
        share = float(found[1]) / 100
        if 0 < share <= 1:
            return share
    raise ValueError(
        f"expected a share such as 50%, more than 0% and at most 100%, got {shown(value)}"
    )


def hex_bytes(value: Any) -> bytes:
    """Bytes of a hexadecimal text; blanks between them are allowed.

    Raises:
        ValueError: it is no such text, or an empty one.
    """
    if isinstance(value, str):
        try:
            found = bytes.fromhex(value)
        except ValueError:
            found = b""
        if found:
            return found
    raise ValueError(f'expected hexadecimal bytes such as "00ff", in quotes, got {shown(value)}')


def mac_address(value: str) -> str:
    """A NIC's address as in `52:54:00:12:34:56`, in small letters.

    Raises:
        ValueError: it is none, or that of a group.
    """
    address = value.lower()
    if re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", address) is None:
        raise ValueError(f"expected a MAC address such as 52:54:00:12:34:56, got {shown(value)}")
    if int(address[:2], 16) & 1:
        raise ValueError(f"expected the address of one NIC, got the group address {value}")
    return address


def _as_share(share: float) -> str:
    return f"{share * 100:.10g}%"


def _as_duration(seconds: float) -> str:
    return f"{seconds * 1000:.10g}ms"


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(_as_duration, return_type=str, when_used="json"),
]
"""Seconds."""
SomeTime = Annotated[
    float,
    BeforeValidator(_some_time),
    PlainSerializer(_as_duration, return_type=str, when_used="json"),
]
"""Seconds, more than none."""
Share = Annotated[
    float,
    BeforeValidator(_share),
    PlainSerializer(_as_share, return_type=str, when_used="json"),
]
"""More than 0, up to 1."""
Size = Annotated[int, BeforeValidator(_size)]
SomeSize = Annotated[int, BeforeValidator(_some_size)]
"""Bytes, more than none."""
Mac = Annotated[str, AfterValidator(mac_address)]
HexBytes = Annotated[
    bytes,
    BeforeValidator(hex_bytes),
    PlainSerializer(bytes.hex, return_type=str, when_used="json"),
]


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
                    'expected a version range such as ">=7.2", "<10" or "5.2-9.2", '
                    f"got {shown(text)}"
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


def _range(value: str) -> str:
    VersionRange.parse(value)
    return value


Range = Annotated[str, AfterValidator(_range)]
"""The text of a `VersionRange`."""
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
