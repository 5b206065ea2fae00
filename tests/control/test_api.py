"""Every route and status of the API, over HTTP: what Toxiproxy's clients rely on."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from control_helpers import WITHIN_S, Served, passes, served
from yarl import URL

from testbed.control import proxied
from testbed.control import server as server_module
from testbed.fault.command import Command
from testbed.fault.engine import FaultEngine
from testbed.proxy.listener import Listener


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


async def is_up(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


NOT_FOUND = {"error": "proxy not found", "status": 404}
NO_TOXIC = {"error": "toxic not found", "status": 404}
BAD = "bad request body: "
EMPTY = {"error": f"{BAD}it is empty; expected JSON", "status": 400}
LATENCY = {"name": "lag", "type": "latency", "attributes": {"latency": 1}}

ROUTES: list[tuple[str, str, Any, int, Any]] = [
    ("GET", "/version", None, 200, {"version": "2.12.0"}),
    ("POST", "/reset", None, 204, None),
    ("POST", "/reset", b"whatever", 204, None),
    ("GET", "/proxies/none", None, 404, NOT_FOUND),
    ("POST", "/proxies/none", {}, 404, NOT_FOUND),
    ("PATCH", "/proxies/none", {}, 404, NOT_FOUND),
    ("DELETE", "/proxies/none", None, 404, NOT_FOUND),
    ("GET", "/proxies/none/toxics", None, 404, NOT_FOUND),
    ("POST", "/proxies/none/toxics", LATENCY, 404, NOT_FOUND),
    ("GET", "/proxies/none/toxics/lag", None, 404, NOT_FOUND),
    ("POST", "/proxies/none/toxics/lag", {}, 404, NOT_FOUND),
    ("PATCH", "/proxies/none/toxics/lag", {}, 404, NOT_FOUND),
    ("DELETE", "/proxies/none/toxics/lag", None, 404, NOT_FOUND),
    ("POST", "/proxies", b"", 400, EMPTY),
    ("POST", "/proxies", {}, 400, {"error": "missing required field: name", "status": 400}),
    (
        "POST",
        "/proxies",
        {"name": "x"},
        400,
        {"error": "missing required field: upstream", "status": 400},
    ),
    (
        "POST",
        "/proxies",
        {"name": "one", "upstream": "127.0.0.1:1"},
        409,
        {"error": "proxy already exists", "status": 409},
    ),
    (
        "POST",
        "/proxies",
        {"name": "x", "upstream": "nowhere"},
        400,
        {
            "error": f"{BAD}upstream: not an address: 'nowhere': expected HOST:PORT, "
            "[IPV6]:PORT, :PORT or unix:PATH",
            "status": 400,
        },
    ),
    (
        "POST",
        "/proxies",
        {"name": "x", "upstream": "127.0.0.1:1", "enabled": "yes"},
        400,
        {"error": f'{BAD}enabled: expected true or false, got "yes"', "status": 400},
    ),
    (
        "POST",
        "/proxies",
        {
            "name": "x",
            "upstream": "127.0.0.1:1",
            "toxics": [{"type": "latency", "attributes": {"jitter": "x"}}],
        },
        400,
        {
            "error": f'{BAD}toxics[0].attributes.jitter: expected a whole number, got "x"',
            "status": 400,
        },
    ),
    ("PATCH", "/proxies/one", b"", 400, EMPTY),
    (
        "PATCH",
        "/proxies/one",
        [],
        400,
        {"error": f"{BAD}expected an object, got []", "status": 400},
    ),
    ("GET", "/proxies/one/toxics/none", None, 404, NO_TOXIC),
    ("PATCH", "/proxies/one/toxics/none", {}, 404, NO_TOXIC),
    ("POST", "/proxies/one/toxics/none", {}, 404, NO_TOXIC),
    ("DELETE", "/proxies/one/toxics/none", None, 404, NO_TOXIC),
    ("POST", "/proxies/one/toxics", b"", 400, EMPTY),
    (
        "POST",
        "/proxies/one/toxics",
        {"type": "none"},
        400,
        {"error": "invalid toxic type", "status": 400},
    ),
    (
        "POST",
        "/proxies/one/toxics",
        {**LATENCY, "stream": "sideways"},
        400,
        {
            "error": "stream was invalid, can be either upstream or downstream",
            "status": 400,
        },
    ),
    (
        "POST",
        "/populate",
        {},
        400,
        {"error": f"{BAD}expected a list of proxies", "status": 400, "proxies": None},
    ),
    (
        "POST",
        "/populate",
        [{"name": "x", "upstream": "127.0.0.1:1"}, {"upstream": "127.0.0.1:1"}],
        400,
        {"error": "missing required field: name at proxy 2", "status": 400, "proxies": None},
    ),
    (
        "POST",
        "/populate",
        [{"name": "x"}],
        400,
        {"error": "missing required field: upstream at proxy 1", "status": 400, "proxies": None},
    ),
    ("POST", "/populate", [], 201, {"proxies": None}),
    (
        "POST",
        "/populate",
        [
            {
                "name": "x",
                "upstream": "127.0.0.1:1",
                "toxics": [
                    {"type": "noop"},
                    {"type": "migration_fault", "attributes": {"at": {"offset": 1}}},
                ],
            }
        ],
        400,
        {
            "error": f"{BAD}[0].toxics[1].attributes.`do` is missing",
            "status": 400,
            "proxies": None,
        },
    ),
]


async def test_every_route_answers_as_toxiproxy_does() -> None:
    """One server for all: none of these requests changes anything."""
    async with served() as at:
        before = (await at.proxy()).json
        for method, path, body, status, answer in ROUTES:
            said = await at.call(method, path, body)
            assert (said.status, said.json if said.text else None) == (status, answer), (
                f"{method} {path} {body}: {said.text}"
            )
            assert re.fullmatch(r"[0-9a-f]{20}", said.headers["X-Toxiproxy-Request-Id"])
        assert (await at.call("GET", "/proxies")).json == {"one": before}


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 404, "404 page not found\n"),
        ("GET", "/proxies/", 404, "404 page not found\n"),
        ("GET", "/proxies/one/toxics/a/b", 404, "404 page not found\n"),
        ("PUT", "/proxies", 405, ""),
        ("HEAD", "/version", 405, ""),
        ("GET", "/reset", 405, ""),
    ],
)
async def test_what_is_no_route(method: str, path: str, status: int, text: str) -> None:
    async with served() as at:
        said = await at.call(method, path)
        assert (said.status, said.text) == (status, text)


async def test_the_version_is_byte_for_byte_toxiproxys() -> None:
    async with served() as at:
        said = await at.call("GET", "/version")
        assert said.text == '{"version": "2.12.0"}\n'


async def test_the_life_of_a_proxy() -> None:
    async with served() as at:
        made = await at.proxy()
        listen = made.json["listen"]
        assert made.json == {
            "name": "one",
            "listen": listen,
            "upstream": at.upstream,
            "enabled": True,
            "toxics": [],
        }
        assert not listen.endswith(":0")
        assert (await at.call("GET", "/proxies/one")).json == made.json
        assert await is_up(listen)

        down = await at.call("POST", "/proxies/one", {"enabled": False})
        assert (down.status, down.json["enabled"], down.json["listen"]) == (200, False, listen)
        assert not await is_up(listen)
        up = await at.call("PATCH", "/proxies/one", {"enabled": True})
        assert up.json == made.json
        assert await is_up(listen)

        assert (await at.call("DELETE", "/proxies/one")).status == 204
        assert not await is_up(listen)
        assert (await at.call("DELETE", "/proxies/one")).json == NOT_FOUND


async def test_a_proxy_that_says_nothing_of_where_listens_on_loopback() -> None:
    async with served() as at:
        said = await at.call("POST", "/proxies", {"name": "x", "upstream": at.upstream})
        assert said.json["listen"].startswith("127.0.0.1:")


async def test_a_proxy_that_shall_listen_nowhere_moves_to_a_free_port() -> None:
    async with served() as at:
        before = (await at.proxy(listen=f"127.0.0.1:{free_port()}")).json["listen"]
        said = await at.call("PATCH", "/proxies/one", {"listen": ""})
        assert said.json["listen"].startswith("127.0.0.1:")
        assert said.json["listen"] != before
        assert await is_up(said.json["listen"])
        assert not await is_up(before)


async def test_a_proxy_made_disabled_does_not_listen() -> None:
    port = free_port()
    async with served() as at:
        made = await at.proxy(listen=f"localhost:{port}", enabled=False)
        assert (made.json["enabled"], made.json["listen"]) == (False, f"localhost:{port}")
        assert not await is_up(f"127.0.0.1:{port}")
        up = await at.call("PATCH", "/proxies/one", {"enabled": True})
        assert up.json["listen"] == f"127.0.0.1:{port}"


async def test_a_port_in_use_is_the_operating_systems_to_tell() -> None:
    async with served() as at:
        taken = (await at.proxy()).json["listen"]
        body = {"name": "two", "listen": taken, "upstream": at.upstream}
        said = await at.call("POST", "/proxies", body)
        assert said.status == 500
        assert said.json["error"] == f"listen tcp {taken}: bind: address already in use"
        assert set((await at.call("GET", "/proxies")).json) == {"one"}
        # One that could not be bound can be started later.
        assert (await at.proxy("two", listen=taken, enabled=False)).status == 201
        assert (await at.call("PATCH", "/proxies/two", {"enabled": True})).status == 500
        await at.call("DELETE", "/proxies/one")
        assert (await at.call("PATCH", "/proxies/two", {"enabled": True})).json["enabled"]


@pytest.mark.parametrize("field", ["listen", "upstream"])
@pytest.mark.parametrize(
    "address", ["unix:/tmp/a\0b", "a\0b:1", "[fe80::1%\0]:1", "host:" + "0" * 5000, "h\x1b[2J:1"]
)
async def test_no_address_ends_another_proxy(field: str, address: str) -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        body = {"name": "bad", "listen": "127.0.0.1:0", "upstream": at.upstream, field: address}
        said = await at.call("POST", "/proxies", body)
        assert said.status == 400
        assert said.json["error"].startswith(f"bad request body: {field}: not an address: ")
        said = await at.call("PATCH", "/proxies/one", {field: address})
        assert said.status == 400
        assert await passes(client, server)


async def test_connections_of_all_proxies_have_a_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else those of one take the descriptors that the command's own proxy needs."""
    monkeypatch.setattr(server_module, "_connections_max", lambda: 2)
    async with served() as at:
        await at.proxy("one")
        await at.proxy("two")
        client, server = await at.pair("one")
        silent = await at.client("one")
        await at.server()  # it goes onward at once, behind one that has
        await at.pair("one")  # it has made room
        assert await silent.is_reset()
        with pytest.raises(ConnectionResetError):
            await (await at.client("two")).receive()
        assert await passes(client, server)
        await at.call("DELETE", "/proxies/one")
        assert await passes(*await at.pair("two"))


@pytest.mark.parametrize(
    ("soft", "most"), [(1024, 96), (65536, 16224), (64, 1), (resource.RLIM_INFINITY, 65536)]
)
def test_the_bound_leaves_descriptors_for_others(
    soft: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module.resource, "getrlimit", lambda _which: (soft, soft))
    assert server_module._connections_max() == most


class Breaks(FaultEngine):
    """An engine with an error of ours in it."""

    def came(self, _number: int) -> list[Command]:
        raise KeyError("of ours")


async def test_an_error_of_ours_in_one_proxy_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        monkeypatch.setattr(proxied, "FaultEngine", Breaks)
        await at.proxy("bad")
        assert await (await at.client("bad")).is_reset()
        told = await at.log.wait(
            lambda event: event.kind == "connection-broke", what="it", within_s=WITHIN_S
        )
        assert (told.facts["proxy"], told.facts["error"]) == ("bad", "KeyError('of ours')")
        assert await passes(client, server)
        assert (await at.call("DELETE", "/proxies/bad")).status == 204


async def test_a_proxy_that_breaks_is_told_and_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        await at.proxy("bad")
        close = Listener._close

        def close_and_fail(listener: Listener) -> None:
            close(listener)
            fails()

        monkeypatch.setattr(Listener, "_close", close_and_fail)
        await at.call("PATCH", "/proxies/bad", {"enabled": False})
        monkeypatch.undo()
        told = at.log.first("proxy-broke")
        assert (told.facts["proxy"], told.facts["error"]) == ("bad", "KeyError('of ours')")
        assert await passes(client, server)
        assert not (await at.call("GET", "/proxies/bad")).json["enabled"]


def fails(*_arguments: object) -> None:
    raise KeyError("of ours")


async def test_a_proxy_that_cannot_start_by_an_error_of_ours_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as at:
        await at.proxy()
        client, server = await at.pair()
        monkeypatch.setattr(Listener, "_bound", fails)
        body = {"name": "bad", "listen": "127.0.0.1:0", "upstream": at.upstream}
        said = await at.call("POST", "/proxies", body)
        assert (said.status, said.json["error"]) == (
            500,
            "internal error; the log of the server has it",
        )
        assert at.log.first("request-failed").facts["error"] == "KeyError('of ours')"
        assert set((await at.call("GET", "/proxies")).json) == {"one"}
        assert await passes(client, server)


@pytest.mark.parametrize("enabled", [None, True])
async def test_a_move_that_is_refused_leaves_all_as_it_was(
    enabled: bool | None, tmp_path: Path
) -> None:
    async with served() as at:
        await at.proxy()
        taken = (await at.proxy("two")).json["listen"]
        client, server = await at.pair()
        before = (await at.call("GET", "/proxies/one")).json
        for listen in (taken, f"unix:{tmp_path}/no/such/folder", "192.0.2.1:5", "no.such.host.:1"):
            body = {"listen": listen, "upstream": "127.0.0.1:1"}
            body |= {} if enabled is None else {"enabled": enabled}
            assert (await at.call("PATCH", "/proxies/one", body)).status == 500
            assert (await at.call("GET", "/proxies/one")).json == before
            assert await passes(client, server)
        assert os.listdir(tmp_path) == []


async def test_one_that_is_refused_its_start_stays_where_it_was() -> None:
    async with served() as at:
        taken = (await at.proxy("two")).json["listen"]
        before = (await at.proxy(enabled=False)).json
        said = await at.call("PATCH", "/proxies/one", {"listen": taken, "enabled": True})
        assert said.status == 500
        assert (await at.call("GET", "/proxies/one")).json == before


async def test_one_that_cannot_be_tried_out_is_put_back() -> None:
    async with served() as at:
        listen = (await at.proxy()).json["listen"]
        _, _, port = listen.rpartition(":")
        with socket.socket() as other:
            other.bind(("127.0.0.2", int(port)))
            other.listen()
            said = await at.call("PATCH", "/proxies/one", {"listen": f"127.0.0.2:{port}"})
            assert said.status == 500
        assert (await at.call("GET", "/proxies/one")).json["listen"] == listen
        assert await passes(*await at.pair())
        # In its own way it is only until it has stopped.
        said = await at.call("PATCH", "/proxies/one", {"listen": f"0.0.0.0:{port}"})
        assert (said.status, said.json["listen"]) == (200, f"0.0.0.0:{port}")


async def test_toxics_of_one_name_leave_a_populated_proxy_as_it_was() -> None:
    async with served() as at:
        before = (await at.proxy()).json
        toxics = [{"type": "latency", "name": "same"}, {"type": "noop", "name": "same"}]
        said = await populated(at, {"name": "new"}, {"name": "one", "toxics": toxics})
        assert (said.status, said.json["error"]) == (409, "toxic already exists")
        assert (await at.call("GET", "/proxies")).json == {"one": before}


@pytest.mark.parametrize(
    "path", ["/proxies/%FF", "/proxies/one/toxics/%FF", "/%FF", "/proxies/%ed%a0%80"]
)
async def test_a_path_that_is_not_utf8_is_not_there(path: str) -> None:
    async with served() as at:
        await at.proxy()
        for method in ("GET", "PATCH", "DELETE"):
            said = await at.call(method, URL(path, encoded=True), b"{}")
            assert said.status in (404, 405)
        assert [event.facts for event in at.log.find("request-failed")] == []
        assert await passes(*await at.pair())


async def test_a_new_upstream_drops_connections_and_keeps_toxics() -> None:
    async with served() as at:
        listen = (await at.proxy()).json["listen"]
        await at.toxic("latency")
        client, server = await at.pair()
        same = await at.call("PATCH", "/proxies/one", {"listen": listen})
        assert same.status == 200
        assert await passes(client, server)
        moved = await at.call("PATCH", "/proxies/one", {"upstream": "localhost:1"})
        assert (moved.json["upstream"], moved.json["listen"]) == ("localhost:1", listen)
        assert [each["name"] for each in moved.json["toxics"]] == ["latency_downstream"]
        assert await client.is_reset()


async def test_another_name_of_the_same_address_changes_nothing() -> None:
    async with served() as at:
        listen = (await at.proxy()).json["listen"]
        client, server = await at.pair()
        by_name = listen.replace("127.0.0.1", "localhost")
        said = await at.call("PATCH", "/proxies/one", {"listen": by_name})
        assert said.json["listen"] == listen
        assert await passes(client, server)


async def test_a_proxy_comes_with_its_toxics_or_not_at_all() -> None:
    async with served() as at:
        body = {"name": "one", "upstream": at.upstream}
        wrong = await at.call("POST", "/proxies", {**body, "toxics": [LATENCY, {"type": "none"}]})
        assert (wrong.status, wrong.json["error"]) == (400, "invalid toxic type")
        twice = await at.call("POST", "/proxies", {**body, "toxics": [LATENCY, LATENCY]})
        assert (twice.status, twice.json["error"]) == (409, "toxic already exists")
        assert (await at.call("GET", "/proxies")).json == {}
        made = await at.call("POST", "/proxies", {**body, "toxics": [LATENCY]})
        assert (made.status, made.json["toxics"][0]["name"]) == (201, "lag")


async def test_the_life_of_a_toxic() -> None:
    async with served() as at:
        await at.proxy()
        path = "/proxies/one/toxics"
        made = await at.call("POST", path, {**LATENCY, "toxicity": 0.2, "stream": "upstream"})
        shown = {
            "attributes": {"latency": 1, "jitter": 0},
            "name": "lag",
            "type": "latency",
            "stream": "upstream",
            "toxicity": 0.2,
        }
        assert (made.status, made.json) == (200, shown)
        again = await at.call("POST", path, {**LATENCY, "type": "noop", "stream": "downstream"})
        assert (again.status, again.json) == (
            409,
            {"error": "toxic already exists", "status": 409},
        )
        assert (await at.call("GET", path)).json == [shown]
        assert (await at.call("GET", f"{path}/lag")).json == shown
        assert (await at.call("GET", "/proxies/one")).json["toxics"] == [shown]
        for method in ("POST", "PATCH"):
            said = await at.call(method, f"{path}/lag", {"attributes": {"jitter": 3}})
            shown["attributes"] = {"latency": 1, "jitter": 3}
            assert (said.status, said.json) == (200, shown)
        wrong = await at.call("PATCH", f"{path}/lag", {"attributes": {"jitter": "x"}})
        assert wrong.status == 400
        assert (await at.call("GET", f"{path}/lag")).json == shown
        assert (await at.call("DELETE", f"{path}/lag")).status == 204
        assert (await at.call("DELETE", f"{path}/lag")).json == NO_TOXIC
        assert (await at.call("GET", path)).json == []


async def test_those_of_upstream_are_shown_first() -> None:
    async with served() as at:
        await at.proxy()
        await at.toxic("noop", name="a")
        await at.toxic("noop", name="b", stream="upstream")
        names = [each["name"] for each in (await at.call("GET", "/proxies/one/toxics")).json]
        assert names == ["b", "a"]


async def test_one_proxy_has_so_many_toxics() -> None:
    async with served() as at:
        toxics = [{"type": "noop", "name": f"t{number}"} for number in range(64)]
        await at.proxy(toxics=toxics)
        said = await at.call("POST", "/proxies/one/toxics", {"type": "noop"})
        assert (said.status, said.json["error"]) == (409, "too many toxics: at most 64")


async def test_reset_enables_all_and_removes_all_toxics() -> None:
    async with served() as at:
        await at.proxy("one")
        await at.proxy("two")
        await at.toxic("latency", "two", latency=50)
        await at.call("PATCH", "/proxies/one", {"enabled": False})
        client, server = await at.pair("two")
        assert (await at.call("POST", "/reset")).status == 204
        shown = (await at.call("GET", "/proxies")).json
        assert [(each["enabled"], each["toxics"]) for each in shown.values()] == [(True, [])] * 2
        assert await passes(client, server)


async def test_reset_tells_what_could_not_be_enabled_and_does_the_rest() -> None:
    async with served() as at:
        taken = (await at.proxy("one")).json["listen"]
        await at.proxy("aa", listen=taken, enabled=False)
        await at.proxy("zz", enabled=False)
        said = await at.call("POST", "/reset")
        assert (said.status, "address already in use" in said.json["error"]) == (500, True)
        shown = (await at.call("GET", "/proxies")).json
        assert {name: each["enabled"] for name, each in shown.items()} == {
            "aa": False,
            "one": True,
            "zz": True,
        }


async def populated(at: Served, *proxies: dict[str, Any]) -> Any:
    given = [{"upstream": at.upstream, **each} for each in proxies]
    return await at.call("POST", "/populate", given)


async def test_populate_makes_what_is_not_there_and_keeps_what_is() -> None:
    async with served() as at:
        first = await populated(
            at, {"name": "one"}, {"name": "two", "enabled": False}, {"name": "three"}
        )
        assert first.status == 201
        names = [(each["name"], each["enabled"]) for each in first.json["proxies"]]
        assert names == [("one", True), ("two", False), ("three", True)]
        await at.toxic("latency")
        client, server = await at.pair()

        # Its port was any free one, and is what was asked for: nothing changes.
        same = await populated(at, {"name": "one", "listen": "127.0.0.1:0", "toxics": []})
        assert same.json["proxies"][0]["toxics"][0]["name"] == "latency_downstream"
        assert len((await at.call("GET", "/proxies")).json) == 3
        assert await passes(client, server)

        said = await populated(
            at, {"name": "one", "toxics": [LATENCY]}, {"name": "two", "enabled": True}
        )
        one, two = said.json["proxies"]
        assert [each["name"] for each in one["toxics"]] == ["lag"]
        assert two["enabled"]


async def test_populate_replaces_what_differs() -> None:
    async with served() as at:
        await populated(at, {"name": "one"})
        await at.toxic("latency")
        client, _ = await at.pair()
        said = await populated(at, {"name": "one", "upstream": "127.0.0.1:1"})
        assert (said.json["proxies"][0]["upstream"], said.json["proxies"][0]["toxics"]) == (
            "127.0.0.1:1",
            [],
        )
        assert await client.is_reset()


async def test_populate_is_whole_or_nothing() -> None:
    async with served() as at:
        before = (await at.proxy("one")).json
        in_use = (await at.proxy("two")).json["listen"]
        fresh = free_port()
        failed = await populated(
            at,
            {"name": "new", "listen": f"127.0.0.1:{fresh}"},
            {"name": "one", "upstream": "127.0.0.1:1"},
            {"name": "three", "listen": in_use},
        )
        assert (failed.status, failed.json["proxies"]) == (500, None)
        assert "address already in use" in failed.json["error"]
        shown = (await at.call("GET", "/proxies")).json
        assert set(shown) == {"one", "two"}
        assert shown["one"] == before
        assert not await is_up(f"127.0.0.1:{fresh}")
        assert await is_up(before["listen"])
        twice = await populated(at, {"name": "new"}, {"name": "new"})
        assert (twice.status, twice.json["error"]) == (409, "proxy already exists")
        assert set((await at.call("GET", "/proxies")).json) == {"one", "two"}


async def test_names_may_be_any_words() -> None:
    async with served() as at:
        await at.proxy("with space äöü %?#&")
        name = "with%20space%20%C3%A4%C3%B6%C3%BC%20%25%3F%23%26"
        url = URL(f"http://{at.control.address}/proxies/{name}", encoded=True)
        async with at.session.get(url) as said:
            assert (await said.json())["name"] == "with space äöü %?#&"
