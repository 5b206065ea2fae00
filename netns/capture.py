"""Capture on the switch: every frame once, on the port where it came in, into a pcap file.

scapy opens the sockets, decodes and writes; it is slow to import and is imported when a capture
begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .namespace import Namespace

ETHERTYPE_RARP = 0x8035
DLT_EN10MB = 1
RARP_BODY = slice(14, 42)
RARP_FRAME_BYTES = 60
"""QEMU pads its announcement to the Ethernet minimum without the checksum (`net/announce.c`)."""
REQUEST_REVERSE = 3
"""ARP's opcode of a RARP request (RFC 903)."""
FRAMES_PER_WAKE = 64
FRAMES_MAX = 200_000
"""Kept in the file, about 20 MB of small ones; those that follow are only counted."""
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
"""`linux/if_packet.h`, since 4.20."""


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
        "padding": frame.raw[RARP_BODY.stop :].hex(),
        **frame.rarp,
    }
    return [
        f"{name}: expected {value}, got {got.get(name)}"
        for name, value in expected.items()
        if got.get(name) != value
    ]


class Capture:
    """A capture under way; made by `capture`: `frames` came in, `dropped` of them were not kept."""

    def __init__(self, writer: Any, on_frame: Callable[[Frame], None]) -> None:
        self._writer = writer
        self._on_frame = on_frame
        self.frames = 0
        self.dropped = 0

    def readable(self, listener: Any, port: str) -> None:
        """Take the frames that wait on a port."""
        for _ in range(FRAMES_PER_WAKE):
            try:
                _, raw, stamp_s = listener.recv_raw()
            except BlockingIOError:
                return
            self._take(port, raw, stamp_s)

    def _take(self, port: str, raw: bytes, stamp_s: float) -> None:
        self.frames += 1
        if self.frames > FRAMES_MAX:
            self.dropped += 1
            return
        seconds, rest = divmod(stamp_s, 1)
        self._writer.write_packet(raw, sec=int(seconds), usec=int(rest * 1e9))
        # The kernel stamps by the wall clock; only the frame's age is taken from that.
        at = time.monotonic() - (time.time() - stamp_s)
        self._on_frame(decode(port, at, raw))


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
        on_frame: called with each frame, in the order of a port.
        path: the pcap file, with nanoseconds, written as frames come.

    Raises:
        ValueError: a port is not there.
        OSError: packet sockets are not allowed, or the file cannot be written.
    """
    # Off the loop: the import takes a third of a second, in which others can start.
    listen_socket, pcap_writer = await asyncio.to_thread(_scapy)
    with ExitStack() as stack:
        writer = pcap_writer(str(path), linktype=DLT_EN10MB, sync=True, nano=True)
        stack.callback(writer.close)
        writer.write_header(None)
        running = Capture(writer, on_frame)
        loop = asyncio.get_running_loop()
        for port in ports:
            with namespace.entered():
                listener = listen_socket(iface=port)
            stack.callback(listener.close)
            listener.ins.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            listener.ins.setblocking(False)
            loop.add_reader(listener.ins, running.readable, listener, port)
            stack.callback(loop.remove_reader, listener.ins)
        yield running


def _scapy() -> tuple[Any, Any]:
    from scapy.arch.linux import L2ListenSocket
    from scapy.layers.l2 import ARP  # noqa: F401 - `decode` needs it, and would wait for it
    from scapy.utils import RawPcapWriter

    return L2ListenSocket, RawPcapWriter


def decode(port: str, at: float, raw: bytes) -> Frame:
    """Read a frame's addresses and type, and what a RARP body says, as far as it is there."""
    ethertype = int.from_bytes(raw[12:14], "big")
    rarp: dict[str, Any] = {}
    if ethertype == ETHERTYPE_RARP and len(raw) >= RARP_BODY.stop:
        from scapy.layers.l2 import ARP

        body = ARP(raw[RARP_BODY])
        rarp = {
            "hardware_type": body.hwtype,
            "protocol_type": body.ptype,
            "opcode": body.op,
            "sender_mac": body.hwsrc,
            "sender_ip": body.psrc,
            "target_mac": body.hwdst,
            "target_ip": body.pdst,
        }
    return Frame(port, at, raw[6:12].hex(":"), raw[:6].hex(":"), ethertype, raw, rarp)
