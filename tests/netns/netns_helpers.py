"""What the live tests of a network share."""

import asyncio
import os
import socket
import subprocess
import time

from testbed.netns.capture import ETHERTYPE_RARP
from testbed.netns.namespace import Namespace

GUEST_MAC = "52:54:00:12:34:56"


async def run_inside(namespace: Namespace, *argv: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *argv, preexec_fn=namespace.enter_in_child, stdout=subprocess.DEVNULL
    )
    return await process.wait()


async def true_within(true, within_s: float = 3.0) -> None:
    """Wait for what frames under way will make true; there is no event for it."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        await asyncio.sleep(0.005)


def rarp(mac: str = GUEST_MAC) -> bytes:
    """QEMU's announcement, as `net/announce.c` builds it."""
    address = bytes.fromhex(mac.replace(":", ""))
    body = bytes.fromhex("0001080006040003") + 2 * (address + bytes(4))
    return b"\xff" * 6 + address + ETHERTYPE_RARP.to_bytes(2, "big") + body + bytes(18)


def numbered(number: int, size: int = 60) -> bytes:
    """A broadcast of a local experimental EtherType, with a number in it."""
    head = b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x88\xb6" + number.to_bytes(2, "big")
    return head.ljust(size, b"\0")


def packet_socket(namespace: Namespace, device: str) -> socket.socket:
    opened = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    opened.bind((device, 3))
    opened.setblocking(False)
    return opened


def drained(fd: int) -> list[bytes]:
    """The frames that wait in a TAP."""
    frames = []
    while True:
        try:
            frames.append(os.read(fd, 65536))
        except BlockingIOError:
            return frames
