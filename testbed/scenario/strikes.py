"""What a file says of a fault: where it strikes (`at`), and what it does there (`do`)."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from testbed.wire.element import CommandType, MessageType

from .model import Model, Natural, Positive, SideName, Sides, by_type, got, keyed, one_of
from .qapi import EventName, MigrationStatus
from .units import HexBytes, SomeTime

HEX_NUMBER = re.compile("0x[0-9a-f]{1,4}")
U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
U16 = Annotated[int, Field(ge=0, lt=1 << 16)]
SectionKind = Literal["start", "part", "end", "full"]


def _named(numbers: type[IntEnum], what: str) -> AfterValidator:
    """QEMU's name of a number on the wire, or the number where it has none."""
    check = one_of([each.name for each in numbers], f'{what} of QEMU\'s (nor a number, as "0x7f")')
    return AfterValidator(lambda value: value if HEX_NUMBER.fullmatch(value) else check(value))


CommandName = Annotated[str, _named(CommandType, "command")]
MessageName = Annotated[str, _named(MessageType, "message of the return path")]

# Where


class SectionAt(Model):
    """A section, or a part, field or byte of it."""

    section: str
    kind: SectionKind | None = None
    instance: U32 | None = None
    occurrence: Positive = 1
    part: Literal["section", "header", "payload", "footer"] = "section"
    field: str | None = None
    byte: int | None = None


class PageAt(Model):
    """The record of a page of a RAM block, or the nth page record of that block."""

    block: str = "pc.ram"
    page: Natural | None = None
    page_record: Positive | None = None
    phase: Literal["precopy", "postcopy"] | None = None
    occurrence: Positive = 1
    field: Literal["record", "idstr", "data"] | None = None
    byte: int | None = None


class CommandAt(Model):
    """A command by QEMU's name."""

    command: CommandName
    occurrence: Positive = 1
    field: Literal["type", "command", "length", "payload"] | None = None
    byte: int | None = None


class MessageAt(Model):
    """A message of the return path by QEMU's name."""

    message: MessageName
    occurrence: Positive = 1
    field: Literal["type", "length", "payload"] | None = None
    byte: int | None = None


class ElementAt(Model):
    """An element that is there once."""

    element: Literal["file-header", "configuration", "eof", "vmdesc"]
    field: str | None = None
    byte: int | None = None


class OffsetAt(Model):
    """A byte of a direction."""

    offset: Natural
    direction: Literal["forward", "return-path"] = "forward"


class StateAt(Model):
    """A migration status or an event that QMP reports."""

    side: SideName
    state: MigrationStatus | None = None
    event: EventName | None = None
    occurrence: Positive = 1


PLACES: dict[str, type[Model]] = {
    "section": SectionAt,
    "page": PageAt,
    "page_record": PageAt,
    "command": CommandAt,
    "message": MessageAt,
    "element": ElementAt,
    "offset": OffsetAt,
    "state": StateAt,
    "event": StateAt,
}
Place = Annotated[
    SectionAt | PageAt | CommandAt | MessageAt | ElementAt | OffsetAt | StateAt,
    keyed(PLACES, "a place"),
]

# What


class OnSide(Model):
    """Which side of the connection."""

    side: Sides = "both"


class Dark(Model):
    """A link that passes nothing."""

    toward: Sides = "both"
    swallow: bool = False


class Pause(Model):
    """A link that passes nothing for a time."""

    for_: SomeTime = Field(alias="for")
    toward: Sides = "both"


class RawBytes(Model):
    """Bytes as they are."""

    hex: HexBytes


class NewSection(Model):
    """A section to be put in."""

    type: SectionKind = "full"
    id: U32
    idstr: Annotated[str, Field(min_length=1, max_length=255)]
    instance: U32 = 0
    version: U32 = 1
    payload: RawBytes | None = None
    footer: bool = True


class NewBytes(Model):
    """Bytes to be put in, whatever they are."""

    hex: HexBytes


class NewCommand(Model):
    """A command to be put in; `length` is what it claims, if that is not its payload's."""

    command: U16
    payload: RawBytes | None = None
    length: U16 | None = None


class NewSectionElement(Model):
    """A section to be put in."""

    section: NewSection


NEW: dict[str, type[Model]] = {
    "hex": NewBytes,
    "command": NewCommand,
    "section": NewSectionElement,
}
New = Annotated[NewBytes | NewCommand | NewSectionElement, keyed(NEW, "what to put in")]


class CloseIt(Model):
    """`close`: FIN."""

    close: OnSide


class ResetIt(Model):
    """`reset`: RST."""

    reset: OnSide


class BlackholeIt(Model):
    """`blackhole`: the connection stays, nothing passes."""

    blackhole: Dark


class StallIt(Model):
    """`stall`: nothing passes for a time."""

    stall: Pause


class TruncateIt(Model):
    """`truncate`: the stream ends here."""

    truncate: Literal[True]


class SetIt(Model):
    """`set`: another value."""

    set: Annotated[
        int | str | RawBytes,
        by_type('a number, a text, or {hex: "00ff"}', {int: int, str: str, dict: RawBytes}),
    ]


class FlipIt(Model):
    """`flip`: XOR with a mask."""

    flip: HexBytes


class InsertIt(Model):
    """`insert`: something more."""

    insert: New


class DeleteIt(Model):
    """`delete`: take it out."""

    delete: Literal[True]


ACTIONS: dict[str, type[Model]] = {
    "close": CloseIt,
    "reset": ResetIt,
    "blackhole": BlackholeIt,
    "stall": StallIt,
    "truncate": TruncateIt,
    "set": SetIt,
    "flip": FlipIt,
    "insert": InsertIt,
    "delete": DeleteIt,
}
ACTION_WORDS: dict[str, Any] = {
    "close": {},
    "reset": {},
    "blackhole": {},
    "truncate": True,
    "delete": True,
}


def _action(value: Any) -> Any:
    """A plain word is the action with its defaults."""
    if not isinstance(value, str):
        return value
    if value in ACTION_WORDS:
        return {value: ACTION_WORDS[value]}
    if value in ACTIONS:
        raise ValueError(f"{value} has something to say: write {{{value}: ...}}")
    raise ValueError(f"expected one of {', '.join(ACTIONS)}{got(value)}")


Action = Annotated[
    CloseIt | ResetIt | BlackholeIt | StallIt | TruncateIt | SetIt | FlipIt | InsertIt | DeleteIt,
    keyed(ACTIONS, "an action"),
    BeforeValidator(_action),
]


class FaultModel(Model):
    """One fault."""

    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    at: Place
    do: Action
    point: Literal["before", "after"] = "before"
    attempt: Positive = 1
    connection: Positive | None = None
