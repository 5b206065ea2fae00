"""Device sections cut as a vmdesc says: exactly, but only once it is there.

Header, payload of the described size, footer where the stream has them, and the next header: if
that leads to the EOF byte and the vmdesc, each boundary is true, whatever the payloads imitate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .element import SectionHeader, SectionType
from .error import StreamError
from .layout import Layout
from .reader import Reader, Story
from .structs import IDS, SECTION, U32
from .vmdesc import TEXT_BYTES_MAX, Device

HELD_BYTES_MAX = 256 << 20
"""Of a device phase without footers, held until its vmdesc: as of one section, `device.py`."""
CANDIDATES_MAX = 16
"""Of places that look like EOF and vmdesc, and are read as such. A guest can make any number of
them; by chance there is none, for it takes eight bytes."""
EOF = bytes([SectionType.EOF])
CANDIDATE = re.compile(rb'\x00\x06(.{4})\{ ?"', re.DOTALL)
CANDIDATE_BYTES_MAX = 9


class Described(NamedTuple):
    """A device section: where its header, payload, footer and what follows begin in the bytes."""

    header: SectionHeader
    start: int
    payload: int
    footer: int
    end: int


def header_at(data: bytes | bytearray, at: int) -> tuple[SectionHeader, int] | None:
    """The header of a FULL section that stands there, and where it ends."""
    if len(data) < at + 6 or data[at] != SectionType.FULL:
        return None
    ids_at = at + 6 + data[at + 5]
    if len(data) < ids_at + IDS.size:
        return None
    (section_id,) = U32.unpack_from(data, at + 1)
    idstr = data[at + 6 : ids_at].decode("latin-1")
    ids = IDS.unpack_from(data, ids_at)
    return SectionHeader(SectionType.FULL, section_id, idstr, *ids), ids_at + IDS.size


def walk(data: bytes | bytearray, devices: Sequence[Device]) -> list[Described]:
    """Cut these device sections from `data`, which begins with the header of the first one.

    Ends where another header stands than must, or a footer is missing that others have.
    """
    cut: list[Described] = []
    at = 0
    for device in devices:
        found = header_at(data, at)
        if found is None:
            break
        header, payload = found
        if (header.idstr, header.instance_id) != (device.idstr, device.instance_id):
            break
        footer = payload + device.size_bytes
        mark = SECTION.pack(SectionType.FOOTER, header.section_id)
        has_footer = data[footer : footer + len(mark)] == mark
        if cut and has_footer != (cut[0].footer < cut[0].end):
            break
        end = footer + len(mark) if has_footer else footer
        cut.append(Described(header, at, payload, footer, end))
        at = end
    return cut


def described_at(
    data: bytes | bytearray, eof_at: int, length: int, index: int
) -> tuple[Layout, list[Described]] | None:
    """The vmdesc behind that EOF byte, and the sections cut by it; None if they do not fit.

    Args:
        data: begins with a header.
        eof_at: where EOF may stand, before 0x06, be32 `length` and as many bytes.
        length: as above.
        index: how many device sections precede `data`.
    """
    text_at = eof_at + 1 + SECTION.size
    if len(data) < text_at + length:
        return None
    try:
        layout = Layout.parse(bytes(data[text_at : text_at + length]))
    except StreamError:
        return None
    devices = layout.devices[index:]
    cut = walk(data, devices)
    fits = cut and len(cut) == len(devices) and cut[-1].end == eof_at
    return (layout, cut) if fits else None


def read_described(reader: Reader, header: bytes, index: int, inside: str) -> Story[list[int]]:
    """Wait for the vmdesc; nothing is read. The sizes of this payload and of all that follow it.

    Args:
        reader: at the payload of a FULL section of a stream without footers.
        header: that section's.
        index: how many device sections precede it.
        inside: what is being read, for the error.

    Raises:
        StreamError: the channel ended, or too much was held, and no vmdesc fits.
    """
    searched = 0
    for _ in range(CANDIDATES_MAX):
        eof_at, length = yield from _candidate(reader, searched, inside)
        yield from _hold_to(reader, eof_at + 1 + SECTION.size + length)
        data = header + reader.held
        found = described_at(data, len(header) + eof_at, length, index)
        if found is not None:
            reader.put_back()
            return [each.footer - each.payload for each in found[1]]
        searched = eof_at + 1
    raise _unknown(reader, inside, f"{CANDIDATES_MAX} that do not fit")


def _candidate(reader: Reader, searched: int, inside: str) -> Story[tuple[int, int]]:
    """Where in `held`, from `searched` on, EOF and a vmdesc of which length may stand."""
    while True:
        found = CANDIDATE.search(reader.held, searched)
        if found is not None:
            searched, length = found.start() + 1, int.from_bytes(found[1], "big")
            if length <= TEXT_BYTES_MAX:
                return searched - 1, length
            continue
        searched = max(searched, len(reader.held) - CANDIDATE_BYTES_MAX + 1)
        if len(reader.held) > HELD_BYTES_MAX:
            raise _unknown(reader, inside, f"none within {HELD_BYTES_MAX} bytes")
        if not reader.available:
            if reader.ended:
                raise _unknown(reader, inside, "the end of the channel")
            if reader.silent and reader.held[-1:] == EOF:
                raise _unknown(reader, inside, "silence behind what may be EOF")
            yield from reader.wait(1)
        reader.hold(reader.available)


def _hold_to(reader: Reader, count: int) -> Story[None]:
    """Hold until so many bytes are held, or no more come for now."""
    reader.hold(reader.available)
    while len(reader.held) < count and not (reader.ended or reader.silent):
        yield from reader.wait(count - len(reader.held))
        reader.hold(reader.available)


def _unknown(reader: Reader, inside: str, got: str) -> StreamError:
    return StreamError(
        offset=reader.offset - len(reader.held),
        inside=inside,
        expected="a vmdesc, for sections without footers end where it or a learned layout says",
        got=got,
    )
