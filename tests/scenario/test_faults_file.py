"""Faults without a scenario: a file of them, and one of a program's JSON."""

from pathlib import Path

import pytest

from testbed.fault import plan
from testbed.scenario.faults_file import load_faults, parse_fault
from testbed.scenario.load import ScenarioError

GOOD = """\
description: two of them
seed: 7
faults:
  - name: slow
    at: {block: pc.ram, passed: 1M}
    do: {bandwidth: {rate: 10M, toward: destination}}
  - at: {section: ram, kind: part, occurrence: 2}
    do: reset
    when: {after: slow, vcpus: running}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "faults.yaml"
    path.write_text(text)
    return path


def test_a_file_of_faults(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    loaded = load_faults(path)
    assert (loaded.seed, loaded.description, loaded.path) == (7, "two of them", path)
    assert loaded.faults == (
        plan.Fault(
            plan.BlockPlace("pc.ram", 1 << 20),
            plan.Bandwidth(10 << 20, plan.Side.DESTINATION),
            "slow",
        ),
        plan.Fault(
            plan.SectionPlace("ram", "part", occurrence=2),
            plan.Reset(),
            "fault_2",
            conditions=(plan.AfterFault("slow"), plan.Vcpus(running=True)),
        ),
    )
    assert [fault.where for fault in loaded.faults] == [f"{path}:4:5", f"{path}:7:5"]


def test_faults_are_all_that_a_file_needs(tmp_path: Path) -> None:
    loaded = load_faults(written(tmp_path, "faults: [{at: {offset: 0}, do: reset}]"))
    assert (loaded.seed, loaded.description, len(loaded.faults)) == (1, None, 1)


WRONG = [
    ("", "1:1: an empty file"),
    ("- a", "1:1: expected a mapping with `faults`"),
    ("seed: 3", "1:1: `faults` is missing"),
    ("faults: []", "1:9: faults: expected a list of 1 or more"),
    (
        "mode: precopy\nfaults: [{at: {offset: 0}, do: reset}]",
        "1:1: mode: unknown key `mode`; there are `description`, `seed`, `faults`",
    ),
    (
        "faults: [{at: {state: active, side: source}, do: reset}]",
        "1:15: faults[0].at: nobody reports states here",
    ),
    (
        "faults: [{at: {offset: 0}, do: reset, when: {until: {event: STOP, side: source}}}]",
        "1:53: faults[0].when.until: nobody reports states here",
    ),
    (
        "faults: [{at: {offset: 0}, do: {signal: {side: source, signal: KILL}}}]",
        "1:32: faults[0].do: there is no process to signal here",
    ),
    (
        "faults: [{at: {offset: 0}, do: reset, when: {after: another}}]",
        "1:53: faults[0].when.after: no fault is named 'another'",
    ),
    ("faults: [{at: {offset: 0}, do: {set: 256}}]", "1:10: faults[0]: 0x100 does not fit"),
    ("faults: [{at: {ofset: 0}, do: reset}]", "1:15: faults[0].at: unknown key `ofset`; did you"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said_where_it_is(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ScenarioError) as refused:
        load_faults(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path}:{said}")


def test_a_fault_of_json() -> None:
    fault = parse_fault({"at": {"section": "*/virtio-net", "kind": "full"}, "do": "reset"}, "toxic")
    assert fault == plan.Fault(plan.SectionPlace("*/virtio-net", "full"), plan.Reset(), "toxic")
    assert parse_fault({"name": "own", "at": {"offset": 0}, "do": "close"}, "it").name == "own"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "expected a mapping, got an empty list"),
        ({"at": {"offset": 0}}, "`do` is missing"),
        ({"at": {"section": "x", "knd": "full"}, "do": "reset"}, "at.knd: unknown key `knd`; did"),
        ({"at": {"side": "source", "state": "active"}, "do": "reset"}, "at: nobody reports states"),
        ({"at": {"offset": 0}, "do": {"flip": "00"}}, "a mask without a bit set flips nothing"),
        (
            {"at": {"offset": 0}, "do": "reset", "when": {"reached": [{"page": 1}, {"page": "x"}]}},
            "when.reached[1].page: expected a whole number, got 'x'",
        ),
    ],
)
def test_what_is_wrong_with_json_is_said_with_its_path(value: object, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its text is looked at as a whole
        parse_fault(value, "toxic")
    assert str(refused.value).startswith(said)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its text is looked at as a whole
        parse_fault({"at": {"sektion": 1}, "do": "explode", "often": 2}, "toxic")
    assert len(str(refused.value).splitlines()) == 3
