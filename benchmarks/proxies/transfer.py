"""Parts that push streams through: throughput, multifd, memory over a long stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.netns.topology import DESTINATION_ADDRESS

from .network import PORT, Network, Unmeasured, line_of, running
from .peers import Peer, Started, started
from .processes import Usage
from .stream import Stream

ENDS = (sys.executable, "-I", "-S", str(Path(__file__).with_name("ends.py")))
ASKED_EVERY_S = 0.05
EARLY = 10


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer through a peer."""

    seconds: float  # from before the source connects until the sink has the last byte
    size_bytes: int
    cpu_s: float  # of the peer
    peak_bytes: int  # of the peer
    early_peak_bytes: int  # likewise, after a tenth of the stream

    @property
    def bytes_per_s(self) -> float:
        """Of all connections together."""
        return self.size_bytes / self.seconds


class Load:
    """Streams in a file, one after the other, each on a connection of its own."""

    def __init__(self, streams: Sequence[Stream], file: Path) -> None:
        self._streams = streams
        self._file = file
        with file.open("wb") as content:
            for stream in streams:
                for piece in (stream.head, stream.body, stream.tail):
                    content.write(piece)

    async def through(
        self, peer: Peer, net: Network, folder: Path, size_bytes: int, *, sampled: bool = False
    ) -> Transfer:
        """Send at least so many bytes on all connections together, through a peer of its own.

        Raises:
            Unmeasured: not all bytes came.
        """
        async with started(peer, net, folder) as way:
            return await self._through(way, net, size_bytes, sampled=sampled)

    async def _through(
        self, way: Started, net: Network, size_bytes: int, *, sampled: bool
    ) -> Transfer:
        count = len(self._streams)
        repeats = max(1, -(-size_bytes // sum(len(each.body) for each in self._streams)))
        expected = sum(each.size_bytes(repeats) for each in self._streams)
        sizes = [f"{len(each.head)},{len(each.body)},{len(each.tail)}" for each in self._streams]
        sink = (*ENDS, "sink", DESTINATION_ADDRESS, str(PORT), str(count))
        source = (*ENDS, "source", way.peer.address, str(PORT), str(self._file), str(repeats))
        async with running(net.destination, sink) as sinks:
            await line_of(sinks)  # it listens
            before = way.usage()
            async with running(net.source, (*source, *sizes)) as sources:
                early = await _early(way, sources, net, expected) if sampled else before
                ended = await line_of(sinks, sources)
                after = way.usage()  # while both sides of it are open still
                assert sinks.stdin is not None
                sinks.stdin.close()
                began = await line_of(sources)
            if ended["bytes"] != expected:
                raise Unmeasured(
                    f"{way.peer.name}: {ended['bytes']} of {expected} bytes came to the sink"
                )
            return Transfer(
                ended["ended"] - began["began"],
                expected,
                after.cpu_s - before.cpu_s,
                after.peak_bytes,
                early.peak_bytes,
            )


async def _early(
    way: Started, sources: asyncio.subprocess.Process, net: Network, expected: int
) -> Usage:
    """What the peer has used once a tenth of all has passed, or the source has failed."""
    while net.arrived_bytes() < expected / EARLY and sources.returncode is None:  # noqa: ASYNC110
        await asyncio.sleep(ASKED_EVERY_S)
    return way.usage()
