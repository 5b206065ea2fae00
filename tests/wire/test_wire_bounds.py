"""Time and memory that a hostile stream takes, and what holds of any bytes in any chunks."""

import time
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hostile_helpers import TO_DEVICES, listed, mapped, multifd_packet
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import usually
from wire_helpers import device, head, opaque, parse, pieces, steps

from testbed.wire import (
    Layout,
    LearnedLayout,
    MainChannel,
    MultifdChannel,
    PreemptChannel,
    ReturnPath,
    StreamError,
    build_command,
    build_message,
    encode,
)
from testbed.wire import device as device_module
from testbed.wire.channel import Channel
from testbed.wire.device import PAYLOAD_BYTES_MAX
from testbed.wire.element import CommandType, Element, MessageType, Opaque, RamFlag, RamMark
from testbed.wire.structs import U64

CHUNK = 64 << 10
ELEMENT_SECONDS_MAX = 1e-4
"""For each small element, ten times what it takes: what is quadratic takes far more."""
TINY = [
    pytest.param(MainChannel, head(), build_command(CommandType.PING, bytes(4)), id="commands"),
    pytest.param(ReturnPath, b"", build_message(MessageType.PONG, bytes(4)), id="messages"),
]


@pytest.mark.parametrize(("make", "start", "again"), TINY)
def test_100_000_tiny_elements_at_once_take_time_in_proportion(
    make: Callable[[], Channel], start: bytes, again: bytes
) -> None:
    count = 100_000
    channel = make()
    channel.feed(start)
    began = time.process_time()
    assert len(channel.feed(again * count)) == count
    assert time.process_time() - began < count * ELEMENT_SECONDS_MAX


def test_many_tiny_records_in_chunks_take_time_in_proportion() -> None:
    count = usually(200_000, thoroughly=1_000_000)
    channel = MainChannel()
    channel.feed(listed(1024, b"\6pc.ram" + U64.pack(1024)))
    wire = encode(RamMark(RamFlag.HOOK)) * count
    began = time.process_time()
    found = sum(len(channel.feed(chunk)) for chunk in steps(wire, CHUNK))
    assert time.process_time() - began < count * ELEMENT_SECONDS_MAX
    assert found == count + 1  # the block waited for what follows it
    assert channel.pending == 0


# Memory: what is fed is far more than what may be held.

FED = 64 << 20
PEAKS: dict[str, tuple[Callable[[], Channel], bytes, bytes, int]] = {
    # the parser, the bytes before, what comes again and again, how much of it may be held
    "package-of-4-GiB": (
        MainChannel,
        head() + build_command(CommandType.PACKAGED, b"\xff\xff\xff\xff") + b"\x55",
        bytes(64),
        CHUNK,
    ),
    "mapped-ram-gap": (MainChannel, mapped(1 << 62, 1 << 63), bytes(64), (1 << 20) + CHUNK),
    "multifd-pages": (
        MultifdChannel,
        multifd_packet(0xFFFFFFFF, 0xFFFFFFFF, 0, 0),
        bytes(64),
        CHUNK,
    ),
    "recv-bitmap": (
        ReturnPath,
        build_message(MessageType.RECV_BITMAP, b"\1a", bitmap=U64.pack((1 << 64) - 1)),
        bytes(64),
        CHUNK,
    ),
    "device-without-end": (
        MainChannel,
        TO_DEVICES + device(5, "timer", b"")[:-5],
        b"\x7e\0\0\0\5\x55".ljust(1000, b"s"),
        8 << 20,
    ),
}
COPIES = 4
"""Of what is held: in hand, set aside, joined, and handed out."""
CACHES_BYTES = 2 << 20
"""What parsers and tests keep whatever comes: shapes of elements, errors, elements in a list."""


@pytest.mark.parametrize("name", PEAKS)
def test_64_mib_of_a_hostile_stream_take_no_more_than_a_bound(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, start, again, held = PEAKS[name]
    assert PAYLOAD_BYTES_MAX > held  # as it is, the test of it would take a GiB
    monkeypatch.setattr(device_module, "PAYLOAD_BYTES_MAX", 8 << 20)
    channel, chunk = make(), (again * (CHUNK // len(again) + 1))[:CHUNK]
    tracemalloc.start()
    try:
        channel.feed(start)
        for _ in range(FED // CHUNK):
            channel.feed(chunk)
            assert channel.pending <= held + CHUNK
        channel.end()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < COPIES * held + CACHES_BYTES


# Any bytes.

STARTS: dict[str, tuple[Callable[[], Channel], Iterable[bytes]]] = {
    "main": (lambda: MainChannel(page_bytes=1024), (b"", head(), TO_DEVICES, listed(1 << 20))),
    "recovery": (lambda: MainChannel(recovery=True), (b"", b"\x08\0\x0a\0\2\1a", b"\2\0\0\0\2")),
    "return-path": (ReturnPath, (b"", b"\0\5\0\2\1a")),
    "multifd": (
        MultifdChannel,
        (b"", multifd_packet(128, 0, 0, 0)[:64], multifd_packet(1, 0, 0, 1)),
    ),
    "preempt": (PreemptChannel, (b"", bytes(7) + b"\x08\1a" + bytes(4096))),
}
MEANING = st.sampled_from(
    [b"\x7e\0\0\0\5", b"\4\0\0\0\7\1a" + bytes(8), b"\x08\0\7\0\4\0\0\0\x10", b"\0\6\0\0\0\2{}"]
)


def known(elements: Iterable[Element]) -> list[Element]:
    return [element for element in elements if not isinstance(element.value, Opaque)]


@pytest.mark.parametrize("name", STARTS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_any_bytes_in_any_chunks_tile_and_mean_the_same(
    name: str, data: st.DataObject, seed: int
) -> None:
    make, starts = STARTS[name]
    some = data.draw(st.lists(st.binary(max_size=60) | MEANING, max_size=8))
    wire = data.draw(st.sampled_from(list(starts))) + b"".join(some)
    in_one = parse(make(), [wire])
    in_pieces = parse(make(), pieces(wire, seed))
    assert known(in_one) == known(in_pieces)
    assert b"".join(element.raw for element in in_pieces) == wire
    assert all(encode(element.value) == element.raw for element in known(in_one))
    assert all(element.value.why for element in opaque(in_one))  # type: ignore[union-attr]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_text_is_a_layout_or_a_documented_error(text: bytes) -> None:
    for parse_it in (Layout.parse, LearnedLayout.from_json):
        try:
            parse_it(text)
        except StreamError as error:
            assert "expected" in str(error)  # noqa: PT017 - most texts raise, some are layouts
