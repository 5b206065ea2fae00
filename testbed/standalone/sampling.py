"""The counters of a running proxy at one moment, for its picture."""

from __future__ import annotations

from dataclasses import replace

from testbed.fault.memory import BlockSeen
from testbed.fault.plan import Side
from testbed.proxy import Proxy
from testbed.wire import ChannelKind

from .picture import ConnectionSample, Sample

MAIN_CHANNELS = (ChannelKind.MAIN, ChannelKind.RECOVERY)


def sample(at_s: float, proxy: Proxy) -> Sample:
    """Look at all counters; copies, so that it stays what it was."""
    connections = proxy.connections
    blocks: dict[str, BlockSeen] = {}
    page_bytes, phase, section = 4096, None, None
    for connection in connections:
        watch = connection.relay.watch
        if watch is None:
            continue
        for name, seen in watch.memory.blocks.items():
            _add(blocks, name, seen)
        if connection.channel in MAIN_CHANNELS:
            page_bytes = watch.memory.page_bytes
            phase = connection.relay.phase
            header = watch.section
            section = f"{header.type.name} {header.idstr}" if header is not None else None
    return Sample(
        at_s,
        tuple(
            ConnectionSample(
                each.number, each.sent_bytes[Side.DESTINATION], each.sent_bytes[Side.SOURCE]
            )
            for each in connections
        ),
        blocks,
        page_bytes,
        phase,
        section,
    )


def _add(blocks: dict[str, BlockSeen], name: str, seen: BlockSeen) -> None:
    """Add what one channel had of a block: the main one has its size, multifd ones its pages."""
    known = blocks.get(name)
    if known is None:
        blocks[name] = replace(seen)
        return
    known.used_bytes = known.used_bytes or seen.used_bytes
    known.pages += seen.pages
    known.zero_pages += seen.zero_pages
    known.passes = max(known.passes, seen.passes)
