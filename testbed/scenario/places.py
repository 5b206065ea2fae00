"""The places of the fault language: where a fault strikes, and what its conditions wait for.

Models hold what is written; `faults.py` makes of them the places of `testbed/fault/plan.py`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from testbed.fault.places.place import ELEMENTS
from testbed.fault.plan import Channel
from testbed.wire.element import CommandType, MessageType

from .model import Model, Natural, Positive, SideName, Signed, did_you_mean, got, keyed, one_of
from .patterns import Glob
from .qapi import EventName, MigrationStatus
from .units import Share, SomeSize

HEX_NUMBER = re.compile("0x[0-9a-f]{1,4}")
U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
PageNumber = Annotated[int, Field(ge=0, lt=1 << 52)]
"""Of a target page of 4 KiB: its address is a number of 64 bits."""
CHANNELS = tuple(channel.value for channel in Channel)
NUMBERED = re.compile(r"(?:multifd|tls|unknown|return-path)-[1-9][0-9]{0,2}")
SectionKind = Literal["start", "part", "end", "full"]


def _named(numbers: type[IntEnum], what: str) -> AfterValidator:
    """QEMU's name of a number on the wire, or the number where it has none."""
    check = one_of([each.name for each in numbers], f'{what} of QEMU\'s (nor a number, as "0x7f")')
    return AfterValidator(lambda value: value if HEX_NUMBER.fullmatch(value) else check(value))


def _channel(value: str) -> str:
    if value in CHANNELS or NUMBERED.fullmatch(value):
        return value
    hint = did_you_mean(value, CHANNELS).partition("; there")[0]
    raise ValueError(f"expected {', '.join(CHANNELS)} or one such as multifd-2{got(value)}{hint}")


CommandName = Annotated[str, _named(CommandType, "command")]
MessageName = Annotated[str, _named(MessageType, "message of the return path")]
ElementKind = Annotated[str, AfterValidator(one_of(ELEMENTS, "kind of element"))]
"""As `testbed decode` calls it."""
ChannelName = Annotated[str, AfterValidator(_channel)]
"""A connection of a migration, or a direction of it; `multifd`: any of them, `multifd-2`: one."""


class SectionAt(Model):
    """A section, or a part, field or byte of it."""

    section: Glob
    kind: SectionKind | None = None
    instance: U32 | None = None
    occurrence: Positive = 1
    part: Literal["section", "header", "payload", "footer"] = "section"
    field: str | None = None
    byte: Signed | None = None


class PageAt(Model):
    """The record of a page of a RAM block, or the nth page record of that block."""

    block: Glob = "pc.ram"
    page: PageNumber | None = None
    page_record: Positive | None = None
    phase: Literal["precopy", "postcopy"] | None = None
    occurrence: Positive = 1
    channel: Literal["main", "preempt"] = "main"
    field: str | None = None
    byte: Signed | None = None


class BlockAt(Model):
    """The page record with which so much of a RAM block has passed."""

    block: Glob
    passed: SomeSize | None = None
    share: Share | None = None


class CommandAt(Model):
    """A command by QEMU's name."""

    command: CommandName
    occurrence: Positive = 1
    field: str | None = None
    byte: Signed | None = None


class MessageAt(Model):
    """A message of the return path by QEMU's name."""

    message: MessageName
    occurrence: Positive = 1
    field: str | None = None
    byte: Signed | None = None


class ElementAt(Model):
    """An element by its kind; `channel` is where its kind is, if that is left out."""

    element: ElementKind
    name: Glob | None = None
    occurrence: Positive = 1
    channel: ChannelName | None = None
    field: str | None = None
    byte: Signed | None = None


class OffsetAt(Model):
    """A byte of a channel."""

    offset: Natural
    channel: ChannelName = "main"


class ConnectionAt(Model):
    """A connection of the attempt, as it comes."""

    connection: Positive


class StateAt(Model):
    """A migration status or an event that QMP reports."""

    side: SideName
    state: MigrationStatus | None = None
    event: EventName | None = None
    occurrence: Positive = 1
    channel: ChannelName = "main"


PLACES: dict[str, type[Model]] = {
    "section": SectionAt,
    "page": PageAt,
    "page_record": PageAt,
    "passed": BlockAt,
    "share": BlockAt,
    "command": CommandAt,
    "message": MessageAt,
    "element": ElementAt,
    "offset": OffsetAt,
    "connection": ConnectionAt,
    "state": StateAt,
    "event": StateAt,
}
AnyPlace = (
    SectionAt
    | PageAt
    | BlockAt
    | CommandAt
    | MessageAt
    | ElementAt
    | OffsetAt
    | ConnectionAt
    | StateAt
)
Place = Annotated[AnyPlace, keyed(PLACES, "a place")]


def _in_stream(at: Model) -> Model:
    if isinstance(at, ConnectionAt | StateAt):
        raise ValueError("expected a place in the stream: a connection or a state has no bytes")
    return at


StreamPlace = Annotated[AnyPlace, keyed(PLACES, "a place"), AfterValidator(_in_stream)]
