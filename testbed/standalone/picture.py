"""What passes, as a picture that can be drawn at any time: events and samples in, figures out.

Events come as they happen and cost next to nothing; counters that run all the time are sampled by
who draws, a few times a second. Nothing here reads a clock or writes anywhere.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from testbed.fault.lanes.memory import BlockSeen
from testbed.log import Event
from testbed.proxy.migrations import Began, Change, Ended, Migration, Migrations

RATE_S = 2.0
"""Rates are of the last so many seconds."""
CHANNELS_MAX = 16
"""Shown; a source may open 255 multifd channels, a stranger as many as the proxy takes."""
PHASES = {
    "header": "set up",
    "setup": "set up",
    "iterate": "memory, guest running",
    "device": "switchover, guest stopped",
    "package": "switchover, guest stopped",
    "postcopy": "postcopy, guest running there",
    "ended": "through",
}
"""By the phases of the main channel's parser."""


@dataclass(frozen=True, slots=True)
class ConnectionSample:
    """Counters of one live connection: what has gone on to either side, in bytes."""

    number: int
    bytes_forward: int
    bytes_back: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters at one moment.

    `blocks` are those of the migration's channels together, as they were then; `section` is the
    one that passes, as in `PART ram`.
    """

    at_s: float
    connections: tuple[ConnectionSample, ...] = ()
    blocks: Mapping[str, BlockSeen] = field(default_factory=dict)
    page_bytes: int = 4096
    phase: str | None = None
    section: str | None = None

    @property
    def pages(self) -> int:
        """Page records of all blocks."""
        return sum(seen.pages for seen in self.blocks.values())


@dataclass(frozen=True, slots=True)
class ChannelFigures:
    """One connection, as it is drawn; rates in bytes a second."""

    number: int
    channel: str
    bytes_forward: int
    bytes_back: int
    rate_forward: float
    rate_back: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What is drawn of the migration.

    `left_s` is how long the rest of the first pass takes at this rate; None where the stream does
    not tell: how much of memory is dirty again is known to the source alone.
    """

    phase: str
    section: str | None
    bytes_forward: int
    rate: float
    total_pages: int
    pages: int
    passes: int
    left_s: float | None


class Picture:
    """What passes through one proxy, as far as its events and samples tell.

    Args:
        faults: their names; all are armed.
    """

    def __init__(self, faults: Iterable[str] = ()) -> None:
        self.migrations = Migrations()
        self.last: Migration | None = None
        self.struck: dict[str, int] = dict.fromkeys(faults, 0)
        self.commands: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.sample = Sample(0.0)
        self._samples: deque[Sample] = deque()
        self._channels: dict[int, str] = {}

    @property
    def migration(self) -> Migration | None:
        """The one that passes, or that passed last."""
        return self.migrations.current or self.last

    def event(self, event: Event) -> list[Change]:
        """Take what happened; which migrations it begins or ends, in order."""
        facts = event.facts
        match event.kind:
            case "connection-opened":
                self._channels[facts["connection"]] = "not known yet"
            case "connection-identified":
                self._channels[facts["connection"]] = str(facts["channel"] or "unknown")
            case "connection-ended":
                self._channels.pop(facts["connection"], None)
            case "command":
                self.commands[facts["command"]] += 1
            case "message":
                self.messages[facts["message"]] += 1
            case "fault-struck":
                self.struck[facts["fault"]] = self.struck.get(facts["fault"], 0) + 1
        changes = self.migrations.event(event)
        for change in changes:
            match change:
                case Began():
                    self._forget()
                case Ended(migration=migration):
                    self.last = migration
        return changes

    def sampled(self, sample: Sample) -> None:
        """Take the counters as they are now."""
        self.sample = sample
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at_s - self._samples[1].at_s >= RATE_S:
            self._samples.popleft()

    def channels(self) -> list[ChannelFigures]:
        """The live connections, in the order in which they came; at most `CHANNELS_MAX`."""
        past, passed_s = self._past()
        figures = []
        for now in self.sample.connections[:CHANNELS_MAX]:
            before = past.get(now.number, ConnectionSample(now.number, 0, 0))
            figures.append(
                ChannelFigures(
                    now.number,
                    self._channels.get(now.number, "ends"),
                    now.bytes_forward,
                    now.bytes_back,
                    _rate(now.bytes_forward - before.bytes_forward, passed_s),
                    _rate(now.bytes_back - before.bytes_back, passed_s),
                )
            )
        return figures

    @property
    def channels_left_out(self) -> int:
        """Live connections that `channels` leaves out."""
        return max(0, len(self.sample.connections) - CHANNELS_MAX)

    def figures(self) -> Figures:
        """The migration as a whole."""
        sample, migration = self.sample, self.migration
        past, passed_s = self._past()
        live = {each.number: each.bytes_forward for each in sample.connections}
        came = sum(now - past[of].bytes_forward if of in past else now for of, now in live.items())
        sizes = sum(seen.used_bytes or 0 for seen in sample.blocks.values())
        passes = max((seen.passes for seen in sample.blocks.values()), default=0)
        total = sizes // sample.page_bytes
        return Figures(
            self._phase(),
            sample.section,
            sum(live.values()) + (migration.bytes_forward if migration else 0),
            _rate(came, passed_s),
            total,
            sample.pages,
            passes,
            self._left_s(total) if self.migrations.current and passes <= 1 else None,
        )

    def _phase(self) -> str:
        if self.migrations.current is None:
            return "waiting for a migration"
        if self.migrations.current.encrypted:
            return "encrypted"
        return PHASES.get(self.sample.phase or "", "set up")

    def _left_s(self, total_pages: int) -> float | None:
        """Of the first pass, at the pace of the last seconds."""
        if not self._samples or not total_pages:
            return None
        first, last = self._samples[0], self._samples[-1]
        came = last.pages - first.pages
        left = max(0, total_pages - last.pages)
        return left * (last.at_s - first.at_s) / came if came > 0 else None

    def _past(self) -> tuple[dict[int, ConnectionSample], float]:
        """The oldest sample's connections, and how long ago it was."""
        if len(self._samples) < 2:
            return {}, 0.0
        oldest = self._samples[0]
        passed_s = self.sample.at_s - oldest.at_s
        return {each.number: each for each in oldest.connections}, passed_s

    def _forget(self) -> None:
        """Another migration has begun: what was counted was the last one's."""
        self.commands.clear()
        self.messages.clear()
        self._samples.clear()
        self.sample = replace(self.sample, blocks={}, phase=None, section=None)


def _rate(came: int, passed_s: float) -> float:
    return came / passed_s if passed_s > 0 else 0.0
