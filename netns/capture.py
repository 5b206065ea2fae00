"""Capture on the switch: every frame once, on the port where it came in, into a pcap file.

Frames are read and written by hand: a library for this takes longer to import than a migration.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .links import index_of
from .namespace import Namespace
from .packet import ETH_P_ALL, packet_socket
from .rarp import (
    ETHERNET_BYTES,
    ETHERTYPE_RARP,
    RARP_BODY,
    RARP_FRAME_BYTES,
    REQUEST_REVERSE,
)

FRAMES_PER_WAKE = 64
FRAME_BYTES_MAX = 65_536
FRAMES_MAX = 200_000
"""Kept in the file, about 20 MB of small ones; those that follow are only counted."""

PCAP_HEADER = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, FRAME_BYTES_MAX, 1)
"""Of a file with nanoseconds, version 2.4, link type Ethernet (pcap-savefile(5))."""
PCAP_RECORD = struct.Struct("=IIII")  # seconds, nanoseconds, bytes here, bytes on the wire

SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
"""`linux/if_packet.h`; the last since 4.20."""
SO_TIMESTAMPNS = 35  # `asm-generic/socket.h`
TIMESPEC = struct.Struct("@ll")
AUXDATA = struct.Struct("@IIIHHHH")  # status, two lengths, two offsets, VLAN tag, its EtherType
VLAN_VALID = 0x10
ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(AUXDATA.size)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `at` is `time.monotonic()` seconds, from the kernel's stamp."""

    port: str
    at: float
    source: str
    destination: str
    ethertype: int
    raw: bytes
    rarp: Mapping[str, Any] = field(default_factory=dict)  # opcode and addresses, if it is one


def rarp_problems(frame: Frame) -> list[str]:
    """Say how an announcement differs from the one that QEMU sends; empty if it does not.

    Source: QEMU `net/announce.c`, `announce_self_create`, 2.8 to 11.1.
    """
    expected = {
        "ethertype": ETHERTYPE_RARP,
        "length": RARP_FRAME_BYTES,
        "destination": "ff:ff:ff:ff:ff:ff",
        "hardware_type": 1,
        "protocol_type": 0x0800,
        "hardware_bytes": 6,
        "protocol_bytes": 4,
        "opcode": REQUEST_REVERSE,
        "sender_mac": frame.source,
        "sender_ip": "0.0.0.0",  # noqa: S104 - an address in a frame, nothing is bound
        "target_mac": frame.source,
        "target_ip": "0.0.0.0",  # noqa: S104 - as above
        "padding": bytes(18).hex(),
    }
    got = {
        "ethertype": frame.ethertype,
        "length": len(frame.raw),
        "destination": frame.destination,
        "padding": frame.raw[ETHERNET_BYTES + RARP_BODY.size :].hex(),
        **frame.rarp,
    }
    return [
        f"{name}: expected {value}, got {got.get(name)}"
        for name, value in expected.items()
        if got.get(name) != value
    ]


class Capture:
    """A capture under way; made by `capture`: `frames` came in, `dropped` of them were not kept."""

    def __init__(
        self, file: BinaryIO, ports: tuple[str, ...], on_frame: Callable[[Frame], None]
    ) -> None:
        self._file = file
        self._ports = ports
        self._on_frame = on_frame
        self.frames = 0
        self.dropped = 0

    def readable(self, listener: socket.socket) -> None:
        """Take the frames that wait."""
        for _ in range(FRAMES_PER_WAKE):
            try:
                raw, ancillary, _, address = listener.recvmsg(FRAME_BYTES_MAX, ANCILLARY_BYTES)
            except BlockingIOError:
                return
            if address[0] in self._ports:
                self._take(address[0], *_as_it_came(raw, ancillary))

    def _take(self, port: str, raw: bytes, stamp_ns: int) -> None:
        self.frames += 1
        if self.frames > FRAMES_MAX:
            self.dropped += 1
            return
        self._file.write(PCAP_RECORD.pack(*divmod(stamp_ns, 10**9), len(raw), len(raw)) + raw)
        # The kernel stamps by the wall clock; only the frame's age is taken from that.
        at = time.monotonic() - (time.time_ns() - stamp_ns) / 1e9
        self._on_frame(decode(port, at, raw))


def _as_it_came(raw: bytes, ancillary: list[tuple[int, int, bytes]]) -> tuple[bytes, int]:
    """A frame with the VLAN tag that the kernel took out, and its stamp in nanoseconds."""
    stamp_ns = time.time_ns()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, rest = TIMESPEC.unpack(data)
            stamp_ns = seconds * 10**9 + rest
        elif (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, ethertype = AUXDATA.unpack(data)
            if status & VLAN_VALID:
                raw = raw[:12] + struct.pack("!HH", ethertype, tag) + raw[12:]
    return raw, stamp_ns


@asynccontextmanager
async def capture(
    namespace: Namespace,
    ports: tuple[str, ...],
    on_frame: Callable[[Frame], None],
    path: Path,
) -> AsyncIterator[Capture]:
    """Capture what comes in on the ports until the block ends; each frame once, where it came in.

    Args:
        namespace: where the ports are.
        ports: devices of it.
        on_frame: called with each frame, in the order in which they came.
        path: the pcap file, with nanoseconds, written as frames come.

    Raises:
        LookupError: a port is not there.
        OSError: packet sockets are not allowed, or the file cannot be written.
    """
    for port in ports:
        index_of(namespace, port)  # it is there
    # One for all of them: each takes some 15 ms to be closed, in which nothing need wait for it.
    listener = packet_socket(namespace, None, ETH_P_ALL)
    try:
        with path.open("wb", buffering=0) as file:
            file.write(PCAP_HEADER)
            listener.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            listener.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            running = Capture(file, ports, on_frame)
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, running.readable, listener)
            try:
                yield running
            finally:
                loop.remove_reader(listener)
    finally:
        await asyncio.to_thread(listener.close)


def decode(port: str, at: float, raw: bytes) -> Frame:
    """Read a frame's addresses and type, and what a RARP body says, as far as it is there."""
    ethertype = int.from_bytes(raw[12:14], "big")
    rarp: dict[str, Any] = {}
    if ethertype == ETHERTYPE_RARP and len(raw) >= ETHERNET_BYTES + RARP_BODY.size:
        body = RARP_BODY.unpack_from(raw, ETHERNET_BYTES)
        hardware, protocol, hardware_bytes, protocol_bytes, opcode, *addresses = body
        sender_mac, sender_ip, target_mac, target_ip = addresses
        rarp = {
            "hardware_type": hardware,
            "protocol_type": protocol,
            "hardware_bytes": hardware_bytes,
            "protocol_bytes": protocol_bytes,
            "opcode": opcode,
            "sender_mac": sender_mac.hex(":"),
            "sender_ip": socket.inet_ntoa(sender_ip),
            "target_mac": target_mac.hex(":"),
            "target_ip": socket.inet_ntoa(target_ip),
        }
    return Frame(port, at, raw[6:12].hex(":"), raw[:6].hex(":"), ethertype, raw, rarp)
