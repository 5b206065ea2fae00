"""From elements to items: sections as wholes, memory counted, commands and messages in parts.

Knows one direction of one channel; keeps nothing that grows with the stream but the counts of
blocks. Device state may be asked for: then its sections are kept, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from testbed.wire.element import (
    Certainty,
    Command,
    Configuration,
    ConfigurationSubsection,
    Element,
    EndOfStream,
    FileHeader,
    LiveRecord,
    MappedBitmap,
    MappedPages,
    Message,
    Opaque,
    PageRun,
    Payload,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.kinds import kind_of
from testbed.wire.packet import (
    MultifdDeviceState,
    MultifdFlag,
    MultifdInit,
    MultifdPacket,
    MultifdPages,
    MultifdPayload,
)

from .item import FORWARD, Item
from .memory import Memory
from .payloads import command_parts, message_parts, shortened

BLOCKS_TOLD_MAX = 4096


@dataclass(slots=True)
class _Section:
    """A section on its way, from its header on."""

    header: SectionHeader
    offset: int
    in_package: bool
    pages_before: tuple[int, int]
    payload_bytes: int = 0
    certainty: Certainty = Certainty.EXACT
    total_bytes: int | None = None  # of the block list
    blocks: list[dict[str, Any]] | None = None
    marks: int = 0  # MULTIFD_FLUSH, HOOK
    mapped_bytes: int = 0  # of pages at their place in a mapped-ram file
    records: dict[str, int] = field(default_factory=dict)  # of a live section, by kind


class Itemiser:
    """Turns the elements of one direction into items.

    Args:
        memory: counts its pages.
        direction: said in each item.
        described: asked at the vmdesc for what its reader made of it.
    """

    def __init__(
        self,
        memory: Memory,
        direction: str = FORWARD,
        described: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.memory = memory
        self._described = described
        self.page_bytes = 4096
        self._direction = direction
        self._section: _Section | None = None
        self._unread: Item | None = None
        self._waiting: Item | None = None  # a multifd packet without its payload

    def items(self, element: Element, at_s: float | None = None) -> Iterator[Item]:
        """What there is to say after this element."""
        for item in self._items(element):
            item = replace(item, direction=self._direction, at_s=at_s)
            if self._unread is not None and _goes_on(self._unread, item):
                length = (self._unread.length or 0) + (item.length or 0)
                self._unread = replace(self._unread, length=length)
                continue
            yield from self.rest()
            if item.kind == "opaque":
                self._unread = item
            else:
                yield item

    def rest(self) -> Iterator[Item]:
        """What was held back: bytes that nobody can read, for more of them may have followed."""
        unread, self._unread = self._unread, None
        if unread is not None:
            yield unread

    def _items(self, element: Element) -> Iterator[Item]:
        value = element.value
        if isinstance(value, MultifdPages | MultifdPayload):
            yield from self._packet(element.end)
            return
        yield from self._packet(None)
        if isinstance(value, MultifdPacket | MultifdDeviceState):
            yield from self._packet_header(value, element)
            return
        if isinstance(value, PageRun | RamPage):
            self.memory.add(value, self.page_bytes)
            if self._section is None:  # the preempt channel has no sections
                return
            self._section.payload_bytes += element.size_bytes
            return
        if element.section is not None:
            yield from self._in_section(element, element.section)
            return
        yield from self._left(element.offset, whole=not isinstance(value, Opaque))
        match value:
            case Opaque(why=why):
                facts: dict[str, Any] = {"why": why}
                if element.raw:
                    facts["bytes"] = shortened(element.raw)
                yield self._item(kind_of(value), element, facts)
            case _:
                yield self._item(*self._single(element))

    def _packet_header(
        self, value: MultifdPacket | MultifdDeviceState, element: Element
    ) -> Iterator[Item]:
        """A packet whose payload follows waits for it."""
        flags = MultifdFlag(value.flags)
        facts: dict[str, Any] = {"flags": [flag.name for flag in flags]}
        if isinstance(value, MultifdPacket):
            self.memory.add(value, self.page_bytes)
            facts |= {"packet": value.packet_num, "block": value.block}
            facts |= {"pages": value.normal_pages + value.zero_pages, "zero": value.zero_pages}
            follows = value.normal_pages
        else:
            facts |= {"idstr": value.idstr, "instance": value.instance_id}
            follows = value.next_packet_size
        self._waiting = self._item(kind_of(value), element, facts)
        if not follows:
            yield from self._packet(element.end)

    def _packet(self, end: int | None) -> Iterator[Item]:
        """The packet that waited, up to where its payload ended; None: that never came."""
        item, self._waiting = self._waiting, None
        if item is not None:
            length = item.length if end is None else end - (item.offset or 0)
            yield replace(item, length=length)

    def _item(self, kind: str, element: Element, facts: dict[str, Any]) -> Item:
        return Item(kind, element.offset, element.size_bytes, facts, element.in_package)

    def _single(self, element: Element) -> tuple[str, Element, dict[str, Any]]:
        """Kind and facts of an element that lies in no section."""
        kind = kind_of(element.value)
        match element.value:
            case FileHeader(magic, version):
                return kind, element, {"magic": f"{magic:#x}", "version": version}
            case Configuration(machine):
                return kind, element, {"machine": machine}
            case ConfigurationSubsection(name, version_id, payload):
                facts = {"name": name, "version": version_id, **_subsection(name, payload)}
                return kind, element, facts
            case Command() as command:
                return kind, element, {"command": command.name, **command_parts(command)}
            case Message() as message:
                return kind, element, {"message": message.name, **message_parts(message)}
            case EndOfStream():
                return kind, element, {}
            case MultifdInit(uuid, channel_id):
                return kind, element, {"channel": channel_id, "uuid": uuid.hex()}
            case VmDescription(text):
                return kind, element, {"text_bytes": len(text), **self._described()}
            case RamMark(flags):
                return kind, element, {"flags": flags.name or f"{int(flags):#x}"}
            case value:
                return kind, element, _facts(value)

    def _in_section(self, element: Element, header: SectionHeader) -> Iterator[Item]:
        value = element.value
        if isinstance(value, SectionHeader):
            yield from self._left(element.offset, whole=True)
            counts = self.memory.pages, self.memory.zero
            self._section = _Section(header, element.offset, element.in_package, counts)
            return
        section = self._section
        assert section is not None, "a section's elements begin with its header"
        if isinstance(value, SectionFooter):
            self._section = None
            yield self._whole(section, element.end)
            return
        section.payload_bytes += element.size_bytes
        match value:
            case Payload():
                section.certainty = element.certainty
            case RamTotal(total_bytes):
                section.total_bytes, section.blocks = total_bytes, []
            case RamBlock() as block:
                self.memory.add(block, self.page_bytes)
                if section.blocks is not None and len(section.blocks) < BLOCKS_TOLD_MAX:
                    section.blocks.append(_block(block))
            case MappedBitmap():
                self.memory.add(value, self.page_bytes)
            case MappedPages(data=data):
                section.mapped_bytes += len(data)
            case LiveRecord(kind):
                section.records[kind] = section.records.get(kind, 0) + 1
            case RamMark(flags):
                if flags is RamFlag.EOS:
                    return
                section.marks += 1

    def _whole(self, section: _Section, end: int) -> Item:
        header = section.header
        facts: dict[str, Any] = {
            "type": header.type.name,
            "idstr": header.idstr,
            "instance": header.instance_id,
            "section_id": header.section_id,
            "version": header.version_id,
            "payload_bytes": section.payload_bytes,
        }
        if header.type is SectionType.FULL:
            facts["certainty"] = section.certainty.value
        if section.total_bytes is not None:
            facts |= {"total_bytes": section.total_bytes, "blocks": section.blocks}
        pages, zero = self.memory.pages, self.memory.zero
        if pages != section.pages_before[0]:
            facts["pages"] = pages - section.pages_before[0]
            facts["zero"] = zero - section.pages_before[1]
        for name in ("marks", "mapped_bytes", "records"):
            if found := getattr(section, name):
                facts[name] = found
        return Item("section", section.offset, end - section.offset, facts, section.in_package)

    def _left(self, end: int, *, whole: bool) -> Iterator[Item]:
        """The section that had no footer: the stream has none, or it broke there."""
        section, self._section = self._section, None
        if section is not None:
            item = self._whole(section, end)
            yield item if whole else replace(item, kind="section-cut")


def _goes_on(unread: Item, item: Item) -> bool:
    """True for more of the bytes that cannot be read, for the same reason."""
    return item.kind == "opaque" and item.facts["why"] == unread.facts["why"]


def _block(block: RamBlock) -> dict[str, Any]:
    facts: dict[str, Any] = {"idstr": block.idstr, "used_bytes": block.used_bytes}
    if block.page_bytes is not None:
        facts["page_bytes"] = block.page_bytes
    if block.guest_physical_address is not None:
        facts["guest_physical_address"] = block.guest_physical_address
    if block.mapped is not None:
        facts["bitmap_offset"] = block.mapped.bitmap_offset
        facts["pages_offset"] = block.mapped.pages_offset
    return facts


def _subsection(name: str, payload: bytes) -> dict[str, Any]:
    match name:
        case "configuration/target-page-bits":
            return {"target_page_bits": int.from_bytes(payload, "big")}
        case "configuration/capabilities":
            names, at = [], 4
            while at < len(payload):
                names.append(payload[at + 1 : at + 1 + payload[at]].decode("latin-1"))
                at += 1 + payload[at]
            return {"capabilities": names}
    return {"payload": shortened(payload)}


def _facts(value: object) -> dict[str, Any]:
    """The fields of a value that has no words of its own here."""
    names = getattr(value, "__dataclass_fields__", {})
    facts = {name: getattr(value, name) for name in names}
    return {
        name: shortened(fact) if isinstance(fact, bytes) else fact for name, fact in facts.items()
    }
