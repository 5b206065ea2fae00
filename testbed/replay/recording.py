"""What can be replayed: the connections of one migration, from whatever holds them.

A recording of `testbed proxy --record` has all of them, with the time of each chunk; a raw stream,
packed or not, has one, without times; a capture has both. Each connection's bytes lie in a regular
file that can be read at any place: what comes packed, through a pipe or in packets is put into an
unnamed temporary one first.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

from testbed.decode.channels import SourceChannel, SourceError
from testbed.decode.show import headed
from testbed.decode.sources import SPOOLED_BYTES_MAX, open_source
from testbed.decode.spool import Spool
from testbed.proxy.recording import Direction, Recording, RecordingError
from testbed.wire import ChannelKind, channel_of
from testbed.wire.identify import FIRST_BYTES

SILENT_S = 60.0
"""For which a pipe that is replayed may bring nothing: a source that works writes all the time."""
CONNECTIONS_MAX = 256
"""Of one migration; a source opens three and as many as it has multifd channels."""


NUMBERS_SHOWN = 8


class ReplayError(Exception):
    """What was named cannot be replayed: a sentence for people."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When the bytes of a connection came: those before `ends[n]` had come at `at_s[n]`."""

    ends: Sequence[int] = ()
    at_s: Sequence[float] = ()

    def before(self, at_s: float) -> int:
        """How many bytes had come before that moment."""
        count = bisect_right(self.at_s, at_s)
        return self.ends[count - 1] if count else 0

    def when(self, offset: int) -> float | None:
        """When the byte at that offset had come; None: nothing tells."""
        at = bisect_right(self.ends, offset)
        return self.at_s[at] if at < len(self.at_s) else None

    def together(self, offset: int) -> int | None:
        """Where what came with the byte at that offset ends; None: nothing tells."""
        at = bisect_right(self.ends, offset)
        return self.ends[at] if at < len(self.ends) else None


@dataclass(frozen=True, slots=True)
class ReplayConnection:
    """One connection: what the source sent on it.

    `opens_after` says, of connections that were there before, how many bytes each had carried when
    this one was opened.
    """

    number: int
    kind: ChannelKind | None  # None: nothing that we know, or too few bytes to tell
    size_bytes: int
    file: IO[bytes]  # regular, unbuffered
    opened_at_s: float = 0.0
    arrivals: Arrivals = field(default_factory=Arrivals)
    opens_after: dict[int, int] = field(default_factory=dict)

    def read(self, start: int, end: int) -> bytes:
        """Its bytes from `start` on, up to `end`.

        Raises:
            ReplayError: they cannot be read any more.
        """
        try:
            data = os.pread(self.file.fileno(), end - start, start)
        except OSError as error:
            what = f"connection {self.number}: cannot be read: {error.strerror}"
            raise ReplayError(what) from error
        if len(data) != end - start:
            raise ReplayError(f"connection {self.number}: its file was cut while it was read")
        return data

    @property
    def channel(self) -> str:
        """What it carries, for people."""
        return "unknown" if self.kind is None else self.kind.value


@dataclass(frozen=True, slots=True)
class Replayable:
    """One migration: its connections in the order in which they were opened; good for a block."""

    name: str
    connections: tuple[ReplayConnection, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """A connection that was found: what it is, and how to have it, which may take long."""

    number: int
    kind: ChannelKind | None
    is_empty: bool
    opened: Callable[[], ReplayConnection]


@contextmanager
def replayable(path: str, migration: int | None = None) -> Iterator[Replayable]:
    """Open what is to be replayed until the block ends.

    Args:
        path: a folder that `testbed proxy --record` wrote; or a stream or a capture, a file or `-`.
        migration: which one of a recording of several, counted from 1.

    Raises:
        ReplayError: it cannot be read, is no migration, or not one that can be replayed.
    """
    with ExitStack() as stack:
        notes: tuple[str, ...] = ()
        try:
            if path != "-" and Path(path).is_dir():
                found, notes = _recorded(Path(path), stack)
            else:
                source = stack.enter_context(open_source(path, silent_s=SILENT_S))
                channels = enumerate(source.channels, 1)
                found = [_headed(channel, number, stack) for number, channel in channels]
                notes = source.notes
            chosen = _one_migration(path, found, migration)
            for each in chosen:  # before any of it is put into a temporary file
                _check(path, each)
            connections = [each.opened() for each in chosen]
        except (RecordingError, SourceError) as error:
            raise ReplayError(str(error)) from error
        except OSError as error:
            raise ReplayError(f"{path}: cannot be read: {error.strerror}") from error
        notes += tuple(filter(None, map(_strange, connections)))
        yield Replayable(path, tuple(_gated(connections)), notes)


def _recorded(folder: Path, stack: ExitStack) -> tuple[list[_Found], tuple[str, ...]]:
    """The connections of a recording, and what is to be known of it."""
    recording = Recording.open(folder)
    ends: dict[int, list[int]] = {number: [] for number in recording.connections}
    times: dict[int, list[float]] = {number: [] for number in recording.connections}
    for arrival in recording.arrivals(Direction.FORWARD):
        ends[arrival.connection].append(arrival.end)
        times[arrival.connection].append(arrival.at_s)
    found = []
    for number, each in recording.connections.items():
        size = each.length[Direction.FORWARD]
        path = recording.file(number, Direction.FORWARD) if size else Path(os.devnull)
        file = stack.enter_context(path.open("rb", buffering=0))
        arrivals = Arrivals(ends[number], times[number])
        connection = _connection(number, file, size, each.opened_at_s, arrivals)
        found.append(_Found(number, connection.kind, not size, partial(_itself, connection)))
    open_at_end = [str(each.number) for each in recording.connections.values() if each.how is None]
    return found, (_cut(open_at_end),) if open_at_end else ()


def _cut(numbers: Sequence[str]) -> str:
    """The proxy was killed, the disk was full, or the recording had a bound."""
    shown, more = numbers[:NUMBERS_SHOWN], len(numbers) - NUMBERS_SHOWN
    which = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    many = "connections" if len(numbers) > 1 else "connection"
    verb = "were" if len(numbers) > 1 else "was"
    return f"the recording stops while {many} {which} {verb} open: more may have passed"


def _strange(connection: ReplayConnection) -> str | None:
    """A stream whose beginning was damaged can be meant, and so can another file."""
    if connection.kind is not None or not connection.size_bytes:
        return None
    first = connection.read(0, min(FIRST_BYTES, connection.size_bytes))
    return f"connection {connection.number} begins with {first.hex(' ')}, as no channel does"


def _itself(connection: ReplayConnection) -> ReplayConnection:
    return connection


def _headed(channel: SourceChannel, number: int, stack: ExitStack) -> _Found:
    """What the first bytes say; no more is read."""
    first, channel = headed(channel)
    kind = channel_of(first) if first else None
    if first and kind is None and channel.total_bytes is None:
        raise ReplayError(
            f"{channel.name}: begins with {first.hex(' ')}, as no channel does; if it is to be "
            "sent as it is, put it into a file that is not packed"
        )
    return _Found(number, kind, not first, partial(_spooled, channel, number, stack))


def _spooled(channel: SourceChannel, number: int, stack: ExitStack) -> ReplayConnection:
    if channel.fd is not None and channel.total_bytes is not None:
        file = stack.enter_context(os.fdopen(os.dup(channel.fd), "rb", buffering=0))
        return _connection(number, file, channel.total_bytes, 0.0, Arrivals())
    what = "what is no plain file"
    total = channel.total_bytes
    spool = Spool(channel.name, what, stack, total_bytes=total, bytes_max=SPOOLED_BYTES_MAX)
    ends: list[int] = []
    times: list[float] = []
    for chunk in channel.chunks():
        if chunk.missing_bytes:
            raise ReplayError(
                f"{channel.name}: {chunk.missing_bytes} bytes at offset {spool.size_bytes:#x} are "
                "missing in the capture: a stream with a hole cannot be replayed"
            )
        spool.add(chunk.data)
        if chunk.at_s is not None:
            ends.append(spool.size_bytes)
            times.append(chunk.at_s)
    began_at_s = times[0] if times else 0.0
    return _connection(number, spool.file, spool.size_bytes, began_at_s, Arrivals(ends, times))


def _connection(
    number: int, file: IO[bytes], size_bytes: int, opened_at_s: float, arrivals: Arrivals
) -> ReplayConnection:
    kind = channel_of(os.pread(file.fileno(), FIRST_BYTES, 0)) if size_bytes else None
    return ReplayConnection(number, kind, size_bytes, file, opened_at_s, arrivals)


def _one_migration(path: str, found: list[_Found], migration: int | None) -> list[_Found]:
    """The connections of the migration that is meant: each main channel begins another."""
    begins = [at for at, each in enumerate(found) if each.kind is ChannelKind.MAIN] or [0]
    begins[0] = 0
    bounds = list(zip(begins, [*begins[1:], len(found)], strict=True))
    if migration is None and len(bounds) > 1:
        raise ReplayError(
            f"{path}: {len(bounds)} migrations; say which one: --migration 1 to {len(bounds)}"
        )
    number = migration or 1
    if number > len(bounds):
        raise ReplayError(f"{path}: no migration {number}: there {_are(len(bounds))}")
    first, end = bounds[number - 1]
    chosen = found[first:end]
    if all(each.is_empty for each in chosen):
        raise ReplayError(f"{path}: holds not a byte that a source sent")
    if len(chosen) > CONNECTIONS_MAX:
        raise ReplayError(f"{path}: more than {CONNECTIONS_MAX} connections in one migration")
    return chosen


def _check(path: str, connection: _Found) -> None:
    if connection.kind is ChannelKind.TLS:
        raise ReplayError(
            f"{path}: connection {connection.number} is encrypted by TLS: nobody but the two who "
            "negotiated its keys could read it, so it cannot be replayed"
        )
    if connection.kind is ChannelKind.RETURN_PATH:
        raise ReplayError(
            f"{path}: a return path, what a destination sent; replayed is what a source sent"
        )


def _gated(connections: Sequence[ReplayConnection]) -> Iterator[ReplayConnection]:
    for at, each in enumerate(connections):
        after = {
            earlier.number: carried
            for earlier in connections[:at]
            if (carried := earlier.arrivals.before(each.opened_at_s))
        }
        yield ReplayConnection(
            each.number,
            each.kind,
            each.size_bytes,
            each.file,
            each.opened_at_s,
            each.arrivals,
            after,
        )


def longest_pause_s(connections: Sequence[ReplayConnection]) -> float:
    """The longest time for which nothing came on any of these connections, before the last did."""
    times = sorted(
        chain.from_iterable((each.opened_at_s, *each.arrivals.at_s) for each in connections)
    )
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


def began_at_s(connections: Sequence[ReplayConnection]) -> float:
    """The earliest time that a recording tells of these connections."""
    times = chain.from_iterable((each.opened_at_s, *each.arrivals.at_s[:1]) for each in connections)
    return min(times, default=0.0)


def _are(count: int) -> str:
    return f"is {count}" if count == 1 else f"are {count}"
