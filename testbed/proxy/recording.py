"""What came in at the proxy from both sides, in a folder: written while it passes, read afterwards.

`recording.jsonl` says when what came. Its first line names the format, and each other line is one
of these; times are seconds since the recording began, by a clock that never goes back:

    {"at_s": 0.1, "event": "opened", "connection": 1}
    {"at_s": 0.2, "event": "bytes", "connection": 1, "direction": "forward", "offset": 0,
     "length": 4096}
    {"at_s": 0.9, "event": "ended", "connection": 1, "how": "FIN"}

The bytes themselves are in `c1.fwd.bin` (from the source) and `c1.ret.bin` (from the destination),
raw, so that whatever reads a stream reads them. A direction without a byte has no file.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from testbed.fault.plan import Side
from testbed.files import plain_file

FORMAT, VERSION = "migration-testbed recording", 1
INDEX = "recording.jsonl"
FILES_MAX = 64
"""Open at one time; thousands of connections may be."""
AT_S_MAX = 100 * 365 * 86400.0
"""Of a line: a hundred years after the recording began."""
LINE_BYTES_MAX = 4096
PIECE_BYTES_MAX = 1 << 20
"""Of what is read at once: a line may speak of more."""


class Direction(StrEnum):
    """Which way bytes went."""

    FORWARD = "forward"
    RETURN_PATH = "return-path"


SUFFIX = {Direction.FORWARD: "fwd", Direction.RETURN_PATH: "ret"}
DIRECTION = {Side.SOURCE: Direction.FORWARD, Side.DESTINATION: Direction.RETURN_PATH}

FACTS: dict[str, dict[str, type]] = {
    "opened": {},
    "bytes": {"direction": str, "offset": int, "length": int},
    "ended": {"how": str},
}
"""What a line says of each event, besides when, and on which connection."""


class Recorder(Protocol):
    """Is told all that comes in at the proxy, before any fault."""

    def opened(self, number: int) -> None:
        """A connection came from the source."""

    def received(self, number: int, sender: Side, data: bytes | memoryview) -> None:
        """Bytes of a connection came from that side; `data` is valid until this returns."""

    def ended(self, number: int, how: str) -> None:
        """The connection is over: `FIN`, `RST`, or an error such as `ETIMEDOUT`."""


class RecordingError(Exception):
    """What should be a recording is none, or cannot be written or read: where and why."""


class FolderRecorder:
    """Writes a recording. What was told is with the kernel before the call returns.

    So nothing is lost when the process ends, however it ends, and nothing is kept in memory. Bytes
    are written before the line that speaks of them. What cannot be written (a full disk) ends the
    recording, never the connection: what was written before that can be read.

    Args:
        folder: made if it is not there; must not hold a recording.
        on_stopped: is told why, once, if the recording has to end.
        bytes_max: of the data files together; None: what the disk takes.
        clock: monotonic seconds.

    Raises:
        RecordingError: nothing can be written there, or a recording is there already.
    """

    def __init__(
        self,
        folder: Path,
        on_stopped: Callable[[str], object],
        *,
        bytes_max: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.stopped: str | None = None
        self._on_stopped = on_stopped
        self._bytes_left = bytes_max
        self._clock = clock
        self._began = clock()
        self._offsets: dict[tuple[int, Direction], int] = {}  # of connections that are open
        self._files: OrderedDict[tuple[int, Direction], int] = OrderedDict()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._index = os.open(folder / INDEX, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError as error:
            what = "a recording is there already" if folder.is_dir() else "not a folder"
            raise RecordingError(f"{folder}: {what}; name another folder") from error
        except OSError as error:
            raise RecordingError(f"{folder}: cannot be recorded into: {error.strerror}") from error
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._line({"format": FORMAT, "version": VERSION, "began": began})
        except OSError as error:
            os.close(self._index)
            with suppress(OSError):  # who tries again finds no recording there
                os.unlink(folder / INDEX)
            raise RecordingError(f"{folder}: cannot be recorded into: {error.strerror}") from error

    def opened(self, number: int) -> None:
        """A connection came from the source."""
        self._guarded(self._event, "opened", {"connection": number})

    def received(self, number: int, sender: Side, data: bytes | memoryview) -> None:
        """Bytes of a connection came from that side."""
        self._guarded(self._bytes, number, DIRECTION[sender], data)

    def ended(self, number: int, how: str) -> None:
        """The connection is over."""
        self._guarded(self._event, "ended", {"connection": number, "how": how})
        for direction in Direction:
            self._offsets.pop((number, direction), None)
            if (file := self._files.pop((number, direction), None)) is not None:
                os.close(file)

    def close(self) -> None:
        """Nothing more will be told."""
        if self.stopped is None:
            self._stop("closed")

    def _guarded(self, write: Callable[..., None], *what: Any) -> None:
        """Write, unless the recording has ended; end it if that fails."""
        if self.stopped is not None:
            return
        try:
            write(*what)
        except OSError as error:
            self._stop(error.strerror or str(error))
            self._on_stopped(f"{self.folder}: {self.stopped}")

    def _stop(self, why: str) -> None:
        self.stopped = why
        for file in (self._index, *self._files.values()):
            os.close(file)
        self._files.clear()

    def _bytes(self, number: int, direction: Direction, data: bytes | memoryview) -> None:
        kept = data if self._bytes_left is None else memoryview(data)[: self._bytes_left]
        if kept:
            key = number, direction
            offset = self._offsets.get(key, 0)
            _write(self._file(key), kept)
            self._offsets[key] = offset + len(kept)
            facts = {"connection": number, "direction": direction}
            self._event("bytes", {**facts, "offset": offset, "length": len(kept)})
        if self._bytes_left is not None:
            self._bytes_left -= len(kept)
        if len(kept) < len(data):
            raise OSError("it has as many bytes as it may have")

    def _file(self, key: tuple[int, Direction]) -> int:
        if (file := self._files.get(key)) is not None:
            self._files.move_to_end(key)
            return file
        if len(self._files) >= FILES_MAX:
            _, oldest = self._files.popitem(last=False)
            os.close(oldest)
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        if key not in self._offsets:
            how |= os.O_TRUNC  # what is left there of another recording
        self._files[key] = file = plain_file(self.folder / file_name(*key), how)
        return file

    def _event(self, event: str, facts: dict[str, Any]) -> None:
        self._line({"at_s": round(self._clock() - self._began, 6), "event": event, **facts})

    def _line(self, record: dict[str, Any]) -> None:
        _write(self._index, json.dumps(record, separators=(",", ":")).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that came together: when, on which connection, which way, from which offset on."""

    at_s: float
    connection: int
    direction: Direction
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """When the bytes of a direction of a connection up to `end` had come."""

    at_s: float
    connection: int
    end: int


@dataclass(frozen=True, slots=True)
class RecordedConnection:
    """One connection of a recording; `ended_at_s` and `how` are None if nothing says its end."""

    number: int
    opened_at_s: float
    ended_at_s: float | None = None
    how: str | None = None
    length: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))


class Recording:
    """A recording that can be read; made by `Recording.open`.

    `connections` are in the order in which they came. `is_cut` if its last line is not whole:
    whoever wrote it was ended in the middle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = ""
        self.connections: dict[int, RecordedConnection] = {}
        self.is_cut = False

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Read the index once, and check it against the files.

        Raises:
            RecordingError: it is no recording, one of another version, or damaged.
        """
        recording = cls(folder)
        for place, line in recording._lines():
            recording._note(place, line)
        for connection in recording.connections.values():
            for direction, length in connection.length.items():
                recording._check_file(connection.number, direction, length)
        return recording

    def file(self, number: int, direction: Direction) -> Path:
        """Where the raw bytes of a direction are; not there if there are none."""
        return self.folder / file_name(number, direction)

    def chunks(self, connection: int | None = None) -> Iterator[Chunk]:
        """What came, in the order in which it came; of one connection or of all.

        What came at once and is longer than `PIECE_BYTES_MAX` is in pieces of that size.

        Raises:
            RecordingError: the recording was changed meanwhile.
        """
        for _, record in self._lines():
            if record["event"] == "bytes" and connection in (None, record["connection"]):
                yield from self._read(record)

    def arrivals(self, direction: Direction) -> Iterator[Arrival]:
        """When bytes came that way, on all connections, in order; they are not read.

        Raises:
            RecordingError: the recording was changed meanwhile.
        """
        for _, record in self._lines():
            if record["event"] == "bytes" and record["direction"] == direction:
                end = record["offset"] + record["length"]
                yield Arrival(record["at_s"], record["connection"], end)

    def _read(self, record: dict[str, Any]) -> Iterator[Chunk]:
        number, direction = record["connection"], record["direction"]
        start, stop = record["offset"], record["offset"] + record["length"]
        path = self.file(number, direction)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                for offset in range(start, stop, PIECE_BYTES_MAX):
                    data = file.read(min(PIECE_BYTES_MAX, stop - offset))
                    yield Chunk(record["at_s"], number, direction, offset, data)
        except OSError as error:
            raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines of the index after its first one, each with its place in words."""
        path = self.folder / INDEX
        try:
            with open(plain_file(path, os.O_RDONLY, follow=True), "rb") as index:
                self._head(path, index.readline(LINE_BYTES_MAX))
                number = 1
                while line := index.readline(LINE_BYTES_MAX):
                    number += 1
                    if not line.endswith(b"\n") and not index.read(1):
                        self.is_cut = True
                        return
                    yield f"{path}:{number}", _object(f"{path}:{number}", line)
        except FileNotFoundError as error:
            what = f"no {INDEX} in it" if self.folder.is_dir() else "no such folder"
            raise RecordingError(f"{self.folder}: not a recording: {what}") from error
        except OSError as error:
            raise RecordingError(f"{self.folder}: not a recording: {error.strerror}") from error

    def _head(self, path: Path, line: bytes) -> None:
        try:
            head = json.loads(line)
            is_ours = head["format"] == FORMAT
        except (ValueError, TypeError, KeyError, RecursionError):
            is_ours = False
        if not is_ours:
            raise RecordingError(f"{path}:1: not a recording: its first line does not say so")
        if head.get("version") != VERSION:
            got = head.get("version")
            raise RecordingError(f"{path}:1: expected version {VERSION} of the format, got {got}")
        self.began = str(head.get("began", ""))

    def _note(self, place: str, record: dict[str, Any]) -> None:
        """Take a line into the account of its connection."""
        at_s, number = record["at_s"], record["connection"]
        connection = self.connections.get(number)
        if (connection is None) != (record["event"] == "opened"):
            told = "is not open" if connection is None else "is there already"
            raise RecordingError(f"{place}: not a line of a recording: connection {number} {told}")
        if connection is None:
            self.connections[number] = RecordedConnection(number, at_s)
        elif record["event"] == "ended":
            self.connections[number] = replace(connection, ended_at_s=at_s, how=record["how"])
        else:
            length = connection.length[record["direction"]]
            if record["offset"] != length:
                what = f"expected offset {length}, got {record['offset']}"
                raise RecordingError(f"{place}: not a line of a recording: {what}")
            connection.length[record["direction"]] += record["length"]

    def _check_file(self, number: int, direction: Direction, length: int) -> None:
        path = self.file(number, direction)
        try:
            got = path.stat().st_size if length else 0
        except OSError as error:
            raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
        if got < length:
            raise RecordingError(f"{path}: expected {length} bytes, as {INDEX} says, got {got}")


def file_name(number: int, direction: Direction) -> str:
    """The name of the file with the bytes of a connection's direction."""
    return f"c{number}.{SUFFIX[direction]}.bin"


def _write(file: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _object(place: str, line: bytes) -> dict[str, Any]:
    """What a line says, its values checked."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("expected a JSON object")
        wanted: dict[str, type] = {"connection": int, **FACTS[record["event"]]}
        record["at_s"] = float(record["at_s"])
        if not 0 <= record["at_s"] <= AT_S_MAX:
            raise ValueError(f"`at_s` cannot be {record['at_s']}")
        for name, kind in wanted.items():
            if type(record[name]) is not kind or (kind is int and record[name] < 0):
                raise ValueError(f"`{name}` cannot be {record[name]!r}")
        if "direction" in wanted:
            record["direction"] = Direction(record["direction"])
    except KeyError as error:
        what = f"`{error.args[0]}` is missing or unknown"
        raise RecordingError(f"{place}: not a line of a recording: {what}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordingError(f"{place}: not a line of a recording: {error}") from error
    return record
