"""What is looked at without being asked: each run that arrived, and what it finds there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_helpers import command

pytestmark = pytest.mark.live

PAUSED = "destination: {paused: true}\n"
SCENARIO = """\
name: it
description: nothing of it asks for memory, device state, or sections
mode: precopy
guest: {{memory: 16M, working_set: 4M}}
{head}faults: [{fault}]
expect: {{verdict: {verdict}}}
"""


def events(folder: Path, text: str, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status and output of a run, and the events of its log."""
    path = folder / "it.yaml"
    path.write_text(text)
    done = command("run", str(path), *options, "--out", str(folder / "out"))
    log = (folder / "out" / "it" / "log.jsonl").read_text()
    return done.returncode, done.stdout, [json.loads(line) for line in log.splitlines()]


FLIP = "do: {flip: ff}, times: every"
DAMAGE = {
    "a page of the working set": (
        PAUSED,
        f"{{at: {{block: pc.ram, page: 700, field: data, byte: 8}}, {FLIP}}}",
        "page 700, byte 8: expected",
    ),
    "a page of the firmware": (
        "",
        f"{{at: {{block: pc.bios, page: 63, field: data, byte: 0}}, {FLIP}}}",
        "page 63 of pc.bios: ",
    ),
    "a page of low memory": (
        "",
        f"{{at: {{block: pc.ram, page: 240, field: data, byte: 0}}, {FLIP}}}",
        "page 240 of pc.ram: ",
    ),
    "a section that is lost": (
        "",
        "{at: {section: i8254, kind: full}, do: delete}",
        "i8254 0: sent once, never loaded",
    ),
    "a part of the state page that the guest does not write": (
        "",
        f"{{at: {{block: pc.ram, page: 16, field: data, byte: 200}}, {FLIP}}}",
        "page 16 of pc.ram: it is not as it was sent",
    ),
    "a field of a device whose guest runs on": (
        "",
        "{at: {section: serial, part: payload, field: state.ier}, do: {flip: '01'}}",
        "serial 0, field state.ier: sent 00, loaded 01",
    ),
    "the run state that a destination is told": (
        PAUSED,
        "{at: {section: globalstate, part: payload, field: runstate, byte: 0}, do: {set: {hex: "
        "'7061757365640000'}}}",
        "globalstate 0, field runstate: sent 72756e6e696e67",
    ),
    "a field of a device": (
        PAUSED,
        "{at: {section: i8254, part: payload, field: 'channels[0].count'}, do: {flip: '01'}}",
        "i8254 0, field channels[0].count",
    ),
}
ON_QEMU = (
    "a page of the firmware",
    "a field of a device",
    "a field of a device whose guest runs on",
)
"""What a real one may have otherwise than a model; each run takes a second."""


@pytest.mark.parametrize(
    ("head", "fault", "found", "options"),
    [
        *(pytest.param(*DAMAGE[each], (), id=f"{each}, models") for each in DAMAGE),
        *(
            pytest.param(*DAMAGE[each], ("--endpoint", "qemu"), id=f"{each}, QEMU")
            for each in ON_QEMU
        ),
    ],
)
def test_damage_is_corrupt_and_named(
    tmp_path: Path, head: str, fault: str, found: str, options: tuple[str, ...]
) -> None:
    text = SCENARIO.format(head=head, fault=fault, verdict="completed")
    status, output, _ = events(tmp_path, text, *options)
    assert status == 1, output
    assert f"got:      corrupt ({found}" in output


@pytest.mark.parametrize("options", [(), ("--endpoint", "qemu")], ids=["models", "QEMU"])
def test_without_a_fault_nothing_is_found(tmp_path: Path, options: tuple[str, ...]) -> None:
    text = SCENARIO.format(head=PAUSED, fault="", verdict="completed")
    status, output, log = events(tmp_path, text, *options)
    assert status == 0, output
    facts = {each["kind"]: each["facts"] for each in log if each["kind"].endswith("-checked")}
    assert facts["memory-checked"]["others"] > 1000
    assert facts["memory-checked"]["others_unwatched"] is None
    assert facts["device-state-checked"]["sections"] > 25
    assert facts["device-state-checked"]["content"] is True


def test_a_destination_that_tells_of_no_section_is_said_to_be_unwatched(tmp_path: Path) -> None:
    """Its log goes elsewhere, as that of a QEMU does that was built without the backend."""
    head = "destination: {arguments: [-D, /dev/null]}\n"
    fault = "{at: {section: i8254, kind: full}, do: delete}"
    text = SCENARIO.format(head=head, fault=fault, verdict="completed")
    _, _, log = events(tmp_path, text, "--endpoint", "qemu")
    (unchecked,) = [each["facts"] for each in log if each["kind"] == "unchecked"]
    assert unchecked["what"] == "sections"
    assert "built without the trace backend `log`" in unchecked["why"]


def test_corrupt_is_not_claimed_of_what_is_whole(tmp_path: Path) -> None:
    text = SCENARIO.format(head=PAUSED, fault="", verdict="corrupt, known_outcome: none")
    status, output, _ = events(tmp_path, text)
    assert status == 1
    assert "got:      completed" in output


def test_what_a_scenario_leaves_unchecked_is_said(tmp_path: Path) -> None:
    head = "unchecked: {memory: not here, device_state: nor this}\n"
    fault = "{at: {block: pc.bios, page: 63, field: data, byte: 0}, do: {flip: ff}}"
    text = SCENARIO.format(head=head, fault=fault, verdict="completed")
    status, output, log = events(tmp_path, text)
    assert status == 0, output
    assert [each["facts"] for each in log if each["kind"] == "unchecked"] == [
        {"what": "memory", "why": "not here"},
        {"what": "device_state", "why": "nor this"},
    ]
    assert not [each for each in log if each["kind"].endswith("-checked")]
