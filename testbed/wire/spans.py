"""The named fields of each element, as the places of a fault name them.

Computed once per shape: elements of equal shape share one tuple.
"""

from __future__ import annotations

from functools import lru_cache

from .element import Span

SHAPES_MAX = 1024


def fields(*sizes: tuple[str, int]) -> tuple[Span, ...]:
    """Fields that lie back to back from the element's first byte: (name, size in bytes) each."""
    spans, start = [], 0
    for name, size_bytes in sizes:
        spans.append(Span(name, start, size_bytes))
        start += size_bytes
    return tuple(spans)


FILE_HEADER = fields(("magic", 4), ("version", 4))
SECTION_SHORT = fields(("type", 1), ("section_id", 4))
FOOTER = fields(("mark", 1), ("section_id", 4))
RECORD = fields(("record", 8))
EOF = fields(("type", 1))
MULTIFD_INIT = fields(
    ("magic", 4), ("version", 4), ("uuid", 16), ("channel_id", 1), ("reserved", 39)
)
MULTIFD_DEVICE_STATE = fields(
    ("magic", 4),
    ("version", 4),
    ("flags", 4),
    ("idstr", 256),
    ("instance_id", 4),
    ("next_packet_size", 4),
)


MAPPED_RAM = (
    ("mapped_ram_version", 4),
    ("mapped_ram_page_size", 8),
    ("bitmap_offset", 8),
    ("pages_offset", 8),
)


@lru_cache(SHAPES_MAX)
def configuration(machine: int) -> tuple[Span, ...]:
    """Of a configuration whose machine name has that many bytes."""
    return fields(("type", 1), ("length", 4), ("machine", machine))


@lru_cache(SHAPES_MAX)
def subsection(idstr: int, payload: int) -> tuple[Span, ...]:
    """Of a subsection of the configuration."""
    return fields(
        ("type", 1), ("idstr_length", 1), ("idstr", idstr), ("version_id", 4), ("payload", payload)
    )


@lru_cache(SHAPES_MAX)
def section(idstr: int) -> tuple[Span, ...]:
    """Of the header of a START or FULL section."""
    return fields(
        ("type", 1),
        ("section_id", 4),
        ("idstr_length", 1),
        ("idstr", idstr),
        ("instance_id", 4),
        ("version_id", 4),
    )


@lru_cache(SHAPES_MAX)
def command(payload: int) -> tuple[Span, ...]:
    """Of a command; its number's two bytes are `command`."""
    return fields(("type", 1), ("command", 2), ("length", 2), ("payload", payload))


@lru_cache(SHAPES_MAX)
def message(payload: int, bitmap: int) -> tuple[Span, ...]:
    """Of a message; `bitmap` counts the bits' bytes alone, -1: there is none."""
    head = (("type", 2), ("length", 2), ("payload", payload))
    if bitmap < 0:
        return fields(*head)
    return fields(*head, ("bitmap_size", 8), ("bitmap", bitmap), ("end_mark", 8))


@lru_cache(SHAPES_MAX)
def vmdesc(text: int) -> tuple[Span, ...]:
    """Of the vmdesc."""
    return fields(("type", 1), ("length", 4), ("text", text))


@lru_cache(SHAPES_MAX)
def ram_block(idstr: int, page_size: bool, address: bool, mapped: bool) -> tuple[Span, ...]:
    """Of an entry of the block list."""
    return fields(
        ("idstr_length", 1),
        ("idstr", idstr),
        ("used_length", 8),
        *((("page_size", 8),) if page_size else ()),
        *((("guest_physical_address", 8),) if address else ()),
        *(MAPPED_RAM if mapped else ()),
    )


@lru_cache(SHAPES_MAX)
def page(head: int, prefix: int, data: int) -> tuple[Span, ...]:
    """Of a page record: `head` bytes of be64 and idstr, `prefix` of what precedes its data."""
    return fields(
        ("record", 8),
        *((("idstr_length", 1), ("idstr", head - 9)) if head > 8 else ()),
        *((("encoding", 1),) if prefix == 3 else ()),
        *((("length", 4 if prefix == 4 else 2),) if prefix else ()),
        ("data", data),
    )


@lru_cache(SHAPES_MAX)
def multifd_packet(normal: int, zero: int, slots: int) -> tuple[Span, ...]:
    """Of the header of a packet with so many pages, zero pages, and offsets in all."""
    unused = 8 * (slots - normal - zero)
    return fields(
        ("magic", 4),
        ("version", 4),
        ("flags", 4),
        ("pages_alloc", 4),
        ("normal_pages", 4),
        ("next_packet_size", 4),
        ("packet_num", 8),
        ("zero_pages", 4),
        ("reserved", 28),
        ("block", 256),
        *((f"offset[{n}]", 8) for n in range(normal)),
        *((f"zero_offset[{n}]", 8) for n in range(zero)),
        *((("unused_offsets", unused),) if unused else ()),
    )


@lru_cache(SHAPES_MAX)
def multifd_pages(count: int, page_bytes: int) -> tuple[Span, ...]:
    """Of the pages of a packet."""
    return fields(*((f"page[{n}]", page_bytes) for n in range(count)))


@lru_cache(SHAPES_MAX)
def tls_record(data: int) -> tuple[Span, ...]:
    """Of a TLS record."""
    return fields(("type", 1), ("version", 2), ("length", 2), ("data", data))
