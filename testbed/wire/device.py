"""Sections whose payload nobody can read: where they end, by layout or by what stands there."""

from __future__ import annotations

from collections.abc import Sequence

from .element import SectionHeader, SectionType
from .error import StreamError
from .reader import Reader, Story
from .structs import SECTION
from .successor import Successors

EOF = bytes([SectionType.EOF])
PAYLOAD_BYTES_MAX = 256 << 20
"""Of such a section: so much is held to find its end. QEMU has no bound. `virtio-gpu` saves the
images of a guest (`max_hostmem`, 256 MiB), `s390-skeys` a byte for each 4 KiB of memory (256 MiB
for 1 TiB), `spapr_iommu` 8 bytes for each page that a device may reach (2 MiB without any)."""


def read_unreadable(
    reader: Reader, header: SectionHeader, successors: Successors, inside: str
) -> Story[None]:
    """Read up to the section's footer into `reader.held`.

    The footer counts if something legal follows it. When the channel ends, it also counts if what
    follows was cut and agrees so far; when it falls silent, only if the EOF byte follows, for
    which a source without vmdesc may wait for ever behind it.

    Raises:
        StreamError: no such footer within the bound, or within the package.
        Cut: the channel ended before it.
    """
    footer = SECTION.pack(SectionType.FOOTER, header.section_id)
    while True:
        hit = reader.data.find(footer, reader.pos, reader.stop)
        if hit < 0:
            # Its first bytes may be in hand.
            reader.hold(max(0, reader.available - SECTION.size + 1))
            _check_held(reader, inside)
            yield from reader.need(reader.available + 1, f"{inside}, before its footer")
            continue
        reader.hold(hit - reader.pos)
        _check_held(reader, inside)
        verdict = successors.judge(reader, SECTION.size)
        if verdict is False:
            reader.hold(1)
        elif verdict or reader.ended or (reader.silent and _is_eof(reader, SECTION.size)):
            return
        else:
            yield from reader.wait(reader.available + 1)


def read_learned(
    reader: Reader, sizes: Sequence[int], footer: bytes, successors: Successors
) -> Story[bool]:
    """Read a payload of one of these sizes, ascending, into `reader.held`; false if none fits.

    One fits if the footer stands behind it, and something legal behind that: the section may have
    grown since, and imitate its footer there. `footer` is empty in a stream without any.
    """
    for size in sizes:
        end = size + len(footer)
        if size > PAYLOAD_BYTES_MAX or _crosses(reader, end):
            return False
        while reader.available < end:
            if reader.ended or reader.silent:
                return False
            yield from reader.wait(end)
        stands = reader.data[reader.pos + size : reader.pos + end] == footer
        if stands and (yield from _follows(reader, end, successors)):
            reader.hold(size)
            return True
    return False


def _crosses(reader: Reader, count: int) -> bool:
    return reader.limit is not None and reader.offset + count > reader.limit


def _follows(reader: Reader, skip: int, successors: Successors) -> Story[bool]:
    """Whether something legal follows `skip` bytes ahead, or may, as far as anybody will know."""
    while (verdict := successors.judge(reader, skip)) is None:
        if reader.ended or (reader.silent and _is_eof(reader, skip)):
            return True
        yield from reader.wait(reader.available + 1)
    return verdict


def _is_eof(reader: Reader, skip: int) -> bool:
    return reader.data[reader.pos + skip : reader.stop] == EOF


def _check_held(reader: Reader, inside: str) -> None:
    if len(reader.held) > PAYLOAD_BYTES_MAX:
        raise StreamError(
            offset=reader.offset,
            inside=inside,
            expected=f"its footer within {PAYLOAD_BYTES_MAX} bytes",
            got="none that anything legal follows",
        )
