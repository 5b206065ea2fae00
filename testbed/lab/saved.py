"""A machine looked at from outside: saved again, its stream read, memory and device state apart.

A stopped guest writes the same stream whoever asks, so what an endpoint really holds is read from
what it saves, by the parser that reads everything else. Nothing is asked of the guest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from testbed.wire import Layout, MainChannel
from testbed.wire.element import (
    Opaque,
    PageRun,
    Payload,
    RamBlock,
    RamFlag,
    RamPage,
    SectionHeader,
    SectionType,
)
from testbed.wire.runs import pages, zeros

DEVICE_BYTES_MAX = 64 << 20
"""Device state kept for comparison; a PC has some tens of kilobytes."""


class SavedStateError(Exception):
    """The stream that a machine saved could not be read to its end."""


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """One FULL section: its header's facts, its payload, and the names of its fields if known."""

    idstr: str
    instance_id: int
    version_id: int
    payload: bytes
    fields: tuple[tuple[str, int, int], ...] = ()  # name, start, size in bytes

    @property
    def key(self) -> tuple[str, int]:
        """What the loader finds it by."""
        return self.idstr, self.instance_id


@dataclass(slots=True)
class SavedState:
    """RAM blocks by name as they were saved, and the device sections in stream order."""

    blocks: dict[str, bytearray] = field(default_factory=dict)
    devices: dict[tuple[str, int], DeviceSection] = field(default_factory=dict)

    def guest_ram(self) -> tuple[str, bytearray]:
        """The largest block: the machine's main memory (`pc.ram`).

        Raises:
            SavedStateError: the stream had no RAM.
        """
        if not self.blocks:
            raise SavedStateError("the saved stream has no RAM block")
        return max(self.blocks.items(), key=lambda item: len(item[1]))


async def read_saved(chunks: AsyncIterator[bytes]) -> SavedState:
    """Read a stream that an endpoint saved.

    Raises:
        SavedStateError: it is no whole migration stream.
    """
    parser = MainChannel(in_runs=True)
    saved = SavedState()
    payloads: dict[tuple[str, int], tuple[SectionHeader, bytes]] = {}
    tail = bytearray()  # came in, in no element yet: where the bytes of a run are
    async for chunk in chunks:
        tail += chunk
        for element in parser.feed(chunk):
            raw = tail[: element.size_bytes]
            del tail[: element.size_bytes]
            match element.value:
                case RamBlock(idstr=idstr, used_bytes=used_bytes):
                    saved.blocks[idstr] = bytearray(used_bytes)
                case PageRun() as run:
                    _store_run(saved.blocks[run.block], run, raw)
                case RamPage():
                    _store_page(saved.blocks, element.value)
                case Payload(data=data) if (
                    element.section is not None and element.section.type is SectionType.FULL
                ):
                    header = element.section
                    payloads[header.idstr, header.instance_id] = header, data
                case Opaque(why=why):
                    raise SavedStateError(f"saved stream, offset {element.offset:#x}: {why}")
                case _:
                    pass
    parser.end()
    for key, (header, data) in payloads.items():
        saved.devices[key] = DeviceSection(
            header.idstr, header.instance_id, header.version_id, data, fields_of(parser.layout, key)
        )
    return saved


def _store_page(blocks: Mapping[str, bytearray], page: RamPage) -> None:
    """Put a page where it belongs; a ZERO record needs nothing, a block begins as zeros."""
    if not page.flags & RamFlag.ZERO:
        blocks[page.block][page.offset_bytes : page.offset_bytes + len(page.data)] = page.data


def _store_run(block: bytearray, run: PageRun, raw: bytearray) -> None:
    """Put the pages of a run, whose bytes are `raw`, where they belong."""
    if zeros(run) == len(run.records):
        return
    for offset, is_zero, at in pages(run):
        if not is_zero:
            block[offset : offset + run.page_bytes] = raw[at : at + run.page_bytes]


def fields_of(layout: Layout | None, key: tuple[str, int]) -> tuple[tuple[str, int, int], ...]:
    """Name, start and size in bytes of each field of a section; empty if nothing tells them."""
    if layout is None:
        return ()
    return tuple((span.name, span.start, span.size_bytes) for span in layout.spans(*key))
