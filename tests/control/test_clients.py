"""Toxiproxy's own clients, as they are, against a control server that runs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from control_helpers import served
from toxiproxy import Toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

ROOT = Path(__file__).parents[2]


async def test_node_client() -> None:
    """Set-up installs it: `scripts/setup`."""
    async with served() as at:
        node = await asyncio.create_subprocess_exec(
            "node",
            str(Path(__file__).with_name("client.js")),
            f"http://{at.control.address}",
            at.upstream,
            env={**os.environ, "NODE_PATH": str(ROOT / ".node" / "node_modules")},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(node.communicate(), 30)
    assert node.returncode == 0
    assert json.loads(said) == {
        "version": "2.12.0",
        "populated": [["a", True], ["b", False]],
        "listen": True,
        "refused": "Request failed with status code 409",
        "updated": {"latency": 200, "jitter": 10},
        "shown": {
            "attributes": {"latency": 200, "jitter": 10},
            "name": "lag",
            "stream": "upstream",
            "toxicity": 1.0,
            "type": "latency",
        },
        "removed": "Request failed with status code 404",
        "disabled": False,
        "all": [True, True, True],
        "toxics": [],
        "left": ["a", "b"],
    }


def use_python_client(host: str, port: int, upstream: str) -> None:
    """All that the client can do; it blocks."""
    server = Toxiproxy()
    server.update_api_consumer(host, port)
    assert server.running()
    assert json.loads(server.version()) == {"version": "2.12.0"}
    assert server.proxies() == {}

    proxy = server.create(name="one", upstream=upstream)
    assert (proxy.enabled, proxy.upstream) == (True, upstream)
    assert server.get_proxy("one").listen == proxy.listen
    with pytest.raises(ProxyExists):
        server.create(name="one", upstream=upstream)

    proxy.add_toxic(type="latency", attributes={"latency": 100, "jitter": 10})
    proxy.add_toxic(type="slicer", name="cut", stream="upstream", attributes={"average_size": 1})
    proxy.add_toxic(
        type="migration_fault", attributes={"at": {"section": "*/virtio-net"}, "do": "reset"}
    )
    assert set(proxy.toxics()) == {"latency_downstream", "cut", "migration_fault_downstream"}
    latency = proxy.get_toxic("latency_downstream")
    assert (latency.toxicity, latency.attributes) == (1.0, {"latency": 100, "jitter": 10})
    with pytest.raises(ProxyExists):
        proxy.add_toxic(type="noop", name="cut")
    with pytest.raises(InvalidToxic, match="invalid toxic type"):
        proxy.add_toxic(type="none")
    wrong = {"at": {"sektion": "x"}, "do": "reset"}
    with pytest.raises(InvalidToxic, match=r"attributes\.at: unknown key `sektion`"):
        proxy.add_toxic(type="migration_fault", name="wrong", attributes=wrong)
    assert proxy.destroy_toxic("cut")
    with pytest.raises(NotFound):
        proxy.destroy_toxic("cut")

    with proxy.down():
        assert not server.get_proxy("one").enabled
    assert server.get_proxy("one").enabled
    proxy.disable()
    assert server.reset()
    assert server.get_proxy("one").enabled
    assert server.get_proxy("one").toxics() == {}

    made = server.populate(
        [
            {"name": "one", "upstream": upstream, "listen": proxy.listen},
            {"name": "two", "upstream": upstream, "listen": "127.0.0.1:0"},
        ]
    )
    assert [each.name for each in made] == ["two"]
    server.destroy_all()
    assert server.proxies() == {}


async def test_python_client() -> None:
    async with served() as at:
        host, _, port = str(at.control.address).rpartition(":")
        await asyncio.to_thread(use_python_client, host, int(port), at.upstream)
