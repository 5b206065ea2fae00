"""A machine that goes from a QEMU to the model and on to another, which never meet.

TESTBED_QEMUS in the environment names others than the one that is installed: commands, one a line
or with colons between them.
"""

import asyncio
import os
import re
import shlex

import pytest
from machine_helpers import (
    SPEC,
    has_status,
    listens,
    memory_report,
    put_guest,
    real,
    said,
    saved,
    sections_of,
    stamps_beyond,
)

from testbed.guest import check_memory
from testbed.log import Log
from testbed.model.guest.guest import Guest
from testbed.model.machines.adopting import Adopting
from testbed.model.machines.described import Sized
from testbed.model.machines.machine import empty
from testbed.model.migration.effects import HangUp, Say, Send
from testbed.model.migration.source import Parameters, Source
from testbed.model.profile import PROFILES

pytestmark = pytest.mark.live

QEMUS = [
    command
    for command in re.split(r"[\n:]", os.environ.get("TESTBED_QEMUS", "qemu-system-x86_64"))
    if command
]
WITHIN_S = 30
READ_BYTES = 1 << 18
RETURN_PATH = {"return-path": True}
CHANGED_BY_QEMU = {"globalstate", "mc146818rtc", "ide"}
"""Not the same any more once a QEMU has loaded it and saves it again: the state of a machine that
is paused, a clock that follows the host's, the sector of a retry where there is none."""


class Relay:
    """The model between two QEMUs, on loopback."""

    def __init__(self):
        self.hardware = empty(PROFILES["7.2"])
        self.adopting = Adopting(self.hardware)
        self.said, self.received = [], bytearray()
        self.loaded = asyncio.Event()

    async def take(self, reader, writer):
        """What comes of the source."""
        self._do(self.adopting.begin(), writer)
        while data := await reader.read(READ_BYTES):
            self.received += data
            self._do(self.adopting.feed(data), writer)
        self._do(self.adopting.end(), writer)
        self.loaded.set()
        writer.close()

    async def send(self, qemu, *, postcopy=False):
        """Migrate to the destination, as any source does."""
        reader, writer = await listens(qemu)
        parameters = Parameters(return_path=True, postcopy=postcopy)
        source = Source(self.hardware.outgoing, self.hardware.ram, PROFILES["7.2"], parameters)
        source.start_postcopy_at_once = postcopy
        now_s = asyncio.get_running_loop().time
        self._do(source.begin(now_s()), writer)
        async with asyncio.timeout(WITHIN_S):
            while not source.is_over:
                if source.waits:
                    self._do(source.back(await reader.read(READ_BYTES)), writer)
                self._do(source.advance(max(now_s(), source.next_at_s)), writer)
                await writer.drain()
        writer.close()
        return source

    def _do(self, effects, writer):
        for effect in effects:
            match effect:
                case Send(data):
                    writer.write(data)
                case Say(line):
                    self.said.append(line)
                case HangUp() if not writer.is_closing():
                    writer.write_eof()


async def taken_in(relay, machine, command, log):
    """Have a guest run on a real machine, and migrate it to the model; what it was then."""
    given = {"side": "source", "command": command, "capabilities": RETURN_PATH}
    async with (
        real(machine, log, **given) as qemu,
        await asyncio.start_server(relay.take, "127.0.0.1", 0) as server,
    ):
        await stamps_beyond(log, "source", 1000)
        await qemu.migrate(f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await has_status(log, "source", "completed", "failed")
        async with asyncio.timeout(WITHIN_S):
            await relay.loaded.wait()
        status = await qemu.migration_status()
    assert status.status == "completed", status
    assert said(log, "source") == []
    assert relay.said == []
    assert relay.adopting.status == "completed"


def is_as_it_came(relay):
    """Devices, their ids and words, and the list of blocks."""
    sent = b"".join(relay.hardware.outgoing.whole(READ_BYTES))
    ours, theirs = sections_of(sent), sections_of(bytes(relay.received))
    assert ours == theirs
    assert (
        sent[sent.rindex(b'"page_size"') :]
        == relay.received[relay.received.rindex(b'"page_size"') :]
    )
    assert not [each.idstr for each in relay.hardware.registry if isinstance(each.old_style, Sized)]


@pytest.mark.parametrize("postcopy", [False, True], ids=["precopy", "postcopy"])
@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("qemu", QEMUS)
async def test_a_guest_goes_through_the_model_to_another_qemu(qemu, machine, postcopy):
    command, log, relay = tuple(shlex.split(qemu)), Log(), Relay()
    await taken_in(relay, machine, command, log)
    is_as_it_came(relay)
    block = relay.hardware.main_block
    before = bytes(block.data[: block.used_bytes])
    assert memory_is_intact(before).stamps > 1000
    given = {"incoming": True, "command": command}
    given["capabilities"] = RETURN_PATH | {"postcopy-ram": postcopy}
    async with real(machine, log, **given) as destination:
        source = await relay.send(destination, postcopy=postcopy)
        await has_status(log, "destination", "completed", "failed")
        assert source.status == "completed"
        assert await destination.run_state() == "running"
        await stamps_beyond(log, "destination", memory_is_intact(before).stamps + 1000)
        held, _ = await saved(destination)
    assert said(log, "destination") == []
    assert memory_report(held).intact


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("qemu", QEMUS)
async def test_what_arrives_is_what_left_page_by_page(qemu, machine):
    """To a destination that does not run the guest: all memory and each field of each device."""
    command, log, relay = tuple(shlex.split(qemu)), Log(), Relay()
    await taken_in(relay, machine, command, log)
    left = sections_of(bytes(relay.received))[1]
    given = {"incoming": True, "command": command, "shape": {"paused": True}}
    async with real(machine, log, capabilities=RETURN_PATH, **given) as destination:
        await relay.send(destination)
        await has_status(log, "destination", "completed", "failed")
        held, stream = await saved(destination)
    for block in relay.hardware.memory:
        assert held.blocks[block.idstr] == block.data[: block.used_bytes], block.idstr
    sent = sections_of(b"".join(relay.hardware.outgoing.whole(READ_BYTES)))
    assert sent[1] == left
    arrived = sections_of(stream)[1]
    differ = {key[0] for key in left if left[key] != arrived[key]}
    assert {idstr.split("/")[-1] for idstr in differ} <= CHANGED_BY_QEMU, differ


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("qemu", QEMUS)
async def test_a_guest_that_ran_in_between_goes_on(qemu, machine):
    command, log, relay = tuple(shlex.split(qemu)), Log(), Relay()
    await taken_in(relay, machine, command, log)
    guest = Guest(relay.hardware.memory)
    guest.loaded()
    guest.resume(0.0)
    for tick in range(1, 200):
        guest.advance(tick / 100)
    put_guest(relay.hardware, guest)
    block = relay.hardware.main_block
    before = memory_is_intact(block.data[: block.used_bytes])
    given = {"incoming": True, "command": command, "capabilities": RETURN_PATH}
    async with real(machine, log, **given) as destination:
        await relay.send(destination)
        await has_status(log, "destination", "completed", "failed")
        await stamps_beyond(log, "destination", before.stamps + 1000)
        held, _ = await saved(destination)
    assert said(log, "destination") == []
    assert memory_report(held).intact
    assert memory_report(held).ticks > before.ticks


def memory_is_intact(data):
    report = check_memory(data, SPEC)
    assert report.intact, report
    return report
