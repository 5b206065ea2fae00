"""Every way in which a scenario disturbs a migration is left out once, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.fault.plan import AfterFault
from testbed.prove.mutants import Mutant, mutants
from testbed.scenario.load import find, load
from testbed.scenario.run import Settings, lab_plan
from testbed.scenario.scenario import Scenario

LIBRARY = find([Path(__file__).parents[2] / "scenarios"])
HEAD = "description: it\nmode: precopy\nexpect: {verdict: completed}\n"

# What the file says, and for each mutant: what is left out, where, and the words that are gone.
CASES: list[tuple[str, list[tuple[str, str]]]] = [
    ("", []),
    (
        "faults:\n  - {name: one, at: {element: eof}, do: reset}\n"
        "  - {at: {element: vmdesc}, do: delete}\n",
        [("one", "5:5"), ("fault_2", "6:5")],
    ),
    ("network: {announce: {drop: all}}\n", [("drop all", "4:28")]),
    ("network: {announce: {drop: {share: 50%}}}\n", [("drop a share of 50%", "4:28")]),
    ("network: {announce: {drop: [1, 3]}}\n", [("drop 1", "4:29"), ("drop 3", "4:32")]),
    (
        "network: {announce: {delay: {all: 1s, 2: 0ms, 3: 2s}}}\n",
        [("delay all", "4:35"), ("delay 3", "4:50")],
    ),
    (
        "network: {announce: {duplicate: [1, all]}}\n",
        [("duplicate 1", "4:34"), ("duplicate all", "4:37")],
    ),
    ("network: {announce: {duplicate: {4: 2}}}\n", [("duplicate 4", "4:37")]),
    (
        "network: {announce: {alter: {1: {byte: 0, hex: '01'}, 2: {mac: '52:54:00:00:00:01'}}}}\n",
        [("alter 1", "4:33"), ("alter 2", "4:58")],
    ),
    (
        "network: {announce: {forge: [{port: source, after: 1}, {port: client, before: 2}]}}\n",
        [("forge 1, at the source's port", "4:30"), ("forge 2, at the client's port", "4:56")],
    ),
    ("network: {link_up: {after: 300ms}}\n", [("link_up", "4:20")]),
    (
        "toxiproxy: {toxics: [{type: latency}, {type: slicer, name: slow, stream: upstream}]}\n",
        [("the toxic latency_downstream", "4:22"), ("the toxic slow", "4:39")],
    ),
    (
        "source: {machine: q35}\n"
        "destination: {devices: [pvpanic], arguments: ['-S'], paused: true}\n",
        [
            ("the source's own machine", "4:19"),
            ("the destination's own devices", "5:24"),
            ("the destination's own arguments", "5:46"),
        ],
    ),
    ("steps: [migrate, cancel, wait]\n", [("cancel", "4:18")]),
]


def scenario(folder: Path, text: str) -> Scenario:
    path = folder / "it.yaml"
    path.write_text(HEAD + text)
    return load(path)


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text[:50] for text, _ in CASES])
def test_each_is_left_out_once(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    it = scenario(tmp_path, text)
    found = list(mutants(it))
    prefix = f"{it.path}:"
    assert [(each.without, each.where.removeprefix(prefix)) for each in found] == expected
    for each in found:
        assert each.scenario.model != it.model
        assert len(size(each.scenario)) < len(size(it))


def size(it: Scenario) -> str:
    return it.model.model_dump_json(exclude={"expect"}, exclude_none=True)


def test_the_others_stay(tmp_path: Path) -> None:
    it = scenario(
        tmp_path,
        "faults:\n  - {name: one, at: {element: eof}, do: reset}\n"
        "  - {name: two, at: {element: vmdesc}, do: delete, when: {after: one}}\n"
        "network: {announce: {drop: [1, 3], delay: {2: 1s}}}\n",
    )
    without = {each.without: each.scenario for each in mutants(it)}
    (two,) = without["one"].faults
    assert (two.name, two.conditions) == ("two", (AfterFault("one"),))
    assert len(without["one"].model.faults) == 1
    assert [fault.name for fault in without["two"].faults] == ["one"]
    announce = without["drop 1"].model.network.announce
    assert (announce.drop, announce.delay) == ([3], {2: 1.0})
    assert without["drop 1"].faults == it.faults


def test_what_is_left_out_is_left_out_under_every_variant(tmp_path: Path) -> None:
    it = scenario(
        tmp_path,
        "capabilities: {return-path: true}\n"
        "faults: [{name: one, at: {element: eof}, do: reset}]\n"
        "network: {link_up: {after: 1s}}\n"
        "steps: [migrate, cancel, wait]\n"
        "variants: [{when: {either: '<3.0'}, capabilities: {return-path: null}}]\n",
    )
    old = (2, 9, 0)
    for each in mutants(it):
        under = each.scenario.between(old, old)
        assert under.capabilities == {}
        plan = plan_of(each)
        assert (len(plan.faults), len(under.faults)) == (each.without != "one",) * 2
        assert (under.model.network.link_up is None) == (each.without == "link_up")
        assert ("cancel" in [step.name for step in under.steps]) == (each.without != "cancel")


def plan_of(mutant: Mutant) -> Any:
    return lab_plan(mutant.scenario, Settings(), Path("/nowhere"), "tcg")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_every_mutant_of_the_library_can_be_played(path: Path) -> None:
    it = load(path)
    for each in mutants(it):
        plan = plan_of(each)
        assert plan != lab_plan(it, Settings(), Path("/nowhere"), "tcg")
        assert each.scenario.steps
