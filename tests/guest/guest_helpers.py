"""A real QEMU that runs the guest, and its memory in a file of ours."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qemu.qmp import QMPClient

from testbed.guest import GuestSpec, boot_image, stamps_said

WITHIN_S = 10.0
VIRTIO_DISK = "virtio-blk-pci,drive=boot,bootindex=0"
IDE_DISK = "ide-hd,drive=boot,bus=ide.0,bootindex=0"


class Machine:
    """A QEMU with QMP, and the guest's serial line."""

    def __init__(self, qmp: QMPClient, serial: asyncio.StreamReader, pid: int) -> None:
        self.qmp, self._serial, self.pid = qmp, serial, pid

    async def line(self) -> str:
        """The next line that the guest says."""
        async with asyncio.timeout(WITHIN_S):
            return (await self._serial.readline()).decode("ascii", "replace").strip()

    async def said(self, text: str) -> str:
        """Read lines up to one that has `text`."""
        while text not in (line := await self.line()):
            assert line, f"the line ended before {text!r}"
        return line

    async def stamps(self, at_least: int) -> int:
        """Read lines up to one that counts so many stamps."""
        while True:
            said = stamps_said(await self.said("guest stamps"))
            if said is not None and said >= at_least:
                return said

    async def event(self, wanted: str, **data: str) -> None:
        """Wait for a QMP event with that data."""
        async with asyncio.timeout(WITHIN_S):
            async for event in self.qmp.events:
                if event["event"] == wanted and data.items() <= event.get("data", {}).items():
                    return

    async def memory(self, spec: GuestSpec, folder: Path) -> bytearray:
        """Stop the guest and read its memory."""
        file = folder / "memory"
        await self.qmp.execute("stop")
        arguments = {"val": 0, "size": spec.memory_bytes, "filename": str(file)}
        await self.qmp.execute("pmemsave", arguments)
        try:
            return bytearray(file.read_bytes())
        finally:
            file.unlink()


@asynccontextmanager
async def machine(
    spec: GuestSpec,
    *arguments: str,
    command: tuple[str, ...] = ("qemu-system-x86_64",),
    board: str = "pc",
    accelerator: str = "tcg",
    disk: str = VIRTIO_DISK,
) -> AsyncIterator[Machine]:
    """Start the guest in a QEMU, from a disk that lives in memory and is read only."""
    ours_qmp, qmp = socket.socketpair()
    ours_serial, serial = socket.socketpair()
    disk_fd = os.memfd_create("boot")
    os.pwrite(disk_fd, boot_image(spec), 0)
    boot = os.open(f"/proc/self/fd/{disk_fd}", os.O_RDONLY)
    passed = (qmp.fileno(), serial.fileno(), boot)
    process = await asyncio.create_subprocess_exec(
        *command,
        *("-nodefaults", "-no-user-config", "-display", "none", "-accel", accelerator),
        *("-M", board, "-m", f"size={spec.memory_bytes}B"),
        *("-chardev", f"socket,id=qmp,fd={passed[0]}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,fd={passed[1]}", "-serial", "chardev:serial"),
        *("-add-fd", f"set=1,fd={boot}", "-device", disk, "-drive"),
        "if=none,id=boot,format=raw,read-only=on,file=/dev/fdset/1",
        *arguments,
        pass_fds=passed,
    )
    for fd in (disk_fd, boot):
        os.close(fd)
    qmp.close()
    serial.close()
    client = QMPClient("guest")
    try:
        reader, writer = await asyncio.open_connection(sock=ours_serial)
        try:
            async with asyncio.timeout(WITHIN_S):
                await client.connect(ours_qmp)
            try:
                yield Machine(client, reader, process.pid)
            finally:
                await client.disconnect()
        finally:
            writer.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
