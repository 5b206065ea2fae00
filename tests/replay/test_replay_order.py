"""In which order a replay sends what was recorded: byte for byte, and pages that are asked for."""

import random
from itertools import count

import numpy as np
import pytest
from replay_helpers import recorded, recording

from testbed.replay.order import Order
from testbed.replay.recording import replayable
from testbed.replay.survey import survey
from testbed.wire import MainChannel
from testbed.wire.build import received_bitmap, request_pages
from testbed.wire.element import Message, MessageType, Opaque, RamPage

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each recording, opened and surveyed once."""
    with (
        replayable(recording(tmp_path_factory.mktemp("r") / "p", "postcopy")) as postcopy,
        replayable(recording(tmp_path_factory.mktemp("r") / "r", "recover")) as recover,
        replayable(recording(tmp_path_factory.mktemp("r") / "c", "precopy")) as precopy,
    ):
        yield {"postcopy": postcopy, "recover": recover, "precopy": precopy}


def order_of(found, at=0):
    """A fresh order of its connection."""
    connection = found.connections[at]
    return Order(connection.size_bytes, survey(found)[connection.number], connection.read)


def asked(block, address, length=PAGE_BYTES):
    return request_pages(address, length, block)


def bitmap(block, received):
    bits = np.packbits(np.array(received, np.bool_), bitorder="little").tobytes()
    return received_bitmap(block, bits)


def sent_of(order, before_step=None):
    """All that is sent."""
    sent = bytearray()
    while not order.is_over:
        if before_step is not None:
            before_step()
        assert order.awaits is None
        sent += order.step()
    return bytes(sent)


def postcopy_pages(stream):
    """The pages behind the package, in order, and what could not be parsed."""
    parser = MainChannel()
    elements = parser.feed(stream) + parser.end()
    begins = max(each.end for each in elements if each.in_package)
    pages = [
        (each.value.block, each.value.offset_bytes, each.value.data)
        for each in elements
        if isinstance(each.value, RamPage) and each.offset >= begins
    ]
    return pages, [each.value.why for each in elements if isinstance(each.value, Opaque)]


@pytest.mark.parametrize("kind", ["precopy", "postcopy"])
def test_with_nobody_asking_it_is_the_recording_byte_for_byte(opened, kind) -> None:
    assert sent_of(order_of(opened[kind])) == recorded(f"{kind}.c0")


@pytest.mark.parametrize("kind", ["precopy", "postcopy"])
def test_no_byte_goes_out_before_its_time_but_of_a_page_that_has_begun(opened, kind) -> None:
    order, sent = order_of(opened[kind]), bytearray()
    for until in (3, 5000, 1_100_000, 1_120_000, 1_500_000, 2_000_000):
        while order.position < until:
            sent += order.step(until)
        assert until <= len(sent) == order.position <= until + PAGE_BYTES
    assert sent == recorded(f"{kind}.c0")[: len(sent)]


def test_a_page_that_is_asked_for_before_the_first_is_sent_ahead_in_a_section(opened) -> None:
    order = order_of(opened["postcopy"])
    begins = survey(opened["postcopy"])[1].postcopy_at
    last = postcopy_pages(recorded("postcopy.c0"))[0][-1]

    def ask():
        if order.is_at_guest and not order.requested:
            order.message(asked(last[0], last[1]))
            assert order.is_urgent

    stream = sent_of(order, ask)
    pages, wrong = postcopy_pages(stream)
    assert not wrong
    assert pages[0] == last
    assert order.sent_ahead == 1
    assert stream[:begins] == recorded("postcopy.c0")[:begins]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_for_each_page_goes_out_once_and_unharmed(opened, seed) -> None:
    chance = random.Random(seed)
    expected = postcopy_pages(recorded("postcopy.c0"))[0]
    rare = [page for page in expected if page[0] != "pc.ram"]
    order, steps = order_of(opened["postcopy"]), count()

    def ask():
        if next(steps) % 3 == 0:
            for block, address, _ in (*chance.sample(expected, 2), chance.choice(rare)):
                order.message(asked(block, address))

    pages, wrong = postcopy_pages(sent_of(order, ask))
    assert not wrong
    assert sorted(pages) == sorted(expected)
    assert pages != expected
    assert order.sent_ahead > 20
    assert not order.lacking


def test_wherever_it_stands_in_the_stream_a_page_goes_ahead_where_one_may(opened) -> None:
    stream = recorded("recover.c0")  # of five PARTs in postcopy, the last one cut
    expected, cut = postcopy_pages(stream)
    begins = survey(opened["recover"])[1].postcopy_at
    before, ahead = 0, 0
    while True:
        order = order_of(opened["recover"])
        sent = bytearray()
        while order.position < begins:
            sent += order.step()
        for _ in range(before):
            sent += order.step()
        order.message(asked(*expected[-1][:2]))
        if order.position >= len(stream) - PAGE_BYTES * 30:
            break
        pages, wrong = postcopy_pages(bytes(sent) + sent_of(order))
        assert sorted(pages) == sorted(expected)
        assert len(wrong) == len(cut) == 1
        ahead += order.sent_ahead
        before += 1
    assert ahead == before > 15


def test_a_page_that_was_sent_is_not_sent_again(opened) -> None:
    order = order_of(opened["postcopy"])
    while order.position < opened["postcopy"].connections[0].size_bytes - 10:
        order.step()
    block, address, _ = postcopy_pages(recorded("postcopy.c0"))[0][0]
    order.message(asked(block, address))
    assert not order.is_urgent
    assert not order.lacking


def test_a_page_that_was_never_recorded_is_lacking(opened) -> None:
    order = order_of(opened["postcopy"])
    order.message(asked("pc.ram", 0x7FFF000))
    order.message(asked("nosuch", 0))
    assert order.lacking == {("pc.ram", 0x7FFF000), ("nosuch", 0)}
    assert sent_of(order) == recorded("postcopy.c0")


def test_pages_of_a_larger_host_page_stay_together(opened) -> None:
    connection = opened["postcopy"].connections[0]
    found = survey(opened["postcopy"])[1]
    found.large_pages = True
    order = Order(connection.size_bytes, found, connection.read)
    last = postcopy_pages(recorded("postcopy.c0"))[0][-1]
    order.message(asked(last[0], last[1]))
    assert sent_of(order) == recorded("postcopy.c0")


def test_a_recovery_waits_for_what_the_destination_has_and_leaves_that_out(opened) -> None:
    order = order_of(opened["recover"], 1)
    stream = bytearray()
    while order.awaits is None:
        stream += order.step()
    assert order.awaits == "RECV_BITMAP"
    first = survey(opened["recover"])[2].items
    blocks = [each.value.payload[1:].decode() for each in first if name_of(each) == "RECV_BITMAP"]
    assert len(blocks) == 6
    for block in blocks:
        assert order.awaits == "RECV_BITMAP"
        has = [page % 2 == 0 for page in range(4096)] if block == "pc.ram" else [False] * 64
        order.message(bitmap(block, has))
    stream += order.step()
    assert order.awaits == "RESUME_ACK"
    order.message(Message(MessageType.RESUME_ACK, bytes(4)))
    stream += sent_of(order)

    def pages(data):
        parser = MainChannel(recovery=True)
        elements = parser.feed(data) + parser.end()
        assert not [each for each in elements if isinstance(each.value, Opaque)]
        values = [each.value for each in elements if isinstance(each.value, RamPage)]
        return [(value.block, value.offset_bytes, value.data) for value in values]

    expected = [
        page
        for page in pages(recorded("recover.rec.c0"))
        if page[0] != "pc.ram" or page[1] // PAGE_BYTES % 2
    ]
    assert pages(bytes(stream)) == expected
    assert order.left_out > 1000


def name_of(item):
    return getattr(getattr(item, "value", None), "name", None)
