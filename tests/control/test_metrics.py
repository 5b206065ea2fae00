"""The text format of metrics, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from testbed.control.metrics import FAULTS_MAX, Tally, exposition
from testbed.fault.plan import Side
from testbed.log import Event


@dataclass
class Connection:
    """What the counters look at."""

    number: int
    received_bytes: dict[Side, int]
    sent_bytes: dict[Side, int]


@dataclass
class Named:
    name: str = 'a "b" \\c\nd'
    listen: str = "l"
    upstream: str = "u"
    tally: Tally = field(default_factory=Tally)


def tell(tally: Tally, kind: str, **facts: Any) -> None:
    tally.event(Event(0, 0.0, "proxy", kind, facts))


def samples(*named: Named) -> list[str]:
    return [line for line in exposition(named).splitlines() if not line.startswith("#")]


def test_every_family_is_told_even_without_proxies() -> None:
    lines = exposition([]).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert names[:2] == [
        "toxiproxy_proxy_received_bytes_total",
        "toxiproxy_proxy_sent_bytes_total",
    ]
    assert len(set(names)) == len(names) == len(lines) / 2 == 7


def test_labels_are_escaped() -> None:
    assert 'testbed_connections_open{proxy="a \\"b\\" \\\\c\\nd"} 0' in samples(Named())


def test_what_has_ended_and_what_runs_are_one_sum() -> None:
    named = Named("p")
    for number in (1, 2):
        received = {Side.SOURCE: 10 * number, Side.DESTINATION: 1}
        sent = {Side.SOURCE: 2, Side.DESTINATION: 20 * number}
        named.tally.came(Connection(number, received, sent))
        tell(named.tally, "connection-identified", connection=number, channel="main")
    tell(named.tally, "connection-ended", connection=1, bytes_forward=20, bytes_back=2)
    shown = samples(named)
    for line in (
        'toxiproxy_proxy_received_bytes_total{direction="upstream",proxy="p",listener="l",'
        'upstream="u"} 30',
        'toxiproxy_proxy_sent_bytes_total{direction="upstream",proxy="p",listener="l",'
        'upstream="u"} 60',
        'toxiproxy_proxy_sent_bytes_total{direction="downstream",proxy="p",listener="l",'
        'upstream="u"} 4',
        'testbed_received_bytes_total{proxy="p",channel="main",direction="forward"} 30',
        'testbed_received_bytes_total{proxy="p",channel="main",direction="return-path"} 2',
        'testbed_connections_total{proxy="p",channel="main"} 2',
        'testbed_connections_open{proxy="p"} 1',
    ):
        assert line in shown


def test_what_nobody_has_told_yet_is_no_channels() -> None:
    named = Named("p")
    named.tally.came(Connection(1, {Side.SOURCE: 5}, {}))
    assert not [line for line in samples(named) if line.startswith("testbed_received")]
    tell(named.tally, "connection-ended", connection=1, bytes_forward=5, bytes_back=0)
    line = 'testbed_received_bytes_total{proxy="p",channel="unknown",direction="forward"} 5'
    assert line in samples(named)


def test_migrations_are_counted_by_what_became_of_them() -> None:
    named = Named("p")
    for connection, last in ((1, "eof"), (2, "ping")):
        tell(named.tally, "connection-identified", connection=connection, channel="main")
        tell(named.tally, "file-header", connection=connection)
        tell(named.tally, last, connection=connection)
        ended = {"connection": connection, "bytes_forward": 1, "bytes_back": 0}
        tell(named.tally, "connection-ended", **ended)
    shown = samples(named)
    assert 'testbed_migrations_total{proxy="p",outcome="whole"} 1' in shown
    assert 'testbed_migrations_total{proxy="p",outcome="cut"} 1' in shown


def test_names_of_faults_are_bounded() -> None:
    named = Named("p")
    for number in range(FAULTS_MAX + 10):
        tell(named.tally, "fault-struck", fault=f"f{number}")
    struck = [line for line in samples(named) if line.startswith("testbed_faults_struck_total")]
    assert len(struck) == FAULTS_MAX + 1
    assert 'testbed_faults_struck_total{proxy="p",fault="others"} 10' in struck
