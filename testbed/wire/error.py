"""The errors of this room: bytes that are not the stream we know, edits that cannot be made."""

from __future__ import annotations

CUT_SHORT = "cut short"
"""How the text of a `Cut` begins."""


class StreamError(Exception):
    """The bytes on a channel are not the stream we know: a peer's fault, never ours.

    `offset` counts from the channel's first byte (in a vmdesc: from its text's first); `inside`
    names what was being read there, `expected` and `got` what should and what did follow.
    """

    def __init__(self, *, offset: int, inside: str, expected: str, got: str) -> None:
        super().__init__(f"offset {offset:#x}, in {inside}: expected {expected}, got {got}")
        self.offset, self.inside, self.expected, self.got = offset, inside, expected, got


class Cut(StreamError):
    """The connection ended inside `inside`, or where it should have begun."""

    def __init__(self, *, offset: int, inside: str, expected: str, got: str) -> None:
        super().__init__(offset=offset, inside=inside, expected=expected, got=got)
        self.args = (
            f"{CUT_SHORT} at offset {offset:#x}, in {inside}: expected {expected}, got {got}",
        )


class EditError(ValueError):
    """The edit cannot be made: the mistake of who asked; the text says why, and what could be."""
