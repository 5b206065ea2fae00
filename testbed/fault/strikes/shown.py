"""Bytes in the log: the first of them, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

from .kept import Kept

HEX_BYTES_MAX = 32


@dataclass(frozen=True, slots=True)
class Shown:
    """Some bytes, of which `first` are told."""

    first: bytes = b""
    size_bytes: int = 0

    @classmethod
    def of(cls, data: bytes) -> Shown:
        """All of these."""
        return cls(data[:HEX_BYTES_MAX], len(data))

    @classmethod
    def kept(cls, kept: Kept, start: int, end: int) -> Shown:
        """Those from offset `start` to `end`, which have not gone on yet."""
        return cls(kept.take(start, min(end, start + HEX_BYTES_MAX)), end - start)

    def __add__(self, other: Shown) -> Shown:
        first = (self.first + other.first)[:HEX_BYTES_MAX]
        return Shown(first, self.size_bytes + other.size_bytes)

    def facts(self, name: str) -> dict[str, object]:
        """For the log."""
        return {name: self.first.hex(), f"{name}_bytes": self.size_bytes}
