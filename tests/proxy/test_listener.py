"""How the proxy listens, and how it does not."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from proxy_helpers import LOOPBACK, WITHIN_S, Peer, proxied
from wire_helpers import precopy

from testbed.fault.command import Command
from testbed.fault.engine import FaultEngine
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import ConnectionPlace, DelayAccept, Fault, Refuse, Side, Tarpit
from testbed.log import Log
from testbed.proxy import Proxy, entrance
from testbed.proxy import proxy as proxy_module
from testbed.proxy.address import Address, TcpAddress, UnixAddress, parse_address
from testbed.wire import ChannelKind

STREAM = precopy()
SOON_S = 0.2


def first(action: Refuse | DelayAccept | Tarpit, number: int = 1) -> Fault:
    return Fault(ConnectionPlace(number), action, "it")


async def until_taken(address: TcpAddress) -> Peer:
    """Connect again and again until somebody listens."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WITHIN_S):
        while True:
            opened = socket.socket()
            opened.setblocking(False)
            try:
                await loop.sock_connect(opened, address)
            except ConnectionRefusedError:
                opened.close()
            else:
                return Peer(opened)


async def test_a_refused_connection_is_refused_and_the_next_one_is_taken() -> None:
    async with proxied(first(Refuse(SOON_S))) as rig:
        with pytest.raises(ConnectionRefusedError):
            await rig.source()
        address = rig.proxy.address
        assert isinstance(address, TcpAddress)
        source = await until_taken(address)
        rig.stack.callback(source.socket.close)
        await source.send(STREAM[:4])
        assert await (await rig.destination()).exactly(4) == STREAM[:4]


async def test_refused_for_good_ends_with_the_attempt() -> None:
    async with proxied(first(Refuse())) as rig:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await rig.source()
        rig.proxy.next_attempt()
        source = await rig.source()
        await source.send(STREAM[:4])
        assert await (await rig.destination()).exactly(4) == STREAM[:4]


async def test_the_second_connection_is_refused_while_the_first_goes_on() -> None:
    async with proxied(first(Refuse(), 2)) as rig:
        source, destination = await rig.pair(STREAM[:4])
        with pytest.raises(ConnectionRefusedError):
            await rig.source()
        await source.send(STREAM[4:])
        assert await destination.exactly(len(STREAM) - 4) == STREAM[4:]


async def test_a_port_that_refuses_is_nobody_elses() -> None:
    async with proxied(first(Refuse())) as rig:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(rig.listen)


async def test_a_delayed_connection_goes_onward_later() -> None:
    async with proxied(first(DelayAccept(SOON_S))) as rig:
        source = await rig.source()
        await source.send(STREAM)
        opened = await rig.logged("connection-opened")
        destination = await rig.destination()
        identified = await rig.logged("connection-identified")
        assert identified.at_s - opened.at_s >= SOON_S
        assert await destination.exactly(len(STREAM)) == STREAM


async def test_a_tarpit_takes_the_connection_and_never_reads_it() -> None:
    async with proxied(first(Tarpit())) as rig:
        source = await rig.source()
        await rig.logged("fault-struck")
        assert await source.hears_nothing()
        assert rig.nothing_arrived()
        source.reset()
        ended = await rig.logged("connection-ended", connection=1)
        assert ended.facts["bytes_forward"] == 0
        await rig.pair(STREAM[:4])


@pytest.mark.parametrize("text", ["[::1]:0", "unix:{folder}/proxy.sock", "localhost:0"])
async def test_other_families_carry_the_same(text: str, tmp_path: Path) -> None:
    upstream = UnixAddress(str(tmp_path / "upstream.sock"))
    listen = parse_address(text.format(folder=tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(upstream.path)
        listener.listen()
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        async with Proxy.start(
            listen=listen, upstream=upstream, engine=FaultEngine(), log=Log()
        ) as running:
            family, place = place_of(running.address)
            with socket.socket(family) as opened:
                opened.setblocking(False)
                await loop.sock_connect(opened, place)
                source = Peer(opened)
                await source.send(STREAM)
                source.finish()
                accepted, _ = await loop.sock_accept(listener)
                with accepted:
                    assert await Peer(accepted).rest() == STREAM
    assert not (tmp_path / "proxy.sock").exists()


def place_of(address: Address) -> tuple[socket.AddressFamily, object]:
    if isinstance(address, UnixAddress):
        return socket.AF_UNIX, address.path
    assert address.port > 0
    return (socket.AF_INET6 if ":" in address.host else socket.AF_INET), tuple(address)


async def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    tmp_path: Path,
) -> None:
    listen = UnixAddress(str(tmp_path / "proxy.sock"))
    left = socket.socket(socket.AF_UNIX)
    left.bind(listen.path)
    left.close()
    options = {"upstream": TcpAddress(LOOPBACK, 1), "engine": FaultEngine(), "log": Log()}
    async with Proxy.start(listen=listen, **options):
        with pytest.raises(OSError, match="in use"):
            async with Proxy.start(listen=listen, **options):
                pass


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("bound_as", ["path", "name in its folder"])
async def test_whoever_waits_at_a_path_never_notices(
    kind: socket.SocketKind, bound_as: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "waits.sock"
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, kind) as waits:
        waits.bind(str(path) if bound_as == "path" else path.name)
        waits.setblocking(False)
        if kind is not socket.SOCK_DGRAM:
            waits.listen()
        options = {"upstream": TcpAddress(LOOPBACK, 1), "engine": FaultEngine(), "log": Log()}
        with pytest.raises(OSError, match="in use"):
            async with Proxy.start(listen=UnixAddress(str(path)), **options):
                pass
        with pytest.raises(BlockingIOError):  # nobody came
            waits.recv(1) if kind is socket.SOCK_DGRAM else waits.accept()
        with socket.socket(socket.AF_UNIX, kind) as comes:
            comes.connect(str(path))


async def test_a_path_that_is_somebody_elses_by_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    options = {"upstream": TcpAddress(LOOPBACK, 1), "engine": FaultEngine(), "log": Log()}
    with socket.socket(socket.AF_UNIX) as other:
        async with Proxy.start(listen=UnixAddress(str(path)), **options):
            path.unlink()
            other.bind(str(path))
        assert path.is_socket()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """As if this process had as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    taken = []
    try:
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_those_who_come_wait_and_the_proxy_does_not_spin() -> None:
    async with proxied() as rig:
        peer = rig.stack.enter_context(socket.socket())
        peer.setblocking(False)
        with no_descriptor_left():
            await asyncio.get_running_loop().sock_connect(peer, rig.listen)
            paused = await rig.logged("accept-paused")
            assert paused.facts["error"].startswith("EMFILE")
            assert rig.proxy.connections == ()
        source = Peer(peer)
        await source.send(STREAM[:4])
        assert await (await rig.destination()).exactly(4) == STREAM[:4]
        assert len(list(rig.log.find("accept-paused"))) == 1


async def test_thousands_that_connect_and_close_leave_nothing_open() -> None:
    async with proxied() as rig:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            peers = [await rig.source() for _ in range(50)]
            for peer in peers:
                peer.socket.close()
        for number in range(1, 501):
            await rig.logged("connection-ended", connection=number)
        assert rig.proxy.connections == ()
        assert len(os.listdir("/proc/self/fd")) == before
        assert rig.nothing_arrived()
        source, destination = await rig.pair(STREAM[:4])
        await source.send(STREAM[4:])
        assert await destination.exactly(len(STREAM) - 4) == STREAM[4:]


async def test_many_that_never_speak_keep_nobody_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entrance, "SPEAKS_WITHIN_S", SOON_S)
    async with proxied() as rig:
        silent = await rig.source()
        await silent.send(b"QE")
        assert await silent.is_reset()
        stray = await rig.logged("stray-connection")
        assert stray.facts["what"] == "it says nothing"
        assert rig.nothing_arrived()


@pytest.mark.parametrize("said", [b"", b"QEV"])
async def test_the_eldest_that_never_spoke_makes_room(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who said less than it takes to tell what it is has said nothing."""
    monkeypatch.setattr(proxy_module, "CONNECTIONS_MAX", 3)
    async with proxied() as rig:
        silent = [await rig.source() for _ in range(3)]
        await silent[0].send(said)
        await rig.logged("connection-opened", connection=3)
        source, destination = await rig.pair(STREAM[:4])
        assert await silent[0].is_reset()
        assert (await rig.logged("connections-surplus")).facts["evicted"] == 1
        await source.send(STREAM[4:])
        assert await destination.exactly(len(STREAM) - 4) == STREAM[4:]


async def test_a_silent_channel_of_a_migration_makes_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECTIONS_MAX", 2)
    async with proxied() as rig:
        await rig.pair(STREAM[:4])
        await rig.logged("connection-identified", connection=1)
        preempt = await rig.source()  # it has no work yet
        its_end = await rig.destination()
        with pytest.raises(ConnectionResetError):
            await (await rig.source()).receive()
        await preempt.send(b"page")
        assert await its_end.exactly(4) == b"page"


async def test_without_peeking_the_eldest_silent_one_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECTIONS_MAX", 2)
    async with proxied(peeks=False) as rig:
        silent = await rig.source()
        its_end = await rig.destination()
        await its_end.send(b"NBDMAGIC")
        assert await silent.exactly(8) == b"NBDMAGIC"
        await rig.pair(b"hello")
        third, its_end = await rig.pair(b"there")
        assert await silent.is_reset()
        await its_end.send(b"is room")
        assert await third.exactly(7) == b"is room"


class Broken(Passing):
    """A relay with an error of ours in it."""

    def received(self, _sender: Side, _data: bytes) -> list[Command]:
        raise KeyError("of ours")

    def goes_at_once(self, _sender: Side, _data: bytes | memoryview, /) -> bool:
        return False


class BrokenFirst(FaultEngine):
    """An engine that fails on the first connection."""

    def connection(self, number: int, kind: ChannelKind | None) -> Passing:
        return Broken() if number == 1 else super().connection(number, kind)


async def test_an_error_on_one_connection_leaves_the_others() -> None:
    async with proxied(engine=BrokenFirst(), peeks=False, isolates=True) as rig:
        broken = await rig.source()
        await broken.send(STREAM[:4])
        assert await broken.is_reset()
        told = await rig.logged("connection-broke", connection=1)
        assert told.facts["error"] == "KeyError('of ours')"
        assert "in received" in told.facts["traceback"]
        await rig.logged("connection-ended", connection=1)
        await rig.destination()
        source, destination = await rig.pair(STREAM[:4])
        await source.send(STREAM[4:])
        assert await destination.exactly(len(STREAM) - 4) == STREAM[4:]


async def test_an_error_on_a_connection_of_a_run_ends_the_run() -> None:
    async def main() -> None:
        async with proxied(engine=BrokenFirst(), peeks=False) as rig:
            await (await rig.source()).send(STREAM[:4])
            await asyncio.get_running_loop().create_future()

    with pytest.raises(KeyError, match="of ours"):
        async with asyncio.timeout(WITHIN_S):
            await main()


async def test_a_peer_out_of_reach_is_told_as_that_and_not_as_a_reset() -> None:
    async with proxied() as rig:
        source, destination = await rig.pair(STREAM[:4])
        (connection,) = rig.proxy.connections
        # The kernel gives up a peer that takes nothing for so long (tcp(7)).
        opened = connection._sides[Side.DESTINATION]._socket
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)

        async def send() -> None:
            with suppress(ConnectionError):
                while True:
                    await source.send(bytes(1 << 20))

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            ended = await rig.logged("connection-ended")
        assert (ended.facts["ended_by"], ended.facts["how"]) == ("destination", "ETIMEDOUT")
        assert destination.socket.fileno() > 0
