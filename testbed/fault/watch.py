"""What passes, as facts for the log: bounded, however long the stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from testbed.wire.element import (
    Command,
    Element,
    EndOfStream,
    Message,
    MessageType,
    Opaque,
    RamFlag,
    RamPage,
    SectionFooter,
    SectionHeader,
    VmDescription,
)

SINGLY_MAX = 20
"""PART sections of one idstr, and page requests, that are logged one by one; then only counted."""
OPAQUE_MAX = 10
PROGRESS_BYTES = 1 << 20
"""Between two reports of progress."""

Fact = tuple[str, Mapping[str, Any]]


class Watch:
    """Turns the elements of one direction into facts and totals."""

    def __init__(self, direction: str) -> None:
        self._direction = direction
        self._sections: Counter[str] = Counter()
        self._commands: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._opaque = 0
        self._pages = 0
        self._zero_pages = 0
        self._bytes = 0
        self._reported = 0
        self._section_offset = 0
        self._section_pages = (0, 0)

    def element(self, element: Element) -> Iterator[Fact]:
        """What there is to say of an element."""
        self._bytes = element.end
        match element.value:
            case RamPage(flags=flags):
                self._pages += 1
                self._zero_pages += bool(flags & RamFlag.ZERO)
            case SectionHeader():
                self._section_offset = element.offset
                self._section_pages = self._pages, self._zero_pages
            case SectionFooter():
                yield from self._section(element)
            case Command(payload=payload) as command:
                self._commands[command.name] += 1
                facts = {"command": command.name, "offset": element.offset}
                if len(payload) <= 16:
                    facts["payload"] = payload.hex()
                yield "command", {**facts, "in_package": element.in_package}
            case Message() as message:
                yield from self._message(message, element.offset)
            case EndOfStream():
                yield "eof", {"offset": element.offset}
            case VmDescription(text=text):
                yield "vmdesc", {"offset": element.offset, "length": len(text)}
            case Opaque(why=why):
                self._opaque += 1
                if self._opaque <= OPAQUE_MAX:
                    facts = {"why": why, "offset": element.offset, "length": len(element.raw)}
                    yield "opaque", {**facts, "direction": self._direction}

    def _section(self, element: Element) -> Iterator[Fact]:
        header = element.section
        if header is None:
            return
        name = f"{header.type.name} {header.idstr}"
        self._sections[name] += 1
        if self._sections[name] > SINGLY_MAX:
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

    def _message(self, message: Message, offset: int) -> Iterator[Fact]:
        self._messages[message.name] += 1
        if self._messages[message.name] > SINGLY_MAX:
            return
        facts: dict[str, Any] = {"message": message.name, "offset": offset}
        if message.type in (MessageType.SHUT, MessageType.PONG, MessageType.RESUME_ACK):
            facts["value"] = int.from_bytes(message.payload, "big")
        yield "message", facts

    def progress(self, phase: str | None) -> Iterator[Fact]:
        """How far the direction is, once in `PROGRESS_BYTES`."""
        if self._bytes - self._reported >= PROGRESS_BYTES:
            self._reported = self._bytes
            facts = {"direction": self._direction, "bytes": self._bytes, "pages": self._pages}
            yield "progress", {**facts, "phase": str(phase) if phase is not None else None}

    def totals(self, seen: str) -> Iterator[Fact]:
        """All that passed, when the direction has ended."""
        yield (
            "stream-totals",
            {
                "direction": self._direction,
                "bytes": self._bytes,
                "pages": self._pages,
                "zero_pages": self._zero_pages,
                "sections": dict(self._sections.most_common(500)),
                "commands": dict(self._commands),
                "messages": dict(self._messages),
                "seen": seen,
            },
        )
