"""Which sections were loaded, held against those that were sent."""

from collections.abc import Sequence
from typing import Any

import pytest
from judge_helpers import RUNS, STOPPED, Run

from testbed.scenario.judge import attempts
from testbed.scenario.loaded import Loading, loading

Section = tuple[str, int, int]
SENT: list[Section] = [("ram", 0, 4), ("timer", 0, 2), ("dma", 0, 1), ("dma", 1, 1)]


def run(
    loaded: Sequence[Section],
    *,
    sent: Sequence[Sequence[Any]] = SENT,
    parts: tuple[int, int] = (3, 3),
    **facts: Any,
) -> Run:
    """A run of one attempt: what was sent, what was loaded, and PART sections of both."""
    made = Run().begin().says("source", "completed").says("destination", "completed")
    for section, instance, version in loaded:
        more = {"instance": instance, "version": version, "section_id": 1}
        made.write("destination", "section-loaded", section=section, kind="start or full", **more)
    unread = facts.pop("unread", None)
    begun = [list(section) for section in sent]
    made.write("proxy", "sections-sent", begun=begun, parts={"ram 0": parts[0]}, unread=unread)
    told = {"traced": True, "cut": False, "parts": {"ram 0": parts[1]}, **facts}
    made.write("destination", "sections-loaded", **told)
    return made.end(STOPPED, {**RUNS, "status": "completed"})


RAM, TIMER, DMA, DMA_1 = SENT
PROBLEMS: list[tuple[str, list[Section], list[str]]] = [
    ("all of them", [RAM, TIMER, DMA, DMA_1], []),
    ("one is missing", [RAM, TIMER, DMA], ["dma 1: sent once, never loaded"]),
    ("one comes twice", [RAM, TIMER, TIMER, DMA, DMA_1], ["timer 0: sent once, loaded twice"]),
    (
        "one comes three times",
        [RAM, TIMER, DMA, DMA_1, DMA, DMA],
        ["dma 0: sent once, loaded 3 times"],
    ),
    (
        "one was never sent",
        [RAM, TIMER, DMA, DMA_1, ("hpet", 0, 2)],
        ["hpet 0: never sent, loaded once"],
    ),
    (
        "two change places",
        [RAM, DMA, TIMER, DMA_1],
        ["dma 0: loaded before timer 0, which was sent before it"],
    ),
    (
        "one has another version",
        [RAM, ("timer", 0, 1), DMA, DMA_1],
        ["timer 0: sent as version 2, loaded as version 1"],
    ),
    (
        "one has another's instance",
        [RAM, TIMER, DMA, DMA],
        ["dma 0: sent once, loaded twice", "dma 1: sent once, never loaded"],
    ),
]


@pytest.mark.parametrize(
    ("loaded", "problems"), [each[1:] for each in PROBLEMS], ids=[each[0] for each in PROBLEMS]
)
def test_each_section_is_to_be_loaded_once_and_in_order(
    loaded: list[Section], problems: list[str]
) -> None:
    made = run(loaded)
    assert loading(made.log) == Loading(tuple(problems))
    (attempt,) = attempts(made.log)
    assert attempt.verdict == ("corrupt" if problems else "completed")
    assert attempt.damage == tuple(problems)


def test_a_part_that_is_missing_is_named() -> None:
    assert loading(run(SENT, parts=(3, 2)).log).problems == (
        "ram 0: 3 PART and END sections sent, 2 loaded",
    )


def test_after_a_pause_parts_come_again_and_are_not_counted() -> None:
    made = run(SENT, parts=(5, 4))
    made.says("destination", "postcopy-paused")
    assert loading(made.log) == Loading()


def test_of_a_section_that_only_the_vmdesc_tells_of_the_version_is_not_known() -> None:
    sent = [RAM, ("timer", 0, None), DMA, DMA_1]
    assert loading(run(SENT, sent=sent).log) == Loading()


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"traced": False}, "built without the trace backend"),
        ({"cut": True}, "more sections than are kept"),
        ({"unread": "offset 0x5, in a thing"}, "offset 0x5, in a thing"),
        ({"sent": []}, "encrypted"),
    ],
)
def test_what_was_not_seen_is_no_damage(facts: dict[str, Any], why: str) -> None:
    made = run([], **facts)
    found = loading(made.log)
    assert found.problems == ()
    assert found.outcome is None
    assert why in (found.unwatched or "")
    assert attempts(made.log)[0].verdict == "completed"


def test_a_log_without_these_events_tells_nothing() -> None:
    assert loading(Run().begin().end(STOPPED, RUNS).log).outcome is None
