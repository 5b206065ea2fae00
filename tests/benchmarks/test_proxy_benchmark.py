"""The benchmark of the proxy measures what it says; how fast anything is, is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from proxies.peers import Peer
from proxies.stream import (
    Stream,
    multifd_channel,
    multifd_main,
    page_record,
    page_request,
    postcopy_opening,
    ram_stream,
)
from proxies.table import Column, table

from testbed.wire import MainChannel, MultifdChannel, ReturnPath
from testbed.wire.channel import Channel
from testbed.wire.element import EndOfStream, Message, Opaque, RamPage
from testbed.wire.packet import MultifdPages

ROOT = Path(__file__).parents[2]
PEERS = ("no proxy", "ours, armed")


@pytest.mark.live
def test_the_quick_form_has_figures_of_ours_and_of_no_proxy(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    peers = [word for peer in PEERS for word in ("--peer", peer)]
    command = [sys.executable, "benchmarks/proxy.py", "throughput", "connections", "--quick"]
    done = subprocess.run(
        [*command, *peers, "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(file.read_text())["parts"]
    assert {name: tuple(found) for name, found in parts.items()} == {
        "throughput": PEERS,
        "connections": PEERS,
    }
    assert all(peer in done.stdout for peer in PEERS)
    for peer in PEERS:
        assert parts["throughput"][peer]["gib_per_s"] > 0
        assert parts["throughput"][peer]["rate_over_no_proxy"] > 0
        left = parts["connections"][peer]
        assert (left["refused"], left["descriptors_left"], left["sockets_left"]) == (0, 0, 0)
    # A proxy that nothing went through would have used nothing.
    assert parts["throughput"]["ours, armed"]["cpu_s_per_gib"] > 0
    assert parts["throughput"]["no proxy"]["cpu_s_per_gib"] == 0


def test_a_peer_that_is_missing_is_said_to_be() -> None:
    why = Peer("another", lambda _folder: (), "no-such-proxy").missing()
    assert why == "missing; on Debian: apt-get install no-such-proxy"
    column = Column("rate", "rate", "bytes_per_s", over="no proxy")
    text, found = table([column], [{"no proxy": {"bytes_per_s": 2}}], {"another": why})
    assert found == {"no proxy": {"rate": 1.0}, "another": {"absent": why}}
    assert why in text


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    rates = [(10, 5), (100, 20), (1, 1)]  # the machine swings; each round for both
    rounds = [{"a": {"rate": a}, "b": {"rate": b}} for a, b in rates]
    over = Column("over", "b/a", "rate", over="a")
    less = Column("less", "b-a", "rate", less="a")
    none = Column("none", "b/c", "rate", over="c")
    _, found = table([over, less, none], rounds, {})
    assert found["b"] == {"over": 0.5, "less": -5, "none": None}


def elements(channel: Channel, stream: Stream, repeats: int) -> list[object]:
    fed = [stream.head, *[stream.body] * repeats, stream.tail]
    values = [each.value for data in fed for each in channel.feed(data)]
    return values + [each.value for each in channel.end()]


@pytest.mark.parametrize(
    ("stream", "pages"), [(ram_stream(sections=1), 4096), (multifd_main(), 0)], ids=["ram", "none"]
)
def test_a_main_channel_is_one_that_a_destination_would_read(stream: Stream, pages: int) -> None:
    values = elements(MainChannel(), stream, repeats=2)
    assert not any(isinstance(value, Opaque) for value in values)
    assert isinstance(values[-1], EndOfStream)
    data = sum(len(value.data) for value in values if isinstance(value, RamPage))
    assert data == 2 * pages * 4096


def test_a_multifd_channel_is_one_that_a_destination_would_read() -> None:
    values = elements(MultifdChannel(), multifd_channel(3), repeats=2)
    assert not any(isinstance(value, Opaque) for value in values)
    assert sum(len(value.data) for value in values if isinstance(value, MultifdPages)) == 32 << 20


def test_a_page_that_is_asked_for_comes_in_postcopy() -> None:
    channel, back = MainChannel(), ReturnPath()
    values = [each.value for each in channel.feed(postcopy_opening())]
    assert not any(isinstance(value, Opaque) for value in values)
    assert channel.phase == "postcopy"
    (asked,) = back.feed(page_request(8192))
    assert isinstance(asked.value, Message)
    assert asked.value.name == "REQ_PAGES_ID"
    (page,) = channel.feed(page_record(8192))
    assert isinstance(page.value, RamPage)
    assert page.value.offset_bytes == 8192
