"""Faults as data: where one strikes and what it does there. Pure values, no behaviour.

A place is a place in the stream or a state that QMP reports, never a time: faults placed by time
are flaky. The scenario language has the same words (`testbed/scenario/schema.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Side(StrEnum):
    """Which end of the proxied connection: the source's, the destination's, or both."""

    SOURCE = "source"
    DESTINATION = "destination"
    BOTH = "both"


class Point(StrEnum):
    """Where in what was matched: before its first byte, or after its last one."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class SectionPlace:
    """A section of the main channel. `idstr` may hold `*` and `?` (fnmatch), as in `*/virtio-net`.

    `part` says which bytes of it: the whole section (header to footer), its header, payload or
    footer. `field` narrows to a field of that part: of a header `type`, `section_id`, `idstr`,
    `instance_id`, `version_id`; of a footer `mark`, `section_id`; of a device section's payload a
    vmdesc path such as `vdev.isr`. `byte` instead counts from the part's first byte (negative:
    from its end).
    """

    idstr: str
    kind: str | None = None  # "start", "part", "end", "full"; None: any
    instance_id: int | None = None
    occurrence: int = 1
    part: str = "section"  # "section", "header", "payload", "footer"
    field: str | None = None
    byte: int | None = None


@dataclass(frozen=True, slots=True)
class PagePlace:
    """The record of page `page` (offset / target page size) of a RAM block.

    With `nth` instead: the nth page record of that block, whichever page it carries.
    """

    block: str = "pc.ram"
    page: int | None = None
    nth: int | None = None
    occurrence: int = 1
    phase: str | None = None  # "precopy", "postcopy"; None: either
    field: str | None = None  # "record", "idstr", "data"
    byte: int | None = None


@dataclass(frozen=True, slots=True)
class CommandPlace:
    """A command by QEMU's name (`PING`, `PACKAGED`, `POSTCOPY_RUN`) and occurrence."""

    command: str
    occurrence: int = 1
    field: str | None = None  # "command", "length", "payload"
    byte: int | None = None


@dataclass(frozen=True, slots=True)
class MessagePlace:
    """A message of the return path by QEMU's name (`PONG`, `REQ_PAGES_ID`, `SHUT`)."""

    message: str
    occurrence: int = 1
    field: str | None = None  # "type", "length", "payload"
    byte: int | None = None


@dataclass(frozen=True, slots=True)
class ElementPlace:
    """An element that is there once: `file-header`, `configuration`, `eof`, `vmdesc`.

    Fields: `magic`, `version`; `type`, `length`, `machine`; `type`; `type`, `length`, `text`.
    """

    element: str
    field: str | None = None
    byte: int | None = None


@dataclass(frozen=True, slots=True)
class OffsetPlace:
    """The byte at that offset of the main channel, or of the return path."""

    offset: int
    return_path: bool = False


@dataclass(frozen=True, slots=True)
class StatePlace:
    """A state that QMP reports: a migration status, or any event by name."""

    side: Side
    status: str | None = None  # of MIGRATION events: "active", "postcopy-active", ...
    event: str | None = None  # "STOP", "RESUME", ...
    occurrence: int = 1


Place = (
    SectionPlace | PagePlace | CommandPlace | MessagePlace | ElementPlace | OffsetPlace | StatePlace
)


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in order (FIN) on that side; what comes from a live side is swallowed."""

    side: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with RST on that side (SO_LINGER 0)."""

    side: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Blackhole:
    """Keep the connection and pass nothing any more.

    `toward` says which direction goes dark: bytes toward that side. `swallow` reads and drops, so
    that the sender sees no back-pressure; without it nothing is read and its buffers fill.
    """

    toward: Side = Side.BOTH
    swallow: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Pass nothing in that direction for a time, then go on; nothing is lost."""

    for_s: float
    toward: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Truncate:
    """The stream ends at the place: FIN to the receiver, the rest is swallowed; the other
    direction goes on."""


@dataclass(frozen=True, slots=True)
class SetField:
    """Write another value over the field at the place.

    An integer goes in with the field's width, big-endian; bytes go in as they are. Bytes of
    another length shift what follows; lengths on the wire are not mended.
    """

    value: int | bytes


@dataclass(frozen=True, slots=True)
class FlipBits:
    """XOR the bytes at the place with `mask`, from its first byte on."""

    mask: bytes


@dataclass(frozen=True, slots=True)
class Insert:
    """Put bytes in at the place (see `Fault.point`)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Take the bytes at the place out: the whole section, the element, or the field."""


Action = Close | Reset | Blackhole | Stall | Truncate | SetField | FlipBits | Insert | Delete


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: strikes once, at the first match of `place` on attempt `attempt`.

    `point` is for actions that happen between bytes (connection actions, Truncate, Insert):
    before the first byte of what was matched, or after its last. `attempt` counts the run's
    migration attempts from 1; a recovery connection belongs to the attempt that it recovers and
    is reached with `connection` 2, 3, ... of that attempt (None: whichever matches).
    """

    place: Place
    action: Action
    name: str
    point: Point = Point.BEFORE
    attempt: int = 1
    connection: int | None = None
    where: str = field(default="", compare=False)  # file:line:column, for messages
