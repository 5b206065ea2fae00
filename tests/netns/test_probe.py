"""The probe tells for how long frames went to the wrong host, or nowhere."""

import asyncio
import os
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netns_helpers import GUEST_MAC, numbered, packet_socket, rarp, true_within

from testbed.netns.forwarding import forwarding_table
from testbed.netns.interposer import Direction, Drop, Pass, interposed
from testbed.netns.probe import Fate, Interval, Probe, probing
from testbed.netns.topology import BRIDGE, UPLINK, Topology

FATES = {
    "R": {"destination"},
    "B": {"source", "destination"},  # flooded
    "W": {"source"},
    "N": set(),
}


def probe_of(story: str) -> Probe:
    """A probe whose frames, one each second from 100, met these fates."""
    probe = Probe(1.0)
    for host in ("source", "destination"):
        probe._reached[host] = set()
    for number, letter in enumerate(story):
        probe._sent.append(100.0 + number)
        for host in FATES[letter]:
            probe._reached[host].add(number)
    return probe


@pytest.mark.parametrize(
    ("story", "wrong_s", "nowhere_s", "first_right_at_s", "until_s"),
    [
        ("RRRR", 0, 0, 0, 0),
        ("RBRB", 0, 0, 0, 0),
        ("WWWR", 3, 0, 3, 3),
        ("WNRR", 1, 1, 2, 2),
        ("RWRW", 2, 0, 0, None),
        ("NNNN", 0, 4, None, None),
        ("WRWR", 2, 0, 1, 3),
        ("", 0, 0, None, None),
    ],
)
def test_an_outage_is_told_from_what_arrived(story, wrong_s, nowhere_s, first_right_at_s, until_s):
    outage = probe_of(story).outage("destination", 100.0)
    assert outage.probes == len(story)
    assert (outage.wrong_s, outage.nowhere_s) == (wrong_s, nowhere_s)
    assert (outage.first_right_at_s, outage.until_s) == (first_right_at_s, until_s)
    assert outage.total_s == wrong_s + nowhere_s


def test_only_what_was_sent_from_the_moment_on_counts():
    outage = probe_of("WWWWRR").outage("destination", 102.5)
    assert outage.intervals == (
        Interval(Fate.WRONG, 0.0, 1.5),
        Interval(Fate.RIGHT, 1.5, 3.5),
    )


def test_the_longest_time_without_a_probe_is_told():
    probe = probe_of("WWR")
    assert probe.outage("destination", 99.5).longest_gap_s == 1.0
    probe._sent[:] = [100.25, 100.5, 102.0]
    assert probe.outage("destination", 100.0).longest_gap_s == 1.5
    assert probe.outage("destination", 98.0).longest_gap_s == 2.25  # the first came late
    assert probe.outage("destination", 102.5).longest_gap_s == 0.0


@pytest.mark.live
async def test_an_event_loop_that_is_busy_holds_no_probe_up():
    async with Topology.create() as net:
        hosts = {"destination": (net.destination, UPLINK)}
        async with probing((net.client, UPLINK), hosts, GUEST_MAC, 0.005) as probe:
            await true_within(lambda: probe._sent)
            before, until = len(probe._sent), time.monotonic() + 0.5
            while time.monotonic() < until:
                pass  # as a parser is
            assert len(probe._sent) - before > 10  # 100 on an idle machine; none in the loop


@given(st.text("RBWN"))
def test_intervals_cover_the_time_without_gaps(story):
    intervals = probe_of(story).outage("destination", 100.0).intervals
    assert sum(interval.to_s - interval.from_s for interval in intervals) == len(story)
    for before, after in pairwise(intervals):
        assert before.to_s == after.from_s
        assert before.fate is not after.fate


@pytest.mark.live
async def test_frames_that_nobody_took_in_time_are_told():
    async with Topology.create() as net:
        hosts = {"destination": (net.destination, UPLINK)}
        async with probing((net.client, UPLINK), hosts, GUEST_MAC, 0.005) as probe:
            since = time.monotonic()
            with packet_socket(net.client, UPLINK) as client:
                for number in range(2000):  # more than 208 KiB, and the event loop waits
                    client.send(numbered(number))
            assert probe.outage("destination", since).unseen > 0


@pytest.mark.live
async def test_an_address_that_moves_late_is_measured():
    lost = False

    def rule(direction, _frame):
        return Drop() if lost and direction is Direction.B_TO_A else Pass()

    async with (
        Topology.create(interposable=True) as net,
        interposed(*(tap.fd for tap in net.uplink_taps), rule),
    ):
        hosts = {"source": (net.source, UPLINK), "destination": (net.destination, UPLINK)}

        async def announce(tap, port: str) -> None:
            os.write(tap.fd, bytes(10) + rarp())
            for _ in range(1000):
                if (await forwarding_table(net.switch, BRIDGE)).get(GUEST_MAC) == port:
                    return
            pytest.fail(f"the switch never learned that the guest is at {port}")

        async with probing((net.client, UPLINK), hosts, GUEST_MAC, 0.005) as probe:
            await true_within(lambda: probe._sent)
            await announce(net.source_guest, "source")
            stopped = time.monotonic()
            await asyncio.sleep(0.1)  # for so long the guest is at the destination, unannounced
            await announce(net.destination_guest, "destination")
            announced = time.monotonic()
            await asyncio.sleep(0.1)
            lost = True
            dark = time.monotonic()
            await asyncio.sleep(0.2)
            outage = probe.outage("destination", stopped)
    assert [interval.fate for interval in outage.intervals] == [
        Fate.WRONG,
        Fate.RIGHT,
        Fate.NOWHERE,
    ]
    assert outage.first_right_at_s == pytest.approx(announced - stopped, abs=0.05)
    assert outage.wrong_s == pytest.approx(announced - stopped, abs=0.05)
    assert outage.intervals[2].from_s == pytest.approx(dark - stopped, abs=0.05)
    assert outage.until_s is None
