"""The memory that was sent, as its witness has it, and what a machine holds compared with it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import cycle
from mmap import mmap

import pytest
from fault_helpers import SOURCE
from wire_helpers import parse, pieces, recorded, steps

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault, FlipBits, PagePlace
from testbed.guest import GuestSpec
from testbed.guest.rule import FIRST_PAGE, PAGE_BYTES, STACK_BYTES, STATE_AT, STATE_WORDS_BYTES
from testbed.lab import sent
from testbed.lab.sent import SentMemory
from testbed.wire import ChannelKind, MainChannel, MultifdChannel, PreemptChannel, xbzrle
from testbed.wire.element import RamBlock, RamFlag, RamPage
from testbed.wire.packet import MultifdPacket, MultifdPages

MAIN, RECOVERY = ChannelKind.MAIN, ChannelKind.RECOVERY
MULTIFD, PREEMPT = ChannelKind.MULTIFD, ChannelKind.PREEMPT
STREAMS = {
    "precopy": [(MAIN, "qemu7.2-precopy.c0")],
    "precopy of 10.0": [(MAIN, "qemu10.0-precopy.c0")],
    "postcopy": [(MAIN, "qemu7.2-postcopy.c0")],
    "recovered": [(MAIN, "qemu7.2-recover.c0"), (RECOVERY, "qemu7.2-recover.rec.c0")],
    "preempt": [(MAIN, "qemu7.2-preempt.c0"), (PREEMPT, "qemu7.2-preempt.c1")],
    **{
        f"multifd of {version}": [
            (MAIN, f"qemu{version}-multifd.c0"),
            (MULTIFD, f"qemu{version}-multifd.c1"),
            (MULTIFD, f"qemu{version}-multifd.c2"),
        ]
        for version in ("7.2", "10.0")
    },
}
GUEST = GuestSpec(16 << 20, PAGE_BYTES)
"""Nearly all of its memory is no rule's."""
COVERED = range(FIRST_PAGE * PAGE_BYTES, (FIRST_PAGE + 1) * PAGE_BYTES, PAGE_BYTES)
Blocks = dict[str, bytearray]


def held(streams: Iterable[tuple[ChannelKind, bytes]]) -> Blocks:
    """The blocks that the streams fill, record by record."""
    blocks: Blocks = {}
    channel = MainChannel()
    for kind, data in streams:
        parser = {
            MAIN: lambda: channel,
            RECOVERY: lambda: channel.recovered(),
            MULTIFD: MultifdChannel,
            PREEMPT: lambda: PreemptChannel(channel),
        }[kind]()
        for element in parse(parser, [data]):
            match element.value:
                case RamBlock(idstr=idstr, used_bytes=used_bytes):
                    blocks[idstr] = bytearray(used_bytes)
                case RamPage(block=block, offset_bytes=at, flags=flags, data=page):
                    is_zero = flags & RamFlag.ZERO
                    blocks[block][at : at + PAGE_BYTES] = bytes(PAGE_BYTES) if is_zero else page
                case MultifdPages(block=block, offsets_bytes=offsets, data=pages):
                    for number, at in enumerate(offsets):
                        page = pages[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
                        blocks[block][at : at + PAGE_BYTES] = page
                case MultifdPacket() as packet:
                    for at in packet.zero_offsets_bytes:
                        blocks[packet.block][at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
    return blocks


def witnessed(
    streams: Iterable[tuple[ChannelKind, bytes]],
    *,
    step: int = 1 << 20,
    windows: bool = False,
    faults: tuple[Fault, ...] = (),
) -> SentMemory:
    """What a witness of these streams has seen, which came in chunks of that size."""
    memory = SentMemory(GUEST)
    engine = FaultEngine(faults, witness=memory)
    for number, (kind, data) in enumerate(streams, 1):
        relay = engine.connection(number, kind)
        if windows:
            buffers = cycle([mmap(-1, PAGE_BYTES * 4 + step) for _ in range(2)])
            for chunk in steps(data, step):
                buffer = next(buffers)
                buffer[PAGE_BYTES * 4 : PAGE_BYTES * 4 + len(chunk)] = chunk
                relay.received_window(SOURCE, buffer, PAGE_BYTES * 4, PAGE_BYTES * 4 + len(chunk))
        else:
            for chunk in steps(data, step):
                relay.received(SOURCE, chunk)
        relay.ended(SOURCE)
    return memory


@pytest.mark.parametrize("names", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("how", ["in chunks", "in windows", "while a fault waits"])
def test_what_the_stream_fills_is_what_was_sent(
    names: list[tuple[ChannelKind, str]], how: str
) -> None:
    streams = [(kind, recorded(f"{name}.fwd")) for kind, name in names]
    blocks = held(streams)
    faults = (Fault(PagePlace("nosuch", page=1), FlipBits(b"\1"), "it"),)
    memory = witnessed(
        streams,
        step=77_777,
        windows=how == "in windows",
        faults=faults if how == "while a fault waits" else (),
    )
    report = memory.compare(blocks, ran=False)
    written = {name: range(0, len(block), PAGE_BYTES) for name, block in blocks.items()}
    assert memory.compare(blocks, ran=False, written=written) == report
    nowhere: dict[str, list[int]] = {name: [] for name in blocks}
    assert memory.compare(blocks, ran=False, written=nowhere) == report
    assert report.findings == ()
    assert (report.damaged, report.unknown, report.unwatched) == (0, 0, None)
    assert report.pages == sum(map(len, blocks.values())) // PAGE_BYTES - len(COVERED)
    _every_block_counts(memory, blocks)


def _every_block_counts(memory: SentMemory, blocks: Blocks) -> None:
    """A byte that is wrong in any block is found, with its page."""
    for name, block in blocks.items():
        at = len(block) // 2
        block[at] ^= 1
        report = memory.compare(blocks, ran=False)
        block[at] ^= 1
        assert report.damaged == 1, name
        assert report.findings[0].startswith(f"page {at // PAGE_BYTES} of {name}: ")


SMALL = recorded("qemu7.2-precopy.c0.fwd")


@pytest.mark.parametrize("seed", range(2))
def test_it_is_the_same_in_chunks_of_any_size(seed: int) -> None:
    memory = SentMemory(GUEST)
    relay = FaultEngine(witness=memory).connection(1, MAIN)
    for piece in pieces(SMALL, seed):
        relay.received(SOURCE, piece)
    assert memory.compare(held([(MAIN, SMALL)]), ran=False).damaged == 0


def test_the_working_set_is_the_rules_and_the_state_page_the_guests() -> None:
    memory, blocks = witnessed([(MAIN, SMALL)]), held([(MAIN, SMALL)])
    blocks["pc.ram"][COVERED[0] + 5] ^= 1
    assert memory.compare(blocks, ran=False).damaged == 0
    for at in (STATE_WORDS_BYTES - 1, PAGE_BYTES - STACK_BYTES, PAGE_BYTES - 1):
        blocks["pc.ram"][STATE_AT + at] ^= 1
    assert memory.compare(blocks, ran=True).damaged == 0
    assert memory.compare(blocks, ran=False).findings == (
        f"page {STATE_AT // PAGE_BYTES} of pc.ram: a page of zeroes was sent, it holds another",
    )


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("at", [STATE_WORDS_BYTES, PAGE_BYTES - STACK_BYTES - 1])
def test_of_the_state_page_only_its_words_and_the_stack_are_the_guests(ran: bool, at: int) -> None:
    memory, blocks = witnessed([(MAIN, SMALL)]), held([(MAIN, SMALL)])
    blocks["pc.ram"][STATE_AT + at] ^= 1
    (finding,) = memory.compare(blocks, ran=ran).findings
    assert finding.startswith(f"page {STATE_AT // PAGE_BYTES} of pc.ram: ")


def test_a_state_page_that_came_as_a_difference_is_known() -> None:
    memory = SentMemory(GUEST)
    memory.block(RamBlock("pc.ram", 16 << 20))
    first = bytes(range(256)) * 16
    then = bytes(255 - each for each in first[:40]) + first[40:]
    difference = xbzrle.encode(first, then)
    assert difference is not None
    memory.page(RamPage("pc.ram", STATE_AT, RamFlag.PAGE, first))
    memory.page(RamPage("pc.ram", STATE_AT, RamFlag.XBZRLE, difference))
    blocks = {"pc.ram": bytearray(16 << 20)}
    blocks["pc.ram"][STATE_AT : STATE_AT + PAGE_BYTES] = then
    for ran in (True, False):
        report = memory.compare(blocks, ran=ran)
        assert (report.damaged, report.unknown) == (0, 0)
    blocks["pc.ram"][STATE_AT + 39] ^= 1
    assert memory.compare(blocks, ran=True).damaged == 1
    memory.page(RamPage("pc.ram", STATE_AT, RamFlag.XBZRLE, b"no difference"))
    report = memory.compare(blocks, ran=True)
    assert (report.damaged, report.unknown) == (0, 1)
    memory.zeros("pc.ram", [STATE_AT])
    assert memory.compare({"pc.ram": bytearray(16 << 20)}, ran=True).damaged == 0


def test_pages_of_zeroes_are_told_as_that() -> None:
    memory, blocks = witnessed([(MAIN, SMALL)]), held([(MAIN, SMALL)])
    bios = blocks["pc.bios"]
    at = next(at for at in range(0, len(bios), PAGE_BYTES) if any(bios[at : at + PAGE_BYTES]))
    bios[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
    ram = blocks["pc.ram"]
    assert not any(ram[-PAGE_BYTES * 300 : -PAGE_BYTES * 299])
    ram[-PAGE_BYTES * 300] = 1
    findings = memory.compare(blocks, ran=True).findings
    assert (
        f"page {at // PAGE_BYTES} of pc.bios: it holds a page of zeroes, another was sent"
        in findings
    )
    assert any(each.endswith("a page of zeroes was sent, it holds another") for each in findings)


def test_a_block_that_is_missing_or_of_another_size_is_told() -> None:
    memory, blocks = witnessed([(MAIN, SMALL)]), held([(MAIN, SMALL)])
    del blocks["pc.rom"]
    blocks["pc.bios"] = blocks["pc.bios"][:-1]
    report = memory.compare(blocks, ran=True)
    assert sorted(report.findings) == [
        "pc.bios: 262144 bytes were sent, it holds 262143 bytes",
        "pc.rom: 131072 bytes were sent, it holds no such block",
    ]


def test_what_a_fault_does_to_a_page_is_not_what_was_sent() -> None:
    fault = Fault(PagePlace("pc.bios", page=60, field="data", byte=8), FlipBits(b"\xff"), "it")
    memory = witnessed([(MAIN, SMALL)], faults=(fault,))
    assert memory.compare(held([(MAIN, SMALL)]), ran=True).damaged == 0


def test_another_stream_begins_anew_and_without_one_nothing_is_compared() -> None:
    assert SentMemory(GUEST).compare({}, ran=True).unwatched is not None
    memory = witnessed([(MAIN, SMALL)])
    engine = FaultEngine(witness=memory)
    other = recorded("qemu10.0-precopy.c0.fwd")
    relay = engine.connection(1, MAIN)
    relay.received(SOURCE, other)
    assert memory.compare(held([(MAIN, other)]), ran=False).damaged == 0


def page(flags: RamFlag, data: bytes, at: int = 0) -> RamPage:
    return RamPage("pc.bios", at, flags, data)


def test_a_page_that_came_encoded_is_read_or_said_to_be_unknown() -> None:
    memory = SentMemory(GUEST)
    memory.block(RamBlock("pc.bios", 3 * PAGE_BYTES))
    memory.block(RamBlock("pc.ram", 16 << 20))
    whole = bytes(range(256)) * 16
    memory.page(page(RamFlag.COMPRESS_PAGE, zlib.compress(whole)))
    memory.page(page(RamFlag.COMPRESS_PAGE, b"no zlib", PAGE_BYTES))
    memory.page(page(RamFlag.XBZRLE, b"\0\1", 2 * PAGE_BYTES))
    blocks = {
        "pc.bios": bytearray(whole.ljust(3 * PAGE_BYTES, b"!")),
        "pc.ram": bytearray(16 << 20),
    }
    report = memory.compare(blocks, ran=True)
    assert (report.damaged, report.unknown) == (0, 2)
    blocks["pc.bios"][0] ^= 1
    assert memory.compare(blocks, ran=True).damaged == 1


def test_more_pages_than_can_be_kept_are_said_to_be_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sent, "DIGESTS_MAX", 100)
    report = witnessed([(MAIN, SMALL)]).compare(held([(MAIN, SMALL)]), ran=True)
    assert report.unwatched == "more than 100 pages are no rule's"
