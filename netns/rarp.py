"""The announcement of a machine's address (RARP, RFC 903), as QEMU sends it.

Source of the layout: QEMU `net/announce.c`, `announce_self_create`, 2.8 to 11.1.
"""

from __future__ import annotations

import struct

ETHERTYPE_RARP = 0x8035
RARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware and protocol type, the lengths of their addresses, opcode, sender, target (RFC 903)."""
ETHERNET_BYTES = 14
RARP_FRAME_BYTES = 60
"""QEMU pads its announcement to the Ethernet minimum without the checksum (`net/announce.c`)."""
REQUEST_REVERSE = 3
"""ARP's opcode of a RARP request (RFC 903)."""
MAC_OFFSETS = {"source": 6, "sender": 22, "target": 32}
"""Where a frame has the address that it announces: in the Ethernet header, and as the sender's and
the target's hardware address."""

ETHERNET, IPV4 = 1, 0x0800
BROADCAST = b"\xff" * 6


def is_rarp(frame: bytes) -> bool:
    """True if the frame is a RARP frame, by its EtherType."""
    return frame[12:14] == ETHERTYPE_RARP.to_bytes(2, "big")


def rarp_frame(mac: str) -> bytes:
    """The announcement of a MAC address (`52:54:00:12:34:56`)."""
    address = bytes.fromhex(mac.replace(":", ""))
    body = RARP_BODY.pack(
        *(ETHERNET, IPV4, len(address), 4, REQUEST_REVERSE),
        *(address, bytes(4), address, bytes(4)),
    )
    head = BROADCAST + address + ETHERTYPE_RARP.to_bytes(2, "big")
    return (head + body).ljust(RARP_FRAME_BYTES, b"\0")
