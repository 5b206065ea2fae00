"""Where a migration goes to: what connects, what listens, and what is refused in which words."""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_helpers import MODEL, REAL, free_port, started

from testbed.model.process.uri import (
    NotConnected,
    channel_at_hand,
    connect,
    listen,
    listening_tcp,
)
from testbed.model.qmp.commands import Commands
from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.migration import PROTOCOLS

WITHIN_S = 10
OTHERS = frozenset()
CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")


@pytest.fixture
def descriptors():
    found = Descriptors()
    yield found
    found.close()


class Arrived:
    """What came to a listener."""

    def __init__(self):
        self.channel, self._came = None, asyncio.Event()

    def __call__(self, channel):
        assert self.channel is None
        self.channel = channel
        self._came.set()

    async def waited_for(self):
        async with asyncio.timeout(WITHIN_S):
            await self._came.wait()
        return self.channel


async def brought(channel):
    """All that a channel brings."""
    data, ended = bytearray(), asyncio.Event()
    channel.read(data.extend, ended.set)
    async with asyncio.timeout(WITHIN_S):
        await ended.wait()
    channel.close()
    return bytes(data)


async def met(uri, descriptors):
    """Connect to a URI that is listened at; where it said that it was."""
    arrived = Arrived()
    listener = listen(uri, descriptors, arrived)
    address = listener.address
    where = uri if address.host is None else f"tcp:{uri_host(uri)}:{address.port}"
    out = await connect(where)
    into = await arrived.waited_for()
    out.write(b"hello")
    out.finish()
    assert await brought(into) == b"hello"
    with pytest.raises(NotConnected):  # it waited for one
        await connect(where)
    listener.close()
    return address


def uri_host(uri):
    return uri.removeprefix("tcp:").rpartition(":")[0]


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("tcp:127.0.0.1:0", "127.0.0.1"),
        ("tcp:[::1]:0", "::1"),
        ("tcp:localhost:0", None),
        ("tcp::0", None),
    ],
)
async def test_who_listens_is_met_there(uri, host, descriptors):
    address = await met(uri, descriptors)
    assert host is None or address.host == host
    assert int(address.port) > 0


async def test_a_path_is_met_and_stays(tmp_path, descriptors):
    path = tmp_path / "socket"
    address = await met(f"unix:{path}", descriptors)
    assert address.path == str(path)
    assert path.is_socket()
    await met(f"unix:{path}", descriptors)  # what was there is taken away


async def test_options_behind_an_address_are_passed_over(tmp_path, descriptors):
    await met("tcp:127.0.0.1:0,ipv4=on", descriptors)
    arrived = Arrived()
    listener = listen(f"unix:{tmp_path / 'a'},foo=on", descriptors, arrived)
    assert listener.address.path == str(tmp_path / "a")
    listener.close()


async def test_a_name_gets_a_passed_descriptor_once(descriptors):
    reading, writing = os.pipe()
    commands = Commands()
    descriptors.add_to(commands)
    descriptors.receive([writing])
    commands.find("getfd", oob=False).handler({"fdname": "out"})
    channel = channel_at_hand("fd:out", descriptors)
    channel.write(b"hello")
    channel.close()
    arrived = Arrived()
    assert listen(f"fd:{reading}", descriptors, arrived) is None
    assert await brought(await arrived.waited_for()) == b"hello"
    with pytest.raises(CommandError):
        channel_at_hand("fd:out", descriptors)


async def test_a_command_takes_a_stream_and_gives_one(tmp_path, descriptors):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arrived = Arrived()
    assert listen(f"exec:cat {fifo}", descriptors, arrived) is None
    out = channel_at_hand(f"exec:cat > {fifo}", descriptors)
    assert out.name == "command"
    out.write(b"hello" * 100_000)
    out.finish()
    assert await brought(await arrived.waited_for()) == b"hello" * 100_000
    await no_children()


@pytest.fixture(autouse=True)
def _others(monkeypatch):
    """Other tests leave a child that serves them all: the server of forks."""
    monkeypatch.setattr(sys.modules[__name__], "OTHERS", frozenset(CHILDREN.read_text().split()))


def children():
    return [pid for pid in CHILDREN.read_text().split() if pid not in OTHERS]


async def no_children():
    """Wait until all commands are reaped."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WITHIN_S):
        while pids := children():
            ended = os.pidfd_open(int(pids[0]))
            reaped = loop.create_future()
            loop.add_reader(ended, reaped.set_result, None)  # behind the one that reaps
            await reaped
            loop.remove_reader(ended)
            os.close(ended)


async def test_a_command_that_fails_breaks_the_pipe(descriptors):
    channel = channel_at_hand("exec:exit 1", descriptors)
    channel.write(b"a" * (1 << 20))
    with pytest.raises(BrokenPipeError):
        async with asyncio.timeout(WITHIN_S):
            await channel.flush()
    channel.close()
    await no_children()


# What is refused

REFUSED = [
    ("tcp:foo", "error parsing address 'foo'"),
    ("tcp:127.0.0.1", "error parsing address '127.0.0.1'"),
    ("tcp:[::1:5", "error parsing IPv6 address '[::1:5'"),
    ("unix:", "invalid Unix socket address"),
    ("fd:999", "Invalid file descriptor number '999'"),
    ("fd:nope", "File descriptor named 'nope' has not been found"),
]
TOO_LONG = ("unix:/" + "a" * 108, f"UNIX socket path '/{'a' * 108}' is too long")
REFUSED_TO_LISTEN = [
    TOO_LONG,
    ("unix:/nonexistent/x", "Failed to bind socket to /nonexistent/x: No such file or directory"),
    ("unix:/", "Failed to unlink socket /: Is a directory"),
    ("foo:bar", "unknown migration protocol: foo:bar"),
    (
        "tcp:127.0.0.1:nope",
        "address resolution failed for 127.0.0.1:nope: Servname not supported for ai_socktype",
    ),
    ("tcp:192.0.2.1:44", "Failed to bind socket: Cannot assign requested address"),
]
UNREACHABLE = [
    TOO_LONG,
    ("tcp:127.0.0.1:1", "Failed to connect to '127.0.0.1:1': Connection refused"),
    ("unix:/nonexistent", "Failed to connect to '/nonexistent': No such file or directory"),
    (
        "tcp:127.0.0.1:nope",
        "address resolution failed for 127.0.0.1:nope: Servname not supported for ai_socktype",
    ),
    ("tcp:[::1]:1", "Failed to connect to '::1:1': Connection refused"),
]


@pytest.mark.parametrize(("uri", "why"), REFUSED)
async def test_what_cannot_be_a_place_to_go_to_is_refused(uri, why, descriptors):
    with pytest.raises(CommandError) as refused:
        channel_at_hand(uri, descriptors)
    assert refused.value.desc == why


@pytest.mark.parametrize(("uri", "why"), [*REFUSED, *REFUSED_TO_LISTEN])
async def test_what_cannot_be_listened_at_is_refused(uri, why, descriptors):
    with pytest.raises(CommandError) as refused:
        listen(uri, descriptors, Arrived())
    assert refused.value.desc == why


@pytest.mark.parametrize(("uri", "why"), UNREACHABLE)
async def test_where_nobody_is_there_is_no_connection(uri, why):
    with pytest.raises(NotConnected) as refused:
        await connect(uri)
    assert str(refused.value) == why


def test_a_port_in_use_is_none_to_listen_at():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(CommandError) as refused:
        listening_tcp("127.0.0.1", str(port))
    assert refused.value.desc == "Failed to find an available port: Address already in use"


async def test_one_that_connects_and_goes_is_still_one(descriptors):
    arrived = Arrived()
    listener = listen("tcp:127.0.0.1:0", descriptors, arrived)
    socket.create_connection(("127.0.0.1", int(listener.address.port))).close()
    assert await brought(await arrived.waited_for()) == b""


@given(st.text(max_size=40))
def test_any_text_is_a_uri_or_is_refused(text):
    """Of those that need no connecting: what is looked at is the text alone."""
    for uri in (f"tcp:{text}", f"unix:{text}"):
        assert uri.startswith(PROTOCOLS)
        with suppress(CommandError):
            assert channel_at_hand(uri, Descriptors()) is None


# Beside a real one


@pytest.mark.live
@pytest.mark.parametrize("program", [MODEL, REAL], ids=["model", "real"])
async def test_a_real_one_refuses_in_the_same_words(program):
    async with started("-incoming", "defer", "-S", program=program) as one:
        for uri, why in (*REFUSED, *REFUSED_TO_LISTEN):
            if uri != "fd:999":  # a real one waits for what never comes
                assert await one.refuses("migrate-incoming", uri=uri) == why, uri
    async with started("-S", program=program) as one:
        for uri, why in REFUSED:
            if uri != "fd:999":
                assert await one.refuses("migrate", uri=uri) == why, uri
        for uri, why in UNREACHABLE:
            one.forget()
            await one.execute("migrate", uri=uri)
            await one.has("failed")
            assert (await one.execute("query-migrate"))["error-desc"] == why
