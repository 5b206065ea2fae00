"""The parts of the benchmark: who is measured, how much of what, which figures are told."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .exchange import Postcopy, connect_and_close
from .migration import precopy
from .network import Network, Unmeasured
from .peers import ARMED_PEER, DIRECT, HAPROXY_PLAIN, HAPROXY_SPLICE, OURS, PEERS, Peer
from .stream import SECTIONS, multifd_channel, multifd_main, ram_stream
from .table import Column, Figures, table
from .transfer import Load

MIB, GIB = 1 << 20, 1 << 30
MULTIFD_CHANNELS = 8
HAPROXY_AND_OURS = (DIRECT, HAPROXY_PLAIN, HAPROXY_SPLICE, *OURS)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured, and of whom."""

    quick: bool
    rounds: int
    peers: tuple[str, ...] = ()  # only these; none: all

    def of(self, full: int, quick: int) -> int:
        """An amount: the full one, or the quick one."""
        return quick if self.quick else full


Measure = Callable[[Peer, Network, Path], Awaitable[Figures]]
"""One measurement of one peer, in a network and with a folder for its files."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a part: its table, the figures in it by peer and key."""

    text: str
    figures: dict[str, dict[str, object]]
    failed: bool  # a peer that is there could not be measured


@dataclass(frozen=True, slots=True)
class Part:
    """A part: `prepare` makes, for a scale and with a folder for its files, what measures."""

    name: str
    title: Callable[[Scale], str]
    peers: Sequence[Peer]
    prepare: Callable[[Scale, Path], Measure]
    columns: Sequence[Column]
    rounds_max: int = 100

    async def measure(self, scale: Scale, folder: Path) -> Measured:
        """Measure all peers in turn, round by round; one that fails is left out from then on."""
        wanted = [each for each in self.peers if not scale.peers or each.name in scale.peers]
        absent = {each.name: why for each in wanted if (why := each.missing()) is not None}
        present = [each for each in wanted if each.name not in absent]
        measure = self.prepare(scale, folder)
        rounds: list[dict[str, Figures]] = []
        failed: set[str] = set()
        count = min(scale.rounds, self.rounds_max)
        for number in range(1, count + 1):
            rounds.append({})
            for peer in present:
                if peer.name in failed:
                    continue
                _progress(f"round {number} of {count}: {peer.name}")
                try:
                    async with Network.create() as net:
                        rounds[-1][peer.name] = await measure(peer, net, folder)
                except Unmeasured as error:
                    failed.add(peer.name)
                    absent[peer.name] = f"failed in round {number}: {error}"
        _progress("")
        whole = [
            {name: figures for name, figures in each.items() if name not in failed}
            for each in rounds
        ]
        text, figures = table(self.columns, whole, absent)
        return Measured(text, figures, bool(failed))


def _progress(text: str) -> None:
    """What goes on, on a terminal: a part takes minutes."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _transfer(load: Load, size_bytes: int, *, sampled: bool = False) -> Measure:
    async def measure(peer: Peer, net: Network, folder: Path) -> Figures:
        found = await load.through(peer, net, folder, size_bytes, sampled=sampled)
        return {
            "bytes_per_s": found.size_bytes / found.seconds,
            "cpu_s_per_byte": found.cpu_s / found.size_bytes,
            "peak_bytes": found.peak_bytes,
            "early_peak_bytes": found.early_peak_bytes,
        }

    return measure


def _throughput(scale: Scale, folder: Path) -> Measure:
    load = Load([ram_stream(scale.of(SECTIONS, 1))], folder / "ram")
    return _transfer(load, scale.of(2 * GIB, GIB // 8))


def _multifd(scale: Scale, folder: Path) -> Measure:
    channels = [multifd_channel(number) for number in range(MULTIFD_CHANNELS)]
    load = Load([multifd_main(), *channels], folder / "multifd")
    return _transfer(load, scale.of(2 * GIB, GIB // 4))


def _memory(scale: Scale, folder: Path) -> Measure:
    return _transfer(Load([ram_stream()], folder / "ram"), scale.of(100, 5) * GIB, sampled=True)


def _postcopy(scale: Scale, folder: Path) -> Measure:
    postcopy = Postcopy(folder / "postcopy")

    async def measure(peer: Peer, net: Network, folder: Path) -> Figures:
        found = await postcopy.through(peer, net, folder, scale.of(5000, 200))
        return asdict(found)

    return measure


def _connections(scale: Scale, _folder: Path) -> Measure:
    async def measure(peer: Peer, net: Network, folder: Path) -> Figures:
        found = await connect_and_close(peer, net, folder, scale.of(10_000, 200))
        return {
            "connections_per_s": found.connections / found.seconds,
            "refused": found.refused,
            "descriptors": found.descriptors,
            "sockets": found.sockets,
            "cpu_s": found.cpu_s,
            "peak_bytes": found.peak_bytes,
        }

    return measure


def _migration(scale: Scale, _folder: Path) -> Measure:
    async def measure(peer: Peer, net: Network, folder: Path) -> Figures:
        found = await precopy(peer, net, folder, scale.of(1024, 128) * MIB)
        return {
            "total_ms": found.total_ms,
            "downtime_ms": found.downtime_ms,
            "cpu_s_per_byte": found.cpu_s / found.size_bytes,
        }

    return measure


def _against(key: str, title: str, figure: str) -> tuple[Column, Column]:
    """A figure over that of no proxy, and over HAProxy's."""
    return (
        Column(f"{key}_over_no_proxy", f"{title}/no proxy", figure, over=DIRECT.name),
        Column(f"{key}_over_haproxy", f"{title}/haproxy", figure, over=HAPROXY_PLAIN.name),
    )


CPU = (
    Column("cpu_s_per_gib", "CPU s/GiB", "cpu_s_per_byte", scale=GIB),
    Column("cpu_over_haproxy", "CPU/haproxy", "cpu_s_per_byte", over=HAPROXY_PLAIN.name),
)
PEAK = Column("peak_mib", "peak MiB", "peak_bytes", scale=1 / MIB, digits=1)
RATE = Column("gib_per_s", "GiB/s", "bytes_per_s", scale=1 / GIB)
TRANSFERRED = (RATE, *_against("rate", "rate", "bytes_per_s"), *CPU, PEAK)


PARTS = {
    part.name: part
    for part in (
        Part(
            "throughput",
            lambda scale: f"{scale.of(2048, 128)} MiB of random pages on one connection",
            PEERS,
            _throughput,
            TRANSFERRED,
        ),
        Part(
            "multifd",
            lambda scale: f"{scale.of(2048, 256)} MiB on {MULTIFD_CHANNELS} multifd channels",
            HAPROXY_AND_OURS,
            _multifd,
            TRANSFERRED,
        ),
        Part(
            "memory",
            lambda scale: f"peak memory after a tenth, and all, of {scale.of(100, 5)} GiB",
            (ARMED_PEER,),
            _memory,
            (Column("early_peak_mib", "early MiB", "early_peak_bytes", 1 / MIB, 1), PEAK, RATE),
            rounds_max=1,
        ),
        Part(
            "postcopy",
            lambda scale: f"page request to page, {scale.of(5000, 200)} times",
            HAPROXY_AND_OURS,
            _postcopy,
            (
                Column("median_us", "median us", "median_us", digits=0),
                Column(
                    "median_more_us", "more than direct", "median_us", digits=0, less=DIRECT.name
                ),
                Column("p99_us", "p99 us", "p99_us", digits=0),
                Column("p99_more_us", "more than direct", "p99_us", digits=0, less=DIRECT.name),
                Column("cpu_us", "CPU us", "cpu_us", digits=0),
            ),
        ),
        Part(
            "connections",
            lambda scale: f"{scale.of(10_000, 200)} times connect and close",
            PEERS,
            _connections,
            (
                Column("connections_per_s", "a second", "connections_per_s", digits=0),
                Column("refused", "refused", "refused", digits=0),
                Column("descriptors_left", "fds left", "descriptors", digits=0),
                Column("sockets_left", "sockets left", "sockets", digits=0),
                Column("cpu_s", "CPU s", "cpu_s"),
                PEAK,
            ),
            rounds_max=1,
        ),
        Part(
            "migration",
            lambda scale: f"precopy of {scale.of(1024, 128)} MiB, QEMU to QEMU",
            HAPROXY_AND_OURS,
            _migration,
            (
                Column("total_ms", "total ms", "total_ms", digits=0),
                *_against("total", "total", "total_ms"),
                Column("downtime_ms", "downtime ms", "downtime_ms", digits=0),
                *_against("downtime", "downtime", "downtime_ms"),
                *CPU,
            ),
        ),
    )
}
