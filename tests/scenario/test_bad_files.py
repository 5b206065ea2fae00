"""What is wrong with a scenario file is said with line, column, key, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.scenario.load import ScenarioError, find, load

LIBRARY = Path(__file__).parents[2] / "scenarios"
GOOD = """\
description: nothing goes wrong
mode: precopy
capabilities:
  return-path: true
faults:
  - name: cut
    at: {section: cpu, kind: full, part: footer, field: mark}
    do: {set: 0x7d}
expect:
  verdict: failed-clean
"""

WRONG = [
    pytest.param(
        ("mode: precopy", "mode: precpy"),
        ["2:7: mode: expected 'precopy' or 'postcopy', got 'precpy'"],
        id="a word that is none of the choices",
    ),
    pytest.param(
        ("verdict: failed-clean", "verdikt: failed-clean"),
        [
            "10:3: expect: `verdict` is missing",
            "10:3: expect.verdikt: unknown key `verdikt`; did you mean `verdict`?",
        ],
        id="an unknown key",
    ),
    pytest.param(
        ("kind: full", "knd: full"),
        ["7:24: faults[0].at.knd: unknown key `knd`; did you mean `kind`?"],
        id="an unknown key in a flow mapping",
    ),
    pytest.param(
        ("return-path: true", "return-path: yes"),
        ["4:16: capabilities.return-path: expected true or false, got 'yes'"],
        id="yes is a word",
    ),
    pytest.param(
        ("return-path: true", "multifdd: true"),
        ["4:3: capabilities.multifdd: no capability of QEMU 2.9 to 11.1; did you mean `multifd`?"],
        id="an unknown capability",
    ),
    pytest.param(
        ("capabilities:\n  return-path: true", "parameters: {max-bandwidht: 1}"),
        [
            "3:14: parameters.max-bandwidht: no migration parameter of QEMU 2.9 to 11.1; did you "
            "mean `max-bandwidth`?"
        ],
        id="an unknown parameter",
    ),
    pytest.param(
        ("capabilities:\n  return-path: true", "parameters: {max_bandwidth: 1}"),
        [
            "3:14: parameters.max_bandwidth: expected a name of QEMU's such as return-path, got "
            "'max_bandwidth'; did you mean `max-bandwidth`?"
        ],
        id="a parameter with an underscore",
    ),
    pytest.param(
        ("do: {set: 0x7d}", "do: explode"),
        [
            "8:9: faults[0].do: expected one of close, reset, half_close, blackhole, truncate, "
            "refuse, delay_accept, tarpit, stall, latency, bandwidth, slice, restore, signal, set, "
            "flip, insert, delete, duplicate, swap, replay, stale_page, got 'explode'"
        ],
        id="an unknown action",
    ),
    pytest.param(
        ("do: {set: 0x7d}", "do: halfclose"),
        ["8:9: faults[0].do: no action 'halfclose'; did you mean `half_close`?"],
        id="a misspelt action",
    ),
    pytest.param(
        ("do: {set: 0x7d}", "do: {stall: {for: 5 parsecs}}"),
        [
            "8:23: faults[0].do.stall.for: expected a duration such as 500ms, 20s or 2m, "
            "got '5 parsecs'"
        ],
        id="a duration that is none",
    ),
    pytest.param(
        ("do: {set: 0x7d}", 'do: {flip: "8z"}'),
        [
            '8:16: faults[0].do.flip: expected hexadecimal bytes such as "00ff", in quotes, '
            "got '8z'"
        ],
        id="bytes that are none",
    ),
    pytest.param(
        ("section: cpu, kind: full, part: footer, field: mark", "command: POSTCOPY_RUN"),
        ["7:9: faults[0].at: POSTCOPY_RUN never passes in a scenario whose `mode` is precopy"],
        id="a postcopy command in a precopy scenario",
    ),
    pytest.param(
        ("section: cpu, kind: full, part: footer, field: mark", "state: active, side: source"),
        [
            "6:5: faults[0]: a state is no place in the stream: only the connection can be acted "
            "on there"
        ],
        id="content changed at a state",
    ),
    pytest.param(
        ("return-path: true", "return-path: false"),
        [],
        id="a fault on the forward stream needs no return path",
    ),
    pytest.param(
        ("  verdict: failed-clean", "  verdict: failed-clean\n  retry: completed"),
        [],
        id="a retry that is expected is a step by default",
    ),
    pytest.param(
        ("  verdict: failed-clean", "  verdict: split-brain"),
        [
            "10:12: expect.verdict: a bad outcome is expected: say in `known_outcome` why this "
            "is known"
        ],
        id="a bad verdict that nobody explains",
    ),
    pytest.param(
        ("  verdict: failed-clean", "  verdict: failed-clean\n  outage: {max: 1s}"),
        ["11:11: expect.outage: only `network.probe` measures an outage"],
        id="an outage that nobody measures",
    ),
    pytest.param(
        ("  verdict: failed-clean", "  verdict: failed-clean\n  device_state: equal"),
        [
            "11:17: expect.device_state: only a destination that never ran can be compared: "
            "`destination.paused: true`"
        ],
        id="a device state of a guest that ran",
    ),
    pytest.param(
        ("  verdict: failed-clean", "  verdict: failed-clean\n  source: {stderr: '(['}"),
        ["11:20: expect.source.stderr: not a regular expression: "],
        id="no regular expression",
    ),
    pytest.param(
        ("mode: precopy", "mode: precopy\nmode: postcopy"),
        ["3:1: mode: this key is there twice"],
        id="a key twice",
    ),
    pytest.param(
        ("description: nothing goes wrong", "description: [1, 2"),
        ["2:5: not YAML: while parsing a flow sequence"],
        id="no YAML",
    ),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_what_is_wrong_is_said_where_it_is(
    change: tuple[str, str], expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "scenario.yaml"
    old, new = change
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    if not expected:
        load(path)
        return
    with pytest.raises(ScenarioError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}:{start}"), line


def bomb() -> str:
    """Anchors that explode: a million values in some hundred bytes."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{row}: &a{row} [{', '.join([f'*a{row - 1}'] * 10)}]" for row in range(1, 6)]
    return "\n".join(rows)


FILES = [
    pytest.param(b"", "1:1: an empty file", id="empty"),
    pytest.param(b" \n\n", "1:1: an empty file", id="blank"),
    pytest.param(b"\x7fELF\x02\x01\xff\xfe", "1:7: not text in UTF-8 (byte 0xff)", id="binary"),
    pytest.param(b"a: 1\0", "1:1: a binary file", id="NUL"),
    pytest.param(b"- a\n- b\n", "1:1: expected a mapping with `description`", id="a list"),
    pytest.param(b"a: 1\n---\nb: 2\n", "1:1: 2 YAML documents", id="two documents"),
    pytest.param(b"a:\n\t- b\n", "2:1: not YAML: a tab; YAML is indented by blanks", id="tabs"),
    pytest.param(bomb().encode(), "more than 20000 values", id="anchors that explode"),
    pytest.param(b"a: &a [*a]", "more than 20000 values or 40 levels", id="an anchor in itself"),
    pytest.param(b"# " + b"x" * (1 << 20), "1:1: larger than 1048576 bytes", id="huge"),
    pytest.param(b"[" * 5000, "or 40 levels, anchors expanded", id="brackets without end"),
]


@pytest.mark.parametrize(("content", "expected"), FILES)
def test_a_file_that_is_no_scenario_is_one_clear_error(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:")
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_looked_for_beside_it(tmp_path: Path) -> None:
    (tmp_path / "postcopy_drop.yaml").write_text(GOOD)
    with pytest.raises(ScenarioError, match=r"no such file; did you mean .*/postcopy_drop\.yaml"):
        find([tmp_path / "postcopy_dorp.yaml"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScenarioError, match="a folder without a scenario"):
        find([tmp_path / "empty"])
    with pytest.raises(ScenarioError, match="no such file"):
        find([tmp_path / "postcopy_drop.yaml" / "below"])


def test_a_path_that_cannot_be_looked_at_says_why(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (("x" * 300, "File name too long"), ("loop", "Too many levels of symbolic")):
        with pytest.raises(ScenarioError, match=f":1:1: cannot be read: {why}"):
            find([tmp_path / path])


@pytest.mark.parametrize("path", find([LIBRARY]), ids=lambda path: path.stem)
def test_the_library_is_in_order(path: Path) -> None:
    scenario = load(path)
    assert scenario.name == path.stem
    resolved = json.loads(json.dumps(scenario.resolved()))
    assert resolved["steps"]
    assert resolved["expect"]["verdict"] == scenario.model.expect.verdict
