"""Edits of a stream: fields set or resized, elements put in, taken out, doubled, exchanged.

What depends on an edit is mended, or deliberately left as it was: an element's own length fields,
and what an earlier element says of it (`mend.py`). Nothing else changes, and no other byte; what a
vmdesc says of device sections, and where regions of a mapped-ram file lie, stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .element import Element, Value
from .error import EditError
from .layout import Layout
from .mend import announces_package, mend_heads
from .piece import Piece


class Stream:
    """The elements of one channel, to be edited by their index; `bytes(stream)` is what it is.

    Every edit takes `mend`: whether what depends on it outside of the element is mended, too.
    """

    def __init__(self, elements: Iterable[Element], layout: Layout | None = None) -> None:
        self._pieces = [Piece.of(element, layout) for element in elements]

    def copy(self) -> Stream:
        """The same once more, to be edited by itself."""
        other = Stream(())
        other._pieces[:] = self._pieces
        return other

    def __bytes__(self) -> bytes:
        return b"".join(piece.raw for piece in self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Piece:
        return self._pieces[index]

    def set(self, index: int, name: str, value: int | bytes, *, mend: bool = True) -> None:
        """Set a field of an element; see `Piece.set`."""
        self._replace(index, 1, [self._at(index).set(name, value)], mend=mend)

    def resize(self, index: int, name: str, value: bytes, *, mend: bool = True) -> None:
        """Replace a field of an element by bytes of any number; see `Piece.resize`."""
        piece = self._at(index).resize(name, value, mend=mend)
        self._replace(index, 1, [piece], mend=mend)

    def replace(self, index: int, raw: bytes, *, mend: bool = True) -> None:
        """Put other bytes in the place of an element's, as of a payload that has no fields.

        Of another size they have no fields either.
        """
        piece = self._at(index)
        spans = piece.spans if len(raw) == len(piece.raw) else ()
        self._replace(index, 1, [replace(piece, raw=raw, spans=spans)], mend=mend)

    def insert(
        self,
        index: int,
        what: bytes | Value | Element | Piece,
        *,
        after: bool = False,
        mend: bool = True,
    ) -> None:
        """Put something before the element at `index`, or after it.

        It lies in the package that this one lies in; after PACKAGED, in the one that it announces.
        At index `len(stream)` it comes after the last element.
        """
        at = index
        if self._pieces and index == len(self):
            at, after = index - 1, True
        in_package = False
        if self._pieces or index:
            there = self._at(at)
            in_package = there.in_package or (after and announces_package(there))
        match what:
            case Piece():
                piece = what
            case Element():
                piece = Piece.of(what)
            case bytes():
                piece = Piece(what)
            case _:
                piece = Piece.of_value(what)
        self._replace(at + after, 0, [replace(piece, in_package=in_package)], mend=mend)

    def delete(self, index: int, *, mend: bool = True) -> None:
        """Take an element out."""
        self._at(index)
        self._replace(index, 1, [], mend=mend)

    def duplicate(self, index: int, *, mend: bool = True) -> None:
        """Have an element twice."""
        self._replace(index, 1, [self._at(index)] * 2, mend=mend)

    def swap(self, index: int) -> None:
        """Exchange an element with the next one.

        Raises:
            EditError: there is no next one, or a package begins or ends between them.
        """
        pair = [self._at(index), *self._pieces[index + 1 : index + 2]]
        if len(pair) < 2:
            raise EditError("there is no next element to exchange it with")
        if pair[0].in_package != pair[1].in_package:
            raise EditError("a package begins or ends between the element and the next one")
        self._pieces[index : index + 2] = pair[::-1]

    def _at(self, index: int) -> Piece:
        if not 0 <= index < len(self):
            raise EditError(f"there is no element {index}, only {len(self)}")
        return self._pieces[index]

    def _replace(self, index: int, count: int, new: Sequence[Piece], *, mend: bool) -> None:
        """Have other pieces there; where they cannot be mended, nothing changes."""
        pieces = [*self._pieces[:index], *new, *self._pieces[index + count :]]
        if mend:
            mend_heads(self._pieces, pieces, index, count, len(new))
        self._pieces = pieces
