"""Page records in bulk say the same as page records one by one."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_helpers import PAGE_BYTES, RAM_ID, head, pieces, ram_start, recorded, steps

from testbed.wire import MainChannel, encode
from testbed.wire.element import (
    Element,
    PageRun,
    RamFlag,
    RamMark,
    RamPage,
    RunElement,
    SectionFooter,
    SectionHeader,
    SectionType,
)
from testbed.wire.runs import ATTEMPT, FOLLOWED, RECORDS_MAX, data_at, offsets_bytes, zeros

STREAMS = ("qemu7.2-precopy.c0.fwd", "qemu10.0-xbzrle.c0.fwd", "qemu10.0-postcopy.c0.fwd")


def said(elements: list[Element]) -> list[tuple[object, ...]]:
    """What elements say, page by page, whether they came in runs or not."""
    found: list[tuple[object, ...]] = []
    for element in elements:
        match element.value:
            case PageRun() as run:
                found += [
                    (run.block, int(offset), bool(zero), element.offset + int(at))
                    for offset, zero, at in zip(
                        offsets_bytes(run), zeros(run), data_at(run), strict=True
                    )
                ]
            case RamPage(block, offset, flags, data) if flags & (RamFlag.PAGE | RamFlag.ZERO):
                zero = bool(flags & RamFlag.ZERO)
                found.append((block, offset, zero, element.end - len(data)))
            case value:
                found.append((element.offset, value))
    return found


def read(chunks, *, in_runs: bool, page_bytes: int = 4096) -> list[Element]:
    channel = MainChannel(page_bytes=page_bytes, runs_after=0 if in_runs else None)
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


def stream(kinds: list[bool]) -> bytes:
    """A stream with a PART of those pages, True: a zero page; only the first has its idstr."""
    body = b"".join(
        encode(
            RamPage(
                "pc.ram",
                number % 8 * PAGE_BYTES,
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
    st.integers(1, 5000),
)
def test_any_mix_of_pages_says_the_same_in_runs(mix: list[tuple[bool, int]], step: int) -> None:
    kinds = [zero for zero, count in mix for _ in range(count)]
    data = stream(kinds)
    expected = said(read([data], in_runs=False, page_bytes=PAGE_BYTES))
    assert said(read(steps(data, step), in_runs=True, page_bytes=PAGE_BYTES)) == expected


def test_a_run_has_all_records_in_hand_whatever_their_mix() -> None:
    kinds = [number * 7 % 3 == 0 for number in range(4 * FOLLOWED)]
    elements = read([stream(kinds)], in_runs=True, page_bytes=PAGE_BYTES)
    runs = [element for element in elements if isinstance(element, RunElement)]
    assert [len(run.value.records) for run in runs] == [len(kinds)]
    assert zeros(runs[0].value).tolist() == kinds


def test_a_run_is_bounded() -> None:
    data = stream([True] * (RECORDS_MAX + 5))
    elements = read([data], in_runs=True, page_bytes=PAGE_BYTES)
    runs = [element.value for element in elements if isinstance(element, RunElement)]
    assert [len(run.records) for run in runs] == [RECORDS_MAX, 5]


@pytest.mark.parametrize("window", [10_000, 1 << 30])
def test_a_mapped_file_says_the_same(tmp_path: Path, window: int) -> None:
    data = recorded(STREAMS[0])
    path = tmp_path / "stream"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        channel = MainChannel(runs_after=3)
        channel.map(mapped)
        elements: list[Element] = []
        while left := len(data) - channel.fed:
            elements += channel.grant(min(window, left))
        elements += channel.end()
    assert channel.pending == 0
    assert said(elements) == said(read([data], in_runs=False))
