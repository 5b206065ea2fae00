"""What strangers may not do: browsers, floods, slow and endless requests."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from control_helpers import Served, served

from testbed.control import ControlError, guard, serve, server
from testbed.log import Log
from testbed.proxy.address import parse_address


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"User-Agent": "Wget/2.1"}, 200),
        ({"User-Agent": "Mozilla/5.0 (X11; Linux)"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8474"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:8474"}, 200),
        ({"Host": "toxics.localhost:1"}, 200),
        ({"Host": "[::1]:8474"}, 200),
        ({"Host": "10.1.2.3:8474"}, 200),
        ({"Host": "toxiproxy:8474"}, 200),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
    ],
)
async def test_no_web_page_gets_in(headers: dict[str, str], status: int) -> None:
    async with served(hosts=["toxiproxy"]) as at:
        for method, path in (("GET", "/proxies"), ("POST", "/reset")):
            said = await at.call(method, path, headers=headers)
            assert said.status == (status if status == 403 or method == "GET" else 204)
            assert "X-Toxiproxy-Request-Id" in said.headers


async def test_a_browser_is_told_so_in_toxiproxys_words() -> None:
    async with served() as at:
        said = await at.call("GET", "/proxies", headers={"User-Agent": "Mozilla/5.0"})
        assert said.text == "User agent not allowed\n"


async def test_a_unix_socket_is_its_owners_and_has_any_host(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with served(f"unix:{path}") as at:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await at.call("GET", "/version", headers={"Host": "anything"})).status == 200
        assert (await at.call("GET", "/version", headers={"Origin": "http://x"})).status == 403
    assert not path.exists()


async def test_a_socket_that_somebody_has_removed_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with served(f"unix:{path}"):
        path.unlink()
    assert not path.exists()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_where_others_can_reach_it_only_if_that_is_said(address: str) -> None:
    with pytest.raises(ControlError, match="other hosts can reach the control server there"):
        async with serve(parse_address(address), Log()):
            pass
    async with served("0.0.0.0:0", public=True) as at:
        assert str(at.control.address).startswith("0.0.0.0:")


async def test_an_address_in_use_is_an_error_of_the_system() -> None:
    async with served() as at:
        with pytest.raises(OSError, match="Address already in use"):
            async with serve(at.control.address, Log()):
                pass


async def test_the_seed_is_told() -> None:
    async with served(seed=None) as at:
        (started,) = at.log.find("control-started")
        assert started.facts == {"address": str(at.control.address), "seed": at.control.seed}


async def test_its_proxies_end_with_it() -> None:
    async with served() as at:
        listen = (await at.proxy()).json["listen"]
        await at.pair()
    host, _, port = listen.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def raw(at: Served, request: bytes) -> bytes:
    """What comes of these bytes until the server ends the connection."""
    peer = await at.connect(str(at.control.address))
    await peer.send(request)
    return await peer.rest()


HEAD = b"POST /proxies HTTP/1.1\r\nHost: localhost\r\n"


async def test_a_body_that_is_too_large_is_refused_unread() -> None:
    async with served() as at:
        limit = guard.BODY_BYTES_MAX
        said = await at.call("POST", "/proxies", b"x" * (limit + 1))
        assert (said.status, said.json) == (
            413,
            {"error": f"bad request body: more than {limit} bytes", "status": 413},
        )
        said = await at.call("POST", "/populate", b"[" + b" " * (limit - 2) + b"]")
        assert said.status == 201


async def test_an_endless_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HANDLE_S", 0.1)
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    async with served() as at:
        said = await raw(at, HEAD + b"Content-Length: 1000000\r\n\r\n{")
        assert said.startswith(b"HTTP/1.1 503 ")


async def test_a_head_that_does_not_come_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    async with served() as at:
        assert await raw(at, b"") == b""
        assert await raw(at, HEAD) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"QEVM\0\0\0\3\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        b"POST /proxies HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["tls", "migration", "long path", "many headers", "length"],
)
async def test_what_is_no_request_is_answered_without_a_traceback(request_bytes: bytes) -> None:
    async with served() as at:
        try:
            said = await raw(at, request_bytes)
        except ConnectionResetError:
            said = b"HTTP/1.1 400 "  # it was answered before all was read
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"Traceback" not in said
        assert (await at.call("GET", "/version")).status == 200


BODY = b"POST /proxies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        BODY + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        BODY + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
        BODY + b'Content-Length: 5\r\n\r\n\xff\xfe"\0{',
        BODY + b"X-\xff: \xff\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["no gzip", "no chunks", "no UTF-8", "no header"],
)
async def test_a_body_that_cannot_be_read_is_the_clients_error(request_bytes: bytes) -> None:
    async with served() as at:
        assert (await raw(at, request_bytes)).startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert at.log.first("request-failed") is None


async def test_who_goes_before_its_body_is_there_is_no_error_of_ours() -> None:
    async with served() as at:
        client = await at.connect(str(at.control.address))
        await client.send(BODY + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        client.reset()
        await at.log.wait(lambda event: event.kind == "request", what="it", within_s=10)
        assert at.log.first("request-failed") is None


async def test_http_2_is_an_event_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as at:
        await raw(at, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\x12\4" + bytes(23))
        (failed,) = at.log.find("library-failed")
        assert "BadHttpMessage" in failed.facts["error"]
        assert (await at.call("GET", "/version")).status == 200
    assert capsys.readouterr().err == ""


async def test_an_error_of_ours_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_proxies: object) -> str:
        raise RuntimeError("secret")

    monkeypatch.setattr("testbed.control.api.exposition", broken)
    async with served() as at:
        said = await at.call("GET", "/metrics")
        assert (said.status, "secret" in said.text) == (500, False)
        (failed,) = at.log.find("request-failed")
        assert failed.facts == {"path": "/metrics", "error": "RuntimeError('secret')"}


async def test_who_came_first_makes_room_for_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CONNECTIONS_MAX", 3)
    async with served() as at:
        slow = [await at.connect(str(at.control.address)) for _ in range(3)]
        for peer in slow:
            await peer.send(b"GET /version HTTP/1.1\r\nX-Slow: ")
        assert (await at.call("GET", "/version")).status == 200
        assert await slow[0].is_reset()
        for peer in slow[1:]:
            await peer.send(b"1\r\nHost: localhost\r\n\r\n")
            assert (await peer.receive()).startswith(b"HTTP/1.1 200 ")


async def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STUCK_S", 0.1)
    async with served() as at:
        toxics = [{"type": "noop", "name": f"{number:0200}"} for number in range(60)]
        for number in range(12):
            await at.proxy(f"{number:0200}", enabled=False, toxics=toxics)
        peer = await at.connect(str(at.control.address))
        await peer.send(
            b"GET /proxies HTTP/1.1\r\nHost: localhost\r\n\r\n" * 60
        )  # 24 MB of answers
        await at.log.wait(
            lambda event: event.kind == "client-stuck", what="the server to give up", within_s=10
        )
        with pytest.raises(ConnectionResetError):
            await peer.rest()
        assert (await at.call("GET", "/version")).status == 200
