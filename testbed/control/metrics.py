"""`GET /metrics`: counters in Prometheus' text format, current while connections run.

The first two have Toxiproxy's names and labels (Shopify/toxiproxy 2.12.0, `METRICS.md`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from testbed.fault.plan import Side
from testbed.log import Event
from testbed.proxy.migrations import Ended, Migrations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SENDERS = {"upstream": Side.SOURCE, "downstream": Side.DESTINATION}
RECEIVERS = {"upstream": Side.DESTINATION, "downstream": Side.SOURCE}
DIRECTIONS = {"forward": Side.SOURCE, "return-path": Side.DESTINATION}
FAULTS_MAX = 256
"""Different names of faults in the counters of one proxy; those that come later are one."""
UNKNOWN = "unknown"

Labels = tuple[tuple[str, str], ...]
Samples = Iterable[tuple[Labels, int]]


class Counted(Protocol):
    """What is looked at of a live connection (`testbed.proxy`)."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def received_bytes(self) -> Mapping[Side, int]:
        """What came from each side so far."""

    @property
    def sent_bytes(self) -> Mapping[Side, int]:
        """What went to each side so far."""


@dataclass(slots=True)
class Tally:
    """What one proxy has counted. Events and connections in; nothing goes back when it restarts."""

    received: Counter[Side] = field(default_factory=Counter)
    sent: Counter[Side] = field(default_factory=Counter)
    by_channel: Counter[tuple[str, Side]] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    live: dict[int, Counted] = field(default_factory=dict)
    _channels: dict[int, str] = field(default_factory=dict)
    _migrations: Migrations = field(default_factory=Migrations)

    def came(self, connection: Counted) -> None:
        """A connection is there; nothing of it has passed yet."""
        self.live[connection.number] = connection

    def event(self, event: Event) -> None:
        """Take an event of the proxy."""
        match event.kind:
            case "connection-identified":
                channel = event.facts["channel"] or UNKNOWN
                self._channels[event.facts["connection"]] = channel
                self.connections[channel] += 1
            case "fault-struck":
                name = event.facts["fault"]
                known = name in self.struck or len(self.struck) < FAULTS_MAX
                self.struck[name if known else "others"] += 1
            case "connection-ended":
                self._ended(event.facts["connection"])
        changes = self._migrations.event(event)
        self.outcomes.update(one.migration.outcome for one in changes if isinstance(one, Ended))

    def _ended(self, number: int) -> None:
        connection, channel = self.live.pop(number, None), self._channels.pop(number, UNKNOWN)
        if connection is not None:
            self._add(connection, channel, self.received, self.sent, self.by_channel)

    def now(self) -> tuple[Counter[Side], Counter[Side], Counter[tuple[str, Side]]]:
        """Bytes received from and sent to each side, and received by channel, live ones too."""
        received, sent = self.received.copy(), self.sent.copy()
        by_channel = self.by_channel.copy()
        for number, connection in self.live.items():
            # Of one that nobody has told yet nothing goes by channel: a counter never goes down.
            channel = self._channels.get(number)
            self._add(connection, channel, received, sent, by_channel)
        return received, sent, by_channel

    @staticmethod
    def _add(
        connection: Counted,
        channel: str | None,
        received: Counter[Side],
        sent: Counter[Side],
        by_channel: Counter[tuple[str, Side]],
    ) -> None:
        received.update(connection.received_bytes)
        sent.update(connection.sent_bytes)
        if channel is not None:
            by_channel.update(
                {(channel, side): count for side, count in connection.received_bytes.items()}
            )


class Shown(Protocol):
    """A proxy as the metrics name it."""

    name: str
    listen: str
    upstream: str
    tally: Tally


def exposition(proxies: Iterable[Shown]) -> str:
    """All counters of all proxies, in the text format."""
    lines: list[str] = []
    shown = [(proxy, proxy.tally, *proxy.tally.now()) for proxy in proxies]
    for name, text, kind, samples in _families(shown):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += (f"{name}{{{_labels(labels)}}} {value}" for labels, value in samples)
    return "".join(f"{line}\n" for line in lines)


_One = tuple[Shown, Tally, Counter[Side], Counter[Side], Counter[tuple[str, Side]]]


def _families(shown: list[_One]) -> Iterator[tuple[str, str, str, Samples]]:
    def link(proxy: Shown, direction: str) -> Labels:
        return (
            ("direction", direction),
            ("proxy", proxy.name),
            ("listener", proxy.listen),
            ("upstream", proxy.upstream),
        )

    def each(counts: Mapping[str, int], proxy: Shown, label: str) -> Samples:
        return [
            ((("proxy", proxy.name), (label, name)), count)
            for name, count in sorted(counts.items())
        ]

    yield (
        "toxiproxy_proxy_received_bytes_total",
        "Bytes that came from the client (upstream) or the server (downstream).",
        "counter",
        [
            (link(proxy, way), received[side])
            for proxy, _, received, _, _ in shown
            for way, side in SENDERS.items()
        ],
    )
    yield (
        "toxiproxy_proxy_sent_bytes_total",
        "Bytes that went to the server (upstream) or the client (downstream).",
        "counter",
        [
            (link(proxy, way), sent[side])
            for proxy, _, _, sent, _ in shown
            for way, side in RECEIVERS.items()
        ],
    )
    yield (
        "testbed_received_bytes_total",
        "Bytes that came, by channel of the migration and direction.",
        "counter",
        [
            (
                (("proxy", proxy.name), ("channel", channel), ("direction", direction)),
                by_channel[channel, side],
            )
            for proxy, _, _, _, by_channel in shown
            for channel in sorted({channel for channel, _ in by_channel})
            for direction, side in DIRECTIONS.items()
        ],
    )
    yield (
        "testbed_connections_total",
        "Connections that were told, by channel of the migration.",
        "counter",
        [one for proxy, tally, *_ in shown for one in each(tally.connections, proxy, "channel")],
    )
    yield (
        "testbed_connections_open",
        "Connections that are open.",
        "gauge",
        [((("proxy", proxy.name),), len(tally.live)) for proxy, tally, *_ in shown],
    )
    yield (
        "testbed_migrations_total",
        "Migrations that are over, by outcome as far as the stream tells.",
        "counter",
        [one for proxy, tally, *_ in shown for one in each(tally.outcomes, proxy, "outcome")],
    )
    yield (
        "testbed_faults_struck_total",
        "How often each fault has struck.",
        "counter",
        [one for proxy, tally, *_ in shown for one in each(tally.struck, proxy, "fault")],
    )


def _labels(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
