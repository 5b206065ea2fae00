"""Capture on the switch: every frame once, on the port where it came in, into a pcap file.

scapy opens the sockets, decodes and writes; it is slow to import and is imported when a capture
begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .namespace import Namespace

ETHERTYPE_RARP = 0x8035
RARP_FRAME_BYTES = 60
"""QEMU pads its announcement to the Ethernet minimum without the checksum (`net/announce.c`)."""
REQUEST_REVERSE = 3
FRAMES_PER_WAKE = 64
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
        "padding": frame.raw[42:].hex(),
        **frame.rarp,
    }
    return [
        f"{name}: expected {value}, got {got.get(name)}"
        for name, value in expected.items()
        if got.get(name) != value
    ]


@asynccontextmanager
async def capture(
    namespace: Namespace,
    ports: tuple[str, ...],
    on_frame: Callable[[Frame], None],
    path: Path,
) -> AsyncIterator[None]:
    """Capture what comes in on the ports until the block ends.

    Args:
        namespace: where the ports are.
        ports: devices of it.
        on_frame: called with each frame, in the order of a port.
        path: the pcap file, written as frames come.

    Raises:
        OSError: a port is not there, or packet sockets are not allowed.
    """
    # Off the loop: the import takes a third of a second, in which others can start.
    scapy = await asyncio.to_thread(_scapy)
    async with AsyncExitStack() as stack:
        writer = scapy.PcapWriter(str(path), sync=True)
        stack.callback(writer.close)
        loop = asyncio.get_running_loop()
        for port in ports:
            with namespace.entered():
                listener = scapy.L2ListenSocket(iface=port)
            listener.ins.setblocking(False)
            listener.ins.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            stack.callback(listener.close)

            def readable(listener: Any = listener, port: str = port) -> None:
                for _ in range(FRAMES_PER_WAKE):
                    packet = _receive(listener)
                    if packet is None:
                        return
                    writer.write(packet)
                    on_frame(_frame(scapy, packet, port))

            loop.add_reader(listener.ins.fileno(), readable)
            stack.callback(loop.remove_reader, listener.ins.fileno())
        yield


def _scapy() -> Any:
    """scapy's names that this module uses, in one place."""
    from types import SimpleNamespace

    from scapy.arch.linux import L2ListenSocket
    from scapy.layers.l2 import ARP, Ether
    from scapy.utils import PcapWriter

    return SimpleNamespace(
        L2ListenSocket=L2ListenSocket, ARP=ARP, Ether=Ether, PcapWriter=PcapWriter
    )


def _receive(listener: Any) -> Any:
    try:
        return listener.recv()
    except BlockingIOError:
        return None


def _frame(scapy: Any, packet: Any, port: str) -> Frame:
    raw = bytes(packet.original or packet)
    ethertype = int.from_bytes(raw[12:14], "big")
    rarp: dict[str, Any] = {}
    if ethertype == ETHERTYPE_RARP:
        body = scapy.ARP(raw[14:42])
        rarp = {
            "hardware_type": body.hwtype,
            "protocol_type": body.ptype,
            "opcode": body.op,
            "sender_mac": body.hwsrc,
            "sender_ip": body.psrc,
            "target_mac": body.hwdst,
            "target_ip": body.pdst,
        }
    at = time.monotonic() - (time.time() - float(packet.time))
    return Frame(port, at, raw[6:12].hex(":"), raw[:6].hex(":"), ethertype, raw, rarp)
