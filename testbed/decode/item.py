"""What people and programs are told of a stream: items, each one line of text or of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORWARD, RETURN_PATH = "forward", "return-path"


@dataclass(frozen=True, slots=True)
class Item:
    """Something in a stream: an element, a section as a whole, or a summary.

    `offset` and `length` are bytes of the channel, None for what has no place; `at_s` is when it
    came, where a capture tells.
    """

    kind: str
    offset: int | None = None
    length: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    in_package: bool = False
    direction: str = FORWARD
    at_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The item as a JSON object; what is not known is left out."""
        known: dict[str, Any] = {"item": self.kind, "offset": self.offset, "length": self.length}
        if self.direction != FORWARD:
            known["direction"] = self.direction
        if self.in_package:
            known["in_package"] = True
        if self.at_s is not None:
            known["at_s"] = round(self.at_s, 6)
        assert not self.facts.keys() & known.keys(), "a fact has the name of what every item has"
        return {name: value for name, value in known.items() if value is not None} | {**self.facts}
