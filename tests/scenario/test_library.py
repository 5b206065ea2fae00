"""The scenarios that come with the testbed: each loads, and says what it does."""

import json
from pathlib import Path

import pytest

from testbed.scenario.load import find, load

LIBRARY = find([Path(__file__).parents[2] / "scenarios"])


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_scenario_of_the_library_resolves_to_json(path: Path) -> None:
    scenario = load(path)
    plain = json.loads(json.dumps(scenario.resolved()))
    assert plain["name"] == path.stem
    assert [next(iter(step)) for step in plain["steps"]] == [step.name for step in scenario.steps]
    assert plain["capabilities"] == scenario.capabilities
    assert len(plain["faults"]) == len(scenario.faults)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_every_fault_knows_its_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    for fault in load(path).faults:
        name, line, column = fault.where.rsplit(":", 2)
        assert name == str(path)
        assert lines[int(line) - 1][int(column) - 1 :].strip()


def test_names_are_unique() -> None:
    names = [load(path).name for path in LIBRARY]
    assert len(set(names)) == len(names)
