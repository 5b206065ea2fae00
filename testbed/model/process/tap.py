"""A TAP device by an inherited descriptor: frames in, frames out, and nobody waits.

It may carry a `virtio_net_hdr` before each frame, whose length is the device's and stays with it
from one process to the next. Nothing is offloaded: each frame is whole, with its checksums.

Source: QEMU `net/tap.c`, `net_init_tap`, `tap_send`; `net/tap-linux.c`, `tap_probe_vnet_hdr`;
`linux/if_tun.h`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable

TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNGETVNETHDRSZ = 0x800454D7
IFF_VNET_HDR = 0x4000
IFREQ = struct.Struct("16sH22x")  # name, flags
INT = struct.Struct("i")
FRAME_BYTES_MAX = 65536 + 14
"""What a TAP can be made to carry; one with the usual MTU has 1514 at most."""
FRAMES_PER_WAKE = 64


class TapRefused(OSError):
    """The descriptor is none, or leads to no TAP; `strerror` has QEMU's text, of 7.2."""


class Tap:
    """An open TAP; what is done with frames is the caller's.

    Args:
        fd: its descriptor, which becomes this object's own, and non-blocking.
        on_frame: called with each frame that the network sends, without the vnet header.
        netdev: the id of the network client, for the text of a refusal.

    Raises:
        TapRefused: it is no TAP; the descriptor is left as it was.
    """

    def __init__(self, fd: int, on_frame: Callable[[bytes], None], *, netdev: str) -> None:
        self.dropped = 0
        """Frames that the device would not take: it is down, or its queue is full."""
        self._header = _vnet_header_bytes(fd, netdev)
        self._fd, self._on_frame = fd, on_frame
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self) -> None:
        """Take frames from now on. QEMU does so while its guest runs."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._readable)

    def deafen(self) -> None:
        """Take no frames: the kernel keeps as many as its queue holds, for later."""
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None

    def send(self, frame: bytes) -> None:
        """Send a frame, or drop it where it would have to wait."""
        try:
            os.write(self._fd, bytes(self._header) + frame)
        except OSError:
            self.dropped += 1  # as a cable does

    def close(self) -> None:
        """Stop, and close the descriptor."""
        self.deafen()
        os.close(self._fd)

    def _readable(self) -> None:
        for _ in range(FRAMES_PER_WAKE):
            if self._loop is None:
                return  # a frame made somebody deafen it
            try:
                read = os.read(self._fd, self._header + FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                self.deafen()  # the device is gone, and would be readable for ever
                return
            self._on_frame(read[self._header :])


def _vnet_header_bytes(fd: int, netdev: str) -> int:
    """Make the descriptor ready, and say how long its frames' headers are; 0: they have none."""
    try:
        os.set_blocking(fd, False)
    except OSError as error:
        text = f"{netdev}: Can't use file descriptor {fd}: {error.strerror}"
        raise TapRefused(error.errno, text) from error
    try:
        _, flags = IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))
    except OSError as error:
        text = f"Unable to query TUNGETIFF on FD {fd}: {error.strerror}"
        raise TapRefused(error.errno, text) from error
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0)  # a QEMU before us may have asked for it
    if not flags & IFF_VNET_HDR:
        return 0
    (header_bytes,) = INT.unpack(fcntl.ioctl(fd, TUNGETVNETHDRSZ, bytes(INT.size)))
    return int(header_bytes)
