"""Capture on the switch: every frame once, on the port where it came in, into a pcap file.

Frames are read and written by hand: a library for this takes longer to import than a migration.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from .links import index_of
from .namespace import Namespace
from .packet import ETH_P_ALL, FRAMES_PER_WAKE, dropped_by_kernel, packet_socket
from .rarp import (
    ETHERNET_BYTES,
    ETHERTYPE_RARP,
    RARP_BODY,
    RARP_FRAME_BYTES,
    REQUEST_REVERSE,
)

FRAME_BYTES_MAX = 65_536
FRAMES_MAX = 200_000
"""Kept in the file, about 20 MB of small ones; those that follow are only counted."""
RECEIVE_BYTES = 8 << 20
"""What the kernel may hold of frames that wait to be taken: some thousands, so that an event loop
that is busy for a moment loses none. Without CAP_NET_ADMIN on the host it is the usual 208 KiB."""

PCAP_HEADER = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, FRAME_BYTES_MAX, 1)
"""Of a file with nanoseconds, version 2.4, link type Ethernet (pcap-savefile(5))."""
PCAP_RECORD = struct.Struct("=IIII")  # seconds, nanoseconds, bytes here, bytes on the wire

SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
"""`linux/if_packet.h`; the last since 4.20."""
SO_RCVBUFFORCE = 33  # `asm-generic/socket.h`
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


@dataclass(frozen=True, slots=True)
class Losses:
    """What a capture did not keep: how many frames, and why.

    `kernel`: dropped before they were taken (PACKET_STATISTICS). `bound`: beyond `FRAMES_MAX`.
    `unwritten`: told to `on_frame`, but not in the file, for the reason `why`.
    """

    kernel: int = 0
    bound: int = 0
    unwritten: int = 0
    why: str = ""

    def __bool__(self) -> bool:
        return bool(self.kernel or self.bound or self.unwritten)

    def __str__(self) -> str:
        parts = []
        if self.kernel:
            parts.append(f"the kernel dropped {self.kernel} that nobody took in time")
        if self.bound:
            parts.append(f"{self.bound} came after the first {FRAMES_MAX}")
        if self.unwritten:
            parts.append(f"{self.unwritten} are not in the file: {self.why}")
        return ", ".join(parts)


class Capture:
    """A capture under way; made by `capture`: `frames` came in on the ports."""

    def __init__(
        self,
        listener: socket.socket,
        file: FileIO,
        ports: tuple[str, ...],
        on_frame: Callable[[Frame], None],
    ) -> None:
        self._listener = listener
        self._file = file
        self._ports = ports
        self._on_frame = on_frame
        self._size = file.tell()  # of what is whole
        self._why_unwritten = ""
        self._kernel = self._bound = self._unwritten = 0
        self.frames = 0

    def readable(self) -> None:
        """Take the frames that wait."""
        for _ in range(FRAMES_PER_WAKE):
            try:
                raw, ancillary, _, address = self._listener.recvmsg(
                    FRAME_BYTES_MAX, ANCILLARY_BYTES
                )
            except BlockingIOError:
                return
            if address[0] in self._ports:
                self._take(address[0], *_as_it_came(raw, ancillary))

    def losses(self) -> Losses:
        """What was not kept so far."""
        self._kernel += dropped_by_kernel(self._listener)
        return Losses(self._kernel, self._bound, self._unwritten, self._why_unwritten)

    def _take(self, port: str, raw: bytes, stamp_ns: int) -> None:
        self.frames += 1
        if self.frames > FRAMES_MAX:
            self._bound += 1
            return
        self._write(PCAP_RECORD.pack(*divmod(stamp_ns, 10**9), len(raw), len(raw)) + raw)
        # The kernel stamps by the wall clock; only the frame's age is taken from that.
        at = time.monotonic() - (time.time_ns() - stamp_ns) / 1e9
        self._on_frame(decode(port, at, raw))

    def _write(self, record: bytes) -> None:
        """Add a record to the file; after the first that did not fit whole, none is."""
        if not self._why_unwritten:
            try:
                # A disk that is nearly full takes less than it was given, and says nothing.
                if self._file.write(record) == len(record):
                    self._size += len(record)
                    return
                self._why_unwritten = os.strerror(errno.ENOSPC)
            except OSError as error:
                self._why_unwritten = error.strerror or str(error)
            with suppress(OSError):  # readers stop at the half record then
                self._file.truncate(self._size)
        self._unwritten += 1


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
        path: the pcap file, with nanoseconds, written as frames come; it is not there yet.

    Raises:
        LookupError: a port is not there.
        OSError: packet sockets are not allowed, or the file cannot be written.
    """
    for port in ports:
        index_of(namespace, port)  # it is there
    # One for all of them: each takes some 15 ms to be closed, in which nothing need wait for it.
    listener = packet_socket(namespace, None, ETH_P_ALL)
    try:
        with FileIO(path, "x") as file:
            file.write(PCAP_HEADER)
            listener.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            listener.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            with suppress(PermissionError):  # see RECEIVE_BYTES
                listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            dropped_by_kernel(listener)  # what came before it was set up is nobody's
            running = Capture(listener, file, ports, on_frame)
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, running.readable)
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
