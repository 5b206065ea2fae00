"""Toxics as values: what bodies say, what is refused and in which words, which stages they are."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.control.body import read
from testbed.control.errors import ApiError
from testbed.control.toxics import Toxic
from testbed.fault.plan import Side
from testbed.proxy.shaping import (
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stage,
    Timeout,
)


def toxic(kind: str, **attributes: Any) -> Toxic:
    return Toxic.parse({"type": kind, "name": "t", "attributes": attributes})


STAGES = [
    (toxic("latency", latency=1500, jitter=20), Latency(1.5, 0.02, name="t")),
    (toxic("latency"), Latency(0.0, 0.0, name="t")),
    (toxic("latency", latency=-5, jitter=-5), Latency(0.0, 0.0, name="t")),
    (toxic("bandwidth", rate=1000), Bandwidth(1_000_000, name="t")),
    (toxic("bandwidth"), Bandwidth(0, name="t")),
    (toxic("slow_close", delay=250), SlowClose(0.25, name="t")),
    (toxic("timeout", timeout=250), Timeout(0.25, name="t")),
    (toxic("reset_peer", timeout=250), ResetPeer(0.25, name="t")),
    (toxic("slicer", average_size=64, size_variation=8, delay=10), Slicer(64, 8, 1e-5, name="t")),
    (toxic("limit_data", bytes=100), LimitData(100, name="t")),
]


@pytest.mark.parametrize(("given", "stage"), STAGES)
def test_a_toxic_is_a_stage(given: Toxic, stage: Stage) -> None:
    assert given.stages(live=False) == [stage]


def test_a_noop_is_none() -> None:
    assert toxic("noop").stages(live=False) == []


def test_a_reset_of_a_live_connection_waits_for_nothing() -> None:
    assert toxic("reset_peer").stages(live=True) == [ResetPeer(0.0, awaits_bytes=False, name="t")]


def test_what_is_not_said_has_its_default() -> None:
    assert Toxic.parse({"type": "latency"}).to_json() == {
        "attributes": {"latency": 0, "jitter": 0},
        "name": "latency_downstream",
        "type": "latency",
        "stream": "downstream",
        "toxicity": 1.0,
    }


@pytest.mark.parametrize(
    "written",
    [
        {"type": "latency", "name": None, "stream": None, "toxicity": None, "attributes": None},
        {"TYPE": "latency", "Stream": "downstream"},
        {"type": "latency", "of": "nobody", "attributes": {"unknown": "x"}},
        {"type": "latency", "name": "", "attributes": {"latency": 0}},
    ],
)
def test_what_toxiproxy_lets_pass_passes(written: dict[str, Any]) -> None:
    assert Toxic.parse(written) == Toxic.parse({"type": "latency"})


@pytest.mark.parametrize(
    ("stream", "toward"),
    [("upstream", Side.DESTINATION), ("downstream", Side.SOURCE), ("Upstream", Side.DESTINATION)],
)
def test_the_client_is_the_source(stream: str, toward: Side) -> None:
    assert Toxic.parse({"type": "noop", "stream": stream}).toward is toward


def test_an_update_says_what_changes() -> None:
    before = toxic("latency", latency=100, jitter=10)
    assert before.updated({"attributes": {"latency": 7}}).attributes == {"latency": 7, "jitter": 10}
    after = before.updated({"toxicity": 0.5, "name": "x", "type": "noop", "stream": "upstream"})
    assert after == Toxic("t", "latency", "downstream", 0.5, {"latency": 100, "jitter": 10})


@pytest.mark.parametrize(
    ("asked", "kept"),
    [(1.0, "1"), (0.1, "0.1"), (0.123456789, "0.12345679"), (1e-9, "1e-09"), (-3, "-3")],
)
def test_toxicity_is_a_float32(asked: float, kept: str) -> None:
    assert repr(Toxic.parse({"type": "noop", "toxicity": asked}).toxicity) == kept


def test_text_that_is_no_unicode_is_replaced() -> None:
    assert Toxic.parse(read(b'{"type": "noop", "name": "a\xffb"}')).name == "a\ufffdb"
    assert Toxic.parse(read(rb'{"type": "noop", "name": "\ud800"}')).name == "\ufffd"
    assert Toxic.parse(read(rb'{"type": "noop", "name": "\ud83d\ude00"}')).name == "\U0001f600"


INVALID_STREAM = "stream was invalid, can be either upstream or downstream"
REFUSED = [
    ({"type": "latency", "stream": "walrus"}, INVALID_STREAM),
    ({"stream": "walrus"}, INVALID_STREAM),
    ({"type": "latency", "stream": ""}, INVALID_STREAM),
    ({"type": "walrus"}, "invalid toxic type"),
    ({}, "invalid toxic type"),
    ([], "bad request body: expected an object, got []"),
    ({"type": 5}, "bad request body: type: expected a text, got 5"),
    (
        {"type": "latency", "toxicity": "high"},
        'bad request body: toxicity: expected a number, got "high"',
    ),
    (
        {"type": "latency", "toxicity": True},
        "bad request body: toxicity: expected a number, got true",
    ),
    (
        {"type": "latency", "attributes": {"latency": "soon"}},
        'bad request body: attributes.latency: expected a whole number, got "soon"',
    ),
    (
        {"type": "latency", "attributes": {"latency": 1.5}},
        "bad request body: attributes.latency: expected a whole number, got 1.5",
    ),
    (
        {"type": "latency", "attributes": {"latency": 5.0}},
        "bad request body: attributes.latency: expected a whole number, got 5.0",
    ),
    (
        {"type": "latency", "toxicity": 1e39},
        "bad request body: toxicity: too large: 1e+39",
    ),
    (
        {"type": "latency", "toxicity": float("inf")},  # what 1e999 is read as
        "bad request body: toxicity: too large: Infinity",
    ),
    (
        {"type": "latency", "attributes": {"latency": float("inf")}},
        "bad request body: attributes.latency: expected a whole number, got Infinity",
    ),
    (
        {"type": "latency", "toxicity": 10**400},
        f"bad request body: toxicity: too large: 1{'0' * 56}...",
    ),
    (
        {"type": "latency", "attributes": {"latency": 2**63}},
        f"bad request body: attributes.latency: expected 64 bits at most, got {2**63}",
    ),
    (
        {"type": "latency", "attributes": [1]},
        "bad request body: attributes: expected an object, got [1]",
    ),
    (
        {"type": "slicer"},
        "bad request body: attributes.average_size: expected 1 or more, got 0",
    ),
    (
        {"type": "slicer", "attributes": {"average_size": 5, "size_variation": 5}},
        "bad request body: attributes.size_variation: expected 0 to 4, less than average_size, "
        "got 5",
    ),
    (
        {"type": "noop", "name": "a\nb"},
        "bad request body: name: expected a text of at most 200 printable characters, "
        r'got "a\nb"',
    ),
    (
        {"type": "migration_fault", "attributes": {"name": "x"}},
        "bad request body: attributes.name: a fault here has the name of its toxic",
    ),
]


@pytest.mark.parametrize(("written", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        Toxic.parse(written)
    assert (refused.value.status, refused.value.message) == (400, message)


FAULT = {"at": {"section": "*/virtio-net"}, "do": "reset"}


def test_a_fault_is_a_toxic() -> None:
    fault = Toxic.parse({"type": "migration_fault", "attributes": FAULT})
    assert fault.is_fault
    assert fault.stages(live=False) == []
    assert fault.to_json()["attributes"] == FAULT
    assert fault.updated({"attributes": {"do": "close"}}).attributes == {**FAULT, "do": "close"}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"do": "reset"}, "attributes.`at` is missing"),
        ({**FAULT, "at": {"sektion": "ram"}}, "attributes.at: unknown key `sektion`; did you mean"),
        ({**FAULT, "whom": 1}, "attributes.whom: unknown key `whom`"),
        ({**FAULT, "at": {"state": "active", "side": "source"}}, "attributes.at: nobody reports"),
        ({**FAULT, "do": {"signal": {"side": "source", "signal": "KILL"}}}, "attributes.do: "),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_its_path(
    attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ApiError, match=r"^bad request body: ") as refused:
        Toxic.parse({"type": "migration_fault", "attributes": attributes})
    assert words in refused.value.message


def test_a_fault_has_chance_instead_of_toxicity() -> None:
    with pytest.raises(ApiError, match=r"toxicity: expected 1 for a migration_fault, got 0.5;"):
        Toxic.parse({"type": "migration_fault", "toxicity": 0.5, "attributes": FAULT})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "it is empty; expected JSON"),
        (b" \n", "it is empty; expected JSON"),
        (b"{", "it is not JSON: "),
        (b"\xff", "it is not JSON: "),
        (b'{"toxicity": NaN}', "it is not JSON: NaN is no number"),
        (b"[" * 100_000, "it is nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON: "),
    ],
)
def test_a_body_that_is_none(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(body)
    assert refused.value.message.startswith(f"bad request body: {message}")


def test_what_follows_the_first_value_is_not_looked_at() -> None:
    assert read(b' {"a": 1} {') == {"a": 1}
