"""A monitor with a machine that only runs and stops, and a client that speaks bytes."""

import asyncio
import re
import socket
from contextlib import asynccontextmanager, suppress

from testbed.model.qmp.basics import add_basics
from testbed.model.qmp.commands import Commands, Version
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.hmp import Hmp
from testbed.model.qmp.schema import (
    BOOL,
    INT,
    SIZE,
    STR,
    STR_OR_NULL,
    UINT8,
    Array,
    Enum,
    Struct,
)
from testbed.model.qmp.server import Monitor

VERSION = Version(7, 2, 22, "Debian 1:7.2+dfsg-7+deb12u18+b3")

CAPABILITY = Struct({"capability": Enum(("xbzrle", "events")), "state": BOOL})

PARAMETERS = {
    "*compress-threads": UINT8,
    "*tls-creds": STR_OR_NULL,
    "*max-bandwidth": SIZE,
    "*multifd-channels": UINT8,
    "*multifd-compression": Enum(("none", "zlib")),
}

TIMES = re.compile(rb'"seconds": \d+, "microseconds": \d+')


class Machine:
    """Runs or not, and says so."""

    def __init__(self):
        self.commands, self.hmp = Commands(), Hmp()
        self.version = VERSION
        self.running = True

    @property
    def status(self):
        return "running" if self.running else "paused"

    def stop(self):
        if self.running:
            self.running = False
            self.monitor.emit("STOP")

    def cont(self):
        if not self.running:
            self.running = True
            self.monitor.emit("RESUME")

    def quit(self):
        self.monitor.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.monitor.end()

    def loadvm(self, arguments):
        self.stop()  # QEMU stops first, and then looks for a disk
        return _no_disk(arguments)

    def assemble(self):
        self.monitor = Monitor(self.commands, self.version, is_running=lambda: self.running)
        add_basics(self.commands, self.hmp, self, version=self.version)
        self.commands.add(
            "migrate-set-capabilities", lambda _: None, {"capabilities": Array(CAPABILITY)}
        )
        self.commands.add("migrate-set-parameters", lambda _: None, PARAMETERS)
        self.commands.add(
            "migrate", _no_protocol, {"uri": STR, "*blk": BOOL, "*detach": BOOL, "*resume": BOOL}
        )
        self.commands.add("migrate-recover", lambda _: None, {"uri": STR}, allow_oob=True)
        self.commands.add(
            "announce-self",
            lambda _: None,
            {"initial": INT, "max": INT, "rounds": INT, "step": INT, "*interfaces": Array(STR)},
        )
        self.hmp.add("savevm", _no_disk, "name:s?", does="save a VM snapshot")
        self.hmp.add("loadvm", self.loadvm, "name:s", does="restore a VM snapshot")
        self.hmp.add(
            "migrate",
            lambda _: "",
            "detach:-d,blk:-b,inc:-i,resume:-r,uri:s",
            does="migrate to URI",
        )
        return self


def _no_protocol(_):
    raise CommandError("Parameter 'uri' expects a valid migration protocol")


def _no_disk(_):
    raise CommandError("no block device can store vmstate for snapshot")


@asynccontextmanager
async def listening(path, machine=None):
    """The monitor of a machine, listening on a UNIX socket; yields the machine."""
    machine = machine or Machine().assemble()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(machine.monitor.listen(listener))
            yield machine
            serving.cancel()
    machine.monitor.descriptors.close()


@asynccontextmanager
async def connected(path, *, negotiation=b'{"execute": "qmp_capabilities"}'):
    """A client that has read the greeting, and negotiated; yields reader and writer."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 26)
    try:
        await within(reader.readline())
        if negotiation:
            writer.write(negotiation)
            await within(reader.readline())
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def within(awaitable, seconds=10):
    async with asyncio.timeout(seconds):
        return await awaitable


END = b'\xff\n{"execute": "query-version", "id": "end"}'
"""0xFF ends whatever was begun, so this is answered in any case, with an error before it."""


async def answers(path, data, **options):
    """All lines that come in answer to `data`, times left out, without those to `END`."""
    async with connected(path, **options) as (reader, writer):
        writer.write(data + END)
        lines = []
        while True:
            line = await within(reader.readline())
            assert line, lines
            if b'"id": "end"' in line:
                return lines[:-1] if lines[-1] == STRAY_FF else lines
            lines.append(TIMES.sub(b"...", line))


STRAY_FF = (
    rb"""{"error": {"class": "GenericError", "desc": "JSON parse error, stray '\uFFFD'"}}"""
    + b"\r\n"
)
