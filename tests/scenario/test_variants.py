"""Variants: which one is played between which versions, and what it makes of a scenario."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge_helpers import EXITED, RUNS, STOPPED, Run, check

from testbed.scenario.expect import as_played, judge
from testbed.scenario.load import ScenarioError, load
from testbed.scenario.scenario import Scenario

V2, V7, V10 = (2, 9, 0), (7, 2, 22), (10, 0, 13)
GOOD = """\
description: a refusal of which old sources do not hear
mode: precopy
capabilities: {return-path: true, xbzrle: true}
parameters: {max-bandwidth: 16M, announce-max: 50}
faults:
  - {name: cut, at: {section: cpu}, do: delete}
expect:
  verdict: failed-clean
  source: {status: failed, error: null}
  retry: completed
variants:
  - when: {either: "<2.10"}
    capabilities: {return-path: null}
    parameters: {max-bandwidth: 1M}
    expect:
      verdict: guest-lost
      known_outcome: no return path
      source: {status: completed}
      retry: null
  - when: {source: ">=10", destination: "<10"}
    steps: [migrate, {settle: 1s}, retry]
"""


def loaded(folder: Path, text: str = GOOD) -> Scenario:
    path = folder / "it.yaml"
    path.write_text(text)
    return load(path)


def wrong(folder: Path, old: str, new: str) -> list[str]:
    """What is said of the scenario with a change; lines without the path."""
    assert old in GOOD
    with pytest.raises(ScenarioError) as caught:
        loaded(folder, GOOD.replace(old, new, 1))
    return [line.removeprefix(f"{folder / 'it.yaml'}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("source", "destination", "number"),
    [(V2, V2, 0), (V2, V7, 0), (V7, V2, 0), (V10, V2, 0), (V10, V7, 1), (V7, V10, None)],
)
def test_the_first_variant_for_both_versions_is_played(
    tmp_path: Path, source: tuple[int, int, int], destination: tuple[int, int, int], number: int
) -> None:
    scenario = loaded(tmp_path)
    played = scenario.between(source, destination)
    assert played is (scenario if number is None else scenario.variants[number].scenario)


def test_a_key_stands_in_place_of_the_scenarios_and_null_takes_it_away(tmp_path: Path) -> None:
    scenario = loaded(tmp_path)
    old = scenario.between(V2, V2)
    assert old.capabilities == {"xbzrle": True}
    assert old.parameters == {"max-bandwidth": 1 << 20, "announce-max": 50}
    assert old.model.expect.verdict == "guest-lost"
    assert old.model.expect.source.status == ["completed"]
    assert old.model.expect.source.error == "*unsaid*"
    assert [step.name for step in old.steps] == ["wait_for_guest", "migrate", "wait"]
    assert scenario.model.expect.source.error is None
    assert [step.name for step in scenario.steps][-1] == "retry"


def test_what_a_variant_does_not_say_stays(tmp_path: Path) -> None:
    scenario = loaded(tmp_path)
    new = scenario.between(V10, V7)
    assert [step.name for step in new.steps] == ["migrate", "settle", "retry"]
    assert (new.capabilities, new.model.expect) == (scenario.capabilities, scenario.model.expect)
    assert new.faults == scenario.faults


def test_a_variant_resolves_to_json_without_the_others(tmp_path: Path) -> None:
    resolved = json.loads(json.dumps(loaded(tmp_path).between(V2, V7).resolved()))
    assert resolved["expect"]["verdict"] == "guest-lost"
    assert resolved["variants"] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'when: {either: "<2.10"}',
            "when: {}",
            ["12:11: variants[0].when: say for which versions: `source`, `destination` or"],
        ),
        (
            'either: "<2.10"',
            "either: old",
            ["12:20: variants[0].when.either: expected a version range"],
        ),
        (
            'either: "<2.10"',
            'versions: "<2.10"',
            ["12:12: variants[0].when.versions: unknown key `versions`; there are `source`,"],
        ),
        (
            "    parameters: {max-bandwidth: 1M}",
            "    faults: []",
            ["14:5: variants[0].faults: unknown key `faults`"],
        ),
        (
            "verdict: guest-lost",
            "verdict: guest-gone",
            ["16:16: variants[0].expect.verdict: expected 'completed',"],
        ),
        (
            "      retry: null",
            "      retyr: null\n      running: nobody",
            ["20:16: variants[0].expect.running: expected 'source',"],
        ),
        (
            "      retry: null",
            "      retyr: completed",
            ["19:7: variants[0].expect.retyr: unknown key `retyr`; did you mean `retry`?"],
        ),
        (
            "      known_outcome: no return path\n",
            "",
            ["16:16: variants[0].expect.verdict: a bad outcome is expected: say in `known_out"],
        ),
        (
            "{status: completed}",
            "{status: done}",
            ["18:24: variants[0].expect.source.status: 'done' is no migration status"],
        ),
        (
            "steps: [migrate, {settle: 1s}, retry]",
            "steps: [migrate, {settle: 1s}]",
            ["20:5: variants[1]: makes `expect` wrong: `retry` is both a step and an expectation"],
        ),
        (
            "steps: [migrate, {settle: 1s}, retry]",
            "steps: [migrate, recover, retry]",
            ["21:22: variants[1].steps[1]: recover needs a scenario whose `mode` is postcopy"],
        ),
        (
            "{section: cpu}",
            "{message: PONG}",
            ["12:5: variants[0]: makes `faults[0].at` wrong: without the capability return-path"],
        ),
    ],
)
def test_what_is_wrong_with_a_variant_is_said_where_it_is(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    lines = wrong(tmp_path, old, new)
    assert len(lines) == len(said), lines
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start), line


def greeted(run: Run, source: tuple[int, int, int], destination: tuple[int, int, int]) -> Run:
    for side, version in (("source", source), ("destination", destination)):
        run.write(side, "endpoint-ready", kind="model", profile=None, version=list(version))
    return run


def lost() -> Run:
    run = greeted(Run(), V2, V2).begin().write("proxy", "fault-struck", fault="cut")
    run.write("destination", "stderr", text="load of migration failed: Invalid argument")
    return run.end({**STOPPED, "version": V2}, {**EXITED, "version": V2})


def test_a_run_is_judged_by_the_variant_of_its_versions(tmp_path: Path) -> None:
    scenario = loaded(tmp_path)
    verdict, checks = judge(scenario, lost().log)
    assert verdict == "guest-lost"
    assert all(each.passed for each in checks), checks
    assert check(checks, "expect.verdict").where == f"{scenario.path}:16:16"
    assert [each for each in checks if each.name == "expect.retry"] == []


def test_what_passes_between_old_versions_fails_between_new_ones(tmp_path: Path) -> None:
    run = greeted(Run(), V7, V7).begin().end(STOPPED, EXITED)
    _, checks = judge(loaded(tmp_path), run.log)
    assert check(checks, "expect.verdict").passed is False


def test_a_log_without_greetings_has_what_was_observed(tmp_path: Path) -> None:
    scenario = loaded(tmp_path)
    ended = Run().begin().end({**RUNS, "version": V7}, {**EXITED, "version": V2})
    assert as_played(scenario, ended.log) is scenario.variants[0].scenario
    assert as_played(scenario, Run().begin().log) is scenario
