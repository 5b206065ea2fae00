"""Toxics on connections that run: what both ends see, by real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from control_helpers import Served, passes, served
from proxy_helpers import Peer


async def test_without_toxics_bytes_and_ends_pass() -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        client.finish()
        assert await server.rest() == b""
        await server.send(b"still")  # a half-close is one, in both directions
        assert await client.exactly(5) == b"still"
        server.finish()
        assert await client.rest() == b""


async def test_a_reset_is_passed_on() -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        client.reset()
        assert await server.is_reset()


async def test_a_server_that_speaks_first_is_heard() -> None:
    async with served() as at:
        await at.proxy()
        client = await at.client()
        server = await at.server()
        await server.send(b"220 ready")
        assert await client.exactly(9) == b"220 ready"


@pytest.mark.parametrize("live", [True, False], ids=["live", "new"])
async def test_reset_peer_is_a_reset_for_both_ends(live: bool) -> None:
    async with served() as at:
        await at.proxy()
        if live:
            client, server = await at.pair()
            await at.toxic("reset_peer")
        else:
            await at.toxic("reset_peer")
            client, server = await at.pair()
            await server.send(b"never arrives")
        assert await client.is_reset()
        assert await server.is_reset()


async def test_reset_peer_without_toxicity_resets_nothing() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("reset_peer", toxicity=0)
        client, server = await at.pair()
        await server.send(b"arrives")
        assert await client.exactly(7) == b"arrives"
        client.finish()
        assert await server.rest() == b""
        server.finish()
        assert await client.rest() == b""


async def test_a_slicer_sends_one_byte_at_a_time() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("slicer", average_size=1, delay=10_000)
        client, server = await at.pair()
        text = b"twenty-four single bytes"
        await server.send(text)
        reads = [await client.receive() for _ in text]
        assert reads == [bytes([byte]) for byte in text]


async def test_latency_is_of_one_direction() -> None:
    """The lower bound is exact: what comes too early would be wrong however slow the machine is."""
    async with served() as at:
        await at.proxy()
        await at.toxic("latency", latency=100)
        client, server = await at.pair()
        began = time.monotonic()
        await server.send(b"late")
        assert await client.exactly(4) == b"late"
        assert time.monotonic() - began >= 0.1


async def test_latency_that_is_taken_away_lets_go_what_waits() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("latency", latency=3_600_000)
        client, server = await at.pair()
        await server.send(b"in an hour")
        await held(at)
        assert (await at.call("DELETE", "/proxies/one/toxics/latency_downstream")).status == 204
        assert await client.exactly(10) == b"in an hour"


async def held(at: Served) -> None:
    """Wait until bytes of the server have come that have not gone on."""
    async with asyncio.timeout(10):
        while True:
            counted = await metrics(at)
            came = counted['toxiproxy_proxy_received_bytes_total{direction="downstream"']
            if came > counted['toxiproxy_proxy_sent_bytes_total{direction="downstream"']:
                return
            await asyncio.sleep(0.01)


async def metrics(at: Served) -> dict[str, float]:
    """The metrics' values, by name and first label."""
    text = (await at.call("GET", "/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.partition(",")[0]: float(value) for name, _, value in lines}


async def test_bandwidth_of_zero_is_back_pressure_and_more_lets_go() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("bandwidth", rate=0)
        client, server = await at.pair()
        data = bytes(256) * 400
        await server.send(data)
        await held(at)
        said = await at.call(
            "PATCH", "/proxies/one/toxics/bandwidth_downstream", {"attributes": {"rate": 10_000}}
        )
        assert said.json["attributes"] == {"rate": 10_000}
        assert await client.exactly(len(data)) == data


async def test_limit_data_passes_exactly_so_many_and_closes() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("limit_data", bytes=100)
        client, server = await at.pair()
        await server.send(b"x" * 60)
        assert await client.exactly(60) == b"x" * 60
        await at.call(
            "PATCH", "/proxies/one/toxics/limit_data_downstream", {"attributes": {"bytes": 80}}
        )
        await server.send(b"y" * 60)
        assert await client.rest() == b"y" * 20


async def test_timeout_drops_and_closes() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("timeout", timeout=50)
        client, server = await at.pair()
        await server.send(b"dropped")
        assert await client.rest() == b""


async def test_timeout_that_is_taken_away_closes() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("timeout", timeout=0)
        client, server = await at.pair()
        await server.send(b"dropped")
        await held(at)
        await at.call("DELETE", "/proxies/one/toxics/timeout_downstream")
        assert await client.rest() == b""


async def test_slow_close_delays_the_end_only() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("slow_close", delay=3_600_000)
        client, server = await at.pair()
        await server.send(b"at once")
        server.finish()
        assert await client.exactly(7) == b"at once"
        await at.call("DELETE", "/proxies/one/toxics/slow_close_downstream")
        assert await client.rest() == b""


async def test_no_byte_is_lost_while_toxics_come_and_go() -> None:
    """Toxiproxy's own check, in small: writes of two bytes, in order, through changes."""
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        words = [number.to_bytes(2, "big") for number in range(8000)]

        async def write() -> None:
            for number, word in enumerate(words):
                await client.send(word)
                if number % 40 == 0:
                    await asyncio.sleep(0)  # the changes have their turn

        async def change() -> None:
            while not reading.done():
                for kind, more in (
                    ("latency", {"latency": 5, "jitter": 5}),
                    ("slicer", {"average_size": 64}),
                    ("bandwidth", {"rate": 1_000_000}),
                ):
                    await at.toxic(kind, stream="upstream", **more)
                await at.call("POST", "/reset")

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            reading = group.create_task(server.exactly(2 * len(words)))
            group.create_task(change())
            await write()
        assert reading.result() == b"".join(words)


async def test_half_of_the_connections_are_the_same_half_every_time() -> None:
    async def touched(seed: int) -> list[bool]:
        """Which of eight connections a toxic of half toxicity closes."""
        async with served(seed=seed) as at:
            await at.proxy()
            await at.toxic("limit_data", toxicity=0.5, bytes=1)
            return [await is_cut(await at.pair()) for _ in range(8)]

    async def is_cut(ends: tuple[Peer, Peer]) -> bool:
        client, server = ends
        await server.send(b"ab")
        return await client.receive() == b"a"

    first = await touched(1)
    assert first == await touched(1)
    assert len({tuple(await touched(seed)) for seed in range(2, 5)} | {tuple(first)}) > 1
    assert 0 < sum(first) < 8


async def test_what_chance_said_of_a_connection_stays() -> None:
    """Another toxic, or a change of this one, does not draw again."""
    async with served() as at:
        await at.proxy()
        await at.toxic("limit_data", toxicity=0.5, bytes=10)
        ends = [await at.pair() for _ in range(8)]
        await at.toxic("noop")
        await at.call(
            "PATCH", "/proxies/one/toxics/limit_data_downstream", {"attributes": {"bytes": 1}}
        )
        cut = []
        for client, server in ends:
            await server.send(b"ab")
            cut.append(await client.receive() == b"a")
        async with served() as again:
            await again.proxy()
            await again.toxic("limit_data", toxicity=0.5, bytes=1)
            fresh = []
            for _ in range(8):
                client, server = await again.pair()
                await server.send(b"ab")
                fresh.append(await client.receive() == b"a")
        assert cut == fresh


async def test_a_unix_upstream(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        async with served() as at:
            at.listener.close()
            at.listener = listener
            await at.proxy(upstream=f"unix:{tmp_path / 's'}")
            assert await passes(*await at.pair())


async def test_metrics_are_current_while_a_connection_runs() -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        await server.send(b"answer")
        assert await client.exactly(6) == b"answer"
        text = (await at.call("GET", "/metrics")).text
        listen = (await at.call("GET", "/proxies/one")).json["listen"]
        labels = f'proxy="one",listener="{listen}",upstream="{at.upstream}"'
        for line in (
            f'toxiproxy_proxy_received_bytes_total{{direction="upstream",{labels}}} 5',
            f'toxiproxy_proxy_sent_bytes_total{{direction="upstream",{labels}}} 5',
            f'toxiproxy_proxy_received_bytes_total{{direction="downstream",{labels}}} 6',
            f'toxiproxy_proxy_sent_bytes_total{{direction="downstream",{labels}}} 6',
            'testbed_connections_open{proxy="one"} 1',
            'testbed_connections_total{proxy="one",channel="unknown"} 1',
            'testbed_received_bytes_total{proxy="one",channel="unknown",direction="forward"} 5',
        ):
            assert line in text.splitlines()
        client.finish()
        server.finish()
        await at.log.wait(
            lambda event: event.kind == "connection-ended", what="the end", within_s=10
        )
        text = (await at.call("GET", "/metrics")).text
        assert 'testbed_connections_open{proxy="one"} 0' in text.splitlines()
        assert (
            'testbed_received_bytes_total{proxy="one",channel="unknown",direction="return-path"} 6'
            in text.splitlines()
        )
