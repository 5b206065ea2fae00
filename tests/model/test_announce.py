"""Announcements: QEMU's frames at QEMU's times, also as a real QEMU is asked to send them."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest
from guest_helpers import machine
from hypothesis import given
from hypothesis import strategies as st

from testbed.guest import GuestSpec
from testbed.model.guest.announce import (
    TIMERS_MAX,
    Announcements,
    AnnounceParameters,
    Announcer,
    announcement,
)
from testbed.netns.capture import decode, rarp_problems

MACS = {"nic0": bytes.fromhex("525400123456"), "e1000.0": bytes.fromhex("525400123457")}
FIRST, SECOND = MACS.values()
EARLY_MS, LATE_MS = 2, 60
"""How far a real QEMU's times may be off: its timers have whole milliseconds, and may be late."""

SCHEDULES = {
    "the defaults": (AnnounceParameters(), [0, 50, 200, 450, 800]),
    "others": (AnnounceParameters(40, 200, 4, 120), [0, 40, 200, 400]),
    "a maximum below the first": (AnnounceParameters(300, 100, 3, 1), [0, 100, 200]),
    "times below zero": (AnnounceParameters(-100, 150, 4, 50), [0, 150, 300, 300]),
    "one round": (AnnounceParameters(50, 550, 1, 100), [0]),
    "no round": (AnnounceParameters(50, 550, 0, 100), []),
}


def times_ms(announcer):
    """Of all rounds, on a clock that goes to each when it is due."""
    announcer.begin(10.0)
    found = []
    while announcer.next_at_s is not None:
        now_s = announcer.next_at_s
        assert announcer.advance(now_s - 0.0001) == []
        assert announcer.advance(now_s) != []
        found.append(round((now_s - 10.0) * 1000))
    assert announcer.advance(1e9) == []
    return found


def test_the_frame_is_qemu_s():
    frame = announcement(FIRST)
    assert frame == bytes.fromhex(
        "ffffffffffff 525400123456 8035 0001 0800 06 04 0003 525400123456 00000000"
        "525400123456 00000000" + "00" * 18
    )
    assert rarp_problems(decode("destination", 0.0, frame)) == []


@pytest.mark.parametrize("name", SCHEDULES)
def test_rounds_come_when_they_must(name):
    parameters, expected = SCHEDULES[name]
    assert times_ms(Announcer([FIRST], parameters)) == expected


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 50), st.integers(1, 10_000))
def test_rounds_and_the_time_between_are_bounded(initial_ms, max_ms, rounds, step_ms):
    parameters = AnnounceParameters(initial_ms, max_ms, rounds, step_ms)
    times = times_ms(Announcer([FIRST], parameters))
    assert len(times) == rounds
    waits = [after - before for before, after in pairwise(times)]
    assert waits == [min(initial_ms + k * step_ms, max_ms) for k in range(len(waits))]


def test_each_round_has_every_nic_in_order():
    announcer = Announcer([SECOND, FIRST])
    assert announcer.next_at_s is None
    announcer.begin(0.0)
    for _ in range(5):
        frames = announcer.advance(announcer.next_at_s)
        assert frames == [announcement(SECOND), announcement(FIRST)]
    assert announcer.next_at_s is None


def test_a_round_that_is_late_delays_those_behind_it():
    announcer = Announcer([FIRST])
    announcer.begin(0.0)
    assert len(announcer.advance(7.0)) == 1
    assert announcer.next_at_s == pytest.approx(7.05)


def test_begun_anew_it_has_all_its_rounds_again():
    announcer = Announcer([FIRST])
    announcer.begin(0.0)
    announcer.advance(0.0)
    announcer.advance(0.05)
    assert times_ms(announcer) == [0, 50, 200, 450, 800]


# All timers of a machine


def played(announcements, until_s):
    """All that is sent until then: time in milliseconds, NIC."""
    found = []
    while (at_s := announcements.next_at_s) is not None and at_s <= until_s:
        for name, frame in announcements.advance(at_s):
            assert frame == announcement(MACS[name])
            found.append((round(at_s * 1000), name))
    return found


TWO = AnnounceParameters(100, 1000, 2, 0)
LONG = AnnounceParameters(400, 1000, 3, 0)


@pytest.mark.parametrize(
    ("interfaces", "names"),
    [
        (None, ["nic0", "e1000.0"]),
        (["e1000.0", "nic0"], ["nic0", "e1000.0"]),
        (["e1000.0"], ["e1000.0"]),
        (["net0"], []),
        ([], []),
    ],
)
def test_only_the_nics_asked_for_are_announced(interfaces, names):
    announcements = Announcements(MACS)
    announcements.begin(0.0, TWO, interfaces=interfaces, timer="")
    assert played(announcements, 9) == [(at, name) for at in (0, 100) for name in names]


def test_the_same_id_replaces_and_another_one_runs_beside():
    announcements = Announcements(MACS)
    announcements.begin(0.0, LONG, interfaces=["nic0"], timer="a")
    announcements.begin(0.0, TWO, interfaces=["e1000.0"], timer="b")
    announcements.begin(0.0, TWO, interfaces=["nic0"])
    assert sorted(played(announcements, 0.3)) == sorted(
        [(0, "nic0"), (0, "e1000.0"), (0, "nic0"), (100, "e1000.0"), (100, "nic0")]
    )
    announcements.begin(0.3, TWO, interfaces=["e1000.0"], timer="a")
    assert played(announcements, 9) == [(300, "e1000.0"), (400, "e1000.0")]
    announcements.begin(10.0, LONG, timer="a")
    announcements.begin(10.0, AnnounceParameters(rounds=0), timer="a")
    assert announcements.next_at_s is None


def test_no_more_run_than_there_is_room_for():
    announcements = Announcements(MACS)
    for number in range(TIMERS_MAX):
        announcements.begin(0.0, TWO, timer=str(number))
    with pytest.raises(ValueError, match="64 announcements"):
        announcements.begin(0.0, TWO)
    announcements.begin(0.0, TWO, timer="7")
    announcements.advance(0.0)
    announcements.advance(0.1)
    announcements.begin(0.2, TWO)
    assert announcements.next_at_s == 0.2


# The same asked of a real QEMU


class Arriving(asyncio.DatagramProtocol):
    """Each datagram is a frame of one NIC."""

    def __init__(self, name, frames):
        self.name, self.frames = name, frames

    def datagram_received(self, data, _address):
        self.frames.put_nowait((time.monotonic(), self.name, data))


@asynccontextmanager
async def announcing(folder):
    """A real QEMU with two NICs, and the frames that they send: when, which NIC, the frame."""
    frames, arguments = asyncio.Queue(), []
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for name, model, identity in (
            ("nic0", "virtio-net-pci", ",id=nic0"),
            ("e1000.0", "e1000", ""),
        ):
            ours, theirs = folder / name, folder / f"{name}-qemu"
            transport, _ = await loop.create_datagram_endpoint(
                lambda name=name: Arriving(name, frames), str(ours), family=socket.AF_UNIX
            )
            stack.callback(transport.close)
            remote = f"remote.type=unix,remote.path={ours}"
            local = f"local.type=unix,local.path={theirs}"
            arguments += ["-netdev", f"dgram,id={model},{remote},{local}"]
            mac = f"mac={MACS[name].hex(':')},romfile={identity}"
            arguments += ["-device", f"{model},netdev={model},{mac}"]
        qemu = await stack.enter_async_context(machine(GuestSpec(16 << 20), *arguments))
        yield qemu.qmp, frames


async def announce(qmp, parameters, **more):
    arguments = {
        "initial": parameters.initial_ms,
        "max": parameters.max_ms,
        "rounds": parameters.rounds,
        "step": parameters.step_ms,
        **more,
    }
    await qmp.execute("announce-self", arguments)


async def come(frames, count):
    async with asyncio.timeout(5):
        return [await frames.get() for _ in range(count)]


@pytest.mark.live
async def test_a_real_qemu_announces_as_the_model_does(tmp_path):
    async with announcing(tmp_path) as (qmp, frames):
        for parameters, expected in SCHEDULES.values():
            asked_s = time.monotonic()
            await announce(qmp, parameters)
            await announce(qmp, AnnounceParameters(300, 300, 2, 0), interfaces=["nic0"], id="last")
            by_nic = {name: [] for name in MACS}
            for at_s, name, frame in await come(frames, 2 * len(expected) + 2):
                assert frame == announcement(MACS[name])
                by_nic[name].append(at_s)
            assert len(by_nic["nic0"]) == len(expected) + 2
            times = by_nic["e1000.0"]
            assert len(times) == len(expected)
            for at_s, expected_ms in zip(times, expected, strict=True):
                late_ms = (at_s - asked_s) * 1000 - expected_ms
                assert -EARLY_MS <= late_ms <= LATE_MS, parameters


@pytest.mark.live
async def test_a_real_qemu_takes_ids_and_interfaces_as_the_model_does(tmp_path):
    async with announcing(tmp_path) as (qmp, frames):
        announcements = Announcements(MACS)
        began = time.monotonic()

        async def both(parameters, **more):
            await announce(qmp, parameters, **more)
            now_s, timer = time.monotonic() - began, more.pop("id", "")
            announcements.begin(now_s, parameters, timer=timer, **more)
            found.extend(name for name, _ in announcements.advance(now_s))

        found = []
        await both(LONG, interfaces=["nic0"], id="a")
        await both(TWO, interfaces=["e1000.0"])
        await both(TWO, interfaces=["e1000.0", "nic0"], id="a")
        await both(LONG, interfaces=["virtio-net-pci"], id="c")
        await both(LONG, interfaces=[], id="d")
        await both(LONG, id="e")
        await both(AnnounceParameters(rounds=0), id="e")
        found += [name for _, name in played(announcements, 9)]
        came = [name for _, name, _ in await come(frames, len(found))]
        await announce(qmp, AnnounceParameters(rounds=1), interfaces=["nic0"], id="last")
        came += [name for _, name, _ in await come(frames, 1)]
        assert sorted(came) == sorted([*found, "nic0"])
        assert frames.empty()
