"""Packet sockets on a device: whole Ethernet frames, as they come and go."""

from __future__ import annotations

import socket

from .namespace import Namespace

ETH_P_ALL = 0x0003
"""A socket for one EtherType sees nothing where a bridge takes the frames before it."""


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
