"""What a recorded stream is, read once before it is replayed: capabilities, postcopy, its pages.

A stream that cannot become a postcopy is only read up to its first memory. Of a postcopy every
element after the package is kept, pages in runs, so that a page that is asked for can be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from testbed.decode.channels import SourceChannel
from testbed.decode.reading import read
from testbed.wire import ChannelKind, MainChannel
from testbed.wire.channel import Channel
from testbed.wire.element import (
    Command,
    CommandType,
    Configuration,
    Element,
    PageRun,
    RamBlock,
    RamFlag,
    RamPage,
    SectionHeader,
    SectionType,
)
from testbed.wire.preempt import PreemptChannel
from testbed.wire.runs import offsets_bytes
from testbed.wire.structs import U64

from .recording import Replayable, ReplayConnection

URGENT_PAGES_MAX = 1 << 18
"""Of preempt channels, that are remembered: 1 GiB of guest memory."""


class Run:
    """Page records back to back, as the recording has them; `gone` are those not to be sent.

    Args:
        offset: of the first record, in the connection.
        run: what the parser made of them.
    """

    def __init__(self, offset: int, run: PageRun) -> None:
        self.block, self.page_bytes = run.block, run.page_bytes
        self.has_idstr = run.head_bytes != U64.size
        records = np.fromiter(run.records, np.uint64, len(run.records))
        flags = records & np.uint64(run.page_bytes - 1)
        self.addresses: NDArray[np.uint64] = records - flags
        self.is_zero: NDArray[np.bool_] = (flags & np.uint64(RamFlag.ZERO)) != 0
        sizes = np.where(self.is_zero, 1, run.page_bytes).astype(np.int64)
        before = np.concatenate(([0], np.cumsum(sizes[:-1] + U64.size)))
        self.data_at: NDArray[np.int64] = offset + run.head_bytes + before
        self.ends: NDArray[np.int64] = self.data_at + sizes
        self.gone: NDArray[np.bool_] = np.zeros(len(records), np.bool_)

    def __len__(self) -> int:
        return len(self.addresses)


Item = Element | Run


class PageIndex:
    """Where each page of a block lies in the postcopy of a connection."""

    def __init__(self, items: Iterable[Item]) -> None:
        runs: dict[str, list[Run]] = {}
        for item in items:
            if isinstance(item, Run):
                runs.setdefault(item.block, []).append(item)
        self._blocks = {block: _Block(of_block) for block, of_block in runs.items()}

    def find(self, block: str, address: int) -> tuple[Run, int] | None:
        """The run with that page, and its place in it; None: it is not there."""
        return self._blocks[block].find(address) if block in self._blocks else None

    def drop(self, block: str, received: NDArray[np.bool_]) -> int:
        """Do not send the pages that were received, by page number; how many that is."""
        return self._blocks[block].drop(received) if block in self._blocks else 0

    def count(self, block: str) -> int:
        """How many different pages of that block there are."""
        return self._blocks[block].count if block in self._blocks else 0


class _Block:
    def __init__(self, runs: list[Run]) -> None:
        self._runs = runs
        self._starts = np.cumsum([0, *(len(run) for run in runs)])
        addresses = np.concatenate([run.addresses for run in runs])
        self._order = np.argsort(addresses, kind="stable")
        self._sorted = addresses[self._order]
        self.count = len(np.unique(addresses))

    def find(self, address: int) -> tuple[Run, int] | None:
        at = int(np.searchsorted(self._sorted, np.uint64(address)))
        if at == len(self._sorted) or self._sorted[at] != address:
            return None
        flat = int(self._order[at])
        run = int(np.searchsorted(self._starts, flat, "right")) - 1
        return self._runs[run], flat - int(self._starts[run])

    def drop(self, received: NDArray[np.bool_]) -> int:
        dropped = 0
        for run in self._runs:
            pages = run.addresses // np.uint64(run.page_bytes)
            known = pages < len(received)
            there = np.zeros(len(run), np.bool_)
            there[known] = received[pages[known].astype(np.int64)]
            dropped += int(np.count_nonzero(there & ~run.gone))
            run.gone |= there
        return dropped


@dataclass(slots=True)
class Survey:
    """What one connection's stream is.

    `package_at` is where the content of the package begins, None where there is none;
    `postcopy_at` is the offset behind it (0 in a recovery); `items` are what lies there, back to
    back.
    """

    machine: str | None = None
    blocks: list[RamBlock] = field(default_factory=list)
    page_bytes: int = 4096
    advised: bool = False
    large_pages: bool = False  # host pages of several target pages: those must stay together
    ram_section: int | None = None
    footers: bool = True
    package_at: int | None = None
    postcopy_at: int | None = None
    items: list[Item] = field(default_factory=list)
    urgent: set[tuple[str, int]] = field(default_factory=set)  # of a preempt channel

    @property
    def has_postcopy(self) -> bool:
        """It reached the point from which the guest runs on the destination."""
        return self.postcopy_at is not None


def survey(recording: Replayable) -> dict[int, Survey]:
    """Read what must be known beforehand, by connection number.

    A connection that does not parse is what it is: sent as it came, and its survey ends there.
    """
    surveys: dict[int, Survey] = {}
    main: MainChannel | None = None
    for connection in recording.connections:
        found = surveys[connection.number] = Survey()
        match connection.kind:
            case ChannelKind.MAIN:
                main = MainChannel(in_runs=True)
                _read_main(connection, main, found)
            case ChannelKind.RECOVERY:
                main = MainChannel(recovery=True) if main is None else main.recovered()
                main.in_runs = True
                _inherit(surveys, found)
                _read_main(connection, main, found)
            case ChannelKind.PREEMPT:
                _read_urgent(connection, PreemptChannel(main), found)
    return surveys


def machine_arguments(surveys: Mapping[int, Survey]) -> tuple[str, ...]:
    """Machine type and memory as the recording has them, as arguments of a QEMU."""
    arguments: list[str] = []
    for each in surveys.values():
        if each.machine is not None:
            arguments += ["-M", each.machine]
        if each.blocks:
            memory = max(block.used_bytes for block in each.blocks)
            arguments += ["-m", f"size={memory}B"]
        if arguments:
            break
    return tuple(arguments)


def _inherit(surveys: dict[int, Survey], found: Survey) -> None:
    """A recovery goes on with the postcopy of the connection before it."""
    found.postcopy_at = 0
    for earlier in surveys.values():
        if earlier.ram_section is not None:
            found.ram_section, found.footers = earlier.ram_section, earlier.footers
            found.large_pages, found.blocks = earlier.large_pages, earlier.blocks
            found.page_bytes = earlier.page_bytes


def _read_main(connection: ReplayConnection, parser: MainChannel, found: Survey) -> None:
    for element in _elements(connection, parser):
        value = element.value
        if element.in_package and found.package_at is None:
            found.package_at = element.offset
        if found.package_at is not None and not element.in_package and found.postcopy_at is None:
            found.postcopy_at = element.offset
        if found.postcopy_at is not None:
            found.items.append(
                Run(element.offset, value) if isinstance(value, PageRun) else element
            )
        match value:
            case Configuration(machine=machine):
                found.machine = machine
            case RamBlock():
                found.blocks.append(value)
                found.large_pages |= value.page_bytes is not None
            case Command(command=CommandType.POSTCOPY_ADVISE, payload=payload):
                found.advised = True
                if len(payload) == 2 * U64.size:
                    host, target = U64.unpack(payload[:8])[0], U64.unpack(payload[8:])[0]
                    found.page_bytes = target
                    found.large_pages |= host > target
            case SectionHeader(idstr="ram", section_id=number):
                found.ram_section = number
                if value.type is SectionType.PART and not found.advised and not found.has_postcopy:
                    return  # it will not be a postcopy
    found.footers = parser.footers is not False


def _read_urgent(connection: ReplayConnection, parser: PreemptChannel, found: Survey) -> None:
    for element in _elements(connection, parser):
        match element.value:
            case PageRun() as run:
                pages = [(run.block, offset) for offset in offsets_bytes(run)]
            case RamPage(block=block, offset_bytes=offset):
                pages = [(block, offset)]
            case _:
                continue
        if len(found.urgent) < URGENT_PAGES_MAX:
            found.urgent.update(pages)


def _elements(connection: ReplayConnection, parser: Channel) -> Iterator[Element]:
    name = f"connection {connection.number}"
    channel = SourceChannel(name, connection.size_bytes, fd=connection.file.fileno())
    for batch in read(channel, parser):
        yield from batch.elements


def place_of(connection: ReplayConnection, offset: int) -> str:
    """Which element of a recorded stream the byte at an offset lies in, for people."""
    from testbed.decode.kind import parser_for

    if connection.kind is None:
        return "bytes that are no stream"
    section = ""
    for element in _elements(connection, parser_for(connection.kind, in_runs=True)):
        if element.section is not None:
            section = f" of {element.section.type.name} {element.section.idstr}"
        if element.end > offset:
            return f"{_named(element)}{section if element.section is not None else ''}"
    return "the end"


def _named(element: Element) -> str:
    match element.value:
        case Command() as command:
            return f"command {command.name}"
        case PageRun(block=block) | RamPage(block=block):
            return f"pages of {block}"
        case value:
            words = "".join(f" {c.lower()}" if c.isupper() else c for c in type(value).__name__)
            return words.strip()
