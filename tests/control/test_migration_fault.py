"""Faults of the scenario language as toxics, on a recorded migration through a proxy of the API."""

from __future__ import annotations

from typing import Any

import pytest
from control_helpers import Served, served
from wire_helpers import parse, recorded

from testbed.wire import MainChannel
from testbed.wire.element import SectionHeader

STREAM = recorded("qemu7.2-precopy.c0.fwd")
AT = {"section": "*/virtio-net"}


@pytest.fixture(scope="module")
def place() -> int:
    """Where the device section of virtio-net begins."""
    for element in parse(MainChannel(), [STREAM]):
        match element.value:
            case SectionHeader(idstr=idstr) if idstr.endswith("/virtio-net"):
                return element.offset
    raise AssertionError("the recording has none")


async def migrate(at: Served) -> bytes:
    """Send the recording through the proxy; what arrives until its end."""
    client = await at.client()

    async def send() -> None:
        await client.send(STREAM)
        client.finish()

    sending = at.tasks.create_task(send())
    server = await at.server()
    arrived = await server.rest()
    await sending
    server.finish()
    await client.rest()
    return arrived


async def over(at: Served, count: int) -> None:
    """Wait until so many connections have ended."""
    seen = 0
    for event in at.log:
        seen += event.kind == "connection-ended"
    while seen < count:
        await at.log.wait(
            lambda event: event.kind == "connection-ended",
            what="an end",
            within_s=10,
            since=len(at.log),
        )
        seen += 1


async def counted(at: Served, prefix: str) -> list[str]:
    text = (await at.call("GET", "/metrics")).text
    return [line for line in text.splitlines() if line.startswith(prefix)]


async def test_it_strikes_at_its_place_in_every_migration(place: int) -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("migration_fault", name="cut", at=AT, do="truncate")
        for number in (1, 2):
            assert await migrate(at) == STREAM[:place]
            await over(at, number)
        assert await counted(at, "testbed_faults_struck_total") == [
            'testbed_faults_struck_total{proxy="one",fault="cut"} 2'
        ]
        assert await counted(at, "testbed_connections_total") == [
            'testbed_connections_total{proxy="one",channel="main"} 2'
        ]
        struck = [event.facts for event in at.log.find("fault-struck")]
        assert [(each["proxy"], each["fault"]) for each in struck] == [("one", "cut")] * 2


async def test_the_next_migration_is_over_and_counted() -> None:
    async with served() as at:
        await at.proxy()
        assert await migrate(at) == STREAM
        await over(at, 1)
        assert await counted(at, "testbed_migrations_total") == [
            'testbed_migrations_total{proxy="one",outcome="whole"} 1'
        ]


async def test_a_reset_is_for_both_ends() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("migration_fault", at={"section": "ram", "kind": "start"}, do="reset")
        client = await at.client()
        await client.send(STREAM[:4])
        server = await at.server()
        await client.send(STREAM[4:4000])
        with pytest.raises(ConnectionResetError):
            await server.rest()
        assert await client.is_reset()


async def test_one_that_comes_during_a_migration_waits_for_the_next(place: int) -> None:
    async with served() as at:
        await at.proxy()
        client = await at.client()
        await client.send(STREAM[:4])
        server = await at.server()
        await at.toxic("migration_fault", name="cut", at=AT, do="truncate")
        sending = at.tasks.create_task(client.send(STREAM[4:]))
        assert await server.exactly(len(STREAM)) == STREAM
        await sending
        client.finish()
        server.finish()
        await client.rest()
        await over(at, 1)
        assert await migrate(at) == STREAM[:place]
        await at.call("DELETE", "/proxies/one/toxics/cut")
        await over(at, 2)
        assert await migrate(at) == STREAM


@pytest.mark.parametrize(
    ("more", "strikes"),
    [({"attempt": 2}, [False, True, False]), ({"when": {"chance": "100%"}}, [True, True, True])],
)
async def test_all_words_of_a_fault_are_there(more: dict[str, Any], strikes: list[bool]) -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("migration_fault", at={"element": "configuration"}, do="truncate", **more)
        for number, strike in enumerate(strikes, 1):
            arrived = await migrate(at)
            assert (len(arrived) == 8) is strike, number
            await over(at, number)
