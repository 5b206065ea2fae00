"""The reference of the fault language: its examples are taken, and it has every word there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.fault.places.place import ELEMENTS
from testbed.scenario.actions import ACTIONS, NEW
from testbed.scenario.conditions import ConditionsModel
from testbed.scenario.faults import plan_fault
from testbed.scenario.places import CHANNELS, PLACES
from testbed.scenario.strikes import FaultModel

DOCS = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
FAULTS = DOCS[DOCS.index("## Faults\n") : DOCS.index("## Network\n")]
SAMPLES = {"PLACE": "{element: eof}", "NAME": "other", '".."': '"00ff"'}
"""What stands for the words in capitals, and for bytes that are left out."""


def rows(heading: str) -> Iterator[str]:
    """The first cells of the tables whose first column is headed so."""
    table: str | None = None  # the heading of the one that the line is in
    for line in FAULTS.splitlines():
        cell = line.split(" | ")[0].removeprefix("| ")
        if not line.startswith("|"):
            table = None
        elif table is None:
            table = cell
        elif table == heading and not line.startswith("|--"):
            yield cell


def examples(heading: str) -> list[str]:
    """What stands between backticks in these cells, but not what goes on from the row above."""
    cells = [cell for cell in rows(heading) if "…" not in cell]
    return [found for cell in cells for found in re.findall(r"`([^`]+)`", cell)]


def read(text: str) -> Any:
    for word, sample in SAMPLES.items():
        text = text.replace(word, sample)
    return yaml.safe_load(text)


def planned(**written: Any) -> None:
    model = FaultModel.model_validate({"at": {"offset": 0}, "do": "reset", **written})
    plan_fault(model, 1, "")


@pytest.mark.parametrize("text", examples("`at`"))
def test_a_place_of_the_reference(text: str) -> None:
    planned(at=read(text))


@pytest.mark.parametrize("text", examples("`do`"))
def test_an_action_of_the_reference(text: str) -> None:
    planned(do=read(text))


@pytest.mark.parametrize("text", examples("`insert`"))
def test_what_the_reference_puts_in(text: str) -> None:
    planned(do={"insert": read(text)})


@pytest.mark.parametrize("text", [text for text in examples("`when`") if ": " in text])
def test_a_condition_of_the_reference(text: str) -> None:
    planned(when=read(f"{{{text}}}"))


def test_the_reference_has_every_word() -> None:
    assert set(examples("`element`")) == set(ELEMENTS)
    places = {key for text in examples("`at`") for key in read(text)}
    assert set(PLACES) - places <= {"page_record", "event"}  # said beside `page` and `state`
    actions = [read(text) for text in examples("`do`")]
    said = {it if isinstance(it, str) else next(iter(it)) for it in actions}
    assert set(ACTIONS) - said == {"signal"}  # said in the text
    assert {next(iter(read(text))) for text in examples("`insert`")} | {"hex"} == set(NEW)
    conditions = {text.partition(":")[0] for text in examples("`when`") if ": " in text}
    assert conditions == set(ConditionsModel.keys())
    keys = {text.partition(":")[0] for text in examples("key")}
    assert keys == set(FaultModel.keys())
    for word in (*CHANNELS, "signal", "page_record", "event"):
        assert f"`{word}`" in FAULTS or f"`{word}:" in FAULTS or f"{{{word}:" in FAULTS
