"""Device state compared, and what a clean migration changes of it."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from testbed.lab.device_state import (
    RINGSIZE_HEAD,
    Change,
    Difference,
    altered,
    differences,
    measured,
    read_changes,
    told_apart,
)
from testbed.lab.saved import DeviceSection

FIELDS = (("a", 0, 4), ("b", 4, 2), ("c[0]", 8, 2))
"""Of a payload of 12 bytes: two between `b` and `c[0]` and two behind are no field's."""
PAYLOAD = bytes(range(12))
KEY = ("0000:00:01.1/ide", 0)


def section(
    payload: bytes = PAYLOAD,
    fields: tuple[tuple[str, int, int], ...] = FIELDS,
    *,
    version_id: int = 3,
    idstr: str = KEY[0],
) -> DeviceSection:
    return DeviceSection(idstr, 0, version_id, payload, fields)


def flipped(at: int) -> bytes:
    return PAYLOAD[:at] + bytes((PAYLOAD[at] ^ 1,)) + PAYLOAD[at + 1 :]


def found(sent: DeviceSection | None, held: DeviceSection | None) -> list[str]:
    one = {} if sent is None else {KEY: sent}
    other = {} if held is None else {KEY: held}
    return [str(each) for each in differences(one, other)]


NAME = f"{KEY[0]} 0"
CASES: list[tuple[str, DeviceSection | None, DeviceSection | None, list[str]]] = [
    ("equal", section(), section(), []),
    (
        "a field",
        section(),
        section(flipped(1)),
        [f"{NAME}, field a, from byte 1: sent 010203, held 000203"],
    ),
    ("another", section(), section(flipped(8)), [f"{NAME}, field c[0]: sent 0809, held 0909"]),
    (
        "between two fields",
        section(),
        section(flipped(7)),
        [f"{NAME}, field (outside of its fields), from byte 1: sent 070a0b, held 060a0b"],
    ),
    (
        "behind the last field",
        section(),
        section(flipped(11)),
        [f"{NAME}, field (outside of its fields), from byte 3: sent 0b, held 0a"],
    ),
    (
        "in a postcopy, whose fields only the copy tells",
        section(fields=()),
        section(flipped(4)),
        [f"{NAME}, field b: sent 0405, held 0505"],
    ),
    (
        "where nothing tells the fields",
        section(fields=()),
        section(flipped(11), ()),
        [f"{NAME}, field (payload), from byte 11: sent 0b, held 0a"],
    ),
    (
        "a field that only one has",
        section(PAYLOAD[:6], FIELDS[:2]),
        section(PAYLOAD[:4], FIELDS[:1]),
        [f"{NAME}, field b: sent 0405, held none"],
    ),
    (
        "the same bytes, which another version calls otherwise",
        section(),
        section(PAYLOAD, (("a", 0, 4), ("unused", 4, 6))),
        [],
    ),
    (
        "a field that another version calls otherwise",
        section(),
        section(flipped(5), (("a", 0, 4), ("unused", 4, 6))),
        [f"{NAME}, field b, from byte 1: sent 05, held 04"],
    ),
    (
        "another version",
        section(),
        section(version_id=2),
        [f"{NAME}, field (version_id), from byte 3: sent 03, held 02"],
    ),
    ("a section that is not held", section(), None, [f"{NAME}: not held"]),
    ("a section that was not sent", None, section(), [f"{NAME}: never sent"]),
]


@pytest.mark.parametrize(
    ("sent", "held", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_every_byte_counts(
    sent: DeviceSection | None, held: DeviceSection | None, said: list[str]
) -> None:
    assert found(sent, held) == said


@pytest.mark.parametrize("at", range(len(PAYLOAD)))
def test_whatever_byte_is_flipped_it_is_found(at: int) -> None:
    assert len(found(section(), section(flipped(at)))) == 1


def test_what_a_fault_made_of_a_section_is_told_by_field() -> None:
    sent = {KEY: section()}
    assert list(altered(sent, {})) == []
    assert list(altered(sent, {("never sent", 0): b""})) == []
    (one,) = altered(sent, {KEY: flipped(1)})
    assert str(one) == f"{NAME}, field a, from byte 1: sent 010203, loaded 000203"


def test_bytes_that_no_loader_reads_are_not_altered_state() -> None:
    fields = (("a", 0, 4), ("unused", 4, 2), ("c.unused", 6, 6))
    sent = {KEY: section(fields=fields)}
    assert list(altered(sent, {KEY: flipped(4)})) == []
    assert list(altered(sent, {KEY: flipped(9)})) == []
    assert len(list(altered(sent, {KEY: flipped(0)}))) == 1


def virtio(*, ringsize: bool, tail: bytes = b"tail") -> DeviceSection:
    """A virtio device's one field, between two others; with the subsection, or without."""
    inside = RINGSIZE_HEAD + bytes(4096) if ringsize else b""
    blob = b"head" + inside + tail
    fields = (("a", 0, 2), ("virtio", 2, len(blob)), ("b", 2 + len(blob), 2))
    return section(b"aa" + blob + b"bb", fields)


def test_the_sizes_of_rings_are_a_field_of_their_own() -> None:
    (lone,) = differences({KEY: virtio(ringsize=False)}, {KEY: virtio(ringsize=True)})
    assert (lone.field, lone.sent) == ("virtio/ringsize", None)
    sent, held = {KEY: virtio(ringsize=True)}, {KEY: virtio(ringsize=False, tail=b"tall")}
    assert [(each.field, each.at) for each in differences(sent, held)] == [
        ("virtio/ringsize", ()),
        ("virtio", (6,)),
    ]


IDE = Change("*/ide", "a", "because", ((1, 2),), (("7.2", "7.2"),))


@pytest.mark.parametrize(
    ("idstr", "field", "at", "explains"),
    [
        (KEY[0], "a", (1,), True),
        ("ide", "a", (1,), False),
        (KEY[0], "ab", (1,), False),
        (KEY[0], "a", (1, 2), False),
        (KEY[0], "a", (), False),
        (KEY[0], "", (1,), False),
    ],
)
def test_a_change_explains_only_its_own_bytes(
    idstr: str, field: str, at: tuple[int, ...], explains: bool
) -> None:
    assert IDE.explains(Difference(idstr, 0, field, b"ab", b"ba", at)) is explains


def test_what_nothing_explains_is_told_apart() -> None:
    one, other = (Difference(KEY[0], 0, name, b"ab", b"aa", (1,)) for name in "ab")
    assert told_apart([one, other], [IDE]) == ([other], [(one, IDE)])


def test_a_missing_section_is_never_explained() -> None:
    everything = Change("*", "*", "any")
    lost = Difference(KEY[0], 0, "", b"", None)
    assert told_apart([lost], [everything]) == ([lost], [])


# What was measured


@pytest.mark.parametrize(
    ("source", "destination", "holds"),
    [
        ((7, 2, 22), (7, 2, 0), True),
        ((8, 1, 0), (9, 2, 4), True),  # as 7.2, which is the nearest that is not newer
        ((10, 0, 13), (7, 2, 0), False),
        ((5, 2, 0), (7, 2, 0), False),
    ],
)
def test_a_pair_is_as_the_nearest_older_one_that_was_measured(
    source: tuple[int, int, int], destination: tuple[int, int, int], holds: bool
) -> None:
    text = json.dumps(
        {
            "versions": [[5, 2], [7, 2], [10, 0]],
            "changes": [
                {"idstr": "a", "field": "b", "reason": "c", "pairs": [["7.2", "7.2"]]},
                {"idstr": "d", "field": "e", "reason": "f"},
            ],
        }
    )
    changes = read_changes(text).between(source, destination)
    assert [each.idstr for each in changes] == (["a", "d"] if holds else ["d"])


def test_each_measured_change_has_its_reason_and_known_pairs() -> None:
    data = json.loads(files("testbed.lab").joinpath("device_changes.json").read_text())
    versions = {f"{major}.{minor}" for major, minor in data["versions"]}
    for each in data["changes"]:
        assert each["reason"], each
        assert "pairs" not in each or each["pairs"], each
        assert {version for pair in each.get("pairs", ()) for version in pair} <= versions
    names = [(each["idstr"], each["field"], *each.get("pairs", ())) for each in data["changes"]]
    assert len(names) == len({str(each) for each in names})


def test_no_change_covers_a_whole_device() -> None:
    for change in measured().changes:
        assert not change.explains(Difference("timer", 0, "cpu_ticks_offset", b"a", b"b", (0,)))
        assert set(change.field) - set("*?")
