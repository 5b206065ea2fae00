"""The migration in a packet capture: its connections found among all, each put together.

A connection is a migration's if what its source sent first says so. What says nothing by itself
(a preempt channel, TLS) counts if it goes to where a migration channel goes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial

from testbed.wire.identify import ChannelKind, channel_of

from .channels import Source, SourceChannel, SourceError
from .packets import NOT_IP, NOT_TCP, SYN, Buffer, PacketReader, Segment
from .reassembly import Bounds, Half

CONNECTIONS_MAX = 16384
"""Known at one time; the oldest one that is no migration's, as far as is known, makes room.

And so many may be a migration's, those included whose ends were used again."""
NAMED_MAX = 12
"""Connections passed over whose names are told."""
UNDECIDED_PIECES_MAX = 4096
"""Segments of one direction after which a connection that says nothing is passed over."""
HEAD_BYTES = 8
"""What a connection is judged by, and told by to people."""
ACK = 0x10


MARKED = frozenset({ChannelKind.MAIN, ChannelKind.RECOVERY, ChannelKind.MULTIFD})
"""Channels whose first bytes nothing else begins with."""
UNMARKED = frozenset({ChannelKind.PREEMPT, ChannelKind.TLS})
"""Those that count beside another one only."""


@dataclass(slots=True)
class Connection:
    """One TCP connection; half 0 is the one whose packet came first."""

    number: int  # in the order of their first packets
    flow: bytes  # as half 0 has it
    halves: tuple[Half, Half]
    opener: int | None = None  # the half that sent the first SYN
    sender: int | None = None  # the source's half, once judged
    kind: ChannelKind | None = None
    passed_over: bool = False
    carried: list[int] = field(default_factory=lambda: [0, 0])  # bytes, what came twice included

    def name(self, half: int) -> str:
        """`10.77.0.1:40000 -> 10.77.0.2:4444`, as that half sends."""
        ends = [f"{_address(address)}:{port}" for address, port in _ends(self.flow)]
        return " -> ".join(reversed(ends) if half else ends)

    def target(self, half: int) -> tuple[bytes, bytes, int]:
        """From which address that half sends, and to which address and port."""
        ends = _ends(self.flow)
        return ends[half][0], *ends[1 - half]


class Finder:
    """Takes segments in the capture's order; `finish` tells what they make."""

    def __init__(self, buffer: Buffer, name: str) -> None:
        self._buffer = buffer
        self._bounds = Bounds(name)
        self._live: dict[bytes, tuple[Connection, int]] = {}
        self._others: OrderedDict[int, Connection] = OrderedDict()  # of the live ones, by number
        self._ours: list[Connection] = []
        self._targets: set[tuple[bytes, bytes, int]] = set()
        self._opened = 0
        self.passed_over: list[str] = []
        self.passed_over_count = 0
        self.cut_count = 0

    def take(self, segment: Segment) -> None:
        """Take a segment of any connection."""
        entry = self._live.get(segment.flow)
        if entry is None:
            entry = self._open(segment.flow)
        elif segment.flags & SYN and not entry[0].halves[entry[1]].could_begin(segment.seq):
            entry = self._open(segment.flow)  # a later connection of the same ends
        connection, side = entry
        connection.carried[side] += segment.length
        if segment.flags & SYN and connection.opener is None:
            connection.opener = 1 - side if segment.flags & ACK else side
        half = connection.halves[side]
        if connection.passed_over:
            half.isn = segment.seq if segment.flags & SYN else half.isn
            return
        if segment.kept < segment.length:
            self.cut_count += 1
        half.take(segment)
        if connection.kind is None and segment.length:
            self._judge(connection, last=False)

    def finish(self) -> list[Connection]:
        """The migration's connections in the order of their first packets."""
        connections = {connection.number: connection for connection, _ in self._live.values()}
        undecided = [
            connection
            for connection in connections.values()
            if connection.kind is None and not connection.passed_over
        ]
        for connection in [*self._ours, *undecided]:
            for half in connection.halves:
                half.flush()
        # Twice: what says nothing by itself may have come before what says it for both.
        for last in (False, True):
            for connection in undecided:
                if connection.kind is None and not connection.passed_over:
                    self._judge(connection, last=last)
        return sorted(self._ours, key=lambda connection: connection.number)

    def _open(self, flow: bytes) -> tuple[Connection, int]:
        """A connection seen for the first time; it takes the place of an older one of its ends."""
        self._opened += 1
        connection = Connection(self._opened, flow, (Half(self._bounds), Half(self._bounds)))
        for each in (flow, _reversed(flow)):
            older = self._live.pop(each, None)
            if older is not None:
                self._close(older[0])
        if len(self._live) >= 2 * CONNECTIONS_MAX:
            self._make_room()
        self._others[connection.number] = connection
        self._live[flow] = connection, 0
        self._live[_reversed(flow)] = connection, 1
        return connection, 0

    def _make_room(self) -> None:
        if not self._others:
            raise self._too_many()
        _, connection = self._others.popitem(last=False)
        for each in (connection.flow, _reversed(connection.flow)):
            self._live.pop(each, None)
        self._close(connection)

    def _too_many(self) -> SourceError:
        return SourceError(
            f"{self._bounds.name}: more than {CONNECTIONS_MAX} migration connections"
        )

    def _close(self, connection: Connection) -> None:
        """Nothing more comes of a connection."""
        self._others.pop(connection.number, None)
        if connection.kind is None and not connection.passed_over:
            for half in connection.halves:
                half.flush()
            self._judge(connection, last=True)

    def _judge(self, connection: Connection, *, last: bool) -> None:
        """Decide, if it can be decided yet, whether a connection is the migration's.

        What cannot, because its source is silent or says nothing by itself, waits; `last`: no
        longer.
        """
        undecided = False
        sides = (0, 1) if connection.opener is None else (connection.opener,)
        for side in sides:
            half = connection.halves[side]
            if half.total_bytes < HEAD_BYTES and not last:
                undecided = True
                continue
            kind = channel_of(half.head(self._buffer, HEAD_BYTES))
            target = connection.target(side)
            if kind in MARKED or (kind in UNMARKED and target in self._targets):
                if len(self._ours) >= CONNECTIONS_MAX:
                    raise self._too_many()
                connection.kind, connection.sender = kind, side
                self._others.pop(connection.number, None)
                self._targets.add(target)
                self._ours.append(connection)
                return
            undecided = undecided or kind in UNMARKED
        pieces = max(half.pieces for half in connection.halves)
        if last or not undecided or pieces > UNDECIDED_PIECES_MAX:
            self._pass_over(connection)

    def _pass_over(self, connection: Connection) -> None:
        self.passed_over_count += 1
        if len(self.passed_over) < NAMED_MAX:
            side = connection.opener or 0
            self.passed_over.append(f"{connection.name(side)} ({self._why_not(connection, side)})")
        connection.passed_over = True
        for half in connection.halves:
            half.forget()

    def _why_not(self, connection: Connection, side: int) -> str:
        half = connection.halves[side]
        if not connection.carried[side]:
            return (
                "nothing was sent" if not connection.carried[1 - side] else "its opener is silent"
            )
        head = half.head(self._buffer, HEAD_BYTES)
        if not head:
            return "its first bytes are not in the capture"
        if channel_of(head) is ChannelKind.TLS:
            return "TLS"
        readable = head.isascii() and head.decode().isprintable()
        text = f"'{head.decode()}'" if readable else head.hex(" ")
        return f"begins with {text}{'' if half.isn is not None else ', perhaps in its middle'}"


def read_capture(buffer: Buffer, name: str) -> Source:
    """Find the migration in a capture.

    Args:
        buffer: the whole capture, pcap or pcapng; must last as long as the channels are read.
        name: of the source, for errors.

    Raises:
        SourceError: it is no capture, or has no migration; what it has instead is told.
    """
    reader = PacketReader(buffer, name)
    finder = Finder(buffer, name)
    for segment in reader.segments():
        finder.take(segment)
    connections = finder.finish()
    if not connections:
        raise SourceError(_nothing(reader, finder, name))
    began_ns = max(reader.began_ns, 0)
    channels = tuple(_channel(connection, buffer, began_ns) for connection in connections)
    notes = tuple(_notes(reader, finder, connections))
    return Source(name, channels, notes, began_ns / 1e9 if began_ns else None)


def _channel(connection: Connection, buffer: Buffer, began_ns: int) -> SourceChannel:
    assert connection.sender is not None
    sender = connection.sender
    back = None
    if connection.carried[1 - sender]:
        back = _half_channel(connection, 1 - sender, buffer, began_ns, None)
    return _half_channel(connection, sender, buffer, began_ns, back)


def _half_channel(
    connection: Connection,
    side: int,
    buffer: Buffer,
    began_ns: int,
    return_path: SourceChannel | None,
) -> SourceChannel:
    half = connection.halves[side]
    return SourceChannel(
        connection.name(side),
        half.total_bytes,
        carried=partial(half.chunks, buffer, began_ns),
        return_path=return_path,
        ended=half.ended or ("RST" if connection.halves[1 - side].ended == "RST" else None),
    )


def _notes(reader: PacketReader, finder: Finder, connections: list[Connection]) -> list[str]:
    notes = []
    for connection in connections:
        for side, half in enumerate(connection.halves):
            if missing_bytes := half.missing_bytes:
                lost = f"{missing_bytes} bytes are not in the capture"
                notes.append(f"{connection.name(side)}: {lost}")
    if finder.passed_over_count:
        notes.append(f"passed over: {_named(finder)}")
    notes += _not_segments(reader, harmless=False)
    if finder.cut_count:
        notes.append(f"packets that were cut when captured (-s 0 keeps all): {finder.cut_count}")
    if reader.trouble is not None:
        notes.append(reader.trouble)
    return notes


def _not_segments(reader: PacketReader, *, harmless: bool) -> list[str]:
    """How many packets were no TCP segments and why, those that never were any if `harmless`."""
    return [
        f"packets that {why}: {count}"
        for why, count in reader.passed.items()
        if harmless or why not in (NOT_IP, NOT_TCP)
    ]


def _nothing(reader: PacketReader, finder: Finder, name: str) -> str:
    what = f"{name}: no migration in this capture: "
    if finder.passed_over_count:
        what += _named(finder)
    else:
        what += f"no TCP connection; packets: {reader.packets}"
    seen = _not_segments(reader, harmless=not finder.passed_over_count)
    trouble = [reader.trouble] if reader.trouble is not None else []
    return "; ".join([what, *seen, *trouble])


def _named(finder: Finder) -> str:
    count, more = finder.passed_over_count, finder.passed_over_count - len(finder.passed_over)
    names = ", ".join(finder.passed_over) + (f" and {more} more" if more else "")
    return f"{count} TCP connection{'s' if count != 1 else ''}: {names}"


def _ends(flow: bytes) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Address and port of the sending and the receiving end of a flow."""
    size = (len(flow) - 4) // 2
    ports = int.from_bytes(flow[-4:-2], "big"), int.from_bytes(flow[-2:], "big")
    return (flow[:size], ports[0]), (flow[size : 2 * size], ports[1])


def _reversed(flow: bytes) -> bytes:
    size = (len(flow) - 4) // 2
    return flow[size : 2 * size] + flow[:size] + flow[-2:] + flow[-4:-2]


def _address(packed: bytes) -> str:
    address = str(ipaddress.ip_address(packed))
    return f"[{address}]" if len(packed) == 16 else address
