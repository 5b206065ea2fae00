"""How long a guest's frames went astray: numbered frames from the client, watched for at each host.

The probe needs nothing of the guest: whether a frame for its MAC came to the host where it runs is
the switch's doing alone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from .namespace import Namespace

ETHERTYPE_PROBE = 0x88B5
"""Local experimental EtherType 1 (IEEE 802)."""
ETH_P_ALL = 0x0003
ADDRESSES_BYTES = 12
TAIL = struct.Struct("!HI")  # EtherType, number
PROBE_BYTES = 60
UNDER_WAY_S = 0.05
"""Probes younger than this may still arrive, and are not counted."""
PROBES_MAX = 100_000
"""Eight minutes at 5 ms; then the probe falls silent, and says so in its report."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What became of the probes that were sent from a moment on; times in seconds."""

    probes: int
    wrong_s: float  # they reached another host than the guest's
    nowhere_s: float  # they reached none
    until_s: float | None  # from the moment to the first probe after which all arrived; None: never

    @property
    def total_s(self) -> float:
        """For how long the guest's frames did not reach its host."""
        return self.wrong_s + self.nowhere_s


class Probe:
    """Sends and watches while its block lasts; made by `probing`."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._sent: list[float] = []
        self._reached: dict[str, set[int]] = {}

    def outage(self, host: str, since: float) -> Outage:
        """What became of the probes sent since `since` (`time.monotonic()`), the guest at `host`.

        A frame that the switch floods to all hosts counts as arrived.
        """
        reached = self._reached[host]
        elsewhere = set[int]().union(*(got for name, got in self._reached.items() if name != host))
        until_at = time.monotonic() - UNDER_WAY_S
        numbers = [number for number, at in enumerate(self._sent) if since <= at < until_at]
        lost = [number for number in numbers if number not in reached]
        wrong = sum(1 for number in lost if number in elsewhere)
        until = None
        if numbers and (not lost or lost[-1] != numbers[-1]):
            until = self._sent[lost[-1] + 1] - since if lost else 0.0
        return Outage(
            len(numbers),
            round(wrong * self.every_s, 6),
            round((len(lost) - wrong) * self.every_s, 6),
            None if until is None else round(until, 6),
        )

    def watch(self, host: str) -> None:
        """Know of a host, before its first frame."""
        self._reached[host] = set()

    def send(self, sender: socket.socket, head: bytes) -> None:
        """Send the next probe; `head` is its Ethernet addresses."""
        if len(self._sent) < PROBES_MAX:
            frame = head + TAIL.pack(ETHERTYPE_PROBE, len(self._sent))
            self._sent.append(time.monotonic())
            sender.send(frame.ljust(PROBE_BYTES, b"\0"))

    def readable(self, host: str, watcher: socket.socket) -> None:
        """Take a frame that came to a host, and note it if it is a probe."""
        try:
            frame, address = watcher.recvfrom(PROBE_BYTES)
        except BlockingIOError:
            return
        if address[2] != socket.PACKET_OUTGOING and len(frame) >= ADDRESSES_BYTES + TAIL.size:
            ethertype, number = TAIL.unpack_from(frame, ADDRESSES_BYTES)
            if ethertype == ETHERTYPE_PROBE and number < len(self._sent):
                self._reached[host].add(number)


@asynccontextmanager
async def probing(
    client: tuple[Namespace, str],
    hosts: Mapping[str, tuple[Namespace, str]],
    mac: str,
    every_s: float,
) -> AsyncIterator[Probe]:
    """Probe a MAC from the client until the block ends.

    Args:
        client: namespace and device that the frames are sent from.
        hosts: by name, namespace and device where a host's frames come in.
        mac: of the guest.
        every_s: seconds between two probes.

    Raises:
        OSError: packet sockets are not allowed, or a device is not there.
    """
    probe = Probe(every_s)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for host, place in hosts.items():
            watcher = stack.enter_context(_packet_socket(*place, ETH_P_ALL))
            probe.watch(host)
            loop.add_reader(watcher, probe.readable, host, watcher)
            stack.callback(loop.remove_reader, watcher)
        sender = stack.enter_context(_packet_socket(*client, 0))
        head = bytes.fromhex(mac.replace(":", "")) + sender.getsockname()[4]

        timers: list[asyncio.TimerHandle] = []

        def send() -> None:
            probe.send(sender, head)
            timers[:] = [loop.call_later(every_s, send)]

        send()
        try:
            yield probe
        finally:
            timers[0].cancel()


def _packet_socket(namespace: Namespace, device: str, protocol: int) -> socket.socket:
    opened = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    opened.setblocking(False)
    try:
        opened.bind((device, protocol))
    except BaseException:
        opened.close()
        raise
    return opened
