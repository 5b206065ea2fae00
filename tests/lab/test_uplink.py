"""What goes on in place of an announcement, and what the log says of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from testbed.fault.plan import Side, StatePlace
from testbed.lab import uplink
from testbed.lab.announce import (
    EVERY,
    Alteration,
    AnnounceFaults,
    Forged,
    LinkUp,
    Port,
)
from testbed.lab.uplink import UplinkRule
from testbed.log import Log
from testbed.netns.interposer import Direction, Drop, Instead, Outgoing, Pass, Verdict
from testbed.netns.rarp import rarp_frame

MAC, OTHER = "52:54:00:12:34:56", "52:54:00:aa:bb:cc"
FRAME = rarp_frame(MAC)
HEX = FRAME.hex()
ARP = FRAME[:12] + b"\x08\x06" + FRAME[14:]
PORTS = {Port.SOURCE: 101, Port.DESTINATION: 102, Port.CLIENT: 103}
RESUME = StatePlace(Side.DESTINATION, event="RESUME")


class Play:
    """A rule at work: five announcements, as QEMU sends them, unless told otherwise."""

    def __init__(self, **faults: Any) -> None:
        self.log = Log()
        self.rule = UplinkRule(AnnounceFaults(**faults), self.log, PORTS)

    def came(self, frame: bytes = FRAME) -> Verdict:
        return self.rule(Direction.A_TO_B, frame)

    def five(self) -> list[Verdict]:
        return [self.came() for _ in range(5)]

    def did(self) -> list[dict[str, Any]]:
        return [dict(event.facts) for event in self.log.find("announce-fault", "switch")]

    def unfired(self) -> list[str]:
        self.rule.note_unfired()
        *_, totals = self.log.find("announce-totals", "switch")
        return totals.facts["unfired"]


def lost(nth: int, what: str = "drop", **facts: Any) -> dict[str, Any]:
    return {"nth": nth, "what": what, "offset": 0, "before": HEX, "after": "", **facts}


def test_nothing_is_done_to_what_no_fault_names() -> None:
    play = Play(drop=frozenset({6}))
    assert play.five() == [Pass()] * 5
    assert play.came(ARP) == Pass()
    assert play.rule(Direction.B_TO_A, FRAME) == Pass()
    assert play.did() == []


def test_only_announcements_of_the_destinations_count() -> None:
    play = Play(drop=frozenset({2}))
    play.rule(Direction.B_TO_A, FRAME)
    play.came(ARP)
    assert [play.came(), play.came(), play.came()] == [Pass(), Drop(), Pass()]
    assert play.did() == [lost(2)]
    assert play.unfired() == []


def test_all_are_dropped() -> None:
    play = Play(drop=frozenset({EVERY}))
    assert play.five() == [Drop()] * 5
    assert play.did() == [lost(nth) for nth in range(1, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_drawn_from_the_seed(seed: int) -> None:
    draws = random.Random(seed)
    drawn = [draws.random() for _ in range(5)]
    play = Play(drop_share=0.5, seed=seed)
    assert play.five() == [Drop() if each < 0.5 else Pass() for each in drawn]
    assert play.did() == [
        lost(nth, share=0.5, seed=seed, drawn=round(each, 6))
        for nth, each in enumerate(drawn, 1)
        if each < 0.5
    ]
    assert play.unfired() == []
    assert play.log.first("announce-totals").facts == {
        "count": 5,
        "unfired": [],
        "share": 0.5,
        "seed": seed,
    }


def test_one_is_late_and_one_comes_three_times() -> None:
    play = Play(delay_s={1: 0.02, 3: 0.5}, copies={2: 2, 3: 1})
    assert [play.came(), play.came(), play.came(), play.came()] == [
        Instead((Outgoing(FRAME),), 0.02),
        Instead((Outgoing(FRAME),) * 3),
        Instead((Outgoing(FRAME),) * 2, 0.5),
        Pass(),
    ]
    assert play.did() == [
        {"nth": 1, "what": "delay", "for_s": 0.02},
        {"nth": 2, "what": "duplicate", "copies": 2},
        {"nth": 3, "what": "delay", "for_s": 0.5},
        {"nth": 3, "what": "duplicate", "copies": 1},
    ]


def test_bytes_are_altered_and_the_log_says_which() -> None:
    everywhere = (Alteration(20, b"\xff\xfe"), Alteration(59, b"\x01", "padding"))
    play = Play(alter={EVERY: everywhere, 2: (Alteration(0, b"\x02"),)})
    first = FRAME[:20] + b"\xff\xfe" + FRAME[22:59] + b"\x01"
    assert play.came() == Instead((Outgoing(first),))
    assert play.came() == Instead((Outgoing(b"\x02" + FRAME[1:]),))
    assert play.did() == [
        {"nth": 1, "what": "alter", "offset": 20, "before": "0003", "after": "fffe"},
        {
            **{"nth": 1, "what": "alter", "field": "padding"},
            **{"offset": 59, "before": "00", "after": "01"},
        },
        {"nth": 2, "what": "alter", "offset": 0, "before": "ff", "after": "02"},
    ]


def test_what_is_forged_goes_where_and_when_it_is_told_to() -> None:
    play = Play(
        drop=frozenset({2}),
        forge=(
            Forged(OTHER, Port.CLIENT, before=1),
            Forged(MAC, Port.SOURCE, after=1),
            Forged(OTHER, Port.DESTINATION, after=2),
        ),
    )
    assert play.came() == Instead(
        (Outgoing(rarp_frame(OTHER), 103), Outgoing(FRAME), Outgoing(FRAME, 101))
    )
    assert play.came() == Instead((Outgoing(rarp_frame(OTHER), 102),))
    assert play.came() == Pass()
    forged = {"what": "forge", "offset": 0, "before": ""}
    other, guest = rarp_frame(OTHER).hex(), HEX
    assert play.did() == [
        {**forged, "nth": 1, "port": "client", "mac": OTHER, "after": other},
        {**forged, "nth": 1, "port": "source", "mac": MAC, "after": guest},
        lost(2),
        {**forged, "nth": 2, "port": "destination", "mac": OTHER, "after": other},
    ]
    assert play.unfired() == []


def test_what_is_forged_at_a_state_goes_at_its_occurrence_and_once() -> None:
    twice = StatePlace(Side.SOURCE, status="active", occurrence=2)
    play = Play(
        forge=(
            Forged(MAC, Port.CLIENT, at=RESUME),
            Forged(OTHER, Port.CLIENT, at=RESUME),
            Forged(MAC, Port.SOURCE, at=twice),
        )
    )
    reported = [
        play.rule.observed(Side.SOURCE, "RESUME"),
        play.rule.observed(Side.DESTINATION, "STOP"),
        play.rule.observed(Side.DESTINATION, "RESUME"),
        play.rule.observed(Side.DESTINATION, "RESUME"),
        play.rule.observed(Side.SOURCE, "MIGRATION", "active"),
        play.rule.observed(Side.DESTINATION, "MIGRATION", "active"),
        play.rule.observed(Side.SOURCE, "MIGRATION", "completed"),
        play.rule.observed(Side.SOURCE, "MIGRATION", "active"),
    ]
    both = [Outgoing(FRAME, 103), Outgoing(rarp_frame(OTHER), 103)]
    assert reported == [[], [], both, [], [], [], [], [Outgoing(FRAME, 101)]]


def test_until_the_link_is_up_nothing_passes_and_the_log_says_what_was_lost() -> None:
    play = Play(link_up=LinkUp(0.3, RESUME))
    assert play.came() == Drop()
    assert play.came(ARP) == Drop()
    assert play.rule(Direction.B_TO_A, FRAME) == Drop()
    assert play.rule.link_due_in_s(Side.SOURCE, "RESUME") is None
    assert play.rule.link_due_in_s(Side.DESTINATION, "RESUME") == 0.3
    assert play.came() == Drop()
    play.rule.bring_link_up()
    assert [play.came(), play.came(ARP), play.rule(Direction.B_TO_A, ARP)] == [Pass()] * 3
    assert play.did() == [lost(1, "link-down"), lost(2, "link-down")]
    frame = {"source": MAC, "destination": "ff:ff:ff:ff:ff:ff", "length": 60}
    assert [event.facts for event in play.log.find("frame-lost", "switch")] == [
        {"toward": "switch", **frame, "ethertype": "0x0806"},
        {"toward": "destination", **frame, "ethertype": "0x8035"},
    ]
    assert play.log.first("link-up", "switch").facts == {"port": "destination", "lost": 4}
    assert play.unfired() == []


def test_a_flood_over_a_link_that_is_down_is_counted_and_named_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink, "LOST_LOGGED_MAX", 3)
    play = Play(link_up=LinkUp(0.3, RESUME))
    for _ in range(10):
        play.came(ARP)
    play.rule.bring_link_up()
    assert len([*play.log.find("frame-lost")]) == 3
    assert play.log.first("link-up").facts["lost"] == 10


NEVER: list[tuple[dict[str, Any], str]] = [
    ({"drop": frozenset({6})}, "announcement 6 was not dropped: 5 came"),
    ({"delay_s": {7: 1.0}}, "announcement 7 was not delayed: 5 came"),
    ({"copies": {7: 1}}, "announcement 7 was not duplicated: 5 came"),
    (
        {"alter": {2: (Alteration(0, b"\xff"),)}},
        "announcement 2 was not altered: its bytes were the same already",
    ),
    (
        {"alter": {EVERY: (Alteration(59, b"\1\2"),)}},
        "no announcement was altered: it has only 60 bytes",
    ),
    (
        {"forge": (Forged(MAC, Port.CLIENT, after=6),)},
        f"the forged announcement of {MAC} at the client's port was not sent: 5 came",
    ),
    (
        {"forge": (Forged(MAC, Port.CLIENT, at=StatePlace(Side.SOURCE, status="failed")),)},
        f"the forged announcement of {MAC} at the client's port was not sent: "
        "the source said failed 0 times",
    ),
    (
        {"drop_share": 0.000001, "seed": 7},
        "no announcement was dropped: 5 came, and chance spared each (seed 7)",
    ),
    (
        {"link_up": LinkUp(0.3, RESUME)},
        "the uplink did not come up: the destination said RESUME 0 times",
    ),
]


@pytest.mark.parametrize(("faults", "sentence"), NEVER, ids=[said[:60] for _, said in NEVER])
def test_what_was_never_done_is_said_with_its_reason(faults: Any, sentence: str) -> None:
    play = Play(**faults)
    play.five()
    assert play.unfired() == [sentence]
    assert [did["what"] for did in play.did() if did["what"] != "link-down"] == []


def test_a_link_that_was_down_while_nothing_came_did_nothing() -> None:
    play = Play(link_up=LinkUp(0.0, RESUME))
    play.rule(Direction.B_TO_A, ARP)
    play.rule.bring_link_up()
    play.five()
    assert play.log.first("link-up").facts["lost"] == 1
    assert play.unfired() == [
        "the uplink kept nothing off: nothing came from the destination before it came up"
    ]


def test_one_may_be_left_out_of_a_delay_of_all() -> None:
    play = Play(delay_s={EVERY: 0.02, 2: 0.0})
    assert play.five() == [
        Pass() if nth == 2 else Instead((Outgoing(FRAME),), 0.02) for nth in range(1, 6)
    ]
    assert play.unfired() == []


@pytest.mark.parametrize(
    "faults", [{"drop": frozenset({EVERY})}, {"drop_share": 0.5}], ids=["all", "a share"]
)
def test_where_none_came_none_was_dropped(faults: Any) -> None:
    assert Play(**faults).unfired() == ["no announcement was dropped: none came"]


def test_what_a_link_that_is_down_prevents_is_said() -> None:
    down = {"link_up": LinkUp(0.3, RESUME), "forge": (Forged(MAC, Port.DESTINATION, before=1),)}
    play = Play(drop=frozenset({1}), **down)
    play.rule.link_due_in_s(Side.DESTINATION, "RESUME")
    assert play.came() == Drop()
    assert play.unfired() == [
        "announcement 1 was not dropped: the uplink was down",
        f"the forged announcement of {MAC} at the destination's port was not sent: "
        "the uplink was down",
        "the uplink did not come up: the run ended before that",
    ]
