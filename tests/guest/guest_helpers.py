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
DISKS = {
    "virtio": ("read-only=on", "virtio-blk-pci,drive=boot,bootindex=0"),
    "ide": ("read-only=off", "ide-hd,drive=boot,bus=ide.0,bootindex=0"),
}
"""How a disk is given: an IDE one must be writable, though nobody writes."""


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

    async def read(self, at: int, size_bytes: int, folder: Path) -> bytes:
        """Read physical memory as it is, with the guest running or not."""
        file = folder / "memory"
        arguments = {"val": at, "size": size_bytes, "filename": str(file)}
        await self.qmp.execute("pmemsave", arguments)
        try:
            return file.read_bytes()
        finally:
            file.unlink()

    async def memory(self, spec: GuestSpec, folder: Path) -> bytes:
        """Stop the guest and read its memory."""
        await self.qmp.execute("stop")
        return await self.read(0, spec.memory_bytes, folder)


@asynccontextmanager
async def machine(
    spec: GuestSpec,
    *arguments: str,
    command: tuple[str, ...] = ("qemu-system-x86_64",),
    board: str = "pc",
    accelerator: str = "tcg",
    disk: str = "virtio",
    unread: socket.socket | None = None,
) -> AsyncIterator[Machine]:
    """Start the guest in a QEMU, from a disk that lives in memory.

    `unread` takes the place of the serial line that `Machine` reads.
    """
    ours_qmp, qmp = socket.socketpair()
    ours_serial, serial = socket.socketpair()
    disk_fd = os.memfd_create("boot")
    os.pwrite(disk_fd, boot_image(spec), 0)
    boot = os.open(f"/proc/self/fd/{disk_fd}", os.O_RDONLY)
    passed = (qmp.fileno(), (unread or serial).fileno(), boot, disk_fd)
    access, device = DISKS[disk]
    process = await asyncio.create_subprocess_exec(
        *command,
        *("-nodefaults", "-no-user-config", "-display", "none", "-accel", accelerator),
        *("-M", board, "-m", f"size={spec.memory_bytes}B"),
        *("-chardev", f"socket,id=qmp,fd={passed[0]}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,fd={passed[1]}", "-serial", "chardev:serial"),
        *("-add-fd", f"set=1,fd={boot}", "-add-fd", f"set=1,fd={disk_fd}", "-device", device),
        *("-drive", f"if=none,id=boot,format=raw,{access},file=/dev/fdset/1"),
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
