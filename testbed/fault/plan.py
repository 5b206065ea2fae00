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

    @property
    def other(self) -> Side:
        """The end that faces this one; not of both."""
        return Side.DESTINATION if self is Side.SOURCE else Side.SOURCE


class Channel(StrEnum):
    """Which connection of a migration, and which direction of it, a place is on.

    A multifd channel has a number, too: a source opens several. So have TLS and unknown ones: in
    the order in which they were told apart, from 1.
    """

    MAIN = "main"
    RETURN_PATH = "return-path"
    MULTIFD = "multifd"
    PREEMPT = "preempt"
    TLS = "tls"
    UNKNOWN = "unknown"  # begins like nothing that we know; only offsets are places in it


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
    vmdesc path such as `env.eip`. `byte` instead counts from the part's first byte (negative:
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
    channel: Channel = Channel.MAIN  # or PREEMPT


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
    """An element by its kind: `file-header`, `configuration`, `ram-block`, `eof`, `vmdesc`, ...

    The kinds, and the fields of each, are those that `testbed decode --json` shows.
    """

    element: str
    field: str | None = None
    byte: int | None = None
    name: str | None = None  # of what has one, such as a RAM block
    occurrence: int = 1
    channel: Channel = Channel.MAIN
    number: int | None = None  # of a multifd channel; None: any


@dataclass(frozen=True, slots=True)
class OffsetPlace:
    """The byte at that offset of a direction."""

    offset: int
    channel: Channel = Channel.MAIN
    number: int | None = None


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """The page record with which so much of a RAM block has passed: bytes, or a share of its pages.

    Counted by records on the main channel, pages sent again included; a zero page is a page. A
    fault that strikes more than once strikes at those that follow it, too.
    """

    block: str
    passed_bytes: int | None = None
    share: float | None = None  # 0 to 1


@dataclass(frozen=True, slots=True)
class ConnectionPlace:
    """The `number`th connection of an attempt, as it comes: nothing of it was read yet."""

    number: int


@dataclass(frozen=True, slots=True)
class StatePlace:
    """A state that QMP reports: a migration status, or any event by name."""

    side: Side
    status: str | None = None  # of MIGRATION events: "active", "postcopy-active", ...
    event: str | None = None  # "STOP", "RESUME", ...
    occurrence: int = 1
    channel: Channel = Channel.MAIN  # whose connection the action is on
    number: int | None = None


StreamPlace = (
    SectionPlace | PagePlace | CommandPlace | MessagePlace | ElementPlace | OffsetPlace | BlockPlace
)
Place = StreamPlace | StatePlace | ConnectionPlace


@dataclass(frozen=True, slots=True)
class AfterFault:
    """Another fault has struck."""

    fault: str


@dataclass(frozen=True, slots=True)
class Reached:
    """All of these places have been reached in this attempt, each on its own channel.

    A place is reached with the first byte of it: what strikes there finds it reached.
    """

    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """That place has not been reached in this attempt."""

    place: Place


@dataclass(frozen=True, slots=True)
class Vcpus:
    """Those of the source run, or have stopped.

    QMP's STOP and RESUME tell; where there is no QMP, the first END section or package does.
    """

    running: bool


@dataclass(frozen=True, slots=True)
class Chance:
    """Drawn anew at each match, from the seed of the run."""

    probability: float


Condition = AfterFault | Reached | Before | Vcpus | Chance


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in order (FIN) on that side; what comes from a live side is swallowed.

    A socket that a program closes answers that with RST, as `Reset` does.
    """

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
class HalfClose:
    """FIN toward one side once what is under way has gone; the other direction goes on."""

    toward: Side


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens any more when the connection comes; after `for_s` (None: never) again."""

    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class DelayAccept:
    """The connection waits so long before anything of it is read, or goes onward."""

    for_s: float


@dataclass(frozen=True, slots=True)
class Tarpit:
    """The connection is taken and never read; nothing goes onward, and it never ends by itself."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What goes toward that side comes later, by so much and up to `jitter_s` more or less."""

    delay_s: float
    jitter_s: float = 0.0
    toward: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """No more than so many bytes a second go toward that side."""

    bytes_per_s: int
    toward: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Slice:
    """What goes toward that side goes in small segments, with a pause between them."""

    average_bytes: int
    variation_bytes: int = 0
    delay_s: float = 0.0
    toward: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Restore:
    """Rate and time toward that side are as if no fault had touched them."""

    toward: Side = Side.BOTH


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the process of an endpoint: KILL, STOP, CONT."""

    side: Side
    signal: str


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


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Have what is at the place twice: the whole section, or the element."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange what is at the place with the next one of its kind: section, or element."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Put in again what passed last at an earlier place, as it came.

    A place whose occurrence is not 1 is that one alone. It is one element, or a whole section.
    """

    place: StreamPlace


@dataclass(frozen=True, slots=True)
class StalePage:
    """Send, in place of the page at the place, its data as it was sent the time before.

    A record that does not carry a whole page (zero, XBZRLE) becomes one that does.
    """


OnContent = SetField | FlipBits | Insert | Delete | Duplicate | Swap | Replay | StalePage
OnConnection = Close | Reset | HalfClose | Blackhole | Truncate | Refuse | DelayAccept | Tarpit
OnTime = Latency | Bandwidth | Slice | Stall | Restore
Action = OnContent | OnConnection | OnTime | Signal


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: strikes at the first match of `place` for which all `conditions` hold.

    With `times` it strikes at so many matches in a row (None: every one). An `occurrence` counts
    the matches for which the conditions hold; `Chance` is drawn after that.

    `point` is for actions that happen between bytes (connection actions, Truncate, Insert):
    before the first byte of what was matched, or after its last. `attempt` counts the run's
    migration attempts from 1; a recovery connection belongs to the attempt that it recovers and
    is reached with `connection` 2, 3, ... of that attempt (None: whichever matches).

    An action on connection or time is on the connection where the place lies; `everywhere`: on all
    that the migration has at that moment, as a network that fails is.
    """

    place: Place
    action: Action
    name: str
    point: Point = Point.BEFORE
    attempt: int | None = 1  # None: each
    connection: int | None = None
    times: int | None = 1
    conditions: tuple[Condition, ...] = ()
    everywhere: bool = False
    where: str = field(default="", compare=False)  # file:line:column, for messages
