"""Connections that are not what a source opens, or come in another order."""

import asyncio
import socket

import pytest
from proxy_helpers import QUIET_S, Peer, proxied
from wire_helpers import precopy, recorded

from testbed.fault.plan import Fault, FlipBits, OffsetPlace
from testbed.proxy import proxy
from testbed.proxy.stray import FIRST, LATER, NOTHING_FIRST
from testbed.tasks import together

STREAM = precopy()
MULTIFD = b"\x11\x22\x33\x44\0\0\0\1" + bytes(56)


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "an HTTP request"),
        (b"SSH-2.0-x\r\n", "an SSH client"),
        (b'{"execute": "qmp_capabilities"}', "QMP monitor"),
        (b"PROXY TCP4 1.2.3.4", "PROXY protocol"),
        (b"\xff\xfe\xfd\xfc", "fffefdfc, which begins no channel"),
    ],
)
async def test_a_stranger_passes_and_is_told(first: bytes, what: str) -> None:
    async with proxied() as rig:
        await rig.pair(first)
        stray = await rig.logged("stray-connection", connection=1)
        assert what in stray.facts["what"]
        assert stray.facts["meaning"] == FIRST


async def test_a_stranger_that_comes_later_passes_and_is_told() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        await rig.pair(b"GET / HTTP/1.1\r\n\r\n")
        stray = await rig.logged("stray-connection", connection=2)
        assert stray.facts["meaning"] == LATER
        await source.send(b"on")
        assert await destination.exactly(2) == b"on"


async def test_one_that_ends_without_a_word_is_told_and_not_passed_on() -> None:
    async with proxied() as rig:
        source = await rig.source()
        source.finish()
        assert await source.receive() == b""
        stray = await rig.logged("stray-connection")
        assert stray.facts["what"] == "it says nothing"
        assert stray.facts["meaning"] == NOTHING_FIRST
        assert rig.nothing_arrived()


async def test_a_silent_stranger_does_not_keep_the_migration_waiting() -> None:
    async with proxied() as rig:
        stranger = await rig.source()
        await rig.logged("connection-opened", connection=1)
        source, destination = await rig.pair(STREAM[:4])
        await source.send(STREAM[4:])
        assert await destination.exactly(len(STREAM) - 4) == STREAM[4:]
        assert rig.nothing_arrived(), "the stranger has no bytes in hand"
        await stranger.send(b"what")
        assert await (await rig.destination()).exactly(4) == b"what"


async def test_multifd_channels_that_speak_before_the_main_channel_come_after_it() -> None:
    async with proxied() as rig:
        main = await rig.source()
        await rig.logged("connection-opened", connection=1)
        multifd = [await rig.source() for _ in range(3)]
        for channel in multifd:
            await channel.send(MULTIFD)
        await rig.logged("connection-opened", connection=4)
        assert rig.nothing_arrived()
        await main.send(STREAM[:8])
        assert await (await rig.destination()).exactly(8) == STREAM[:8]
        for _ in multifd:
            assert await (await rig.destination()).exactly(len(MULTIFD)) == MULTIFD


async def test_a_later_one_that_has_not_spoken_is_taken_for_preempt_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "SILENCE_S", QUIET_S)
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        later = await rig.source()
        destination = await rig.destination()
        identified = await rig.logged("connection-identified", connection=2)
        assert identified.facts["channel"] == "preempt"
        await later.send(b"\0\0\0\0\0\0\x10\x08")
        assert await destination.exactly(8) == b"\0\0\0\0\0\0\x10\x08"


async def test_a_later_one_is_not_held_up_by_a_slow_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "SILENCE_S", QUIET_S)
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        later = await rig.source()
        destination = await rig.destination()
        await later.send(MULTIFD[:1])
        assert await destination.exactly(1) == MULTIFD[:1]
        assert (await rig.logged("stray-connection", connection=2)).facts["meaning"] == LATER


async def test_after_all_have_ended_the_next_one_must_speak_first() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        source.reset()
        assert await destination.is_reset()
        await rig.logged("connection-ended", connection=1)
        recovery = await rig.source()
        await rig.logged("connection-opened", connection=2)
        assert rig.nothing_arrived()
        await recovery.send(b"\x08\0\x0a\0")
        await rig.destination()
        identified = await rig.logged("connection-identified", connection=2)
        assert identified.facts["channel"] == "recovery"


async def test_while_postcopy_is_paused_the_next_one_goes_onward_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "SPEAKS_WITHIN_S", QUIET_S)
    async with proxied() as rig:
        cut = recorded("qemu7.2-recover.c0.fwd")
        source, destination = await rig.pair(cut[:4])
        await together(source.send(cut[4:]), destination.exactly(len(cut) - 4))
        source.reset()
        assert await destination.is_reset()
        await rig.logged("connection-ended", connection=1)
        await rig.source()
        stranger = await rig.destination()
        assert await stranger.is_reset()
        told = await rig.logged("stray-connection", connection=2)
        assert told.facts["what"] == "it says nothing"
        recovery = await rig.source()
        destination = await rig.destination()
        await recovery.send(b"\x08\0\x0a\0")
        assert await destination.exactly(4) == b"\x08\0\x0a\0"
        identified = await rig.logged("connection-identified", connection=3)
        assert identified.facts["channel"] == "recovery"


async def test_each_file_header_begins_an_attempt_where_nobody_else_tells() -> None:
    flip = Fault(OffsetPlace(4), FlipBits(b"\x80"), "flip", attempt=2)
    async with proxied(flip, finds_attempts=True) as rig:
        for attempt, version in ((1, b"\0"), (2, b"\x80"), (3, b"\0")):
            source = await rig.source()
            await source.send(STREAM)
            source.finish()
            destination = await rig.destination()
            assert await destination.rest() == STREAM[:4] + version + STREAM[5:]
            assert rig.engine.attempt == attempt
            destination.finish()
            await rig.logged("connection-ended", connection=attempt)


async def one_more(listening):
    """Connect, and wait for what comes; closed then: a user may have 1024 open, and many come."""
    with socket.socket() as opened:
        source = Peer(opened)
        await asyncio.get_running_loop().sock_connect(opened, listening)
        await source.receive()


async def test_a_connection_beyond_the_bound_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(proxy, "SURPLUS_EVERY_S", QUIET_S)
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        surplus = 0
        while len(list(rig.log.find("connections-surplus"))) < 2:
            with pytest.raises(ConnectionResetError):
                await one_more(rig.listen)
            surplus += 1
        told = [event.facts["reset"] for event in rig.log.find("connections-surplus")]
        assert told[0] == 1
        assert sum(told) == surplus
