"""Parts with small messages: the latency of a page that is asked for, connections without any."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path

from testbed.netns.topology import DESTINATION_ADDRESS

from .network import PORT, Network, line_of, running
from .peers import Peer, started
from .stream import page_record, page_request, postcopy_opening
from .transfer import ENDS

ASKED_EVERY_S = 0.05
SETTLED_WITHIN_S = 10.0
"""For connections whose ends have gone: whatever is open then stays open."""
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Latency:
    """Of page requests, one after the other, from the request to the whole page."""

    median_us: float
    p99_us: float
    cpu_us: float  # of the peer, for each


@dataclass(frozen=True, slots=True)
class Left:
    """What connections leave behind in a peer and its namespace."""

    connections: int
    refused: int
    seconds: float
    cpu_s: float
    descriptors: int  # more than before
    sockets: int  # more than before, but those in TIME_WAIT
    peak_bytes: int


class Postcopy:
    """A postcopy under way whose destination asks for one page after the other.

    Both ends are processes of the benchmark: nothing else is on the connection, as in a postcopy
    at its end, so that what is measured is the way and not a queue of other pages.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._page_bytes = len(page_record(0))
        self._request = page_request(0)
        file.write_bytes(postcopy_opening() + page_record(0))

    async def through(self, peer: Peer, net: Network, folder: Path, count: int) -> Latency:
        """Ask for so many pages through a peer of its own."""
        file, page_bytes = str(self._file), str(self._page_bytes)
        asking = (*ENDS, "ask", DESTINATION_ADDRESS, str(PORT), file, page_bytes)
        answering = (*ENDS, "answer", peer.address, str(PORT), file, page_bytes)
        async with (
            started(peer, net, folder) as way,
            running(net.destination, (*asking, self._request.hex(), str(WARM_UP + count))) as asks,
        ):
            await line_of(asks)  # it listens
            before = way.usage()
            async with running(net.source, (*answering, str(len(self._request)))) as answers:
                took_ns = (await line_of(asks, answers))["took_ns"][WARM_UP:]
                after = way.usage()
        percentiles = statistics.quantiles(took_ns, n=100)
        cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / (WARM_UP + count)
        return Latency(statistics.median(took_ns) / 1000, percentiles[-1] / 1000, cpu_us)


async def connect_and_close(peer: Peer, net: Network, folder: Path, count: int) -> Left:
    """Connect to a peer and close, so many times, and count what is left of it."""
    door = (*ENDS, "door", DESTINATION_ADDRESS, str(PORT))
    async with started(peer, net, folder) as way, running(net.destination, door) as doors:
        await line_of(doors)  # it listens
        before, sockets = way.usage(), net.sockets()
        knock = (*ENDS, "knock", peer.address, str(PORT), str(count))
        async with running(net.source, knock) as knocks:
            knocked = await line_of(knocks, doors)
        loop = asyncio.get_running_loop()
        bound = loop.time() + SETTLED_WITHIN_S
        while True:
            after = way.usage()
            more = after.descriptors - before.descriptors
            left = net.sockets() - sockets
            if (more <= 0 and left <= 0) or loop.time() > bound:
                break
            await asyncio.sleep(ASKED_EVERY_S)
        return Left(
            count,
            knocked["refused"],
            knocked["seconds"],
            after.cpu_s - before.cpu_s,
            more,
            left,
            after.peak_bytes,
        )
