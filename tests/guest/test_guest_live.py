"""The guest in a real QEMU: it boots, keeps to its rule and its rate, and migrates whole."""

import asyncio
import socket

import pytest
from guest_helpers import WITHIN_S, machine

from testbed.guest import GuestSpec, check_memory
from testbed.guest.image import RATE_MAX
from testbed.guest.rule import STATE, STATE_AT, TICKS_PER_SECOND

pytestmark = pytest.mark.live

MIB = 1 << 20
PAGE = 4096
SLACK_TICKS = 5
"""Ticks whose share may be undone yet: a vCPU that had to wait has some at once."""
EVENTS = {"capability": "events", "state": True}


@pytest.mark.parametrize(
    ("board", "disk", "mib"),
    [("pc", "virtio", 64), ("pc", "ide", 16), ("q35", "virtio", 16)],
)
async def test_it_boots_and_keeps_to_its_rule(tmp_path, board, disk, mib):
    spec = GuestSpec(mib * MIB, seed=mib, pages_per_second=RATE_MAX)
    async with machine(spec, board=board, disk=disk) as guest:
        await guest.said("guest started")
        filled = await guest.said("guest filled")
        assert int(filled.split()[-1], 16) == spec.page_count
        said = await guest.stamps(at_least=2 * spec.page_count)
        ram = await guest.memory(spec, tmp_path)
    report = check_memory(ram, spec)
    assert report.findings == ()
    assert report.pages == spec.page_count
    assert report.stamps >= said
    assert report.pass_number >= 3


async def test_it_stops_at_many_places_with_its_memory_whole(tmp_path):
    spec = GuestSpec(2 * MIB + 5 * PAGE, pages_per_second=RATE_MAX)
    stamps = []
    async with machine(spec) as guest:
        await guest.said("guest filled")
        for _ in range(10):
            report = check_memory(await guest.memory(spec, tmp_path), spec)
            assert report.findings == ()
            stamps.append(report.stamps)
            await guest.qmp.execute("cont")
            await guest.stamps(at_least=report.stamps + 1)
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("rate", [0, 30, 3333])
async def test_each_tick_brings_its_share_of_the_rate(tmp_path, rate):
    spec = GuestSpec(16 * MIB, pages_per_second=rate)
    async with machine(spec) as guest:
        first = await guest.stamps(at_least=0)
        second = await guest.stamps(at_least=first)
        report = check_memory(await guest.memory(spec, tmp_path), spec)
    assert report.intact
    slack = SLACK_TICKS * -(-rate // TICKS_PER_SECOND)
    assert abs(second - first - rate // 10) <= slack
    assert 0 <= report.ticks * rate // TICKS_PER_SECOND - report.stamps <= slack


async def test_a_line_that_nobody_reads_does_not_stop_it(tmp_path):
    spec = GuestSpec(16 * MIB, pages_per_second=RATE_MAX)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        while _room(theirs):
            pass
        async with machine(spec, unread=theirs) as guest:
            await _passes(guest, 3, tmp_path)
            report = check_memory(await guest.memory(spec, tmp_path), spec)
    assert report.findings == ()


def _room(line):
    try:
        return line.send(b"-")
    except BlockingIOError:
        return 0


async def _passes(guest, at_least, folder):
    """Wait for the state page of a guest that runs to say so."""
    async with asyncio.timeout(WITHIN_S):
        while STATE.unpack(await guest.read(STATE_AT, STATE.size, folder))[2] <= at_least:
            pass


async def test_it_boots_anew_after_a_reset(tmp_path):
    spec = GuestSpec(16 * MIB, pages_per_second=1000)
    async with machine(spec) as guest:
        await guest.stamps(at_least=200)
        await guest.qmp.execute("system_reset")
        await guest.said("guest started")
        assert await guest.stamps(at_least=0) < 200
        assert check_memory(await guest.memory(spec, tmp_path), spec).findings == ()


@pytest.mark.parametrize("board", ["pc", "q35"])
async def test_it_migrates_whole_and_a_wrong_page_is_named(tmp_path, board):
    spec = GuestSpec(16 * MIB, seed=3, pages_per_second=20_000)
    async with (
        machine(spec, board=board) as source,
        machine(spec, "-incoming", "defer", board=board) as destination,
    ):
        await source.stamps(at_least=spec.page_count)
        older = await source.memory(spec, tmp_path)
        await source.qmp.execute("cont")
        await source.stamps(at_least=check_memory(older, spec).stamps + 3 * spec.page_count)
        for end in (source, destination):
            await end.qmp.execute("migrate-set-capabilities", {"capabilities": [EVENTS]})
        await destination.qmp.execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        listening = (await destination.qmp.execute("query-migrate"))["socket-address"][0]
        await source.qmp.execute("migrate", {"uri": f"tcp:127.0.0.1:{listening['port']}"})
        await source.event("MIGRATION", status="completed")
        left = check_memory(await source.memory(spec, tmp_path), spec)
        await destination.stamps(at_least=left.stamps + spec.page_count)
        ram = await destination.memory(spec, tmp_path)

    report = check_memory(ram, spec)
    assert left.intact
    assert report.findings == ()
    assert report.stamps > left.stamps > check_memory(older, spec).stamps

    at = 1000 * PAGE
    stale, flipped = bytearray(ram), bytearray(ram)
    stale[at : at + PAGE] = older[at : at + PAGE]
    (found,) = (of_stale := check_memory(stale, spec)).findings
    assert (of_stale.stale, of_stale.damaged, found.page, found.byte) == (1, 0, 1000, 0)
    flipped[at + 4095] ^= 0x80
    (found,) = (of_flipped := check_memory(flipped, spec)).findings
    assert (of_flipped.stale, of_flipped.damaged) == (0, 1)
    assert (found.page, found.byte) == (1000, 4095)
