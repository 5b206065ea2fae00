"""Elements and places in short words, for the log and messages; sentences are `sentence.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from testbed.fault.plan import (
    BlockPlace,
    Channel,
    CommandPlace,
    ConnectionPlace,
    ElementPlace,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    SectionPlace,
    Side,
    StatePlace,
)
from testbed.fault.sentence import size_words
from testbed.wire.element import (
    Command,
    Element,
    EndOfStream,
    Message,
    Opaque,
    RamBlock,
    RamMark,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    TlsRecord,
    Value,
    VmDescription,
)
from testbed.wire.kinds import kind_of
from testbed.wire.packet import MultifdInit, MultifdPacket, MultifdPages, MultifdPayload

WORDS: Mapping[type[Value], str] = {
    SectionHeader: "header",
    SectionFooter: "footer",
    RamTotal: "record",
    RamMark: "record",
    EndOfStream: "EOF",
    VmDescription: "vmdesc",
}
"""Elements that have no name."""


def describe(element: Element, *, page_bytes: int = 4096) -> str:
    """What an element is: `footer of FULL cpu, instance 0, section 9`."""
    return f"{_what(element, page_bytes)}{_section(element)}"


def _what(element: Element, page_bytes: int) -> str:
    match element.value:
        case RamPage(block=block, offset_bytes=offset):
            return f"page {offset // page_bytes} of {block}"
        case RamBlock(idstr=idstr):
            return f"block list entry {idstr}"
        case Command():
            return f"command {element.value.name} ({element.occurrence})"
        case Message():
            return f"message {element.value.name} ({element.occurrence})"
        case MultifdInit(channel_id=channel_id):
            return f"multifd init packet of id {channel_id}"
        case MultifdPacket(block=block):
            return f"multifd packet {element.occurrence}{f' of {block}' if block else ''}"
        case MultifdPages() | MultifdPayload():
            return f"payload of multifd packet {element.occurrence}"
        case TlsRecord():
            return f"TLS record {element.value.name}"
        case Opaque(why=why):
            return f"bytes {why}"
        case value:
            return WORDS.get(type(value), kind_of(value))


def _section(element: Element) -> str:
    section = element.section
    if section is None:
        return ""
    return (
        f" of {section.type.name} {section.idstr}, instance {section.instance_id}, "
        f"section {section.section_id}"
    )


# Places


def describe_place(place: Place) -> str:
    """What a place names: `section */virtio-net of kind full`, for "no ... passed"."""
    match place:
        case SectionPlace(idstr=idstr, kind=kind, occurrence=occurrence):
            return f"section {idstr}{f' of kind {kind}' if kind else ''}{_nth(occurrence)}"
        case PagePlace(block=block, page=page, nth=nth, phase=phase, occurrence=occurrence):
            which = f"page {page}{_nth(occurrence)}" if page is not None else f"page record {nth}"
            return f"{which} of {block}{f' in {phase}' if phase else ''}{_on(place.channel)}"
        case BlockPlace(block=block, passed_bytes=int(passed)):
            return f"{size_words(passed)} of {block}"
        case BlockPlace(block=block, share=share):
            return f"{(share or 0) * 100:.10g}% of {block}"
        case CommandPlace(command=name, occurrence=occurrence):
            return f"command {name}{_nth(occurrence)}"
        case MessagePlace(message=name, occurrence=occurrence):
            return f"message {name}{_nth(occurrence)}"
        case ElementPlace(element=element, name=name, occurrence=occurrence):
            what = f"{element}{f' {name}' if name else ''}{_nth(occurrence)}"
            return what + _on(place.channel, place.number)
        case OffsetPlace(offset=offset):
            return f"byte {offset}{_of(place.channel, place.number)}"
        case ConnectionPlace(number=number):
            return f"connection {number}"
        case StatePlace(side=side, status=status, event=event, occurrence=occurrence):
            return f"{status or event} of the {side}{_nth(occurrence)}"
        case _:
            assert_never(place)


def _nth(occurrence: int) -> str:
    return f" (occurrence {occurrence})" if occurrence != 1 else ""


def _of(channel: Channel, number: int | None) -> str:
    words = _channel(channel, number)
    return f" of {words}" if words else ""


def _on(channel: Channel, number: int | None = None) -> str:
    words = _channel(channel, number)
    return f" on {words}" if words else ""


def _channel(channel: Channel, number: int | None) -> str:
    match channel:
        case Channel.MAIN:
            return ""
        case Channel.RETURN_PATH:
            return "the return path"
        case _ if number is not None:
            return f"{channel} channel {number}"
        case Channel.PREEMPT:
            return "the preempt channel"
    return f"any {channel} channel"


def direction_toward(side: Side) -> str:
    """The direction that leads to that side."""
    return "forward" if side is Side.DESTINATION else "return path"


def channel_words(channel: Channel | None, number: int) -> str:
    """A channel for people: `main`, `multifd 2`."""
    if channel is None:
        return "unnamed"
    numbered = channel in (Channel.MULTIFD, Channel.TLS, Channel.UNKNOWN)
    return f"{channel} {number}" if numbered else channel.value
