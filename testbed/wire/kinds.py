"""What kinds of elements there are: one word for each, in faults and in what `decode` prints."""

from __future__ import annotations

from collections.abc import Mapping

from .element import (
    Command,
    Configuration,
    ConfigurationSubsection,
    EndOfStream,
    FileHeader,
    LiveRecord,
    MappedBitmap,
    MappedGap,
    MappedPages,
    Message,
    Opaque,
    PageRun,
    Payload,
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
from .packet import (
    MultifdDeviceState,
    MultifdInit,
    MultifdPacket,
    MultifdPages,
    MultifdPayload,
    MultifdPiece,
)

KINDS: Mapping[type[Value], str] = {
    FileHeader: "file-header",
    Configuration: "configuration",
    ConfigurationSubsection: "configuration-subsection",
    SectionHeader: "section-header",
    SectionFooter: "section-footer",
    Payload: "payload",
    LiveRecord: "live-record",
    RamTotal: "ram-total",
    RamBlock: "ram-block",
    RamPage: "ram-page",
    PageRun: "ram-page",
    RamMark: "record",
    MappedBitmap: "mapped-bitmap",
    MappedPages: "mapped-pages",
    MappedGap: "mapped-gap",
    Command: "command",
    EndOfStream: "eof",
    VmDescription: "vmdesc",
    Message: "message",
    MultifdInit: "multifd-init",
    MultifdPacket: "multifd-packet",
    MultifdDeviceState: "multifd-packet",
    MultifdPages: "multifd-pages",
    MultifdPayload: "multifd-payload",
    MultifdPiece: "multifd-payload",
    TlsRecord: "tls-record",
    Opaque: "opaque",
}
"""The kind of a value, by its class. Two classes of one kind are two layouts of it."""


def kind_of(value: Value) -> str:
    """The kind of an element with that value."""
    return KINDS[type(value)]


def name_of(value: Value) -> str | None:
    """What an element is called beside its kind: idstr, block, command, message; None: nothing."""
    match value:
        case SectionHeader() | RamBlock() | MultifdDeviceState():
            return value.idstr
        case RamPage() | PageRun() | MappedBitmap() | MappedPages():
            return value.block
        case MultifdPacket() | MultifdPages():
            return value.block
        case ConfigurationSubsection() | Command() | Message() | TlsRecord():
            return value.name
        case LiveRecord():
            return value.kind
        case _:
            return None
