"""The standalone proxy, with real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest
from proxy_helpers import LOOPBACK
from service_helpers import STREAM, serving
from wire_helpers import PAGES, ram_part, recorded

from testbed.fault.plan import (
    Close,
    ConnectionPlace,
    Fault,
    OffsetPlace,
    Refuse,
    Reset,
    SectionPlace,
    SetField,
)
from testbed.log import Log
from testbed.proxy.address import TcpAddress
from testbed.proxy.recording import Direction, FolderRecorder, Recording
from testbed.standalone.asked import AskedError, Settings, Way
from testbed.standalone.picture import Picture
from testbed.standalone.sampling import Sampler
from testbed.standalone.service import Outcome, Service, ServiceError
from testbed.standalone.storage import of_storage
from testbed.wire import MultifdChannel
from testbed.wire.element import RamPage
from testbed.wire.packet import MultifdPacket

FOOTER = SectionPlace("ram", kind="part", part="footer", field="mark")
AT = STREAM.index(ram_part(*PAGES))


def changed(stream: bytes) -> bool:
    """True if it is the stream with the footer's mark set to zero."""
    differing = [at for at, (a, b) in enumerate(zip(stream, STREAM, strict=True)) if a != b]
    return len(differing) == 1 and stream[differing[0]] == 0


async def test_migrations_pass_one_after_another() -> None:
    async with serving() as rig:
        for number in (1, 2, 3):
            assert await rig.migrate() == STREAM
            ended = await rig.logged("migration-ended", migration=number)
            assert ended.facts["outcome"] == "whole"
            assert ended.facts["bytes_forward"] == len(STREAM)
        rig.service.stop()
        assert await rig.outcome() is Outcome.STOPPED


async def test_what_is_not_to_be_read_passes_untold() -> None:
    async with serving(unread=True) as rig:
        assert await rig.migrate() == STREAM
        ended = await rig.logged("connection-ended")
        assert ended.facts["bytes_forward"] == len(STREAM)
        assert rig.log.first("connection-identified", channel="main") is not None
        assert {"file-header", "section", "stream-totals"}.isdisjoint(each.kind for each in rig.log)


async def test_who_connects_is_told() -> None:
    async with serving() as rig:
        source = await rig.source()
        opened = await rig.logged("connection-opened")
        host, port = source.socket.getsockname()
        assert opened.facts["peer"] == f"{host}:{port}"


async def test_a_new_migration_is_a_new_attempt() -> None:
    async with serving(Fault(FOOTER, SetField(0), "second", attempt=2)) as rig:
        assert await rig.migrate() == STREAM
        assert changed(await rig.migrate())
        assert await rig.migrate() == STREAM
        struck = await rig.logged("fault-struck")
        assert (struck.facts["fault"], struck.facts["connection"]) == ("second", 2)


async def test_every_attempt_can_be_struck() -> None:
    async with serving(Fault(FOOTER, SetField(0), "each", attempt=None, times=None)) as rig:
        for _ in range(3):
            assert changed(await rig.migrate())


async def test_a_connection_of_a_later_migration_can_be_refused() -> None:
    fault = Fault(ConnectionPlace(1), Refuse(), "no", attempt=2)
    async with serving(fault) as rig:
        assert await rig.migrate() == STREAM
        await rig.logged("fault-struck", fault="no")
        with pytest.raises(ConnectionRefusedError):
            await rig.source()


async def test_what_did_not_strike_is_told_when_its_migration_is_over() -> None:
    faults = [
        Fault(SectionPlace("nosuch"), Close(), "first"),
        Fault(SectionPlace("nosuch"), Close(), "second", attempt=2),
    ]
    async with serving(*faults) as rig:
        await rig.migrate()
        told = [event.facts["sentence"] for event in rig.log.find("fault-unfired")]
        assert [each.split(":")[0] for each in told] == ["fault 1 (first) never fired"]
        await rig.migrate()
        told = [event.facts["sentence"] for event in rig.log.find("fault-unfired")]
        assert told[1].startswith("fault 2 (second) never fired")


async def test_once_ends_with_the_first_migration() -> None:
    async with serving(Fault(FOOTER, SetField(0), "it"), once=True) as rig:
        assert changed(await rig.migrate())
        assert await rig.outcome() is Outcome.OVER


async def test_once_says_which_fault_never_struck() -> None:
    faults = [
        Fault(FOOTER, SetField(0), "it"),
        Fault(SectionPlace("nosuch"), Close(), "never"),
        Fault(FOOTER, SetField(0), "later", attempt=2),
    ]
    async with serving(*faults, once=True) as rig:
        await rig.migrate()
        assert await rig.outcome() is Outcome.UNFIRED
        told = [event.facts["sentence"].split(":")[0] for event in rig.log.find("fault-unfired")]
        assert told == ["fault 2 (never) never fired", "fault 3 (later) never fired"]


async def test_strangers_do_not_end_it_once() -> None:
    async with serving(once=True) as rig:
        for _ in range(3):
            await rig.migrate(b"GET / HTTP/1.0\r\n\r\n")
        assert not rig.running.done()
        assert await rig.migrate() == STREAM
        assert await rig.outcome() is Outcome.OVER


async def test_the_first_stop_lets_a_migration_through() -> None:
    async with serving() as rig:
        source, destination = await rig.pair(STREAM[:AT])
        rig.service.stop()
        said = (await rig.logged("stopping")).facts["sentence"]
        assert "still open: connection 1;" in said
        with pytest.raises(ConnectionRefusedError):
            await rig.source()
        await source.send(STREAM[AT:])
        source.finish()
        assert await destination.rest() == STREAM[AT:]
        assert not rig.running.done()
        destination.finish()
        assert await rig.outcome() is Outcome.STOPPED


async def test_the_second_stop_resets() -> None:
    async with serving() as rig:
        source, destination = await rig.pair(STREAM[:AT])
        rig.service.stop()
        rig.service.stop()
        assert await rig.outcome() is Outcome.RESET
        assert await source.is_reset()
        assert await destination.is_reset()


async def test_an_upstream_that_refuses_is_told_and_the_next_one_is_tried() -> None:
    async with serving() as rig:
        port = rig.destination.address.port
        rig.destination.listener.close()
        source = await rig.source()
        await source.send(STREAM[:4])
        assert await source.is_reset()
        refused = await rig.logged("upstream-refused")
        assert refused.facts["error"] == "ECONNREFUSED Connection refused"
        rig.destination.listener = rig.stack.enter_context(socket.create_server((LOOPBACK, port)))
        rig.destination.listener.setblocking(False)
        assert await rig.migrate() == STREAM


async def test_many_who_connect_and_go_leave_nothing() -> None:
    async with serving() as rig:
        for _ in range(1000):
            with socket.create_connection(rig.addresses["proxy"]):
                pass
            await asyncio.sleep(0)
        assert await rig.migrate() == STREAM
        rig.service.stop()
        assert await rig.outcome() is Outcome.STOPPED


async def test_who_sends_a_byte_and_waits_holds_up_nobody() -> None:
    async with serving() as rig:
        slow = [await rig.source() for _ in range(20)]
        for each in slow:
            await each.send(STREAM[:1])
        assert await rig.migrate() == STREAM


async def test_what_passed_is_recorded(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path, print)
    async with serving(Fault(FOOTER, SetField(0), "it"), recorder=recorder) as rig:
        assert changed(await rig.migrate())
        assert await rig.migrate() == STREAM
    read = Recording.open(tmp_path)
    assert [each.how for each in read.connections.values()] == ["FIN", "FIN"]
    for number in (1, 2):  # what came in, before any fault
        assert read.file(number, Direction.FORWARD).read_bytes() == STREAM


async def test_a_migration_that_is_cut_off_leaves_what_passed_recorded(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path, print)
    async with serving(recorder=recorder) as rig:
        _, destination = await rig.pair(STREAM[:AT])
        await destination.send(b"pong")
        await rig.logged("connection-identified")
        rig.service.stop()
        rig.service.stop()
        assert await rig.outcome() is Outcome.RESET
    assert Recording.open(tmp_path).file(1, Direction.FORWARD).read_bytes() == STREAM[:AT]


# The picture


async def test_what_passes_can_be_seen_meanwhile() -> None:
    async with serving() as rig:
        source, destination = await rig.pair(STREAM[:8])
        stop = AT + len(ram_part(*PAGES))
        await source.send(STREAM[8:stop])
        await destination.exactly(stop - 8)
        seen = Sampler(rig.service.proxy).sample(1.0)
        assert (seen.phase, seen.section) == ("iterate", "PART ram")
        assert seen.pages == sum(isinstance(page, RamPage) for page in PAGES)
        assert [each.bytes_forward for each in seen.connections] == [stop]
        sizes = {name: each.used_bytes for name, each in seen.blocks.items()}
        assert sizes["pc.ram"]


async def test_pages_on_multifd_channels_are_those_of_the_migration() -> None:
    main, multifd = recorded("qemu7.2-multifd.c0.fwd"), recorded("qemu7.2-multifd.c1.fwd")
    async with serving() as rig:
        source, destination = await rig.pair(main[:4])
        other = await rig.source()
        await other.send(multifd)
        there = await rig.destination.next()
        await there.exactly(len(multifd))
        await source.send(main[4:])
        await destination.exactly(len(main) - 4)
        seen = Sampler(rig.service.proxy).sample(1.0)
        alone = MultifdChannel()
        packets = [each.value for each in [*alone.feed(multifd), *alone.end()]]
        pages = sum(
            each.normal_pages + each.zero_pages
            for each in packets
            if isinstance(each, MultifdPacket)
        )
        assert seen.pages >= pages > 100
        assert seen.blocks["pc.ram"].used_bytes
        for each in (other, source, there, destination):
            each.finish()
        await rig.logged("migration-ended")
        assert rig.service.picture.sample.blocks == seen.blocks  # none is lost, or counted twice
        assert rig.service.picture.figures().bytes_forward == len(main) + len(multifd)


async def test_it_is_drawn_a_few_times_a_second_and_at_the_end() -> None:
    drawn: list[str] = []

    def draw(picture: Picture) -> None:
        drawn.append(picture.figures().phase)

    log, anywhere = Log(), TcpAddress(LOOPBACK, 0)
    service = Service(Settings(Way(anywhere, TcpAddress(LOOPBACK, 1))), log, None, draw)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        await log.wait(lambda event: event.kind == "listening", what="it", within_s=10)
        await asyncio.sleep(0)
        service.stop()
    assert drawn[-1] == "waiting for a migration"


# Storage


async def test_storage_passes_whoever_speaks_first() -> None:
    async with serving() as rig:
        source = await rig.source("nbd")
        destination = await rig.storage.next()
        await destination.send(b"NBDMAGIC")
        assert await source.exactly(8) == b"NBDMAGIC"
        await source.send(b"\0\0\0\3")
        assert await destination.exactly(4) == b"\0\0\0\3"
        source.finish()
        destination.finish()
        ended = await rig.logged("connection-ended")
        assert (ended.actor, ended.facts["bytes_forward"]) == ("nbd", 4)


async def test_storage_is_no_migration() -> None:
    async with serving(once=True) as rig:
        source = await rig.source("nbd")
        destination = await rig.storage.next()
        await source.send(STREAM)
        assert await destination.exactly(len(STREAM)) == STREAM
        source.finish()
        destination.finish()
        await rig.logged("connection-ended")
        assert not rig.running.done()
        assert rig.log.first("migration-began") is None


async def test_storage_can_be_reset_at_an_offset() -> None:
    fault = of_storage(Fault(OffsetPlace(10), Reset(), "it"))
    async with serving(storage_faults=(fault,)) as rig:
        source = await rig.source("nbd")
        destination = await rig.storage.next()
        await source.send(bytes(20))
        assert await destination.exactly(10) == bytes(10)
        assert await source.is_reset()
        assert (await rig.logged("fault-struck", fault="it")).actor == "nbd"


async def test_storage_that_is_open_is_waited_for() -> None:
    async with serving() as rig:
        source = await rig.source("nbd")
        destination = await rig.storage.next()
        await rig.logged("connection-opened")
        rig.service.stop()
        await rig.logged("stopping")
        assert not rig.running.done()
        source.finish()
        destination.finish()
        assert await rig.outcome() is Outcome.STOPPED


# Toxiproxy's API


async def test_toxics_of_the_migration_can_be_set_over_http() -> None:
    fault = Fault(FOOTER, SetField(0), "each", attempt=None, times=None)
    async with serving(fault, control=True) as rig, aiohttp.ClientSession() as http:
        address = (await rig.logged("control-started")).facts["address"]
        url = f"http://{address}/proxies/migration"
        async with http.get(url) as answer:
            assert (await answer.json())["listen"] == "127.0.0.1:{}".format(
                rig.addresses["proxy"][1]
            )
        assert changed(await rig.migrate())
        toxic = {"name": "it", "type": "limit_data", "attributes": {"bytes": AT}}
        async with http.post(f"{url}/toxics", json={**toxic, "stream": "upstream"}) as answer:
            assert answer.status == 200
        source = await rig.source()
        await source.send(STREAM)
        destination = await rig.destination.next()
        assert await destination.exactly(AT) == STREAM[:AT]
        assert await destination.receive() == b""


async def test_an_error_of_ours_is_told_and_a_migration_goes_on() -> None:
    def fails() -> None:
        raise KeyError("of ours")

    async with serving(once=True) as rig:
        rig.log.listen(lambda event: fails() if event.kind == "broke" else None)
        source, destination = await rig.pair()
        for _ in range(3):
            asyncio.get_running_loop().call_soon(fails)
        await source.send(STREAM[4:])
        source.finish()
        assert await destination.rest() == STREAM[4:]
        destination.finish()
        assert await rig.outcome() is Outcome.BROKEN
        told = [*rig.log.find("broke", "proxy")]
        assert [event.facts["error"] for event in told] == ["KeyError('of ours')"] * 3
        assert "in fails" in told[0].facts["traceback"]


async def test_proxies_that_the_api_makes_are_no_part_of_the_migration() -> None:
    async with serving(once=True, control=True) as rig, aiohttp.ClientSession() as http:
        address = (await rig.logged("control-started")).facts["address"]
        other = {"name": "other", "listen": "127.0.0.1:0", "upstream": str(rig.storage.address)}
        async with http.post(f"http://{address}/proxies", json=other) as answer:
            host, _, port = (await answer.json())["listen"].rpartition(":")
        rig.addresses["other"] = host, int(port)
        source = await rig.source("other")
        await source.send(STREAM)
        source.finish()
        destination = await rig.storage.next()
        assert await destination.rest() == STREAM
        destination.finish()
        await rig.logged("connection-ended", proxy="other")
        assert not rig.running.done()
        assert rig.log.first("migration-began") is None


async def test_the_api_is_not_served_to_others_unless_that_is_said() -> None:
    anywhere = TcpAddress(LOOPBACK, 0)
    settings = Settings(Way(anywhere, TcpAddress(LOOPBACK, 1)), control=TcpAddress("", 0))
    with pytest.raises(AskedError, match=r"^--control: .* \(--control-public\)$"):
        await Service(settings, Log()).run()


# What cannot be


async def test_an_address_in_use_is_said() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        address = TcpAddress(*taken.getsockname())
        service = Service(Settings(Way(address, address)), Log())
        with pytest.raises(ServiceError) as error:
            await service.run()
        said = f"--listen: {address}: cannot be listened on: EADDRINUSE Address already in use"
        assert str(error.value) == said


async def test_a_name_that_is_none_is_said() -> None:
    nowhere = TcpAddress("nosuch.invalid", 1)
    service = Service(Settings(Way(TcpAddress(LOOPBACK, 0), nowhere)), Log())
    with pytest.raises(ServiceError, match=r"^--upstream: nosuch.invalid:1: "):
        await service.run()


@pytest.mark.parametrize(("listen", "upstream"), [("127.0.0.1", "localhost"), ("", "127.0.0.1")])
async def test_a_proxy_that_would_go_on_to_itself_is_said(listen: str, upstream: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    way = Way(TcpAddress(listen, port), TcpAddress(upstream, port))
    log = Log()
    with pytest.raises(AskedError, match=r"^--upstream: .* is where the proxy itself listens"):
        await Service(Settings(way), log).run()
    assert log.first("listening") is None
