"""What may be done to storage migration, and what of a file of faults is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.fault.plan import Before, Channel, OffsetPlace, Reached
from testbed.standalone.asked import AskedError, has_chance, read_faults
from testbed.standalone.storage import ACTIONS, PLACES, VCPUS

GOOD = [
    "{at: {connection: 2}, do: refuse}",
    "{at: {offset: 1000}, do: reset}",
    "{at: {offset: 1000}, do: {latency: {delay: 5ms}}, attempt: every}",
]
BAD = [
    ("{at: {section: ram}, do: reset}", PLACES),
    ("{at: {offset: 5, channel: return-path}, do: reset}", PLACES),
    ('{at: {offset: 5}, do: {flip: "80"}}', ACTIONS),
    ("{at: {offset: 5}, do: reset, when: {vcpus: stopped}}", VCPUS),
    ("{at: {offset: 5}, do: reset, when: {until: {section: ram}}}", PLACES),
]


def write(folder: Path, fault: str) -> Path:
    path = folder / "faults.yaml"
    path.write_text(f"faults:\n  - {fault}\n")
    return path


@pytest.mark.parametrize("fault", GOOD)
def test_connections_can_be_touched(tmp_path: Path, fault: str) -> None:
    loaded = read_faults(write(tmp_path, fault), for_storage=True)
    assert loaded is not None
    assert len(loaded.faults) == 1


@pytest.mark.parametrize(("fault", "said"), BAD)
def test_what_is_inside_cannot(tmp_path: Path, fault: str, said: str) -> None:
    path = write(tmp_path, fault)
    assert read_faults(path) is not None  # a migration's can
    with pytest.raises(AskedError) as error:
        read_faults(path, for_storage=True)
    assert str(error.value).startswith(f"{path}:2:5: fault_1: NBD is not read, only passed on: ")
    assert said in str(error.value)


def test_offsets_are_those_of_connections_that_nobody_reads(tmp_path: Path) -> None:
    fault = "{at: {offset: 7}, do: reset, when: {until: {offset: 9}}}"
    loaded = read_faults(write(tmp_path, fault), for_storage=True)
    assert loaded is not None
    (only,) = loaded.faults
    assert only.place == OffsetPlace(7, Channel.UNKNOWN)
    assert only.conditions == (Before(OffsetPlace(9, Channel.UNKNOWN)),)
    assert not any(isinstance(each, Reached) for each in only.conditions)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("{at: {offset: 5}, do: reset}", False),
        ("{at: {offset: 5}, do: reset, when: {chance: 50%}}", True),
        ("{at: {offset: 5}, do: {latency: {delay: 5ms}}}", False),
        ("{at: {offset: 5}, do: {latency: {delay: 5ms, jitter: 1ms}}}", True),
        ("{at: {offset: 5}, do: {slice: {size: 100}}}", False),
        ("{at: {offset: 5}, do: {slice: {size: 100, variation: 10}}}", True),
    ],
)
def test_a_seed_matters_where_there_is_chance(tmp_path: Path, fault: str, expected: bool) -> None:
    loaded = read_faults(write(tmp_path, fault))
    assert loaded is not None
    assert has_chance(loaded.faults) is expected
