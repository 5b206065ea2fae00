"""Elements and places in words, for the log and for messages."""

from __future__ import annotations

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
    VmDescription,
)

from .plan import (
    Channel,
    CommandPlace,
    ElementPlace,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    SectionPlace,
    StatePlace,
)


def describe(element: Element, *, page_bytes: int = 4096) -> str:
    """What an element is: `footer of FULL cpu, instance 0, section 9`."""
    return f"{_what(element, page_bytes)}{_section(element)}"


def _what(element: Element, page_bytes: int) -> str:
    match element.value:
        case SectionHeader():
            return "header"
        case SectionFooter():
            return "footer"
        case RamPage(block=block, offset_bytes=offset):
            return f"page {offset // page_bytes} of {block}"
        case RamBlock(idstr=idstr):
            return f"block list entry {idstr}"
        case RamTotal() | RamMark():
            return "record"
        case Command():
            return f"command {element.value.name} ({element.occurrence})"
        case Message():
            return f"message {element.value.name} ({element.occurrence})"
        case EndOfStream():
            return "EOF"
        case VmDescription():
            return "vmdesc"
        case Opaque(why=why):
            return f"bytes {why}"
        case value:
            return type(value).__name__.lower()


def _section(element: Element) -> str:
    section = element.section
    if section is None:
        return ""
    return (
        f" of {section.type.name} {section.idstr}, instance {section.instance_id}, "
        f"section {section.section_id}"
    )


def describe_place(place: Place) -> str:
    """What a place names: `section */virtio-net of kind full`, for "no ... passed"."""
    match place:
        case SectionPlace(idstr=idstr, kind=kind, occurrence=occurrence):
            return f"section {idstr}{f' of kind {kind}' if kind else ''}{_nth(occurrence)}"
        case PagePlace(block=block, page=page, nth=nth, phase=phase):
            which = f"page {page}" if page is not None else f"page record {nth}"
            return f"{which} of {block}{f' in {phase}' if phase else ''}"
        case CommandPlace(command=name, occurrence=occurrence):
            return f"command {name}{_nth(occurrence)}"
        case MessagePlace(message=name, occurrence=occurrence):
            return f"message {name}{_nth(occurrence)}"
        case ElementPlace(element=element):
            return element
        case OffsetPlace(offset=offset, channel=channel):
            return f"byte {offset}{' of the return path' if channel is Channel.RETURN_PATH else ''}"
        case StatePlace(side=side, status=status, event=event, occurrence=occurrence):
            return f"{status or event} of the {side}{_nth(occurrence)}"


def _nth(occurrence: int) -> str:
    return f" (occurrence {occurrence})" if occurrence != 1 else ""
