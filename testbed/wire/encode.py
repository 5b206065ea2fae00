"""Values to bytes: the inverse of the parsers, and builders of what no parser would accept."""

from __future__ import annotations

from dataclasses import astuple

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
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    SectionType,
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
from .structs import (
    COMMAND,
    FILE_HEADER,
    IDS,
    MAPPED_RAM,
    MESSAGE,
    MULTIFD_DEVICE_STATE,
    MULTIFD_IDSTR_BYTES,
    MULTIFD_INIT,
    MULTIFD_MAGIC,
    MULTIFD_PACKET,
    MULTIFD_VERSION,
    SECTION,
    TLS,
    U32,
    U64,
    XBZRLE,
    XBZRLE_ENCODING,
)

IDSTR_BYTES_MAX = 255
"""Of a name with its length before it: that is one byte."""


def encode(value: Value) -> bytes:
    """Return the bytes of a value as QEMU writes them.

    For every element that a parser made, but an `Opaque`, this is its `raw`.

    Raises:
        TypeError: an `Opaque`; a `PageRun` or `MultifdPiece`, whose bytes stay where they are.
        ValueError: an idstr of more bytes than its field or its length can have.
        struct.error: a number too large for its field.
    """
    match value:
        case FileHeader() | Configuration() | ConfigurationSubsection() | VmDescription():
            return _once(value)
        case RamTotal() | RamBlock() | RamPage() | RamMark():
            return _ram_record(value)
        case SectionHeader():
            return _section_header(value)
        case (
            Payload(data=data)
            | LiveRecord(data=data)
            | MappedBitmap(data=data)
            | MappedPages(data=data)
            | MappedGap(data=data)
            | MultifdPages(data=data)
            | MultifdPayload(data=data)
        ):
            return data
        case MultifdInit() | MultifdPacket() | MultifdDeviceState() | TlsRecord():
            return _packet(value)
        case SectionFooter(section_id):
            return SECTION.pack(SectionType.FOOTER, section_id)
        case Command(number, payload):
            return build_command(number, payload)
        case EndOfStream():
            return bytes([SectionType.EOF])
        case Message(kind, payload, bitmap):
            return build_message(kind, payload, bitmap=bitmap)
        case Opaque():
            raise TypeError("opaque bytes have no encoding")
        case PageRun() | MultifdPiece():
            raise TypeError("a run's bytes are where they were fed")


def build_section(
    kind: int,
    section_id: int,
    idstr: str,
    instance_id: int,
    version_id: int,
    payload: bytes,
    *,
    footer: bool = True,
) -> bytes:
    """Return a whole section; of PART and END only `section_id` goes into the header.

    `kind` may be any byte: what is neither PART nor END has the long header.
    """
    head = SECTION.pack(kind, section_id)
    if kind not in (SectionType.PART, SectionType.END):
        head += counted(idstr) + IDS.pack(instance_id, version_id)
    tail = SECTION.pack(SectionType.FOOTER, section_id) if footer else b""
    return b"".join((head, payload, tail))


def build_command(number: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a command; `length` is what it claims, where that is not the payload's."""
    claimed = len(payload) if length is None else length
    return COMMAND.pack(SectionType.COMMAND, number, claimed) + payload


def build_message(
    kind: int, payload: bytes = b"", *, length: int | None = None, bitmap: bytes = b""
) -> bytes:
    """Return a message; `length` is what it claims, where that is not the payload's."""
    claimed = len(payload) if length is None else length
    return MESSAGE.pack(kind, claimed) + payload + bitmap


def _once(
    value: FileHeader | Configuration | ConfigurationSubsection | VmDescription,
) -> bytes:
    match value:
        case FileHeader(magic, version):
            return FILE_HEADER.pack(magic, version)
        case Configuration(machine):
            return SECTION.pack(SectionType.CONFIGURATION, len(machine)) + _text(machine)
        case ConfigurationSubsection(name, version_id, payload):
            kind = bytes([SectionType.SUBSECTION])
            return kind + counted(name) + U32.pack(version_id) + payload
        case VmDescription(text):
            return SECTION.pack(SectionType.VMDESCRIPTION, len(text)) + text


def _section_header(header: SectionHeader) -> bytes:
    return build_section(
        header.type,
        header.section_id,
        header.idstr,
        header.instance_id,
        header.version_id,
        b"",
        footer=False,
    )


def _ram_record(value: RamTotal | RamBlock | RamPage | RamMark) -> bytes:
    match value:
        case RamTotal(total_bytes):
            return U64.pack(total_bytes | RamFlag.MEM_SIZE)
        case RamBlock(idstr, used_bytes, page_bytes, address, mapped):
            optional = [word for word in (page_bytes, address) if word is not None]
            entry = counted(idstr) + b"".join(map(U64.pack, (used_bytes, *optional)))
            return entry if mapped is None else entry + MAPPED_RAM.pack(*astuple(mapped))
        case RamMark(flags):
            return U64.pack(flags)
        case RamPage(block, offset_bytes, flags, data):
            name = b"" if flags & RamFlag.CONTINUE else counted(block)
            return U64.pack(offset_bytes | flags) + name + _page_prefix(flags, len(data)) + data


def _page_prefix(flags: RamFlag, size: int) -> bytes:
    if flags & RamFlag.XBZRLE:
        return XBZRLE.pack(XBZRLE_ENCODING, size)
    if flags & RamFlag.COMPRESS_PAGE:
        return U32.pack(size)
    return b""


def _packet(value: MultifdInit | MultifdPacket | MultifdDeviceState | TlsRecord) -> bytes:
    begin = MULTIFD_MAGIC, MULTIFD_VERSION
    match value:
        case MultifdInit(uuid, channel_id, reserved):
            return MULTIFD_INIT.pack(*begin, uuid, channel_id, reserved)
        case MultifdPacket():
            numbers = (
                value.flags,
                value.pages_alloc,
                value.normal_pages,
                value.next_packet_size,
                value.packet_num,
                value.zero_pages,
            )
            head = MULTIFD_PACKET.pack(*begin, *numbers, value.reserved, _filled(value.block))
            return head + value.offsets
        case TlsRecord(kind, version, data):
            return TLS.pack(kind, version, len(data)) + data
        case MultifdDeviceState(flags, idstr, instance_id, size):
            return MULTIFD_DEVICE_STATE.pack(*begin, flags, _filled(idstr), instance_id, size)


def _filled(text: str) -> bytes:
    """An idstr in a field that NULs fill."""
    if len(text) > MULTIFD_IDSTR_BYTES:
        raise ValueError(f"an idstr of {len(text)} bytes")
    return _text(text)


def counted(text: str) -> bytes:
    """A name with its length in a byte before it.

    Raises:
        ValueError: it is longer than 255 bytes.
    """
    if len(text) > IDSTR_BYTES_MAX:
        raise ValueError(f"a name of {len(text)} bytes: {IDSTR_BYTES_MAX} at most")
    return bytes([len(text)]) + _text(text)


def _text(text: str) -> bytes:
    """The parsers read idstrs as Latin-1, so that any byte comes back as it was."""
    return text.encode("latin-1")
