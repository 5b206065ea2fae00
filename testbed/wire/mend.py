"""What an edit changes elsewhere: elements that say how much comes behind them.

PACKAGED says how many bytes lie in it, a RAM block list's total what its blocks use, the header of
a multifd packet how many bytes and which pages follow. Each is changed by what was added or taken
away, so that a number that was set to something else on purpose stays as wrong as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from . import spans
from .element import (
    Command,
    CommandType,
    MappedBitmap,
    MappedGap,
    MappedPages,
    RamBlock,
    RamTotal,
)
from .error import EditError
from .packet import MultifdDeviceState, MultifdPacket, MultifdPages, MultifdPayload
from .piece import Piece
from .structs import MULTIFD_PACKET, U64

USED_LENGTH_UNIT = 1024
"""The smallest target page: what is less of a total would be flags of its record."""


def announces_package(piece: Piece) -> bool:
    """True of the command PACKAGED: what follows lies in the package."""
    value = piece.value
    return isinstance(value, Command) and value.command == CommandType.PACKAGED


def mend_heads(
    was: Sequence[Piece], pieces: list[Piece], index: int, removed: int, added: int
) -> None:
    """Have what precedes an edit say what follows now.

    Args:
        was: all pieces before the edit.
        pieces: all pieces after it; those that say what follows are replaced.
        index: of the first piece that was edited.
        removed: pieces of `was` from there on that are no more.
        added: pieces that are there instead.

    Raises:
        EditError: what would have to be said cannot be.
    """
    for total in TOTALS:
        more = sum(total.share(piece) or 0 for piece in pieces[index : index + added])
        more -= sum(total.share(piece) or 0 for piece in was[index : index + removed])
        head = _head(pieces, index, total) if more else None
        if head is None or (removed and _is_beyond(was, head, index, total)):
            continue
        if more % total.unit:
            raise EditError(f"{total.field!r} counts {total.unit} bytes each: not {more} more")
        stale = pieces[head].field(total.field) - total.said(pieces[head])
        pieces[head] = pieces[head].add(total.field, more - stale)
        if isinstance(pieces[head].value, MultifdPacket):
            before, now = list(_pages(was, head)), list(_pages(pieces, head))
            pieces[head] = _with_pages(pieces[head], before, now)


@dataclass(frozen=True, slots=True)
class _Total:
    """A number in a head: the sum of the shares of what follows it."""

    field: str
    heads: Callable[[Piece], bool]
    share: Callable[[Piece], int | None]  # None: the head says nothing of it, or of what follows
    unit: int = 1

    def said(self, head: Piece) -> int:
        """The number, but of a packet without pages, whose size may be an earlier packet's."""
        if isinstance(head.value, MultifdPacket) and not head.field("normal_pages"):
            return 0
        return head.field(self.field)


def _head(pieces: Sequence[Piece], index: int, total: _Total) -> int | None:
    """The head that what is at `index` belongs to, if it does to any."""
    for at in range(index - 1, -1, -1):
        if total.heads(pieces[at]):
            return at
        if total.share(pieces[at]) is None:
            break
    return None


def _is_beyond(was: Sequence[Piece], head: int, index: int, total: _Total) -> bool:
    """True of a payload whose own header was taken out: the one before says where its own ends."""
    if total.share is not _sent_bytes:
        return False
    before = sum(total.share(piece) or 0 for piece in was[head + 1 : index])
    return before >= total.said(was[head])


def _in_package(piece: Piece) -> int | None:
    return len(piece.raw) if piece.in_package else None


def _used_bytes(piece: Piece) -> int | None:
    match piece.value:
        case RamBlock():
            return piece.field("used_length")
        case None | MappedBitmap() | MappedGap() | MappedPages():
            return 0
    return None


def _sent_bytes(piece: Piece) -> int | None:
    match piece.value:
        case MultifdPages() | MultifdPayload():
            return len(piece.raw)
        case None:
            return 0
    return None


TOTALS = (
    _Total("payload", announces_package, _in_package),
    _Total(
        "record", lambda piece: isinstance(piece.value, RamTotal), _used_bytes, USED_LENGTH_UNIT
    ),
    _Total(
        "next_packet_size",
        lambda piece: isinstance(piece.value, MultifdPacket | MultifdDeviceState),
        _sent_bytes,
    ),
)


def _pages(pieces: Sequence[Piece], head: int) -> Iterator[int]:
    """Offsets in bytes, within the block, of the pages behind a packet's header."""
    behind = islice(pieces, head + 1, None)
    for piece in takewhile(lambda piece: _sent_bytes(piece) is not None, behind):
        if isinstance(piece.value, MultifdPages):
            yield from _pages_in(piece, piece.value)


def _pages_in(piece: Piece, value: MultifdPages) -> Iterator[int]:
    page_bytes = len(value.data) // len(value.offsets_bytes)
    if piece.raw and not piece.spans:
        raise EditError(f"{len(piece.raw)} bytes without fields: which pages are they?")
    for offset, span in zip(value.offsets_bytes, piece.spans, strict=False):
        if span.size_bytes not in (0, page_bytes):
            raise EditError(f"{span.size_bytes} bytes for {span.name!r}: {page_bytes}, or none")
        if span.size_bytes:
            yield offset


def _with_pages(header: Piece, was: list[int], now: list[int]) -> Piece:
    """The header of a packet of other pages; offsets of pages that stay are left as they are."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False)))
    first = MULTIFD_PACKET.size + U64.size * same
    last = MULTIFD_PACKET.size + U64.size * len(was)
    while len(was) > same < len(now) and was[-1] == now[-1]:
        was, now, last = was[:-1], now[:-1], last - U64.size
    more = len(now) - len(was)
    zeros = sum(span.name.startswith("zero_offset") for span in header.spans)
    slots = (len(header.raw) - MULTIFD_PACKET.size) // U64.size
    normal = header.field("normal_pages") + more
    if not 0 <= normal <= slots - zeros:
        raise EditError(f"{normal} pages: the packet's header has room for {slots - zeros}")
    raw = header.raw[:first] + b"".join(map(U64.pack, now[same:])) + header.raw[last:]
    raw = raw[: len(header.raw)].ljust(len(header.raw), b"\0")
    header = replace(header, raw=raw, spans=spans.multifd_packet(normal, zeros, slots))
    alloc = max(header.field("pages_alloc"), normal + zeros)
    return header.set("normal_pages", normal).set("pages_alloc", alloc)
