"""How long a guest's frames went astray: numbered frames from the client, watched for at each host.

The probe needs nothing of the guest: whether a frame for its MAC came to the host where it runs is
the switch's doing alone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise

from .namespace import Namespace
from .packet import ETH_P_ALL, FRAMES_PER_WAKE, dropped_by_kernel, packet_socket

ETHERTYPE_PROBE = 0x88B5
"""Local experimental EtherType 1 (IEEE 802)."""
ADDRESSES_BYTES = 12
TAIL = struct.Struct("!HI")  # EtherType, number
PROBE_BYTES = 60
UNDER_WAY_S = 0.05
"""Probes younger than this may still arrive, and are not counted."""
PROBES_MAX = 100_000
"""Eight minutes at 5 ms; then it falls silent, and an outage later than that has no probes."""


class Fate(StrEnum):
    """What became of a probe, seen from the host where the guest is."""

    RIGHT = "right"
    WRONG = "wrong"
    """It reached another host only."""
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Interval:
    """Probes in a row that met one fate: seconds from the moment that was asked for."""

    fate: Fate
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Outage:
    """What became of the probes that were sent from a moment on; times in seconds from there.

    A probe stands for the time until the next one was sent, the first for that before it too.
    `unseen` frames came to a host and were dropped by its kernel; probes may be among them.
    `longest_gap_s` is the longest time without a probe: no duration is known better than that.
    """

    probes: int
    intervals: tuple[Interval, ...]
    unseen: int = 0
    longest_gap_s: float = 0.0

    @property
    def wrong_s(self) -> float:
        """For how long frames reached another host than the guest's."""
        return self._lasted_s(Fate.WRONG)

    @property
    def nowhere_s(self) -> float:
        """For how long they reached none."""
        return self._lasted_s(Fate.NOWHERE)

    @property
    def total_s(self) -> float:
        """For how long they did not reach the guest's host."""
        return self.wrong_s + self.nowhere_s

    @property
    def first_right_at_s(self) -> float | None:
        """The first probe that arrived; None: none did."""
        return next((i.from_s for i in self.intervals if i.fate is Fate.RIGHT), None)

    @property
    def until_s(self) -> float | None:
        """The first probe from which on all arrived; None: the last one did not."""
        last = self.intervals[-1] if self.intervals else None
        return last.from_s if last is not None and last.fate is Fate.RIGHT else None

    def _lasted_s(self, fate: Fate) -> float:
        return round(sum(i.to_s - i.from_s for i in self.intervals if i.fate is fate), 6)


class Probe:
    """Sends and watches while its block lasts; made by `probing`."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._sent: list[float] = []
        self._reached: dict[str, set[int]] = {}
        self._watchers: list[socket.socket] = []
        self._unseen = 0

    def outage(self, host: str, since: float) -> Outage:
        """What became of the probes sent since `since` (`time.monotonic()`), the guest at `host`.

        A frame that the switch floods to all hosts counts as arrived. The first of them stands for
        the time since that moment too: a probe that is late must not shorten what it finds.
        """
        until = time.monotonic() - UNDER_WAY_S
        numbers = [number for number, at in enumerate(self._sent) if since <= at < until]
        intervals: list[Interval] = []
        for fate, group in groupby(numbers, lambda number: self._fate(host, number)):
            first, *_, last = [*group] * 2
            from_s = self._sent[first] - since if intervals else 0.0
            to_s = self._sent_after(last) - since
            intervals.append(Interval(fate, round(from_s, 6), round(to_s, 6)))
        self._unseen += sum(map(dropped_by_kernel, self._watchers))
        times = [since, *(self._sent[number] for number in numbers)]
        gap_s = max((after - before for before, after in pairwise(times)), default=0.0)
        return Outage(len(numbers), tuple(intervals), self._unseen, round(gap_s, 6))

    def _fate(self, host: str, number: int) -> Fate:
        if number in self._reached[host]:
            return Fate.RIGHT
        elsewhere = any(number in reached for reached in self._reached.values())
        return Fate.WRONG if elsewhere else Fate.NOWHERE

    def _sent_after(self, number: int) -> float:
        """When the next probe was sent, or would have been."""
        if number + 1 < len(self._sent):
            return self._sent[number + 1]
        return self._sent[number] + self.every_s

    def watch(self, host: str, watcher: socket.socket) -> None:
        """Know of a host and the packet socket that sees its frames, before the first of them."""
        self._reached[host] = set()
        self._watchers.append(watcher)

    def send(self, sender: socket.socket, head: bytes) -> None:
        """Send the next probe; `head` is its Ethernet addresses."""
        if len(self._sent) < PROBES_MAX:
            frame = head + TAIL.pack(ETHERTYPE_PROBE, len(self._sent))
            # Before it is sent: the event loop may see it arrive before this thread goes on.
            self._sent.append(time.monotonic())
            try:
                sender.send(frame.ljust(PROBE_BYTES, b"\0"))
            except OSError as error:
                self._sent.pop()  # the next one is sent in its place
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise

    def readable(self, host: str, watcher: socket.socket) -> None:
        """Take the frames that came to a host, and note those that are probes."""
        for _ in range(FRAMES_PER_WAKE):
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
            watcher = stack.enter_context(packet_socket(*place, ETH_P_ALL))
            probe.watch(host, watcher)
            loop.add_reader(watcher, probe.readable, host, watcher)
            stack.callback(loop.remove_reader, watcher)
        sender = stack.enter_context(packet_socket(*client, 0))
        head = bytes.fromhex(mac.replace(":", "")) + sender.getsockname()[4]

        ended = threading.Event()

        def send() -> None:
            try:
                while not ended.is_set():
                    probe.send(sender, head)
                    ended.wait(every_s)
            except OSError as error:
                loop.call_soon_threadsafe(_fail, error)

        # In a thread: the event loop parses the stream, and may be busy for longer than an outage.
        thread = threading.Thread(target=send, name="probe")
        thread.start()
        try:
            yield probe
        finally:
            ended.set()
            thread.join()


def _fail(error: OSError) -> None:
    """Raise in the event loop, whose exception handler ends the run."""
    raise error
