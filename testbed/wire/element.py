"""The values of the migration stream: what its elements are, as frozen records.

An `Element` is a run of bytes of one channel with its place and its meaning; every byte of a
channel belongs to exactly one. Layouts and numbers: QEMU `migration/savevm.c`, `migration/ram.c`,
`migration/migration.c` (2.8.50 to 11.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from functools import lru_cache

from .packet import MultifdValue


class SectionType(IntEnum):
    """First byte of each element of the main channel: `QEMU_VM_*` in `migration/savevm.h`."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


class CommandType(IntEnum):
    """`enum qemu_vm_cmd` in `migration/savevm.c`; 8 to 10 since 3.0, 11 since 10.0."""

    INVALID = 0
    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11


class MessageType(IntEnum):
    """`enum mig_rp_message_type` in `migration/migration.h`: the return path."""

    INVALID = 0
    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    SWITCHOVER_ACK = 7


class RamFlag(IntFlag):
    """`RAM_SAVE_FLAG_*` in `migration/ram.c`: the low bits of a record's be64."""

    FULL = 0x001
    ZERO = 0x002
    MEM_SIZE = 0x004
    PAGE = 0x008
    EOS = 0x010
    CONTINUE = 0x020
    XBZRLE = 0x040
    HOOK = 0x080
    COMPRESS_PAGE = 0x100
    MULTIFD_FLUSH = 0x200


class Certainty(StrEnum):
    """How sure the end of an element is."""

    EXACT = "exact"
    """The format, a length on the wire, or vmdesc gives it."""
    INFERRED = "inferred"
    """Found by its footer and what follows; nothing on the wire confirms it."""
    LEARNED = "learned"
    """Where a learned layout says, and a footer or what may follow does stand there."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """`QEVM` and the stream's version; anything else is kept as it came."""

    magic: int  # be32, 0x5145564d
    version: int  # be32, 3


@dataclass(frozen=True, slots=True)
class Configuration:
    """Type byte 0x07, be32 length, machine type name."""

    machine: str


@dataclass(frozen=True, slots=True)
class ConfigurationSubsection:
    """0x05, cstr name, be32 version, payload: uuid, capabilities, target-page-bits."""

    name: str
    version_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """Header of a section. PART and END carry only `section_id`; the rest is from their START."""

    type: SectionType  # START, PART, END or FULL
    section_id: int  # be32
    idstr: str
    instance_id: int  # be32
    version_id: int  # be32


@dataclass(frozen=True, slots=True)
class RamTotal:
    """MEM_SIZE record: sum of the used lengths of the blocks that follow."""

    total_bytes: int


@dataclass(frozen=True, slots=True)
class MappedRam:
    """Header of a block of mapped-ram; the offsets count from the file's first byte."""

    version: int  # be32, 1
    page_bytes: int  # be64, target page size
    bitmap_offset: int  # be64
    pages_offset: int  # be64, 1 MiB or a multiple


@dataclass(frozen=True, slots=True)
class RamBlock:
    """Entry of the block list: cstr idstr, be64 used_length, optional be64s."""

    idstr: str
    used_bytes: int
    page_bytes: int | None = None  # only where it differs from the target page (hugepages)
    guest_physical_address: int | None = None  # x-ignore-shared
    mapped: MappedRam | None = None  # mapped-ram


@dataclass(frozen=True, slots=True)
class MappedBitmap:
    """Which pages of a block mapped-ram wrote: one bit each, 8-byte words of the host's order."""

    block: str
    data: bytes

    @property
    def bits(self) -> int:
        """Bit N is page N, if the host was little-endian."""
        return int.from_bytes(self.data, "little")


@dataclass(frozen=True, slots=True)
class MappedPages:
    """Pages of a block at their place in a mapped-ram file, from `offset_bytes` of the block on."""

    block: str
    offset_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MappedGap:
    """Space between the regions of a mapped-ram file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RamPage:
    """One page record; `data` is the page, its fill byte, or its encoded form without lengths."""

    block: str
    offset_bytes: int  # within the block
    flags: RamFlag
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PageRun:
    """Page records of one block back to back, plain and zero pages; see `runs.py`.

    `records` are their be64s in order, address | PAGE or ZERO; a range, however long, where each
    page follows the one before. On the wire all but the first carry CONTINUE; the first one's data
    begins after `head_bytes`: 8, or those with its idstr.
    """

    block: str
    records: Sequence[int]
    page_bytes: int
    head_bytes: int


@dataclass(frozen=True, slots=True)
class RamMark:
    """A record without a page: EOS, HOOK, MULTIFD_FLUSH."""

    flags: RamFlag


@dataclass(frozen=True, slots=True)
class Payload:
    """Body of a section whose inside the parser does not read: device state."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LiveRecord:
    """One record of a live section other than RAM; its fields are the element's spans."""

    kind: str  # QEMU's name of it, as `live.py` has it
    data: bytes  # all of it


@dataclass(frozen=True, slots=True)
class SectionFooter:
    """0x7e, be32 section_id."""

    section_id: int


@dataclass(frozen=True, slots=True)
class Command:
    """0x08, be16 command, be16 length, payload. PACKAGED: its inner elements follow."""

    command: int  # CommandType where known
    payload: bytes

    @property
    def name(self) -> str:
        """QEMU's name without its MIG_CMD_ prefix, or its number in hex."""
        return _name(CommandType, self.command)


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The byte 0x00 that ends the elements: `QEMU_VM_EOF`."""


@dataclass(frozen=True, slots=True)
class VmDescription:
    """0x06, be32 length, the JSON text that describes the device sections."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """Message of the return path: be16 type, be16 length, payload (RECV_BITMAP: and bitmap)."""

    type: int  # MessageType where known
    payload: bytes
    bitmap: bytes = b""  # RECV_BITMAP only: be64 size, bits, be64 end mark, as on the wire

    @property
    def name(self) -> str:
        """QEMU's name without its MIG_RP_MSG_ prefix, or its number in hex."""
        return _name(MessageType, self.type)


class ContentType(IntEnum):
    """What a TLS record carries: RFC 8446, appendix B.1; from 1.3 on nearly all say the last."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23
    HEARTBEAT = 24


@dataclass(frozen=True, slots=True)
class TlsRecord:
    """A TLS record: u8 type, be16 version, be16 length, that many bytes."""

    type: int  # ContentType
    version: int
    data: bytes

    @property
    def name(self) -> str:
        """What it says that it carries: `handshake`, `application-data`."""
        return _name(ContentType, self.type).lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes that are no element: what follows the end, what was cut, what we do not know.

    There are none of them where a channel was cut exactly between two elements.
    """

    why: str  # "after the end", "cut short in <what>", "expected <x>, got <y>"


Value = (
    FileHeader
    | Configuration
    | ConfigurationSubsection
    | SectionHeader
    | RamTotal
    | RamBlock
    | RamPage
    | PageRun
    | RamMark
    | MappedBitmap
    | MappedPages
    | MappedGap
    | Payload
    | LiveRecord
    | SectionFooter
    | Command
    | EndOfStream
    | VmDescription
    | Message
    | TlsRecord
    | MultifdValue
    | Opaque
)


@dataclass(frozen=True, slots=True)
class Span:
    """A named field inside an element: `start` counts from the element's first byte."""

    name: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Element:
    """A run of bytes of one channel, and what it means.

    `offset` counts from the channel's first byte; `raw` are its bytes as they came. `section` is
    the header of the section that it lies in (a header lies in its own), `occurrence` counts from
    1: the how-manieth section of that idstr, instance and type this is; for a command or a
    message, the how-manieth of its name; 1 for every page. `spans` are its fields in order.
    """

    offset: int
    raw: bytes
    value: Value
    spans: tuple[Span, ...] = ()
    section: SectionHeader | None = None
    occurrence: int = 1
    in_package: bool = False
    certainty: Certainty = Certainty.EXACT

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.size_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of it on the channel."""
        return len(self.raw)

    def span(self, name: str) -> Span | None:
        """The field of that name, or None."""
        return next((span for span in self.spans if span.name == name), None)


@dataclass(frozen=True, slots=True)
class RunElement(Element):
    """An element whose bytes are not copied: `raw` is empty, they stay where they were fed."""

    length: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of it on the channel."""
        return self.length


@lru_cache(1024)  # a page request waits while the one before it is named
def _name(kinds: type[IntEnum], number: int) -> str:
    try:
        return kinds(number).name
    except ValueError:
        return f"{number:#x}"
