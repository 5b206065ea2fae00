"""What passes, as facts for the log: bounded, however long the stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from testbed.wire.element import (
    Command,
    Element,
    FileHeader,
    Message,
    MessageType,
    Opaque,
    PageRun,
    RamBlock,
    RamFlag,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
    TlsRecord,
    VmDescription,
)
from testbed.wire.packet import MultifdDeviceState, MultifdInit, MultifdPacket
from testbed.wire.runs import zeros

from .memory import Memory

PARTS_MAX = 20
"""PART sections of one idstr that are logged one by one; then only counted."""
REQUESTS_MAX = 100
"""Page requests that are logged one by one; then only counted."""
SINGLY_MAX = 2000
"""Other sections, commands and messages that are logged one by one; a machine has some 100."""
OPAQUE_MAX = 10
NAMES_MAX = 500
"""Different names in the totals."""
PROGRESS_BYTES = 1 << 20
PROGRESS_PAGES = 1 << 8
"""Whichever comes first between two reports of progress: a zero page takes nine bytes."""
PROGRESS_SHARE = 64
"""And what passed before, divided by this: so a long stream has no more than some hundred more."""
REQUESTS = frozenset({MessageType.REQ_PAGES, MessageType.REQ_PAGES_ID})
WITH_VALUE = frozenset({MessageType.SHUT, MessageType.PONG, MessageType.RESUME_ACK})
PAYLOAD_BYTES_MAX = 16

Fact = tuple[str, Mapping[str, Any]]


class Watch:
    """Turns the elements of one direction into facts and totals.

    `memory` and `section`, the header of the section that passes, can be looked at meanwhile.
    """

    def __init__(self, direction: str, channel: str = "main") -> None:
        self.channel = channel
        self.memory = Memory()
        self.section: SectionHeader | None = None
        self._direction = direction
        self._sections: Counter[str] = Counter()
        self._commands: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._singly = 0
        self._opaque = 0
        self._packets = 0  # of multifd, or records of TLS
        self._pages = 0
        self._zero_pages = 0
        self._bytes = 0
        self._reported = (0, 0)  # bytes, pages
        self._section_offset = 0
        self._section_pages = (0, 0)

    def element(self, element: Element) -> Iterator[Fact]:
        """What there is to say of an element."""
        match element.value:
            case SectionHeader() as header:
                self.section = header
                self._section_offset = element.offset
                self._section_pages = self._pages, self._zero_pages
            case SectionFooter():
                yield from self._section(element)
            case RamBlock() as block:
                self.memory.block(block)
            case MultifdPacket() | MultifdDeviceState() | TlsRecord() as packet:
                self._packet(packet)
            case FileHeader(version=version):
                yield "file-header", {"offset": element.offset, "version": version}
            case Command() as command:
                yield from self._command(command, element)
            case Message() as message:
                yield from self._message(message, element.offset)
            case VmDescription(text=text):
                yield "vmdesc", {"offset": element.offset, "length": len(text)}
            case MultifdInit(channel_id=channel_id):
                yield "multifd-init", {"channel_id": channel_id, "channel": self.channel}
            case Opaque(why=why):
                yield from self._unread(why, element)

    def _packet(self, packet: MultifdPacket | MultifdDeviceState | TlsRecord) -> None:
        self._packets += 1
        if isinstance(packet, MultifdPacket):
            self._pages += packet.normal_pages + packet.zero_pages
            self._zero_pages += packet.zero_pages
            self.memory.packet(packet)

    def page(self, page: RamPage) -> None:
        """Count a page record; there is nothing to say of a single one."""
        self._pages += 1
        self.memory.page(page)
        if page.flags & RamFlag.ZERO:
            self._zero_pages += 1

    def run(self, run: PageRun) -> None:
        """Count the page records of a run."""
        zero_pages = zeros(run)
        self._pages += len(run.records)
        self._zero_pages += zero_pages
        self.memory.run(run, zero_pages)

    def _section(self, element: Element) -> Iterator[Fact]:
        header = element.section
        if header is None:
            return
        name = f"{header.type.name} {header.idstr}"
        self._sections[name] += 1
        if header.type is SectionType.PART:
            if self._sections[name] > PARTS_MAX:
                return
        elif not self._is_single():
            return
        pages, zero_pages = self._section_pages
        facts: dict[str, Any] = {
            "section": header.idstr,
            "kind": header.type.name.lower(),
            "instance": header.instance_id,
            "section_id": header.section_id,
            "version": header.version_id,
            "offset": self._section_offset,
            "length": element.end - self._section_offset,
            "in_package": element.in_package,
        }
        if self._pages != pages:
            facts |= {"pages": self._pages - pages, "zero_pages": self._zero_pages - zero_pages}
        yield "section", facts

    def _command(self, command: Command, element: Element) -> Iterator[Fact]:
        self._commands[command.name] += 1
        if not self._is_single():
            return
        facts: dict[str, Any] = {"command": command.name, "offset": element.offset}
        if len(command.payload) <= PAYLOAD_BYTES_MAX:
            facts["payload"] = command.payload.hex()
        yield "command", {**facts, "in_package": element.in_package}

    def _message(self, message: Message, offset: int) -> Iterator[Fact]:
        self._messages[message.name] += 1
        if message.type in REQUESTS:
            if self._messages[message.name] > REQUESTS_MAX:
                return
        elif not self._is_single():
            return
        facts: dict[str, Any] = {"message": message.name, "offset": offset}
        if message.type in WITH_VALUE:
            facts["value"] = int.from_bytes(message.payload, "big")
        yield "message", facts

    def _unread(self, why: str, element: Element) -> Iterator[Fact]:
        self._opaque += 1
        if self._opaque <= OPAQUE_MAX:
            facts = {"why": why, "offset": element.offset, "length": len(element.raw)}
            yield "opaque", {**facts, "direction": self._direction, "channel": self.channel}

    def _is_single(self) -> bool:
        self._singly += 1
        return self._singly <= SINGLY_MAX

    def progress(self, at_bytes: int, phase: str | None) -> Fact | None:
        """How far the direction is, now and then; `at_bytes` have come."""
        self._bytes = at_bytes
        reported_bytes, reported_pages = self._reported
        if at_bytes - reported_bytes < max(
            PROGRESS_BYTES, at_bytes // PROGRESS_SHARE
        ) and self._pages - reported_pages < max(PROGRESS_PAGES, self._pages // PROGRESS_SHARE):
            return None
        self._reported = at_bytes, self._pages
        facts = {"direction": self._direction, "channel": self.channel, "bytes": at_bytes}
        return "progress", {**facts, "pages": self._pages, "phase": phase}

    def totals(self, seen: str) -> Fact:
        """All that passed, when the direction has ended."""
        return (
            "stream-totals",
            {
                "direction": self._direction,
                "channel": self.channel,
                "bytes": self._bytes,
                "pages": self._pages,
                "zero_pages": self._zero_pages,
                "pages_of": {
                    name: seen.pages for name, seen in self.memory.blocks.items() if seen.pages
                },
                "sections": dict(self._sections.most_common(NAMES_MAX)),
                "commands": dict(islice(self._commands.items(), NAMES_MAX)),
                "messages": dict(islice(self._messages.items(), NAMES_MAX)),
                "packets": self._packets,
                "seen": seen,
            },
        )
