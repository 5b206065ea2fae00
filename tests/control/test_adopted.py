"""A proxy that somebody else runs, with toxics over HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control_helpers import Served, passes, served
from toxiproxy import Toxiproxy

from testbed.control.errors import ApiError
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import ElementPlace, Fault, Truncate
from testbed.proxy import Proxy
from testbed.proxy.address import parse_address

FILE = Fault(ElementPlace("eof"), Truncate(), "from_the_file", attempt=None)


@asynccontextmanager
async def adopted() -> AsyncIterator[tuple[Served, Proxy]]:
    async with (
        served() as at,
        Proxy.start(
            listen=parse_address("127.0.0.1:0"),
            upstream=parse_address(at.upstream),
            engine=FaultEngine((FILE,), seed=at.control.seed),
            log=at.log,
            silent_after_s=1.0,
        ) as proxy,
    ):
        at.control.adopt("migration", proxy, faults=(FILE,))
        yield at, proxy


async def test_it_is_a_proxy_among_others() -> None:
    async with adopted() as (at, proxy):
        shown = (await at.call("GET", "/proxies/migration")).json
        assert shown == {
            "name": "migration",
            "listen": str(proxy.address),
            "upstream": at.upstream,
            "enabled": True,
            "toxics": [],
        }
        await at.proxy()
        await at.toxic("limit_data", "migration", bytes=3)
        client, server = await at.pair("migration")
        await server.send(b"abcdef")
        assert await client.rest() == b"abc"
        text = (await at.call("GET", "/metrics")).text
        assert 'testbed_connections_total{proxy="migration",channel="unknown"} 1' in text
        with pytest.raises(ApiError, match="proxy already exists"):
            at.control.adopt("migration", proxy)


async def test_the_example_of_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "toxiproxy.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    async with adopted() as (at, _):
        host, _, port = str(at.control.address).rpartition(":")
        Toxiproxy().update_api_consumer(host, int(port))
        await asyncio.to_thread(exec, example, {})
        toxics = (await at.call("GET", "/proxies/migration/toxics")).json
        assert [each["name"] for each in toxics] == ["bandwidth_upstream", "at-virtio-net"]


async def test_it_can_be_taken_down_and_up() -> None:
    async with adopted() as (at, proxy):
        client, _ = await at.pair("migration")
        down = await at.call("POST", "/proxies/migration", {"enabled": False})
        assert down.json["enabled"] is False
        assert await client.is_reset()
        with pytest.raises(ConnectionRefusedError):
            await at.connect(str(proxy.address))
        up = await at.call("POST", "/reset")
        assert up.status == 204
        assert await passes(*await at.pair("migration"))


async def test_its_upstream_can_be_changed_and_no_more() -> None:
    async with adopted() as (at, proxy):
        for method, body in (("DELETE", None), ("PATCH", {"listen": "127.0.0.1:1"})):
            said = await at.call(method, "/proxies/migration", body)
            assert said.status == 409
            assert said.json["error"].startswith("the proxy migration of the command ")
        said = await at.call("PATCH", "/proxies/migration", {"upstream": "localhost:1"})
        assert (said.json["upstream"], str(proxy.upstream)) == ("localhost:1", "localhost:1")


async def test_its_own_faults_stay_beside_those_of_toxics() -> None:
    async with adopted() as (at, proxy):
        fault = {"at": {"element": "configuration"}, "do": "truncate"}
        await at.toxic("migration_fault", "migration", name="ours", **fault)
        assert [each.name for each in proxy.engine.faults] == ["from_the_file", "ours"]
        body = {"type": "migration_fault", "name": "from_the_file", "attributes": fault}
        said = await at.call("POST", "/proxies/migration/toxics", body)
        assert (said.status, said.json["error"]) == (409, "toxic already exists")
        await at.call("POST", "/reset")
        assert [each.name for each in proxy.engine.faults] == ["from_the_file"]


async def test_it_goes_on_without_the_control_server() -> None:
    async with served() as outer:
        async with served() as at:
            proxy = await outer.stack.enter_async_context(
                Proxy.start(
                    listen=parse_address("127.0.0.1:0"),
                    upstream=parse_address(outer.upstream),
                    engine=FaultEngine(),
                    log=at.log,
                )
            )
            at.control.adopt("migration", proxy)
        client = await outer.connect(str(proxy.address))
        await client.send(b"hello")
        assert await (await outer.server()).exactly(5) == b"hello"
