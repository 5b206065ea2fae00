"""Replays into real QEMUs, into models, and into listeners that are neither."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from itertools import count

import pytest
from replay_helpers import PRECOPY, recorded, recording

from testbed.endpoint.base import EndpointError
from testbed.endpoint.program import DEFAULT_QEMU, model
from testbed.fault.plan import (
    Blackhole,
    CommandPlace,
    ElementPlace,
    Fault,
    Insert,
    PagePlace,
    Reset,
    SectionPlace,
    SetField,
    Side,
    Truncate,
)
from testbed.log import Log
from testbed.proxy.address import TcpAddress, UnixAddress
from testbed.proxy.recording import FolderRecorder
from testbed.replay.recording import replayable
from testbed.replay.replay import Command, NobodyThere, ReplayPlan, replay
from testbed.wire import encode
from testbed.wire.build import discard

WITHIN_S = 20.0
"""Nothing hangs here but what is meant to."""
DEVICES = (
    *("-nodefaults", "-no-user-config", "-serial", "null"),
    *("-device", "virtio-net-pci,romfile="),
)
"""Of the machine that was recorded, but for its disk, which nothing asks for."""
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def qemu():
    return Command(DEFAULT_QEMU, ("-M", "pc-i440fx-7.2", "-m", "16M", "-accel", "tcg", *DEVICES))


@pytest.fixture
def model_7_2():
    return Command(model("7.2").command, DEVICES, of_recording=True)


async def replayed(path, to, *faults, **plan):
    """The reaction to a replay, and its log."""
    log = Log()
    plan = {"within_s": WITHIN_S, **plan}
    with replayable(str(path)) as found:
        reaction = await replay(found, ReplayPlan(to, tuple(faults), **plan), log)
    return reaction, log


def fault(place, action, name="it"):
    return Fault(place, action, name)


def has_ended(log):
    """Every process that was started has ended."""
    return len(list(log.find("process-started"))) == len(list(log.find("process-ended"))) == 1


# Real QEMU


@pytest.mark.live
async def test_qemu_accepts_a_precopy_and_its_guest_runs(qemu) -> None:
    reaction, log = await replayed(PRECOPY, qemu)
    assert reaction.judged == ("accepted", "completed, and its guest is running")
    assert [each.sent_all for each in reaction.carried] == [True]
    assert has_ended(log)


@pytest.mark.live
async def test_qemu_refuses_a_damaged_footer_with_its_words(qemu) -> None:
    damage = fault(SectionPlace("timer", part="footer", field="mark"), SetField(0x7D))
    reaction, log = await replayed(PRECOPY, qemu, damage)
    assert reaction.judged == (
        "refused",
        "it ended with status 1: Missing section footer for timer; "
        "load of migration failed: Invalid argument",
    )
    assert reaction.process.status == "failed"
    assert log.first("fault-struck", "proxy")
    assert has_ended(log)


@pytest.mark.live
async def test_qemu_crashes_where_it_does(qemu, tmp_path) -> None:
    # QEMU until 10.0 at least: a range beyond the block is not refused.
    beyond = encode(discard("pc.ram", [(1 << 40, 4096)]))
    at = CommandPlace("PING", occurrence=2)
    path = recording(tmp_path / "r", "postcopy")
    reaction, _ = await replayed(path, qemu, fault(at, Insert(beyond)))
    assert reaction.judged == ("crashed", "SIGSEGV ended it")


@pytest.mark.live
@pytest.mark.parametrize("kind", ["multifd", "postcopy", "preempt", "recover"])
async def test_qemu_accepts_every_kind_of_migration(qemu, tmp_path, kind) -> None:
    reaction, log = await replayed(recording(tmp_path / "r", kind), qemu)
    assert reaction.judged == ("accepted", "completed, and its guest is running")
    assert all(each.sent_all for each in reaction.carried)
    assert not reaction.pages.lacking
    statuses = [event.facts["status"] for event in log.find("migration-status", "destination")]
    assert ("postcopy-recover" in statuses) == (kind == "recover")


@pytest.mark.live
async def test_qemu_pauses_where_its_postcopy_is_cut(qemu, tmp_path) -> None:
    cut = fault(PagePlace(nth=300, phase="postcopy", field="data", byte=1000), Reset())
    path = recording(tmp_path / "r", "postcopy")
    reaction, _ = await replayed(path, qemu, cut, paused=True)
    assert reaction.verdict == "paused"
    assert "Detected IO failure for postcopy. Migration paused." in reaction.reason
    assert reaction.process.run_state == "paused"
    assert not reaction.unfired


# Models


async def test_a_model_accepts_the_recording_of_its_machine(model_7_2) -> None:
    reaction, _ = await replayed(PRECOPY, model_7_2)
    assert reaction.judged == ("accepted", "completed, and its guest is running")


async def test_a_model_whose_guest_is_not_to_run_stays_paused(model_7_2, tmp_path) -> None:
    path = recording(tmp_path / "r", "recover")
    reaction, log = await replayed(path, model_7_2, paused=True)
    assert reaction.judged == ("accepted", "completed, and its guest is paused")
    assert log.first("qmp-event", "destination", event="RESUME") is None


async def test_a_destination_whose_stream_goes_dark_hangs(model_7_2) -> None:
    dark = fault(SectionPlace("cpu", kind="full", part="payload", byte=9), Blackhole())
    reaction, log = await replayed(PRECOPY, model_7_2, dark, within_s=0.5)
    assert reaction.judged == ("hung", "nothing moved for 0.5 s")
    assert has_ended(log)


async def test_a_destination_that_ends_before_it_could_recover_has_refused(
    model_7_2, tmp_path
) -> None:
    damage = fault(SectionPlace("timer", part="footer", field="mark"), SetField(0x7D))
    path = recording(tmp_path / "r", "recover")
    reaction, log = await replayed(path, model_7_2, damage)
    assert reaction.verdict == "refused"
    assert reaction.carried[1].sent_bytes == 0
    assert log.first("connection-opened", "source", connection=2) is None


async def test_a_fault_that_never_struck_is_told(model_7_2) -> None:
    reaction, _ = await replayed(PRECOPY, model_7_2, fault(SectionPlace("nosuch"), Reset()))
    assert reaction.verdict == "accepted"
    (sentence,) = reaction.unfired
    assert sentence.startswith("fault 1 (it) never fired: no section nosuch passed")


async def test_a_command_that_is_no_destination_cannot_be_started() -> None:
    with pytest.raises(EndpointError, match="ended with status 1 before it opened QMP"):
        await replayed(PRECOPY, Command(("false",)))


async def test_a_destination_that_lacks_what_the_recording_needs_is_told(
    model_7_2, tmp_path
) -> None:
    with pytest.raises(EndpointError, match="multifd"):
        await replayed(recording(tmp_path / "r", "multifd"), model_7_2)


# Listeners


@asynccontextmanager
async def listening(serve, address=None):
    """A listener that hands each connection to `serve`; its address."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if address is None else socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if address is None else address)
        listener.listen()
        listener.setblocking(False)

        async def accept(group):
            for number in count(1):
                accepted, _ = await loop.sock_accept(listener)
                group.create_task(one(accepted, number))

        async def one(accepted, number):
            with accepted:
                await serve(accepted, number)

        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(accept(group))
            yield TcpAddress(*listener.getsockname()) if address is None else UnixAddress(address)
            accepting.cancel()


async def received(accepted, until=None):
    """What comes until the end, or until so many bytes are there."""
    data = bytearray()
    while until is None or len(data) < until:
        more = await asyncio.get_running_loop().sock_recv(accepted, 1 << 20)
        if not more:
            break
        data += more
    return bytes(data)


async def test_a_listener_that_reads_all_gets_every_byte_and_tells_nothing(tmp_path) -> None:
    got = []

    async def serve(accepted, _number):
        got.append(await received(accepted))

    async with listening(serve, str(tmp_path / "s")) as address:
        reaction, _ = await replayed(PRECOPY, address)
    assert got == [recorded("precopy.c0")]
    assert reaction.verdict == "taken"


@pytest.mark.parametrize(("value", "verdict"), [(0, "accepted"), (1, "refused")])
async def test_a_listener_that_answers_shut_has_said_it(value, verdict) -> None:
    async def serve(accepted, _number):
        await received(accepted)
        accepted.send(struct.pack(">HHI", 1, 4, value))

    async with listening(serve) as address:
        reaction, _ = await replayed(PRECOPY, address)
    assert reaction.judged == (verdict, f"SHUT {value} on connection 1")


async def test_a_listener_that_resets_in_the_middle_refuses_at_a_place() -> None:
    async def serve(accepted, _number):
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        await received(accepted, until=100_000)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with listening(serve) as address:
        reaction, _ = await replayed(PRECOPY, address)
    (carried,) = reaction.carried
    assert reaction.verdict == "refused"
    assert 100_000 <= carried.taken_bytes <= carried.sent_bytes < carried.size_bytes
    assert carried.place == "pages of pc.ram of PART ram"


async def test_a_listener_that_neither_answers_nor_closes_hangs() -> None:
    hung = asyncio.Event()

    async def serve(accepted, _number):
        await received(accepted)
        await hung.wait()

    async with listening(serve) as address:
        reaction, _ = await replayed(PRECOPY, address, within_s=0.3)
        hung.set()
    assert reaction.judged == ("hung", "nothing moved for 0.3 s")


async def test_nobody_at_an_address_is_told() -> None:
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = TcpAddress(*bound.getsockname())
        for faults in ((), (fault(ElementPlace("eof"), Reset()),)):
            with pytest.raises(NobodyThere, match=f"{address}: nobody takes the connection: .*"):
                await replayed(PRECOPY, address, *faults)


async def test_a_listener_gets_the_stream_as_the_fault_leaves_it() -> None:
    got = []

    async def serve(accepted, _number):
        got.append(await received(accepted))

    async with listening(serve) as address:
        cut = fault(ElementPlace("vmdesc", field="text", byte=5), Truncate())
        reaction, _ = await replayed(PRECOPY, address, cut)
    whole = recorded("precopy.c0")
    at = whole.index(b"{", len(whole) - 99_700)
    assert got == [whole[: at + 5]]
    assert not reaction.unfired
    assert reaction.verdict == "taken"


async def test_after_a_fault_ended_the_connection_nothing_tells() -> None:
    async def serve(accepted, _number):
        try:
            await received(accepted)
        except ConnectionResetError:
            pass

    async with listening(serve) as address:
        reaction, _ = await replayed(PRECOPY, address, fault(ElementPlace("eof"), Reset(Side.BOTH)))
    assert reaction.judged == (
        "unknown",
        "a fault ended the connection, and with it all that could tell",
    )


async def test_as_recorded_it_keeps_the_order_of_two_connections(tmp_path) -> None:
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.6, 1.2, 1.2, 1.2]).__next__
    recorder = FolderRecorder(tmp_path / "r", pytest.fail, clock=clock)
    recorder.opened(1)
    recorder.received(1, Side.SOURCE, bytes.fromhex("5145564d00000003"))
    recorder.opened(2)
    recorder.received(2, Side.SOURCE, b"\x11\x22\x33\x44")
    recorder.received(1, Side.SOURCE, b"late")
    for number in (1, 2):
        recorder.ended(number, "FIN")
    recorder.close()
    came = []

    async def serve(accepted, number):
        while data := await asyncio.get_running_loop().sock_recv(accepted, 1 << 16):
            came.append((number, data))

    async with listening(serve) as address:
        reaction, _ = await replayed(tmp_path / "r", address, as_recorded=True)
    assert came == [
        (1, bytes.fromhex("5145564d00000003")),
        (2, b"\x11\x22\x33\x44"),
        (1, b"late"),
    ]
    assert reaction.verdict == "taken"
