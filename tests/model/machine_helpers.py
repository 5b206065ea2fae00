"""Real machines beside those of the model, and guests that ran in it."""

import asyncio
import socket
from contextlib import aclosing, asynccontextmanager, suppress

from testbed.endpoint.base import MachineSpec
from testbed.endpoint.qemu import Qemu
from testbed.guest import GuestSpec, boot_image, check_memory, stamps_said
from testbed.lab.saved import read_saved
from testbed.model.guest.guest import Guest
from testbed.model.machines.machine import Nic, build
from testbed.model.profile import PROFILES
from testbed.netns.links import tap
from testbed.netns.namespace import Namespace
from testbed.wire import MainChannel, recut
from testbed.wire.element import Payload, RamBlock, SectionHeader, SectionType

MEMORY_BYTES = 16 << 20
MAC = "52:54:00:12:34:56"
SPEC = GuestSpec(MEMORY_BYTES, 2 << 20, pages_per_second=2000, seed=7)
WITHIN_S = 30
PIECE_BYTES = 1 << 18
QEMU_OF = {"pc-i440fx-2.9": "2.9", "pc-q35-2.9": "2.9", "pc-i440fx-7.2": "7.2", "pc-q35-7.2": "7.2"}
"""The profile whose newest machine that is."""


def modelled(machine, **shape):
    """A machine of the model, as the testbed has them."""
    nics = shape.pop("nics", (Nic(MAC),))
    profile = PROFILES[QEMU_OF[machine]]
    return build(profile, machine, shape.pop("memory_bytes", MEMORY_BYTES), nics=nics, **shape)


def run_guest(hardware, seconds):
    """Have the guest boot and run for so long, on a clock of its own; returns it."""
    guest = Guest(hardware.memory)
    guest.boot(boot_image(SPEC))
    guest.resume(0.0)
    now_s = 0.0
    while guest.registers() is None:
        guest.advance(now_s)
    while now_s < seconds:
        now_s = max(now_s, guest.next_at_s)
        guest.advance(now_s)
    return guest


def put_guest(hardware, guest):
    """Have the devices be those of that guest, which is to run on elsewhere."""
    at = guest.registers()
    hardware.put_registers(at.index, at.pass_number, at.ticks, at.owed)
    hardware.run_state = "running"


@asynccontextmanager
async def real(machine, log, *, side="destination", incoming=False, nic=True, shape=None, **given):
    """A real machine like those of the model."""
    async with Namespace.create(side) as namespace:
        with tap(namespace, "guest", vnet_header=True) as guest_network:
            spec = MachineSpec(
                machine=machine, memory_bytes=MEMORY_BYTES, accelerator="tcg", **(shape or {})
            )
            async with Qemu.start(
                side,
                log=log,
                machine=spec,
                boot_image=given.pop("boot", boot_image(SPEC)),
                tap_fd=guest_network.fd if nic else None,
                incoming=incoming,
                **given,
            ) as qemu:
                yield qemu


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def listens(qemu):
    """Have it wait for a migration, and connect to it."""
    port = free_port()
    await qemu.migrate_incoming(f"tcp:127.0.0.1:{port}")
    return await asyncio.open_connection("127.0.0.1", port)


async def send_to(qemu, log, pieces):
    """Migrate to it, without a way back."""
    _, writer = await listens(qemu)
    with suppress(OSError):  # what it says of a stream that it refuses tells more
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    writer.close()
    await has_status(log, qemu.side, "completed", "failed")
    lines = said(log, qemu.side)
    assert lines == []


async def has_status(log, side, *statuses):
    await log.wait(
        lambda event: (
            event.actor == side
            and event.kind == "migration-status"
            and event.facts["status"] in statuses
        ),
        what=f"{side} {statuses}",
        within_s=WITHIN_S,
    )


async def stamps_beyond(log, side, count):
    """Wait until the guest says that it has written more stamps than that."""

    def beyond(event):
        if event.actor != side or event.kind != "serial":
            return False
        said = stamps_said(event.facts["line"])
        return said is not None and said > count

    await log.wait(beyond, what=f"more than {count} stamps", within_s=WITHIN_S)


def said(log, side):
    """What it has on its stderr."""
    return [event.facts["text"] for event in log.find("stderr", side)]


async def saved(qemu):
    """What it holds: memory and devices, and the stream itself."""
    stream = bytearray()

    async def kept(chunks):
        async for chunk in chunks:
            stream.extend(chunk)
            yield chunk

    async with aclosing(qemu.save_again()) as chunks:
        held = await read_saved(kept(chunks))
    return held, bytes(stream)


def memory_report(held):
    return check_memory(held.guest_ram()[1], SPEC)


def sections_of(stream):
    """The device sections of a whole stream, in order: header and payload; and RAM's blocks."""
    parser = MainChannel()
    elements = recut([*parser.feed(stream), *parser.end()])
    headers, payloads, blocks = [], {}, []
    for element in elements:
        match element.value:
            case SectionHeader(type=SectionType.FULL) as header:
                headers.append(header)
                payloads[header.idstr, header.instance_id] = b""
            case Payload(data):
                payloads[element.section.idstr, element.section.instance_id] = data
            case RamBlock() as block:
                blocks.append(block)
    return headers, payloads, blocks
