"""Bytes of an edited stream: what they were read as, and their fields, set or resized."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import spans
from .element import (
    Command,
    Configuration,
    ConfigurationSubsection,
    Element,
    EndOfStream,
    FileHeader,
    Message,
    Payload,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    RunElement,
    SectionFooter,
    SectionHeader,
    SectionType,
    Span,
    TlsRecord,
    Value,
    VmDescription,
)
from .encode import encode
from .error import EditError
from .layout import Layout
from .live import HASH_ENTRY_BYTES
from .packet import MultifdDeviceState, MultifdInit, MultifdPacket, MultifdPages
from .structs import U32, U64, XBZRLE

LENGTHS = {
    "idstr": ("idstr_length",),
    "machine": ("length",),
    "text": ("length",),
    "payload": ("length",),
    "data": ("length", "size", "count", "n_valid"),
    "bitmap": ("bitmap_size", "bitmap_length"),
    "device": ("device_length",),
    "node": ("node_length",),
}
"""Fields of any size, and those that say how long they are, if the element has one of them."""
UNITS_BYTES = {"n_valid": HASH_ENTRY_BYTES}
"""What a length counts, where that is not bytes."""
NAMES_SHOWN_MAX = 12


def number(value: int, size_bytes: int) -> bytes:
    """An integer as a field of that size has it: big-endian, in two's complement below zero.

    Raises:
        EditError: it does not fit.
    """
    try:
        return value.to_bytes(size_bytes, "big", signed=value < 0)
    except OverflowError:
        raise EditError(f"{value:#x} does not fit into its {size_bytes} bytes") from None


def flipped(raw: bytes, mask: bytes) -> bytes:
    """Bytes with those bits flipped that the mask has, which is as long."""
    return bytes(a ^ b for a, b in zip(raw, mask, strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an edited stream, what they were read as, and where their fields are now."""

    raw: bytes
    value: Value | None = None  # None: put in as bytes
    spans: tuple[Span, ...] = ()
    in_package: bool = False

    @staticmethod
    def of_value(value: Value) -> Piece:
        """A value as it is written, with the fields that it would be read with."""
        return Piece(encode(value), value, fields_of(value))

    @staticmethod
    def of(element: Element, layout: Layout | None = None) -> Piece:
        """What an element is, with the fields that a layout knows of a device's payload.

        Raises:
            EditError: it is a run of pages, whose bytes are not in it.
        """
        if isinstance(element, RunElement):
            raise EditError("a run of pages cannot be edited: read the stream without runs")
        spans = element.spans
        if layout is not None and element.section is not None and not spans:
            key = element.section.idstr, element.section.instance_id, element.occurrence
            if layout.size(*key) == len(element.raw):
                spans = tuple(layout.spans(*key))
        return Piece(element.raw, element.value, spans, element.in_package)

    def span(self, name: str) -> Span:
        """The field of that name.

        Raises:
            EditError: there is none.
        """
        for span in self.spans:
            if span.name == name:
                return span
        names = [span.name for span in self.spans[:NAMES_SHOWN_MAX]]
        more = ", ..." if len(self.spans) > NAMES_SHOWN_MAX else ""
        has = f"it has {', '.join(names)}{more}" if names else "it has none"
        what = "these bytes" if self.value is None else type(self.value).__name__
        raise EditError(f"{what}: no field {name!r}; {has}")

    def field(self, name: str) -> int:
        """The big-endian number in a field."""
        span = self.span(name)
        return int.from_bytes(self.raw[span.start : span.start + span.size_bytes], "big")

    def set(self, name: str, value: int | bytes) -> Piece:
        """The piece with a field set to a value of the same size.

        Raises:
            EditError: it has no such field, or the value does not fit.
        """
        span = self.span(name)
        if isinstance(value, int):
            value = number(value, span.size_bytes)
        if len(value) != span.size_bytes:
            raise EditError(f"{len(value)} bytes for field {name!r}, which has {span.size_bytes}")
        return replace(self, raw=_spliced(self.raw, span, value))

    def add(self, name: str, more: int) -> Piece:
        """The piece with the number in a field larger by so much, or smaller.

        Raises:
            EditError: it has no such field, or the sum does not fit.
        """
        value = self.field(name) + more
        if value < 0:
            raise EditError(f"{type(self.value).__name__}: {name!r} would be {value}")
        return self.set(name, value)

    def resize(self, name: str, value: bytes, *, mend: bool = True) -> Piece:
        """The piece with a field replaced by bytes of any number.

        Args:
            name: the field.
            value: all of its new bytes.
            mend: set the field that says its length, if there is one.

        Raises:
            EditError: it has no such field, or the one for its length cannot say it.
        """
        span = self.span(name)
        at, more = self.spans.index(span), len(value) - span.size_bytes
        behind = (replace(each, start=each.start + more) for each in self.spans[at + 1 :])
        spans = *self.spans[:at], replace(span, size_bytes=len(value)), *behind
        piece = replace(self, raw=_spliced(self.raw, span, value), spans=spans)
        length = self._length_of(name)
        if not mend or length is None:
            return piece
        unit = UNITS_BYTES.get(length, 1)
        if len(value) % unit:
            raise EditError(f"{len(value)} bytes for field {name!r}: {length!r} counts {unit} each")
        return piece.set(length, len(value) // unit)

    def _length_of(self, name: str) -> str | None:
        """The field that says how long that one is; of a device's fields nobody knows."""
        if isinstance(self.value, Payload):
            return None
        names = {span.name for span in self.spans}
        return next((each for each in LENGTHS.get(name, ()) if each in names), None)


def _spliced(raw: bytes, span: Span, value: bytes) -> bytes:
    return raw[: span.start] + value + raw[span.start + span.size_bytes :]


def fields_of(value: Value) -> tuple[Span, ...]:
    """The fields that the parsers give the element of a value; a `LiveRecord`'s only they know."""
    match value:
        case RamPage(block, _, flags, data):
            head = U64.size if flags & RamFlag.CONTINUE else U64.size + 1 + len(block)
            prefix = XBZRLE.size if flags & RamFlag.XBZRLE else 0
            prefix = U32.size if flags & RamFlag.COMPRESS_PAGE else prefix
            return spans.page(head, prefix, len(data))
        case RamTotal() | RamMark():
            return spans.RECORD
        case RamBlock(idstr, _, page_bytes, address, mapped):
            optional = (each is not None for each in (page_bytes, address, mapped))
            return spans.ram_block(len(idstr), *optional)
        case SectionHeader(kind, _, idstr):
            is_short = kind in (SectionType.PART, SectionType.END)
            return spans.SECTION_SHORT if is_short else spans.section(len(idstr))
        case SectionFooter():
            return spans.FOOTER
        case Command(_, payload):
            return spans.command(len(payload))
        case Message(_, payload, bitmap):
            return spans.message(len(payload), len(bitmap) - 2 * U64.size if bitmap else -1)
        case MultifdPacket():
            slots = len(value.offsets) // U64.size
            return spans.multifd_packet(value.normal_pages, value.zero_pages, slots)
        case MultifdPages(_, offsets, data) if offsets:
            return spans.multifd_pages(len(offsets), len(data) // len(offsets))
        case TlsRecord(_, _, data):
            return spans.tls_record(len(data))
        case _:
            return _fields_once(value)


def _fields_once(value: Value) -> tuple[Span, ...]:
    """Of what a stream has once."""
    match value:
        case FileHeader():
            return spans.FILE_HEADER
        case Configuration(machine):
            return spans.configuration(len(machine))
        case ConfigurationSubsection(name, _, payload):
            return spans.subsection(len(name), len(payload))
        case EndOfStream():
            return spans.EOF
        case VmDescription(text):
            return spans.vmdesc(len(text))
        case MultifdInit():
            return spans.MULTIFD_INIT
        case MultifdDeviceState():
            return spans.MULTIFD_DEVICE_STATE
        case _:
            return ()
