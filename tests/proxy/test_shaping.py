"""A line under every stage: what leaves it, and when; the clock is a number here."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.proxy.shaping import (
    DUE_MAX,
    PIECE_BYTES,
    PIECES_MAX,
    Bandwidth,
    Latency,
    LimitData,
    Line,
    Passing,
    ResetPeer,
    Slicer,
    SlowClose,
    Stage,
    Timeout,
    Write,
)

EVER = 1e9
Seen = tuple[float, bytes | str]


def line(*stages: Stage, now: float = 0.0, seed: int = 0) -> Line:
    return Line(stages, rng=random.Random(seed), now=now)


def shown(passing: Passing) -> bytes | str:
    return bytes(passing.data) if isinstance(passing, Write) else type(passing).__name__


def run(under: Line, until: float = EVER) -> list[Seen]:
    """All that leaves by then, each when it is due; a clock that never waits for nothing."""
    seen: list[Seen] = []
    now = 0.0
    while (at := under.next_at()) is not None and at <= until:
        now = max(now, at)
        seen += ((round(now, 6), shown(passing)) for passing in under.due(now))
    return seen


def passed(seen: Sequence[Seen]) -> bytes:
    return b"".join(what for _, what in seen if isinstance(what, bytes))


def test_a_line_without_stages_is_clear() -> None:
    assert line().is_clear
    assert line().next_at() is None
    assert not line(Latency(0.0)).is_clear


def test_what_was_pushed_is_held_until_its_time() -> None:
    under = line(Latency(0.5))
    under.push(1.0, b"abc")
    assert under.due(1.49) == []
    assert under.next_at() == 1.5
    assert under.held_bytes == 3 + PIECE_BYTES
    assert [shown(passing) for passing in under.due(1.5)] == [b"abc"]
    assert under.held_bytes == 0


TABLE = [
    pytest.param(
        [Latency(0.5)],
        [(0.0, b"a"), (0.1, b"b"), (0.2, None)],
        [(0.5, b"a"), (0.6, b"b"), (0.7, "Fin")],
        id="latency counts from arrival",
    ),
    pytest.param(
        [Latency(0.5), Latency(0.25)], [(1.0, b"a")], [(1.75, b"a")], id="latencies add up"
    ),
    pytest.param(
        [Bandwidth(1000)],
        [(0.0, b"x" * 250), (0.0, None)],
        [(0.1, b"x" * 100), (0.2, b"x" * 100), (0.25, b"x" * 50), (0.25, "Fin")],
        id="bandwidth sends slices of 100 ms",
    ),
    pytest.param(
        [Bandwidth(1000)],
        [(0.0, b"x" * 50), (10.0, b"y" * 50)],
        [(0.05, b"x" * 50), (10.05, b"y" * 50)],
        id="an idle way saves nothing up",
    ),
    pytest.param(
        [Bandwidth(2)], [(0.0, b"ab")], [(0.5, b"a"), (1.0, b"b")], id="bandwidth below a slice"
    ),
    pytest.param([Bandwidth(0)], [(0.0, b"ab"), (0.0, None)], [], id="rate 0 passes nothing"),
    pytest.param([Bandwidth(0)], [(0.0, None)], [(0.0, "Fin")], id="rate 0 paces bytes only"),
    pytest.param(
        [Slicer(1, 0, 0.01)],
        [(0.0, b"abc"), (0.0, None)],
        [(0.0, b"a"), (0.01, b"b"), (0.02, b"c"), (0.03, "Fin")],
        id="slicer exact",
    ),
    pytest.param(
        [Slicer(4)],
        [(0.0, b"abcdefghij")],
        [(0.0, b"ab"), (0.0, b"cde"), (0.0, b"fg"), (0.0, b"hij")],
        id="slicer halves",
    ),
    pytest.param(
        [SlowClose(2.0)],
        [(0.0, b"a"), (1.0, None)],
        [(0.0, b"a"), (3.0, "Fin")],
        id="slow close delays the end only",
    ),
    pytest.param(
        [Timeout(1.0)],
        [(0.0, b"a"), (0.9, b"b")],
        [(1.0, "Close")],
        id="a timeout is not put off by traffic",
    ),
    pytest.param([Timeout(0.0)], [(0.0, b"a"), (9.0, b"b")], [], id="timeout 0 is a black hole"),
    pytest.param([Timeout(0.0)], [(0.0, b"a"), (1.0, None)], [(1.0, "Fin")], id="whose end shows"),
    pytest.param([ResetPeer(0.0)], [(1.0, b"a")], [(1.0, "Reset")], id="reset at first bytes"),
    pytest.param([ResetPeer(0.5)], [(1.0, b"a")], [(1.5, "Reset")], id="reset after a time"),
    pytest.param([ResetPeer(0.5)], [(1.0, None)], [(1.5, "Reset")], id="reset after an end"),
    pytest.param([ResetPeer(0.5)], [], [], id="no reset without bytes"),
    pytest.param(
        [ResetPeer(0.5, awaits_bytes=False)], [], [(0.5, "Reset")], id="reset of a live connection"
    ),
    pytest.param(
        [LimitData(5)],
        [(0.0, b"abc"), (1.0, b"defg"), (1.0, b"h")],
        [(0.0, b"abc"), (1.0, b"de"), (1.0, "Close")],
        id="limit cuts",
    ),
    pytest.param(
        [LimitData(3)], [(0.0, b"abc")], [(0.0, b"abc"), (0.0, "Close")], id="limit at a boundary"
    ),
    pytest.param([LimitData(0)], [(2.0, b"abc")], [(2.0, "Close")], id="limit 0 at first bytes"),
    pytest.param([LimitData(0)], [(2.0, None)], [(2.0, "Fin")], id="limit 0 spares an end"),
    pytest.param(
        [LimitData(2), Latency(1.0)],
        [(0.0, b"abc")],
        [(1.0, b"ab"), (1.0, "Close")],
        id="what passed the limit arrives before the close",
    ),
]


@pytest.mark.parametrize(("stages", "events", "leaves"), TABLE)
def test_stage(
    stages: list[Stage], events: list[tuple[float, bytes | None]], leaves: list[Seen]
) -> None:
    under = line(*stages)
    for at, data in events:
        if data is None:
            under.finish(at)
        else:
            under.push(at, data)
    assert run(under) == leaves


@given(
    data=st.binary(min_size=1, max_size=3000),
    average=st.integers(1, 400),
    variation=st.integers(0, 399),
    seed=st.integers(0, 9),
)
def test_slices_are_near_the_average(data: bytes, average: int, variation: int, seed: int) -> None:
    under = line(Slicer(average, min(variation, average - 1)), seed=seed)
    under.push(0.0, data)
    seen = run(under)
    assert passed(seen) == data
    assert all(0 < len(what) <= average + variation for _, what in seen)


def test_jitter_stays_within_its_bounds_and_keeps_order() -> None:
    under = line(Latency(0.1, 0.05), seed=1)
    for number in range(200):
        under.push(number / 10, bytes([number]))
    seen = run(under)
    delays = [at - number / 10 for number, (at, _) in enumerate(seen)]
    assert passed(seen) == bytes(range(200))
    assert min(delays) >= 0.05 - 1e-6
    assert max(delays) <= 0.15 + 1e-6
    assert max(delays) - min(delays) > 0.08


def test_the_seed_decides_all() -> None:
    def one(seed: int) -> list[Seen]:
        under = line(Latency(0.1, 0.1), Slicer(10, 5, 0.001), seed=seed)
        under.push(0.0, bytes(500))
        return run(under)

    assert one(1) == one(1)
    assert one(1) != one(2)


def test_a_new_rate_paces_what_is_held() -> None:
    under = line(Bandwidth(0))
    under.push(0.0, bytes(100))
    under.set([Bandwidth(1000)], 5.0)
    assert run(under) == [(5.1, bytes(100))]


def test_a_late_caller_gets_no_burst() -> None:
    """Ten seconds in which nobody wrote are lost, but for one slice."""
    under = line(Bandwidth(1000))
    under.push(0.0, bytes(5000))
    assert len(passed([(0.0, shown(passing)) for passing in under.due(10.0)])) <= 200


def test_a_stage_that_is_gone_lets_go_what_it_held() -> None:
    under = line(Latency(5.0), Bandwidth(0))
    under.push(0.0, b"a")
    run(under, until=5.0)  # now before the second stage
    under.push(5.0, b"b")
    under.set([], 6.0)
    assert run(under) == [(6.0, b"a"), (6.0, b"b")]
    assert under.is_clear


def test_a_new_latency_counts_from_arrival_too() -> None:
    under = line(Latency(5.0))
    under.push(0.0, b"a")
    under.set([Latency(2.0)], 1.0)
    assert run(under) == [(2.0, b"a")]


def test_a_limit_counts_over_its_changes_and_its_neighbours() -> None:
    under = line(LimitData(4, name="limit"))
    under.push(0.0, b"abc")
    assert passed(run(under)) == b"abc"
    under.set([Latency(0.0), LimitData(6, name="limit")], 1.0)
    under.push(1.0, b"defgh")
    assert run(under) == [(1.0, b"def"), (1.0, "Close")]


def test_a_limit_by_another_name_counts_anew() -> None:
    under = line(LimitData(4, name="one"))
    under.push(0.0, b"abc")
    run(under)
    under.set([LimitData(4, name="other")], 1.0)
    under.push(1.0, b"defg")
    assert passed(run(under)) == b"defg"


def test_a_timeout_that_is_taken_away_closes() -> None:
    under = line(Timeout(0.0))
    under.push(0.0, b"a")
    under.set([], 1.0)
    assert run(under) == [(1.0, "Close")]


def test_a_reset_that_is_taken_away_loses_nothing() -> None:
    under = line(ResetPeer(5.0))
    under.push(0.0, b"a")
    under.set([], 1.0)
    assert run(under) == [(1.0, b"a")]


@pytest.mark.parametrize("end", [Timeout(1.0), ResetPeer(1.0, awaits_bytes=False)])
def test_nothing_follows_the_end(end: Stage) -> None:
    under = line(end)
    run(under)
    under.set([], 2.0)
    under.push(2.0, b"late")
    under.finish(2.0)
    assert under.due(EVER) == []
    assert under.next_at() is None
    assert under.held_bytes == 0
    assert not under.is_clear


def test_owners_do_not_touch_each_other() -> None:
    under = line(Latency(1.0))
    under.set([Latency(2.0)], 0.0, owner="faults")
    under.push(0.0, b"a")
    under.set([], 0.0)
    assert run(under) == [(2.0, b"a")]


def test_many_small_pieces_are_bounded() -> None:
    under = line(Slicer(1), Bandwidth(0))
    under.push(0.0, bytes(1 << 20))
    assert run(under) == []
    assert under.held_bytes <= (1 << 20) + PIECE_BYTES * (PIECES_MAX + 1)
    under.set([Slicer(1)], 1.0)
    assert len(under.due(1.0)) == DUE_MAX
    assert under.next_at() == 0.0


HARMLESS = st.one_of(
    st.builds(Latency, st.floats(0, 2), st.floats(0, 1), name=st.sampled_from("ab")),
    st.builds(Bandwidth, st.integers(0, 5000), name=st.sampled_from("ab")),
    st.builds(Slicer, st.integers(1, 50), st.integers(0, 50), st.floats(0, 0.1), name=st.just("a")),
    st.builds(SlowClose, st.floats(0, 2)),
)
STEPS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=200),
        st.lists(HARMLESS, max_size=4),
        st.floats(0, 1),
    ),
    max_size=30,
)


@given(steps=STEPS, seed=st.integers(0, 3))
def test_no_byte_is_lost_or_reordered_whatever_changes(
    steps: list[bytes | list[Stage] | float], seed: int
) -> None:
    under, now = line(seed=seed), 0.0
    sent, got, ends = b"", b"", 0
    for step in [*steps, b"last", []]:
        if isinstance(step, bytes):
            sent += step
            under.push(now, step)
        elif isinstance(step, float):
            now += step
        else:
            under.set(step, now)
        got += b"".join(bytes(one.data) for one in under.due(now) if isinstance(one, Write))
        assert sent.startswith(got)
    under.finish(now)
    for one in (shown(each) for _ in range(len(sent)) for each in under.due(now)):
        if isinstance(one, bytes):
            assert not ends
            got += one
        else:
            ends += 1
    assert (got, ends) == (sent, 1)


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=10),
    limit=st.integers(0, 1500),
    average=st.integers(1, 64),
)
def test_a_limit_is_exact_whatever_surrounds_it(
    chunks: list[bytes], limit: int, average: int
) -> None:
    under = line(Slicer(average), LimitData(limit), Latency(0.1, 0.1))
    for chunk in chunks:
        under.push(0.0, chunk)
    under.finish(0.0)
    seen, whole = run(under), b"".join(chunks)
    closes = bool(whole) and limit <= len(whole)
    assert passed(seen) == whole[:limit]
    assert seen[-1][1] == ("Close" if closes else "Fin")
