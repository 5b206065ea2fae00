"""Packet sockets on a device: whole Ethernet frames, as they come and go."""

from __future__ import annotations

import socket
import struct

from .namespace import Namespace

ETH_P_ALL = 0x0003
"""A socket for one EtherType sees nothing where a bridge takes the frames before it."""

FRAMES_PER_WAKE = 64
"""Taken in one go, so that a flood does not keep the event loop from its other work."""
SOL_PACKET, PACKET_STATISTICS = 263, 6
"""`linux/if_packet.h`."""
STATISTICS = struct.Struct("@II")  # `tpacket_stats`: frames that came, frames that were dropped


def dropped_by_kernel(opened: socket.socket) -> int:
    """How many frames the kernel has dropped since this was last asked: nobody took them in time.

    Source: packet(7), PACKET_STATISTICS; asking sets it back to 0.
    """
    _, dropped = STATISTICS.unpack(
        opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, STATISTICS.size)
    )
    return int(dropped)


def packet_socket(namespace: Namespace, device: str | None, protocol: int) -> socket.socket:
    """A non-blocking packet socket on a device of the namespace, or on all of them.

    Args:
        namespace: where the device is.
        device: its name; None: all that the namespace has.
        protocol: what is received: `ETH_P_ALL`, or 0 for nothing.

    Raises:
        OSError: packet sockets are not allowed, or the device is not there.
    """
    everywhere = socket.htons(protocol) if device is None else 0
    opened = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, everywhere)
    opened.setblocking(False)
    try:
        if device is not None:
            opened.bind((device, protocol))
    except BaseException:
        opened.close()
        raise
    return opened
