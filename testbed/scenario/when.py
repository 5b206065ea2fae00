"""Which versions of both sides a variant is for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from .model import Model
from .units import Range, Version, VersionRange


class When(Model):
    """The versions that a variant is for: all that is said must be so."""

    source: Range | None = None
    destination: Range | None = None
    either: Range | None = None

    def holds(self, source: Version, destination: Version) -> bool:
        """True if it speaks of a source and a destination of these versions."""
        sides = ((self.source, (source,)), (self.destination, (destination,)))
        return all(
            text is None or any(VersionRange.parse(text).matches(each) for each in versions)
            for text, versions in (*sides, (self.either, (source, destination)))
        )


def _some_version(when: When) -> When:
    if not any((when.source, when.destination, when.either)):
        raise ValueError("say for which versions: `source`, `destination` or `either`")
    return when


WhenSaid = Annotated[When, AfterValidator(_some_version)]
"""One that says something."""
