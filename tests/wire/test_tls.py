"""TLS records: where they begin and end, whatever is in them."""

from typing import get_args

import pytest
from wire_helpers import opaque, parse, steps

from testbed.wire import TlsChannel, encode
from testbed.wire.element import Opaque, RunElement, Span, TlsRecord, Value
from testbed.wire.kinds import KINDS

RECORDS = [
    TlsRecord(22, 0x0301, b"client hello"),
    TlsRecord(20, 0x0303, b"\1"),
    TlsRecord(23, 0x0303, bytes(range(256)) * 66),
    TlsRecord(23, 0x0303, b""),
]
STREAM = b"".join(map(encode, RECORDS))


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_every_record_is_an_element(step: int) -> None:
    elements = parse(TlsChannel(), steps(STREAM, step))
    assert [element.value for element in elements] == RECORDS
    assert b"".join(element.raw for element in elements) == STREAM
    assert elements[0].spans == (
        Span("type", 0, 1),
        Span("version", 1, 2),
        Span("length", 3, 2),
        Span("data", 5, 12),
    )
    assert [record.name for record in RECORDS[:3]] == [
        "handshake",
        "change-cipher-spec",
        "application-data",
    ]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("17 0303 4801", "expected at most 18432 bytes, got 18433"),
        ("10 0303 0001", "expected type 20 to 24, version 3.x, got 16, 0x0303"),
        ("17 0203 0001", "expected type 20 to 24, version 3.x, got 23, 0x0203"),
    ],
)
def test_what_is_no_record_is_opaque_from_there_on(head: str, why: str) -> None:
    (left,) = opaque(parse(TlsChannel(), [STREAM + bytes.fromhex(head) + b"more"]))
    assert left.offset == len(STREAM)
    assert isinstance(left.value, Opaque)
    assert why in left.value.why


def test_a_record_that_was_cut_is_said_to_be() -> None:
    (left,) = opaque(parse(TlsChannel(), [STREAM[:9]]))
    assert left.raw == STREAM[:9]
    assert isinstance(left.value, Opaque)
    assert left.value.why.startswith("cut short at offset 0x0, in TLS record")


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_in_runs_records_lie_where_they_did_without_their_data(step: int) -> None:
    channel = TlsChannel()
    channel.in_runs = True
    elements = parse(channel, steps(STREAM, step))
    whole = parse(TlsChannel(), [STREAM])
    assert [(e.offset, e.size_bytes) for e in elements] == [(e.offset, e.size_bytes) for e in whole]
    assert {type(element) for element in elements} == {RunElement}


def test_every_value_has_a_kind() -> None:
    assert set(KINDS) == set(get_args(Value))
