"""What has passed of guest memory, as it can be looked at any time."""

from __future__ import annotations

import pytest
from wire_helpers import recorded

from testbed.decode.memory import BlockCounts
from testbed.fault.lanes.memory import BLOCKS_MAX, OTHERS, BlockSeen, Memory
from testbed.fault.lanes.watch import Watch
from testbed.wire import MainChannel
from testbed.wire.element import PageRun, RamBlock, RamFlag, RamPage
from testbed.wire.packet import MultifdPacket

PAGE = 4096


def page(number: int, block: str = "pc.ram", flags: RamFlag = RamFlag.PAGE) -> RamPage:
    return RamPage(block, number * PAGE, flags, b"")


def test_a_pass_begins_where_the_address_goes_back() -> None:
    memory = Memory()
    for number in (0, 1, 2, 7, 3, 4, 3):
        memory.page(page(number))
    seen = memory.blocks["pc.ram"]
    assert (seen.pages, seen.zero_pages, seen.passes) == (7, 0, 3)


def test_runs_and_pages_are_counted_alike() -> None:
    records = range(2 * PAGE | RamFlag.ZERO, 9 * PAGE | RamFlag.ZERO, PAGE)
    mixed = [PAGE | RamFlag.PAGE, 2 * PAGE | RamFlag.ZERO]
    memory = Memory()
    memory.block(RamBlock("pc.ram", 64 << 20))
    memory.run(PageRun("pc.ram", records, PAGE, 8), 7)
    memory.run(PageRun("pc.ram", mixed, PAGE, 8), 1)
    memory.page(page(9, flags=RamFlag.ZERO))
    seen = memory.blocks["pc.ram"]
    assert (seen.used_bytes, seen.pages, seen.zero_pages, seen.passes) == (64 << 20, 10, 9, 2)


def test_a_multifd_packet_is_counted() -> None:
    memory = Memory()
    memory.packet(MultifdPacket(0, 128, 3, 3 * PAGE, 1, 2, "pc.ram", bytes(5 * 8)))
    memory.packet(MultifdPacket(1, 128, 0, 0, 2, 0, "", bytes(0)))  # without pages
    assert memory.blocks == {"pc.ram": BlockSeen(None, 5, 2, 0)}


def test_names_without_end_have_a_bound() -> None:
    memory = Memory()
    for number in range(BLOCKS_MAX + 100):
        memory.page(page(0, f"block{number}"))
    assert len(memory.blocks) == BLOCKS_MAX + 1
    assert memory.blocks[OTHERS].pages == 100


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("name", ["qemu7.2-precopy", "qemu10.0-precopy"])
def test_a_recorded_stream_is_counted_as_decode_counts_it(name: str, in_runs: bool) -> None:
    channel, watch = MainChannel(in_runs=in_runs), Watch("forward")
    expected: dict[str, BlockCounts] = {}
    for element in [*channel.feed(recorded(f"{name}.c0.fwd")), *channel.end()]:
        match element.value:
            case RamPage() as value:
                watch.page(value)
                expected.setdefault(value.block, BlockCounts()).page(value, PAGE)
            case PageRun() as value:
                watch.run(value)
                expected.setdefault(value.block, BlockCounts()).run(value)
            case _:
                assert list(watch.element(element)) is not None
    got = {key: seen for key, seen in watch.memory.blocks.items() if seen.pages}
    assert {key: (each.pages, each.zero_pages) for key, each in got.items()} == {
        key: (each.pages, each.zero) for key, each in expected.items()
    }
    assert got["pc.ram"].passes == expected["pc.ram"].passes > 1
    assert got["pc.ram"].used_bytes
