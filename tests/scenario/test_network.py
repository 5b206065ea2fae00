"""What a file says of the guest network: what it means, what is refused, what a run shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge_helpers import MAC, Run, check, completed, scenario

from testbed.fault.plan import Side, StatePlace
from testbed.lab.announce import EVERY, Alteration, AnnounceFaults, Forged, LinkUp, Port
from testbed.scenario.expect import judge
from testbed.scenario.invariants import early_frames, in_time
from testbed.scenario.load import ScenarioError, load
from testbed.scenario.network_faults import announce_faults
from testbed.scenario.scenario import Scenario

OTHER = "52:54:00:aa:bb:cc"
OTHER_RAW = bytes.fromhex("525400aabbcc")
SEED = 7


def written(folder: Path, network: str, expect: str = "verdict: completed") -> Path:
    path = folder / "it.yaml"
    path.write_text(
        f"description: about the network\nmode: precopy\n"
        f"network:\n  {network}\nexpect: {{{expect}}}\n"
    )
    return path


def faults(loaded: Scenario) -> AnnounceFaults:
    return announce_faults(loaded.model.network, loaded.model.guest.mac, SEED)


def everywhere(mac: bytes) -> tuple[Alteration, ...]:
    return tuple(
        Alteration(at, mac, name) for at, name in ((6, "source"), (22, "sender"), (32, "target"))
    )


MEANINGS: list[tuple[str, AnnounceFaults | None]] = [
    ("announce: {}", None),
    ("announce: {drop: all}", AnnounceFaults(drop=frozenset({EVERY}), seed=SEED)),
    ("announce: {drop: [1, 3]}", AnnounceFaults(drop=frozenset({1, 3}), seed=SEED)),
    ("announce: {drop: {share: 12.5%}}", AnnounceFaults(drop_share=0.125, seed=SEED)),
    (
        "announce: {delay: {2: 20ms, all: 1s}, duplicate: [1, all]}",
        AnnounceFaults(delay_s={2: 0.02, EVERY: 1.0}, copies={1: 1, EVERY: 1}, seed=SEED),
    ),
    ("announce: {duplicate: {3: 2}}", AnnounceFaults(copies={3: 2}, seed=SEED)),
    (
        f"announce: {{alter: {{all: {{mac: {OTHER}}}}}}}",
        AnnounceFaults(alter={EVERY: everywhere(OTHER_RAW)}, seed=SEED),
    ),
    (
        f'announce: {{alter: {{1: {{sender: {OTHER}}}, 2: {{byte: 20, hex: "ffff"}}}}}}',
        AnnounceFaults(
            alter={1: (everywhere(OTHER_RAW)[1],), 2: (Alteration(20, b"\xff\xff"),)}, seed=SEED
        ),
    ),
    (
        f"announce: {{forge: [{{port: source, after: 3}}, {{port: client, mac: {OTHER}, "
        "at: {event: STOP, side: source, occurrence: 2}}]}",
        AnnounceFaults(
            forge=(
                Forged(MAC, Port.SOURCE, after=3),
                Forged(
                    OTHER,
                    Port.CLIENT,
                    at=StatePlace(Side.SOURCE, event="STOP", occurrence=2),
                ),
            ),
            seed=SEED,
        ),
    ),
    (
        "link_up: {after: 300ms}",
        AnnounceFaults(
            link_up=LinkUp(0.3, StatePlace(Side.DESTINATION, event="RESUME")), seed=SEED
        ),
    ),
    (
        "link_up: {after: 1s, at: {state: active, side: source}}",
        AnnounceFaults(link_up=LinkUp(1.0, StatePlace(Side.SOURCE, "active")), seed=SEED),
    ),
]


@pytest.mark.parametrize(("network", "meant"), MEANINGS, ids=[text for text, _ in MEANINGS])
def test_what_is_written_is_what_the_lab_gets(
    tmp_path: Path, network: str, meant: AnnounceFaults | None
) -> None:
    loaded = load(written(tmp_path, network))
    assert faults(loaded) == meant


def test_it_is_stored_in_the_files_own_words(tmp_path: Path) -> None:
    network = (
        f"announce: {{drop: {{share: 12.5%}}, delay: {{all: 20ms}}, duplicate: {{1: 2}}, "
        f'alter: {{2: {{byte: 20, hex: "ffff"}}, 3: {{source: {OTHER}}}}}, '
        "forge: [{port: client, after: 3}]}"
    )
    stored = json.loads(json.dumps(load(written(tmp_path, network)).resolved()))["network"]
    assert stored["announce"] == {
        "drop": {"share": "12.5%"},
        "delay": {"all": "20ms"},
        "duplicate": {"1": 2},
        "alter": {"2": {"byte": 20, "hex": "ffff"}, "3": {"source": OTHER}},
        "forge": [{"port": "client", "mac": "guest", "after": 3}],
    }


WRONG: list[tuple[str, str]] = [
    (
        "announce: {drop: some}",
        "4:20: network.announce.drop: expected all, a list of numbers, or {share: 50%}, got 'some'",
    ),
    (
        "announce: {drop: {share: 0.5}}",
        "4:28: network.announce.drop.share: expected a share such as 50%, more than 0% and at most "
        "100%, got 0.5",
    ),
    ("announce: {drop: [0]}", "4:21: network.announce.drop[0]: expected 1 or more, got 0"),
    (
        "announce: {delay: {x: 20ms}}",
        "4:22: network.announce.delay.x: expected all, or a number from 1 on, got 'x'",
    ),
    (
        "announce: {duplicate: {1: 1001}}",
        "4:29: network.announce.duplicate.1: expected 1000 or less, got 1001",
    ),
    (
        f"announce: {{alter: {{1: {{mac: {OTHER}, byte: 3}}}}}}",
        "4:25: network.announce.alter.1: say which: `mac` or `byte`",
    ),
    (
        'announce: {alter: {1: {mac: "01:00:5e:00:00:01"}}}',
        "4:31: network.announce.alter.1.mac: expected the address of one NIC, got the group "
        "address 01:00:5e:00:00:01",
    ),
    (
        'announce: {alter: {1: {byte: 58, hex: "aabbcc"}}}',
        "4:41: network.announce.alter.1.hex: an announcement has 60 bytes, these go on to byte 60",
    ),
    (
        'announce: {alter: {1: {byte: 60, hex: "aa"}}}',
        "4:32: network.announce.alter.1.byte: expected less than 60, got 60",
    ),
    (
        "announce: {forge: [{port: moon, after: 1}]}",
        "4:29: network.announce.forge[0].port: expected 'source', 'destination' or 'client', "
        "got 'moon'",
    ),
    (
        "announce: {forge: [{port: client, after: 1, before: 2}]}",
        "4:22: network.announce.forge[0]: say when: `before` or `after` an announcement, "
        "or `at` a state",
    ),
    (
        "announce: {forge: [{port: client}]}",
        "4:22: network.announce.forge[0]: say when: `before` or `after` an announcement, "
        "or `at` a state",
    ),
    (
        "announce: {forge: [{port: client, at: {side: source, state: postcopy-active}}]}",
        "4:41: network.announce.forge[0].at: no side is ever postcopy-active in a scenario "
        "whose `mode` is precopy",
    ),
    (
        "announce: {drop: [2], delay: {1: 5ms, 2: 5ms}}",
        "4:44: network.announce.delay.2: announcement 2 is dropped: nothing else can happen to it",
    ),
    (
        "announce: {drop: all, duplicate: [1]}",
        "4:36: network.announce.duplicate: all announcements are dropped: nothing else can "
        "happen to one",
    ),
    (
        "link_up: {after: 300}",
        "4:20: network.link_up.after: expected a duration such as 500ms, 20s or 2m, got 300",
    ),
    (
        "link_up: {after: 1s, at: {side: source}}",
        "4:28: network.link_up.at: say which: `state` (a migration status), or `event`",
    ),
    ("link_up: {at: {event: RESUME, side: source}}", "4:12: network.link_up: `after` is missing"),
]


@pytest.mark.parametrize(("network", "said"), WRONG, ids=[text for text, _ in WRONG])
def test_what_is_wrong_is_said_at_its_place(tmp_path: Path, network: str, said: str) -> None:
    path = written(tmp_path, network)
    with pytest.raises(ScenarioError) as refused:
        load(path)
    assert str(refused.value) == f"{path}:{said}"


# What must come of it

GOOD = "verdict: completed"


def rarps(*macs: str) -> Run:
    run = completed(announced=False)
    for number, mac in enumerate(macs):
        run.at(1.0 + number).rarp(source=mac)
    return run


@pytest.mark.parametrize(
    ("expect", "macs", "name", "passed", "got"),
    [
        ("count: {min: 1, max: 3}", (MAC, MAC), "count", True, "2"),
        ("count: {min: 1, max: 3}", (MAC,) * 4, "count", False, "4"),
        ("count: {min: 1}", (), "count", False, "0"),
        (f"mac: [guest, {OTHER}]", (MAC, OTHER), "mac", True, f"{MAC} {OTHER}"),
        (f"mac: [guest, {OTHER}]", (OTHER, MAC), "mac", False, f"{OTHER} {MAC}"),
        ("mac: [guest]", (MAC, MAC), "mac", False, f"{MAC} {MAC}"),
        ("mac: []", (), "mac", True, "none"),
    ],
)
def test_announcements_are_held_against_what_was_expected(
    tmp_path: Path, expect: str, macs: tuple[str, ...], name: str, passed: bool, got: str
) -> None:
    played = scenario(tmp_path, f"{GOOD}, announce: {{{expect}}}")
    _, checks = judge(played, rarps(*macs).log)
    found = check(checks, f"expect.announce.{name}")
    assert (found.passed, found.got) == (passed, got)


HEAD = "mode: postcopy\nnetwork:\n  announce: {drop: [6]}"


@pytest.mark.parametrize(
    ("unfired", "passed", "got"),
    [
        ([], True, "they struck"),
        (
            ["announcement 6 was not dropped: 5 came"],
            False,
            "announcement 6 was not dropped: 5 came",
        ),
        (None, None, "the run ended before that was known"),
    ],
)
def test_a_fault_that_hit_no_announcement_fails_its_scenario(
    tmp_path: Path, unfired: list[str] | None, passed: bool | None, got: str
) -> None:
    run = completed()
    if unfired is not None:
        run.write("switch", "announce-totals", count=5, unfired=unfired)
    _, checks = judge(scenario(tmp_path, GOOD, head=HEAD), run.log)
    found = check(checks, "network")
    assert (found.passed, found.got) == (passed, got)
    assert found.where.endswith("it.yaml:4:3")


def test_who_hits_no_announcement_is_not_asked(tmp_path: Path) -> None:
    head = "mode: postcopy\nnetwork: {probe: {every: 5ms}}"
    _, checks = judge(scenario(tmp_path, GOOD, head=head), completed().log)
    assert "network" not in [each.name for each in checks]


def test_what_was_forged_at_the_destination_is_not_its_own() -> None:
    def run(forged: int, came: int) -> int:
        log = Run().begin()
        for _ in range(forged):
            log.write("switch", "announce-fault", what="forge", port="destination", mac=MAC)
        for _ in range(came):
            log.rarp()
        log.at(1.0).event("source", "STOP").rarp()
        return len(early_frames(in_time(log.log), MAC))

    assert run(0, 1) == 1
    assert run(1, 1) == 0
    assert run(1, 3) == 2
