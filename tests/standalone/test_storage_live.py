"""Storage of a real QEMU goes to another one through the second listener."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from monitor_helpers import Qmp
from service_helpers import serving

from testbed.fault.plan import Fault, OffsetPlace, Reset, Side
from testbed.standalone.storage import of_storage

pytestmark = pytest.mark.live

MIB = 1 << 20
DISK = bytes(range(256)) * (4 * MIB // 256)


def disk(path: Path) -> dict[str, Any]:
    return {"node-name": "disk", "driver": "raw", "file": {"driver": "file", "filename": str(path)}}


class Pair:
    """Two QEMUs with a disk each: the source's is full, the destination's is served over NBD."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "source.raw").write_bytes(DISK)
        (folder / "destination.raw").write_bytes(bytes(len(DISK)))
        self.source = self._qemu("source", stack)
        self.destination = self._qemu("destination", stack)

    def _qemu(self, name: str, stack: ExitStack) -> Qmp:
        path = self.folder / f"{name}.qmp"
        command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-m", "16"]
        process = stack.enter_context(
            subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off"])
        )
        stack.callback(process.kill)
        monitor = Qmp(path, process)
        stack.callback(monitor.close)
        monitor.command("blockdev-add", **disk(self.folder / f"{name}.raw"))
        return monitor

    def serve(self, port: int) -> None:
        """Have the destination's disk served."""
        place = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}
        self.destination.command("nbd-server-start", addr=place)
        export = {"type": "nbd", "id": "disk", "node-name": "disk", "writable": True}
        self.destination.command("block-export-add", **export)

    def copy(self, port: int) -> None:
        """Have the source copy its disk there."""
        server = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
        there = {"driver": "nbd", "export": "disk", "server": server, "node-name": "there"}
        self.source.command("blockdev-add", **there)
        copy = {"job-id": "copy", "device": "disk", "target": "there", "sync": "full"}
        self.source.command("blockdev-mirror", **copy)


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


async def test_a_disk_is_copied_through_it(pair: Pair) -> None:
    async with serving() as rig:
        rig.storage.listener.close()
        await asyncio.to_thread(pair.serve, rig.storage.address.port)
        await asyncio.to_thread(pair.copy, rig.addresses["nbd"][1])
        await asyncio.to_thread(pair.source.until, "BLOCK_JOB_READY")
        (connection,) = rig.service._proxies[1].connections
        assert connection.sent_bytes[Side.DESTINATION] > len(DISK)
        assert (pair.folder / "destination.raw").read_bytes() == DISK


async def test_a_copy_that_is_reset_on_the_way_is_told_to_the_source(pair: Pair) -> None:
    fault = of_storage(Fault(OffsetPlace(MIB), Reset(), "it"))
    async with serving(storage_faults=(fault,)) as rig:
        rig.storage.listener.close()
        await asyncio.to_thread(pair.serve, rig.storage.address.port)
        await asyncio.to_thread(pair.copy, rig.addresses["nbd"][1])
        done = await asyncio.to_thread(pair.source.until, "BLOCK_JOB_COMPLETED")
        assert done["data"]["error"] == "Input/output error"
        struck = await rig.logged("fault-struck", fault="it")
        assert (struck.actor, struck.facts["offset"]) == ("nbd", MIB)
        ended = await rig.logged("connection-ended")
        assert ended.facts["bytes_forward"] == MIB
