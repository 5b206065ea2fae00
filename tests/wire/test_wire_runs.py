"""Page records in bulk say the same as page records one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from thoroughness import usually
from wire_helpers import (
    PAGE_BYTES,
    RAM_ID,
    head,
    in_windows,
    pieces,
    ram_part,
    ram_start,
    recorded,
    steps,
)

from testbed.wire import MainChannel, encode
from testbed.wire.element import (
    Element,
    PageRun,
    RamFlag,
    RamMark,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
)
from testbed.wire.runs import ATTEMPT, FOLLOWED_MAX, RECORDS_MAX, pages, zeros

STREAMS = ("qemu7.2-precopy.c0.fwd", "qemu10.0-xbzrle.c0.fwd", "qemu10.0-postcopy.c0.fwd")
SHORT = "qemu7.2-recover.c0.fwd"


def said(elements: list[Element]) -> list[tuple[object, ...]]:
    """What elements say, page by page, whether they came in runs or not."""
    found: list[tuple[object, ...]] = []
    for element in elements:
        match element.value:
            case PageRun() as run:
                found += [
                    (run.block, offset, zero, element.offset + at)
                    for offset, zero, at in pages(run)
                ]
            case RamPage(block, offset, flags, data) if flags & (RamFlag.PAGE | RamFlag.ZERO):
                zero = bool(flags & RamFlag.ZERO)
                found.append((block, offset, zero, element.end - len(data)))
            case value:
                found.append((element.offset, value))
    return found


def read(chunks, *, in_runs: bool, page_bytes: int = 4096) -> list[Element]:
    channel = MainChannel(page_bytes=page_bytes, in_runs=in_runs)
    elements = [element for chunk in chunks for element in channel.feed(chunk)]
    elements += channel.end()
    tiled = 0
    for element in elements:
        assert element.offset == tiled
        tiled = element.end
    assert tiled == channel.fed
    return elements


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_says_the_same_in_runs(name: str) -> None:
    data = recorded(name)
    expected = said(read([data], in_runs=False))
    assert said(read([data], in_runs=True)) == expected
    assert said(read(pieces(data, 7), in_runs=True)) == expected


def stream(kinds: list[bool], wrap: int = 8) -> bytes:
    """A stream with a PART of those pages, True: a zero page; only the first has its idstr.

    After `wrap` pages their addresses begin anew.
    """
    body = b"".join(
        encode(
            RamPage(
                "pc.ram",
                number % wrap * PAGE_BYTES,
                (RamFlag.ZERO if zero else RamFlag.PAGE)
                | (RamFlag.CONTINUE if number else RamFlag(0)),
                b"\0" if zero else bytes([number % 251]) * PAGE_BYTES,
            )
        )
        for number, zero in enumerate(kinds)
    )
    header = SectionHeader(SectionType.PART, RAM_ID, "ram", 0, 4)
    end = encode(RamMark(RamFlag.EOS)) + encode(SectionFooter(RAM_ID))
    return head() + ram_start() + encode(header) + body + end


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 3 * ATTEMPT)), min_size=1, max_size=12),
    st.sampled_from([8, 40, 10_000]),
    st.integers(1, 5000),
)
@example([(True, 3000), (False, 20), (True, 3000)], 2500, 20_001)  # breaks off when all is expected
def test_any_mix_of_pages_says_the_same_in_runs(
    mix: list[tuple[bool, int]], wrap: int, step: int
) -> None:
    kinds = [zero for zero, count in mix for _ in range(count)]
    data = stream(kinds, wrap)
    expected = said(read([data], in_runs=False, page_bytes=PAGE_BYTES))
    assert said(read(steps(data, step), in_runs=True, page_bytes=PAGE_BYTES)) == expected
    assert said(read([data], in_runs=True, page_bytes=PAGE_BYTES)) == expected


def runs_of(data: bytes) -> list[PageRun]:
    elements = read([data], in_runs=True, page_bytes=PAGE_BYTES)
    return [element.value for element in elements if isinstance(element.value, PageRun)]


def test_a_run_has_all_records_in_hand_whatever_their_mix() -> None:
    kinds = [number * 7 % 3 == 0 for number in range(2 * FOLLOWED_MAX)]
    runs = runs_of(stream(kinds))
    assert [len(run.records) for run in runs] == [FOLLOWED_MAX, FOLLOWED_MAX]
    assert sum(map(zeros, runs)) == sum(kinds)


@pytest.mark.parametrize("zero", [True, False])
def test_pages_that_follow_each_other_need_no_list(zero: bool) -> None:
    kinds = [zero] * 8  # of 8 pages: then the addresses begin anew
    (run,) = runs_of(stream([not zero, *kinds * 9]))
    assert len(run.records) == 73
    flags = int(RamFlag.ZERO if zero else RamFlag.PAGE)
    page = RamPage("pc.ram", 0, RamFlag(flags), b"\0" if zero else bytes(PAGE_BYTES))
    follow = [
        replace(page, offset_bytes=number * PAGE_BYTES, flags=page.flags | RamFlag.CONTINUE)
        for number in range(1, 100)
    ]
    (run,) = runs_of(head() + ram_start() + ram_part(page, *follow))
    assert run.records == range(flags, 100 * PAGE_BYTES + flags, PAGE_BYTES)


def test_a_list_ends_where_pages_follow_each_other_again() -> None:
    kinds = [True, False] * 10
    body = stream(kinds)
    assert [type(run.records) for run in runs_of(body)] == [list]
    pages_in_a_row = [
        RamPage("pc.ram", number * PAGE_BYTES, RamFlag.ZERO | RamFlag.CONTINUE, b"x")
        for number in range(64)
    ]
    first = RamPage("pc.ram", 0x8000, RamFlag.ZERO, b"\0")
    runs = runs_of(head() + ram_start() + ram_part(first, *pages_in_a_row))
    assert [type(run.records) for run in runs] == [list, range]
    assert [len(run.records) for run in runs] == [ATTEMPT + 2, 64 - ATTEMPT - 1]


def test_no_address_goes_round() -> None:
    last = RamPage("pc.ram", (1 << 64) - PAGE_BYTES, RamFlag.ZERO, b"\0")
    after = [
        RamPage("pc.ram", number * PAGE_BYTES, RamFlag.ZERO | RamFlag.CONTINUE, b"\0")
        for number in range(20)
    ]
    found = [pages(run) for run in runs_of(head() + ram_start() + ram_part(last, *after))]
    assert [offset for run in found for offset, _, _ in run] == [
        page.offset_bytes for page in (last, *after)
    ]


def test_a_run_is_bounded() -> None:
    pages_in_a_row = [
        RamPage("pc.ram", number * PAGE_BYTES, RamFlag.ZERO | RamFlag.CONTINUE, b"\0")
        for number in range(1, RECORDS_MAX + 5)
    ]
    first = RamPage("pc.ram", 0, RamFlag.ZERO, b"\0")
    data = head() + ram_start() + ram_part(first, *pages_in_a_row)
    assert [len(run.records) for run in runs_of(data)] == [RECORDS_MAX, 5]


@settings(deadline=None, max_examples=usually(4, thoroughly=20))
@given(st.integers(0, 9000), st.lists(st.integers(1, 400_000), min_size=1, max_size=5))
@example(8192, [10_000])
@example(0, [1_000_000])
def test_a_stream_says_the_same_in_windows(headroom: int, sizes: list[int]) -> None:
    data = recorded(SHORT)
    channel = MainChannel(in_runs=True)
    elements = in_windows(channel, data, headroom=headroom, sizes=sizes) + channel.end()
    assert channel.pending == 0
    assert said(elements) == EXPECTED


EXPECTED = said(read([recorded(SHORT)], in_runs=False))
