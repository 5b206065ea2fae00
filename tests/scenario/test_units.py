"""The small languages inside a scenario, as tables."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from testbed.scenario.units import (
    Duration,
    HexBytes,
    Share,
    Size,
    Version,
    VersionRange,
    for_version,
)

DURATIONS = [("500ms", 0.5), ("500 ms", 0.5), ("1.5s", 1.5), ("20 s", 20.0), ("2m", 120.0)]
NO_DURATIONS: list[Any] = ["5 parsecs", "5", 5, 0.5, "-1s", "", "1s2", "ms", None, True, [], "1e3s"]

SIZES: list[tuple[Any, int]] = [
    (0, 0),
    (4096, 4096),
    ("4096", 4096),
    ("64K", 64 << 10),
    ("64KiB", 64 << 10),
    ("32M", 32 << 20),
    (" 1 G ", 1 << 30),
]
NO_SIZES: list[Any] = [-1, "-1M", "1.5G", "1T", "M", "", True, None, 1.5, []]

HEX = [("00ff", b"\0\xff"), ("00 FF", b"\0\xff")]
NO_SHARES: list[Any] = ["0%", "101%", "half", 0.5, 50, True, None, "-5%"]
NO_HEX: list[Any] = ["", "0", "0x00", "xy", 0, 7, None, b"\0", []]

# A range, versions in it, versions outside of it.
RANGES: list[tuple[str, list[Version], list[Version]]] = [
    ("*", [(0, 0, 0), (99, 1, 2)], []),
    (">=7.2", [(7, 2, 0), (7, 2, 22), (11, 1, 0)], [(7, 1, 9), (6, 9, 9)]),
    (">7.2", [(7, 3, 0), (8, 0, 0)], [(7, 2, 22), (7, 2, 0)]),
    ("<10", [(9, 2, 4)], [(10, 0, 0), (10, 0, 13)]),
    ("<=9.2", [(9, 2, 4), (5, 0, 0)], [(9, 3, 0), (10, 0, 0)]),
    ("10", [(10, 0, 0), (10, 2, 3)], [(9, 2, 0), (11, 0, 0)]),
    ("=7.2.22", [(7, 2, 22)], [(7, 2, 21), (7, 2, 23)]),
    ("5.2-9.2", [(5, 2, 0), (9, 2, 4), (7, 0, 0)], [(5, 1, 0), (9, 3, 0)]),
    (">=7.2 <10", [(7, 2, 22), (9, 2, 0)], [(7, 1, 0), (10, 0, 0)]),
]
NO_RANGES = ["", " ", "7.x", "~7", ">=", "7.2.1.9", "7,2", "new", "<10 or so"]


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_a_duration_in_seconds(written: str, seconds: float) -> None:
    duration = TypeAdapter(Duration)
    assert duration.validate_python(written) == seconds
    assert duration.validate_python(duration.dump_python(seconds, mode="json")) == seconds


@pytest.mark.parametrize(("written", "size_bytes"), SIZES)
def test_a_size_in_bytes(written: Any, size_bytes: int) -> None:
    assert TypeAdapter(Size).validate_python(written) == size_bytes


@pytest.mark.parametrize(
    ("written", "share"), [("50%", 0.5), ("100 %", 1.0), ("12.5%", 0.125), ("0.1%", 0.001)]
)
def test_a_share(written: str, share: float) -> None:
    found = TypeAdapter(Share)
    assert found.validate_python(written) == pytest.approx(share)
    assert found.validate_python(found.dump_python(share, mode="json")) == pytest.approx(share)


@pytest.mark.parametrize(("written", "data"), HEX)
def test_bytes_in_hexadecimal(written: str, data: bytes) -> None:
    found = TypeAdapter(HexBytes)
    assert found.validate_python(written) == data
    assert found.validate_python(found.dump_python(data, mode="json")) == data


@pytest.mark.parametrize(
    ("kind", "written", "expected"),
    [
        *((Duration, each, "expected a duration such as") for each in NO_DURATIONS),
        *((Size, each, "expected a size such as") for each in NO_SIZES),
        *((Share, each, "expected a share such as") for each in NO_SHARES),
        *((HexBytes, each, "expected hexadecimal bytes such as") for each in NO_HEX),
    ],
)
def test_what_is_none_is_refused_with_an_example(kind: Any, written: Any, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        TypeAdapter(kind).validate_python(written)


@pytest.mark.parametrize(("text", "inside", "outside"), RANGES)
def test_a_range_of_versions(text: str, inside: list[Version], outside: list[Version]) -> None:
    found = VersionRange.parse(text)
    assert [version for version in inside if not found.matches(version)] == []
    assert [version for version in outside if found.matches(version)] == []


@pytest.mark.parametrize("text", NO_RANGES)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a version range"):
        VersionRange.parse(text)


def test_the_first_range_that_fits_speaks() -> None:
    texts = {"<8": "old", "7-10": "middle", ">=11": None}
    assert for_version(texts, (7, 2, 22)) == (True, "old")
    assert for_version(texts, (10, 0, 13)) == (True, "middle")
    assert for_version(texts, (11, 1, 0)) == (True, None)
    assert for_version({"<8": "old"}, (10, 0, 13)) == (False, None)
    assert for_version("always", (1, 0, 0)) == (True, "always")
    assert for_version(None, (1, 0, 0)) == (True, None)
