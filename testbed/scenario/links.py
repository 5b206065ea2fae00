"""What QEMU says on stderr, as links: one cause, however many lines it is told in.

Until 10.1 a failed load is told in a cascade of lines, the innermost cause first:

    Failed to load cpu:env.eip
    error while loading state for instance 0x0 of device 'cpu'
    load of migration failed: Input/output error

Since 10.2 it is one line, the outermost first (`migration/savevm.c`, errors passed up in `Error`):

    load of migration failed: Invalid argument: error while loading state for instance 0x0 of device
    'cpu': Failed to load cpu state: stream error: -5

A pattern is held against links, so that one expectation is right for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .patterns import begins_in, found

JOINT = ": "
LINKS_MAX = 64
"""Of a line; the last one has the rest in it. QEMU's have a dozen, and a line may hold anything."""


class Link(NamedTuple):
    """One link of a line, and what follows it there: what it says of itself further in."""

    text: str
    rest: str

    def has(self, pattern: str) -> bool:
        """True if the pattern matches the link; it may go on into the links further in."""
        return found(pattern, self.text) or begins_in(pattern, self.text, self.rest)


def links(lines: Iterable[str]) -> Iterator[Link]:
    """The links of lines, of each line the innermost first, as a cascade tells them."""
    for line in lines:
        rest = ""
        for text in reversed(line.split(JOINT, LINKS_MAX - 1)):
            yield Link(text, rest)
            rest = f"{JOINT}{text}{rest}"


def missing(patterns: Sequence[str], lines: Iterable[str]) -> list[str]:
    """The patterns that do not match a link each, in their order; an empty list if all do."""
    left = links(lines)
    return [pattern for pattern in patterns if not any(link.has(pattern) for link in left)]
