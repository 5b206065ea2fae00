"""A command that is refused: class and text of a QMP error."""

from __future__ import annotations

from typing import Any, Literal

ErrorClass = Literal[
    "GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound", "KVMMissingCap"
]
"""`QapiErrorClass`; all others that QMP once had are `GenericError` now."""


class CommandError(Exception):
    """A command that failed; what the client is told of it.

    Args:
        desc: one sentence for humans, without a full stop.
        error_class: what a program may tell it by.
    """

    def __init__(self, desc: str, error_class: ErrorClass = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class: ErrorClass = error_class

    def as_json(self) -> dict[str, Any]:
        """Return it as the member `error` of an answer."""
        return {"class": self.error_class, "desc": self.desc}
