"""Live sections other than RAM: each record's bytes, their ends, and two recorded streams."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    device,
    head,
    opaque,
    parse,
    pieces,
    ram_part,
    ram_start,
    recorded,
    steps,
    vmdesc,
)

from testbed.wire import MainChannel, Phase, build_section, encode
from testbed.wire.element import (
    Certainty,
    Element,
    LiveRecord,
    Opaque,
    Payload,
    SectionFooter,
    SectionType,
)
from testbed.wire.live import DATA_BYTES_MAX, DISK_BLOCK_BYTES

ID = 3
VFIO = "0000:00:04.0/vfio"
DISK_BLOCK = "00" * (DISK_BLOCK_BYTES - 1) + "ff"
PAYLOADS = [
    # idstr, version_id, payload record by record: kind, bytes
    pytest.param(
        "block",
        1,
        [
            ("DEVICE_BLOCK", "0000000000100001 05 6469736b30" + DISK_BLOCK),
            ("ZERO_BLOCK", "0000000000200009 05 6469736b30"),
            ("PROGRESS", "0000000000006404"),
            ("EOS", "0000000000000002"),
        ],
        id="block",
    ),
    pytest.param("block", 1, [("EOS", "0000000000000002")], id="block-without-work"),
    pytest.param(
        "dirty-bitmap",
        1,
        [
            # as recorded from QEMU 7.2
            ("START", "1c 05 6469736b30 03 6f6666 00000200 00"),
            ("START", "14 05 6f74686572 00010000 01"),
            ("BITS", "4e 05 6469736b30 03 6f6666 0000000000000000 00001c00"),
            ("BITS", "44 01 61 0000000000000000 00001c00 0000000000000008 feff010000000000"),
            ("COMPLETE", "24 01 61"),
            ("EOS", "01"),
        ],
        id="dirty-bitmap",
    ),
    pytest.param(
        "dirty-bitmap",
        1,
        [
            ("COMPLETE", "80 24 01 61"),
            ("COMPLETE", "8080 0020"),
            ("NAMES", "04 01 61"),
            ("EOS", "8001"),
        ],
        id="dirty-bitmap-wide-flags",
    ),
    pytest.param("dirty-bitmap", 1, [("COMPLETE", "21")], id="dirty-bitmap-ends-with-a-chunk"),
    pytest.param(
        VFIO,
        1,
        [("DEV_SETUP_STATE", "ffffffffef100003"), ("END_OF_STATE", "ffffffffef100001")],
        id="vfio-setup",
    ),
    pytest.param(
        VFIO,
        1,
        [
            ("DEV_DATA_STATE", "ffffffffef100004 0000000000000003 616263"),
            ("DEV_DATA_STATE", "ffffffffef100004 0000000000000000"),
            ("DEV_INIT_DATA_SENT", "ffffffffef100005"),
        ],
        id="vfio-data",
    ),
    pytest.param(
        "s390-storage_attributes",
        0,
        [
            ("MORE", "0000000000003002 0000000000000002 0001"),
            ("DONE", "0000000000000008"),
            ("ERROR", "0000000000000004"),
            ("EOS", "0000000000000001"),
        ],
        id="storage-attributes",
    ),
    pytest.param("spapr/htab", 1, [("HEADER", "00000018")], id="htab-shift"),
    pytest.param("spapr/htab", 1, [("HEADER", "ffffffff")], id="htab-none"),
    pytest.param(
        "spapr/htab",
        1,
        [
            ("HEADER", "00000000"),
            ("CHUNK", "00000010 0002 0001" + "aa" * 32),
            ("CHUNK", "00000000 0000 0100"),
            ("EOS", "00000000 0000 0000"),
        ],
        id="htab-chunks",
    ),
]


def stream(idstr: str, version_id: int, payload: bytes, *, footer: bool = True) -> bytes:
    """START, PART and END of a live entry with that payload."""
    kinds = (SectionType.START, SectionType.PART, SectionType.END)
    return head() + b"".join(
        build_section(kind, ID, idstr, 0, version_id, payload, footer=footer) for kind in kinds
    )


@pytest.mark.parametrize("step", [1, 3, 1 << 21])
@pytest.mark.parametrize(("idstr", "version_id", "records"), PAYLOADS)
def test_each_record_is_an_element(
    idstr: str, version_id: int, records: list[tuple[str, str]], step: int
) -> None:
    if step == 1 and any(len(hexed) > 99_999 for _, hexed in records):
        step = 1001
    raws = [bytes.fromhex(hexed) for _, hexed in records]
    data = stream(idstr, version_id, b"".join(raws))
    elements = parse(MainChannel(), steps(data, step), end=False)
    found = [element for element in elements if isinstance(element.value, LiveRecord)]
    assert [element.value for element in found] == 3 * [
        LiveRecord(kind, raw) for (kind, _), raw in zip(records, raws, strict=True)
    ]
    assert b"".join(encode(element.value) for element in elements) == data
    assert elements[-1].value == SectionFooter(ID)
    assert {element.certainty for element in elements} == {Certainty.EXACT}
    for element in found:
        assert element.section is not None
        assert element.section.idstr == idstr
        assert_tiled(element)


def assert_tiled(element: Element) -> None:
    end = 0
    for span in element.spans:
        assert span.start == end
        end = span.start + span.size_bytes
    assert end == len(element.raw)


def test_fields_of_a_record_have_names() -> None:
    payload = bytes.fromhex("4c 01 64 01 62 0000000000000000 00000008 0000000000000002 aabb 01")
    elements = parse(MainChannel(), [stream("dirty-bitmap", 1, payload)], end=False)
    element = next(e for e in elements if isinstance(e.value, LiveRecord))
    found = {s.name: element.raw[s.start : s.start + s.size_bytes].hex() for s in element.spans}
    assert found == {
        "flags": "4c",
        "node_length": "01",
        "node": "64",
        "bitmap_length": "01",
        "bitmap": "62",
        "first_sector": "0000000000000000",
        "sectors": "00000008",
        "size": "0000000000000002",
        "data": "aabb",
    }


@pytest.mark.parametrize(
    ("idstr", "version_id", "payload", "why"),
    [
        ("block", 1, "0000000000100010", "expected flags of block migration, got 0x10"),
        (
            "dirty-bitmap",
            1,
            "40" + "00" * 12 + "0000000004000001",
            "expected at most 67108864 bytes",
        ),
        (VFIO, 1, "ffffffffef100002", "expected a tag of VFIO, got 0xffffffffef100002"),
        (VFIO, 1, "ffffffffef100004 8000000000000000", "expected at most 67108864 bytes"),
        ("s390-storage_attributes", 0, "0000000000001003", "got 0x0000000000001003"),
    ],
)
def test_what_cannot_be_is_named(idstr: str, version_id: int, payload: str, why: str) -> None:
    assert DATA_BYTES_MAX == 67108864
    data = stream(idstr, version_id, bytes.fromhex(payload))
    channel = MainChannel()
    last = parse(channel, [data])[-1]
    assert isinstance(last.value, Opaque)
    assert f"in payload of START {idstr}: " in last.value.why
    assert why in last.value.why
    assert channel.phase is Phase.OPAQUE


def test_an_end_that_a_record_tells_needs_no_footers() -> None:
    records = bytes.fromhex("0000000000200009 00 0000000000000002")
    data = stream("block", 1, records, footer=False) + ram_start(footer=False)
    channel = MainChannel()
    elements = parse(channel, [data], end=False)
    assert opaque(elements) == []
    assert channel.footers is False


@pytest.mark.parametrize(
    ("idstr", "version_id", "kind"),
    [
        ("block", 2, SectionType.START),
        (VFIO, 1, SectionType.FULL),
        ("vmstate", 1, SectionType.START),
    ],
)
def test_other_versions_and_sections_are_found_by_their_footer(
    idstr: str, version_id: int, kind: SectionType
) -> None:
    section = build_section(kind, ID, idstr, 0, version_id, b"whatever it is")
    data = head() + ram_start() + section + ram_part(kind=SectionType.END) + vmdesc()
    elements = parse(MainChannel(), [data])
    assert opaque(elements) == []
    (payload,) = [e for e in elements if isinstance(e.value, Payload)]
    assert payload.raw == b"whatever it is"
    assert payload.certainty is Certainty.INFERRED


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream of short live sections, with a few bytes set, inserted or deleted."""
    chosen = [p.values for p in PAYLOADS if p.id not in ("block",)]
    idstr, version_id, records = draw(st.sampled_from(chosen))
    payload = bytes.fromhex("".join(hexed for _, hexed in records))
    wire = bytearray(stream(idstr, version_id, payload) + ram_start() + device(9, "timer", b"t"))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(len(head()), len(wire)))
        if draw(st.booleans()):
            wire[at : at + 1] = draw(st.binary(max_size=3))
        else:
            del wire[at : at + draw(st.integers(1, 9))]
    return bytes(wire)


@settings(max_examples=300, deadline=None)
@given(mutated(), st.integers(0, 99))
def test_mutations_give_the_same_elements_in_any_pieces(data: bytes, seed: int) -> None:
    in_one, in_pieces = parse(MainChannel(), [data]), parse(MainChannel(), pieces(data, seed))
    known = [element for element in in_one if not isinstance(element.value, Opaque)]
    assert known == [e for e in in_pieces if not isinstance(e.value, Opaque)]
    assert b"".join(element.raw for element in in_pieces) == data


RECORDED = {
    "qemu7.2-block.c0.fwd": {"DEVICE_BLOCK": 3, "ZERO_BLOCK": 5, "PROGRESS": 8, "EOS": 729},
    "qemu7.2-dirty-bitmaps.c0.fwd": {"START": 3, "BITS": 3, "COMPLETE": 3, "EOS": 126},
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_disks_decode_to_their_end(name: str) -> None:
    data = recorded(name)
    channel = MainChannel()
    elements = parse(channel, [data])
    assert opaque(elements) == []
    assert channel.confirmed
    assert b"".join(encode(element.value) for element in elements) == data
    kinds = [e.value.kind for e in elements if isinstance(e.value, LiveRecord)]
    assert {kind: kinds.count(kind) for kind in RECORDED[name]} == RECORDED[name]
    assert len(kinds) == sum(RECORDED[name].values())
    assert parse(MainChannel(), pieces(data, seed=5)) == elements


def test_single_bytes_change_nothing() -> None:
    data = recorded("qemu7.2-dirty-bitmaps.c0.fwd")
    assert parse(MainChannel(), steps(data, 1)) == parse(MainChannel(), [data])


def test_the_disk_that_was_recorded_is_there() -> None:
    """Two disks of 3.5 MiB; written: 0x55 from 64 KiB on for 1 MiB, 0xaa from 3 MiB on."""
    disks = {"disk0": bytearray(4 << 20), "disk1": bytearray(4 << 20)}
    for element in parse(MainChannel(), [recorded("qemu7.2-block.c0.fwd")]):
        if isinstance(element.value, LiveRecord) and element.value.kind == "DEVICE_BLOCK":
            found = {s.name: element.raw[s.start : s.start + s.size_bytes] for s in element.spans}
            start = int.from_bytes(found["record"], "big") & ~511
            disks[found["device"].decode()][start : start + DISK_BLOCK_BYTES] = found["data"]
    written = bytes(64 << 10) + b"\x55" * (1 << 20)
    assert disks["disk0"].rstrip(b"\0") == written
    assert disks["disk1"][3 << 20 :].rstrip(b"\0") == b"\xaa" * (512 << 10)
