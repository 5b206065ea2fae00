"""Edits of a stream: fields set or resized, elements put in, taken out, doubled, exchanged.

What depends on an edit is mended, or deliberately left as it was: an element's own length fields,
the size of the package that it lies in, the total of a RAM block list, the size of the payload that
a multifd packet announces. Nothing else changes, and no other byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .element import Command, CommandType, Element, RamBlock, RamTotal, Span, Value
from .layout import Layout
from .packet import MultifdDeviceState, MultifdPacket, MultifdPages, MultifdPayload

LENGTHS = {
    "idstr": "idstr_length",
    "machine": "length",
    "text": "length",
    "payload": "length",
    "data": "length",
    "bitmap": "bitmap_size",
}
"""Fields of any size, and the one that says how long they are, if the element has it."""
NAMES_SHOWN_MAX = 12


class EditError(ValueError):
    """The edit cannot be made; the text says why, and what could be."""


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
    def of(element: Element, layout: Layout | None = None) -> Piece:
        """What an element is, with the fields that a layout knows of a device's payload."""
        spans = element.spans
        if layout is not None and element.section is not None and not spans:
            key = element.section.idstr, element.section.instance_id
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

    def resize(self, name: str, value: bytes, *, mend: bool = True) -> Piece:
        """The piece with a field replaced by bytes of any number.

        Args:
            name: the field.
            value: all of its new bytes.
            mend: set the field that says its length, if there is one.

        Raises:
            EditError: it has no such field, or its length cannot be said.
        """
        span = self.span(name)
        more = len(value) - span.size_bytes
        spans = tuple(
            replace(each, size_bytes=len(value))
            if each is span
            else replace(each, start=each.start + more * (each.start > span.start))
            for each in self.spans
        )
        piece = replace(self, raw=_spliced(self.raw, span, value), spans=spans)
        length = LENGTHS.get(name)
        if mend and any(each.name == length for each in spans):
            assert length is not None, "a name of one of the spans"
            piece = piece.set(length, len(value))
        return piece


def _spliced(raw: bytes, span: Span, value: bytes) -> bytes:
    return raw[: span.start] + value + raw[span.start + span.size_bytes :]


class Stream:
    """The elements of one channel, to be edited by their index; `bytes(stream)` is what it is.

    Every edit takes `mend`: whether what depends on it outside of the element is mended, too.
    """

    def __init__(self, elements: Iterable[Element], layout: Layout | None = None) -> None:
        self._pieces = [Piece.of(element, layout) for element in elements]

    def __bytes__(self) -> bytes:
        return b"".join(piece.raw for piece in self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Piece:
        return self._pieces[index]

    def set(self, index: int, name: str, value: int | bytes, *, mend: bool = True) -> None:
        """Set a field of an element; see `Piece.set`."""
        self._replace(index, 1, [self._pieces[index].set(name, value)], mend=mend)

    def resize(self, index: int, name: str, value: bytes, *, mend: bool = True) -> None:
        """Replace a field of an element by bytes of any number; see `Piece.resize`."""
        piece = self._pieces[index].resize(name, value, mend=mend)
        self._replace(index, 1, [piece], mend=mend)

    def insert(self, index: int, what: bytes | Element | Piece, *, mend: bool = True) -> None:
        """Put something before the element at `index`: into the package that this one lies in."""
        match what:
            case Element():
                what = Piece.of(what)
            case bytes():
                what = Piece(what)
        there = self._pieces[min(index, len(self) - 1)].in_package if self._pieces else False
        self._replace(index, 0, [replace(what, in_package=there)], mend=mend)

    def delete(self, index: int, *, mend: bool = True) -> None:
        """Take an element out."""
        self._replace(index, 1, [], mend=mend)

    def duplicate(self, index: int, *, mend: bool = True) -> None:
        """Have an element twice."""
        self._replace(index, 1, [self._pieces[index]] * 2, mend=mend)

    def swap(self, index: int) -> None:
        """Exchange an element with the next one.

        Raises:
            EditError: there is no next one, or a package begins or ends between them.
        """
        pair = self._pieces[index : index + 2]
        if len(pair) < 2:
            raise EditError("there is no next element to exchange it with")
        if pair[0].in_package != pair[1].in_package:
            raise EditError("a package begins or ends between the element and the next one")
        self._pieces[index : index + 2] = pair[::-1]

    def _replace(self, index: int, count: int, new: Sequence[Piece], *, mend: bool) -> None:
        old = self._pieces[index : index + count]
        if len(old) < count or index > len(self):
            raise EditError(f"there is no element {index}, only {len(self)}")
        pieces = [*self._pieces[:index], *new, *self._pieces[index + count :]]
        if mend:
            for dependency in (_PACKAGE, _BLOCK_LIST, _MULTIFD):
                more = sum(map(dependency.share, new)) - sum(map(dependency.share, old))
                if more:
                    _mend(pieces, index, dependency, more)
        self._pieces = pieces


class _Package:
    """PACKAGED says how many bytes lie in it."""

    field = "payload"

    @staticmethod
    def heads(piece: Piece) -> bool:
        value = piece.value
        return isinstance(value, Command) and value.command == CommandType.PACKAGED

    @staticmethod
    def share(piece: Piece) -> int:
        return len(piece.raw) if piece.in_package else 0


class _BlockList:
    """The total of a block list is the sum of what its blocks use."""

    field = "record"

    @staticmethod
    def heads(piece: Piece) -> bool:
        return isinstance(piece.value, RamTotal)

    @staticmethod
    def share(piece: Piece) -> int:
        return piece.field("used_length") if isinstance(piece.value, RamBlock) else 0


class _Multifd:
    """A packet's header says how long its payload is."""

    field = "next_packet_size"

    @staticmethod
    def heads(piece: Piece) -> bool:
        return isinstance(piece.value, MultifdPacket | MultifdDeviceState)

    @staticmethod
    def share(piece: Piece) -> int:
        return len(piece.raw) if isinstance(piece.value, MultifdPages | MultifdPayload) else 0


_PACKAGE, _BLOCK_LIST, _MULTIFD = _Package(), _BlockList(), _Multifd()
_Dependency = _Package | _BlockList | _Multifd


def _mend(pieces: list[Piece], index: int, dependency: _Dependency, more: int) -> None:
    """Add to what the last head before `index` says; without one nothing depends on the edit."""
    for at in range(index - 1, -1, -1):
        if dependency.heads(pieces[at]):
            said = pieces[at].field(dependency.field)
            pieces[at] = pieces[at].set(dependency.field, said + more)
            return
