"""A machine looked at from outside: saved again, its stream read, memory and device state apart.

A stopped guest writes the same stream whoever asks, so what an endpoint really holds is read from
what it saves, by the parser that reads everything else. Nothing is asked of the guest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from mmap import mmap

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
    """RAM blocks by name as they were saved, and the device sections in stream order.

    Of a block only what is not zero takes room; `written` has the offsets of those pages.
    """

    blocks: dict[str, memoryview] = field(default_factory=dict)
    written: dict[str, set[int]] = field(default_factory=dict)
    devices: dict[tuple[str, int], DeviceSection] = field(default_factory=dict)

    def guest_ram(self) -> tuple[str, memoryview]:
        """The largest block: the machine's main memory (`pc.ram`).

        Raises:
            SavedStateError: the stream had no RAM.
        """
        if not self.blocks:
            raise SavedStateError("the saved stream has no RAM block")
        return max(self.blocks.items(), key=lambda item: len(item[1]))


class _Filling:
    """A `Witness` that puts each page of a stream where it belongs, in blocks that begin as zeros.

    A machine that saves itself to a pipe sends whole pages: `saving.py` has all capabilities off.
    """

    def __init__(self, saved: SavedState) -> None:
        self._blocks, self._written = saved.blocks, saved.written

    def begins(self) -> None:
        """There is one list of blocks."""
        self._blocks.clear()
        self._written.clear()

    def block(self, block: RamBlock) -> None:
        """Another block."""
        size = block.used_bytes
        self._written[block.idstr] = set()
        self._blocks[block.idstr] = memoryview(mmap(-1, size) if size else bytearray())

    def run(self, run: PageRun, data: bytes | mmap, at: int) -> None:
        """Pages of one block, back to back."""
        if zeros(run) == len(run.records):
            return
        block, view = self._blocks[run.block], memoryview(data)
        written = self._written[run.block]
        for offset, is_zero, begins in pages(run):
            if not is_zero:
                start = at + begins
                written.add(offset)
                block[offset : offset + run.page_bytes] = view[start : start + run.page_bytes]

    def page(self, page: RamPage) -> None:
        """A page by itself."""
        if not page.flags & RamFlag.ZERO:
            block = self._blocks[page.block]
            self._written[page.block].add(page.offset_bytes)
            block[page.offset_bytes : page.offset_bytes + len(page.data)] = page.data

    def wants(self, block: str, offsets_bytes: Sequence[int]) -> bool:  # noqa: ARG002
        """There is no multifd."""
        return False

    def pages(self, block: str, offsets_bytes: Sequence[int], data: bytes | None) -> None:
        """There is no multifd."""

    def zeros(self, block: str, offsets_bytes: Sequence[int]) -> None:
        """There is no multifd."""


async def read_saved(chunks: AsyncIterator[bytes]) -> SavedState:
    """Read a stream that an endpoint saved.

    Raises:
        SavedStateError: it is no whole migration stream.
    """
    saved = SavedState()
    parser = MainChannel(in_runs=True, witness=_Filling(saved))
    payloads: dict[tuple[str, int], tuple[SectionHeader, bytes]] = {}
    async for chunk in chunks:
        for element in parser.feed(chunk):
            match element.value:
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


def fields_of(layout: Layout | None, key: tuple[str, int]) -> tuple[tuple[str, int, int], ...]:
    """Name, start and size in bytes of each field of a section; empty if nothing tells them."""
    if layout is None:
        return ()
    return tuple((span.name, span.start, span.size_bytes) for span in layout.spans(*key))
