"""The counters of a running proxy, for its picture: of what is open, and of what has ended."""

from __future__ import annotations

from dataclasses import replace

from testbed.fault.lanes.memory import BlockSeen
from testbed.fault.plan import Side
from testbed.proxy import Proxy
from testbed.proxy.connection import Connection
from testbed.wire import ChannelKind

from .picture import ConnectionSample, Sample

MAIN_CHANNELS = (ChannelKind.MAIN, ChannelKind.RECOVERY)
PAGE_BYTES = 4096


class Sampler:
    """Looks at all counters of a proxy; what has ended of a migration stays counted."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._over: set[int] = set()  # connections that have ended, and are with the proxy still
        self.begin()

    def begin(self) -> None:
        """Another migration begins: what has ended was the last one's."""
        self._blocks: dict[str, BlockSeen] = {}
        self._page_bytes = PAGE_BYTES
        self._phase: str | None = None
        self._section: str | None = None

    def ended(self, number: int) -> None:
        """A connection has ended; it is looked at for the last time."""
        for connection in self._proxy.connections:
            if connection.number == number:
                self._over.add(number)
                _add(self._blocks, connection)
                self._note(connection)

    def sample(self, at_s: float) -> Sample:
        """All counters now; copies, so that it stays what it was."""
        connections = self._proxy.connections
        self._over &= {each.number for each in connections}
        live = [each for each in connections if each.number not in self._over]
        blocks = {name: replace(seen) for name, seen in self._blocks.items()}
        for connection in live:
            _add(blocks, connection)
            self._note(connection)
        return Sample(
            at_s,
            tuple(
                ConnectionSample(
                    each.number, each.sent_bytes[Side.DESTINATION], each.sent_bytes[Side.SOURCE]
                )
                for each in live
            ),
            blocks,
            self._page_bytes,
            self._phase,
            self._section,
        )

    def _note(self, connection: Connection) -> None:
        """Where the main channel is."""
        watch = connection.relay.watch
        if watch is not None and connection.channel in MAIN_CHANNELS:
            self._page_bytes = watch.memory.page_bytes
            self._phase = connection.relay.phase
            if (header := watch.section) is not None:
                self._section = f"{header.type.name} {header.idstr}"


def _add(blocks: dict[str, BlockSeen], connection: Connection) -> None:
    """Add what a channel had of each block: the main one has sizes, multifd ones pages."""
    watch = connection.relay.watch
    if watch is None:
        return
    for name, seen in watch.memory.blocks.items():
        known = blocks.get(name)
        if known is None:
            blocks[name] = replace(seen)
        else:
            known.used_bytes = known.used_bytes or seen.used_bytes
            known.pages += seen.pages
            known.zero_pages += seen.zero_pages
            known.passes = max(known.passes, seen.passes)
