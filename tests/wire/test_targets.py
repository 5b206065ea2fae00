"""Streams of other machines than x86-64's `pc`: what differs is in the format, not in a bound."""

import json
import struct

import pytest
from wire_helpers import TARGETS, opaque, parse, pieces, recorded, steps, vmdesc
from wire_helpers import device as section_of

from testbed.wire import (
    Layout,
    LearnedLayout,
    MainChannel,
    MultifdChannel,
    Phase,
    StreamError,
    build_section,
    encode,
    recut,
)
from testbed.wire.element import (
    Certainty,
    Configuration,
    Element,
    FileHeader,
    LiveRecord,
    PageRun,
    Payload,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.packet import MultifdInit, MultifdPacket, MultifdPages
from testbed.wire.runs import offsets_bytes

S390_BEFORE_10 = "targets/qemu7.2-s390x.fwd"
PPC64 = "targets/qemu7.2-ppc64-pseries.fwd"
ISAPC = "targets/qemu7.2-isapc.fwd"


def headers(elements: list[Element]) -> list[SectionHeader]:
    return [each.value for each in elements if isinstance(each.value, SectionHeader)]


PAGE_BYTES = {"avr": 256, "arm-lm3s6965evb": 1024, "or1k": 8192, "tricore": 16384}
"""Of targets whose stream does not say it, and that is not 4 KiB."""


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", TARGETS)
def test_every_byte_is_accounted_for(name: str, seed: int | None) -> None:
    data = recorded(name)
    channel = MainChannel(in_runs=seed is None)
    elements = parse(channel, [data] if seed is None else pieces(data, seed))
    assert opaque(elements) == []
    assert channel.phase is Phase.ENDED
    assert channel.confirmed == (name != S390_BEFORE_10)
    assert headers(elements)[-1].idstr == "globalstate"
    target = name.partition("-")[2].removesuffix(".fwd")
    assert channel.page_bytes == PAGE_BYTES.get(target, 4096)
    text = next(each.value.text for each in elements if isinstance(each.value, VmDescription))
    assert json.loads(text)["page_size"] == channel.page_bytes


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_each_page_of_each_block_comes_once(name: str, in_runs: bool) -> None:
    """In the first pass; a machine that does not run has no other."""
    channel = MainChannel(in_runs=in_runs)
    blocks: dict[str, int] = {}
    pages: dict[str, list[int]] = {}
    for element in parse(channel, [recorded(name)]):
        match element.value:
            case RamBlock(idstr=idstr, used_bytes=used):
                blocks[idstr] = used
            case RamPage(block=block, offset_bytes=offset):
                pages.setdefault(block, []).append(offset)
            case PageRun(block=block) as run:
                assert run.page_bytes == channel.page_bytes
                pages.setdefault(block, []).extend(offsets_bytes(run))
    assert set(pages) == set(blocks)
    for block, used in blocks.items():
        assert sorted(set(pages[block])) == list(range(0, used, channel.page_bytes))


def unstated(page_bytes: int, *values: RamPage | RamMark, used_pages: int = 64) -> bytes:
    """A stream of a machine with pages of that size, which it does not say."""
    used = used_pages * page_bytes
    listed = RamTotal(used), RamBlock("ram", used), RamMark(RamFlag.EOS)
    return b"".join(
        (
            encode(FileHeader(0x5145564D, 3)),
            encode(Configuration("virt")),
            build_section(SectionType.START, 2, "ram", 0, 4, b"".join(map(encode, listed))),
            build_section(SectionType.PART, 2, "ram", 0, 4, b"".join(map(encode, values))),
            build_section(SectionType.END, 2, "ram", 0, 4, encode(RamMark(RamFlag.EOS))),
            section_of(7, "timer", b"state"),
            vmdesc(("timer", 0, 5)),
        )
    )


SIZES = [1 << bits for bits in range(8, 17)]


@pytest.mark.parametrize("step", [1, 700, 1 << 20])
@pytest.mark.parametrize("kinds", ["zd", "zzd", "d", "dd", "dz", "ddzd", "zzz", "z"])
@pytest.mark.parametrize("page_bytes", SIZES)
def test_a_page_size_that_is_not_stated_is_learned(page_bytes: int, kinds: str, step: int) -> None:
    values = []
    for number, kind in enumerate(kinds):
        flags = RamFlag.PAGE if kind == "d" else RamFlag.ZERO
        data = bytes(range(1, 256)) * (page_bytes // 255 + 1) if kind == "d" else b"\0"
        flags |= RamFlag.CONTINUE if number else RamFlag(0)
        values.append(RamPage("ram", number * page_bytes, flags, data[:page_bytes]))
    data = unstated(page_bytes, *values, RamMark(RamFlag.EOS))
    for in_runs in (False, True):
        channel = MainChannel(in_runs=in_runs)
        elements = parse(channel, steps(data, step))
        assert opaque(elements) == []
        assert channel.confirmed
        if kinds != "z":  # of a single zero page nothing tells
            assert channel.page_bytes == page_bytes
        if not in_runs:
            assert [each.value for each in elements if isinstance(each.value, RamPage)] == values


def test_zero_pages_that_were_left_out_do_not_hide_the_page_size() -> None:
    """The first two are two pages apart; the first one with data decides."""
    first = RamPage("ram", 0, RamFlag.ZERO, b"\0")
    third = RamPage("ram", 8192, RamFlag.ZERO | RamFlag.CONTINUE, b"\0")
    fourth = RamPage("ram", 12288, RamFlag.PAGE | RamFlag.CONTINUE, b"\1" * 4096)
    for last in (RamMark(RamFlag.EOS), RamPage("ram", 0x4000, third.flags, b"\0")):
        values = [
            first,
            third,
            fourth,
            last,
            *([] if last == RamMark(RamFlag.EOS) else [RamMark(RamFlag.EOS)]),
        ]
        elements = parse(channel := MainChannel(), [unstated(4096, *values)])
        assert channel.page_bytes == 4096
        assert channel.confirmed
        assert opaque(elements) == []


def test_a_page_is_not_waited_for_longer_than_the_sender_is_silent() -> None:
    channel = MainChannel()
    page = RamPage("ram", 0, RamFlag.PAGE, b"\1" * 4096)
    data = unstated(4096, page, RamMark(RamFlag.EOS))
    end = data.index(encode(page)) + len(encode(page))
    assert not any(isinstance(each.value, RamPage) for each in channel.feed(data[:end]))
    assert [each.value for each in channel.silence()] == [page]
    assert opaque(channel.feed(data[end:])) == []
    assert channel.page_bytes == 4096


@pytest.mark.parametrize("sync_first", [False, True])
@pytest.mark.parametrize("page_bytes", [4096, 8192, 16384, 65536])
def test_a_multifd_channel_tells_its_page_size(page_bytes: int, sync_first: bool) -> None:
    slots = (512 << 10) // page_bytes
    offsets = struct.pack(f">{slots}Q", 0, page_bytes, *[0] * (slots - 2))
    sync = MultifdPacket(1, 0, 0, 0, 0, 0, "", bytes(8 * slots))
    packet = MultifdPacket(0, slots, 2, 2 * page_bytes, 1, 0, "ram", offsets)
    pages = MultifdPages("ram", (0, page_bytes), bytes(2 * page_bytes))
    values = [MultifdInit(bytes(16), 0), *([sync] if sync_first else []), packet, pages, sync]
    data = b"".join(map(encode, values))
    for step in (1, 500, 1 << 20):
        channel = MultifdChannel()
        assert [each.value for each in parse(channel, steps(data, step))] == values
        assert channel.page_bytes == page_bytes
    assert [each.value for each in parse(MultifdChannel(), [encode(values[0]) + encode(sync)])][
        1:
    ] == [sync]


def test_live_sections_of_other_machines_are_read_record_by_record() -> None:
    expected = {
        PPC64: ("spapr/htab", ["HEADER", "HEADER", "EOS", "HEADER", "EOS"]),
        S390_BEFORE_10: ("s390-storage_attributes", ["EOS", "EOS", "DONE", "EOS"]),
    }
    for name, (idstr, kinds) in expected.items():
        elements = parse(MainChannel(), [recorded(name)])
        found = [each for each in elements if isinstance(each.value, LiveRecord)]
        assert {each.section.idstr for each in found if each.section} == {idstr}
        assert [each.value.kind for each in found if isinstance(each.value, LiveRecord)] == kinds


def test_an_instance_id_is_any_number_of_32_bits() -> None:
    elements = parse(MainChannel(), [recorded(PPC64)])
    instances = [each.instance_id for each in headers(elements) if each.idstr == "spapr_iommu"]
    assert instances == [0x80000000, 0x80000001, 0x71000001]
    for number in (0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF):
        data = recorded(PPC64)
        start = data.index(b"\x0bspapr_iommu\x80\0\0\0")
        changed = data[: start + 12] + number.to_bytes(4, "big") + data[start + 16 :]
        found = headers(parse(MainChannel(), [changed]))
        assert next(each.instance_id for each in found if each.idstr == "spapr_iommu") == number
        assert len(found) == len(headers(elements))


@pytest.mark.parametrize("section_id", [65_536, 1 << 20, (1 << 31) - 1])
def test_a_section_id_counts_all_that_a_machine_ever_registered(section_id: int) -> None:
    data = recorded(PPC64)
    was = next(each for each in headers(parse(MainChannel(), [data])) if each.instance_id)
    old, new = (each.to_bytes(4, "big") for each in (was.section_id, section_id))
    for mark in (b"\x04%s\x0bspapr_iommu", b"\x7e%s\x04"):  # header; footer, another section
        assert data.count(mark % old) == 1
        data = data.replace(mark % old, mark % new)
    channel = MainChannel()
    elements = parse(channel, [data])
    assert channel.confirmed
    assert section_id in [each.section_id for each in headers(elements)]


def test_the_vmdesc_of_a_qemu_before_5_has_an_instance_id_as_an_int() -> None:
    device = {"name": "spapr_iommu", "instance_id": -(1 << 31), "vmsd_name": "x", "fields": []}
    layout = Layout.parse(json.dumps({"devices": [device]}).encode())
    assert layout.devices[0].instance_id == 1 << 31
    for wrong in (-(1 << 31) - 1, 1 << 32, "0", None, 0.0):
        device["instance_id"] = wrong
        with pytest.raises(StreamError, match="expected a number of 32 bits as `instance_id`"):
            Layout.parse(json.dumps({"devices": [device]}).encode())


def test_two_sections_of_one_idstr_and_instance_are_told_apart() -> None:
    channel = MainChannel()
    elements = parse(channel, [recorded(ISAPC)])
    assert channel.layout is not None
    ide = [
        (each.occurrence, channel.layout.size("isa-ide", 0, each.occurrence), len(each.raw))
        for each in elements
        if isinstance(each.value, Payload) and each.section and each.section.idstr == "isa-ide"
    ]
    assert ide == [(1, 58, 58), (2, 58, 58)]
    assert channel.layout.size("isa-ide", 0, 3) is None
    assert channel.layout.size("isa-ide", 0, 0) is None
    devices = [("isa-ide", 0, 3), ("isa-ide", 0, 5)]
    _, text = vmdesc(*devices).split(b"\0\6", 1)
    layout = Layout.parse(text[4:])
    assert [layout.spans("isa-ide", 0, nth)[0].size_bytes for nth in (1, 2)] == [3, 5]


def test_only_the_section_that_a_vmdesc_has_wrong_is_in_doubt() -> None:
    """s390_css of QEMU before 10.0: its array of pointers is described as structs of no fields."""
    channel = MainChannel()
    elements = parse(channel, [recorded(S390_BEFORE_10)])
    css = next(each for each in headers(elements) if each.idstr == "s390_css")
    assert channel.doubts == {css.section_id: "the section's size: 272 and 1039 bytes"}
    with pytest.raises(StreamError):  # no true cut can be made of it
        recut(elements)


def test_all_but_the_section_in_doubt_can_be_learned() -> None:
    data = recorded(S390_BEFORE_10)
    channel = MainChannel()
    elements = parse(channel, [data])
    learned = LearnedLayout.from_json(LearnedLayout.of(elements).to_json())
    for header in headers(elements):
        known = header.type is SectionType.FULL and header.idstr != "s390_css"
        assert bool(learned.sizes(header)) == known
    silent = data[: data.rindex(b"\0\6")]
    cut = parse(MainChannel(learned=learned), [silent + b"\0"])
    certain = {
        each.section.idstr: each.certainty
        for each in cut
        if isinstance(each.value, Payload) and each.section is not None
    }
    assert certain.pop("s390_css") is Certainty.INFERRED
    assert set(certain.values()) == {Certainty.LEARNED}


DOUBTS = [
    # what the vmdesc says, how the stream was cut, which of them are in doubt
    (["a3", "b4", "c5"], ["a3", "b4", "c5"], []),
    (["a3", "b4", "c5"], ["a3", "b9", "c5"], [1]),
    (["a3", "b4", "c5", "d6"], ["a1", "b4", "c5", "d1"], [0, 3]),
    (["a3", "b4", "c5"], ["a3", "x4", "c5"], [1]),
    (["a3", "b4", "c5", "d6"], ["a3", "b1", "x1", "c5", "d6"], [1, 2]),
    (["a3", "b4", "c5", "d6"], ["a3", "d6"], []),
    (["a3", "b4", "d6"], ["a3", "x1", "d6"], [1]),
    (["a3", "a3"], ["a3", "a3", "a3"], [2]),
    ([], ["a3"], [0]),
]


@pytest.mark.parametrize(("described", "cut", "expected"), DOUBTS)
def test_which_sections_are_in_doubt(
    described: list[str], cut: list[str], expected: list[int]
) -> None:
    text = json.loads(vmdesc(*((each[0], 0, int(each[1])) for each in described))[6:])
    layout = Layout.parse(json.dumps(text).encode())
    sections = [(each[0], 0, int(each[1])) for each in cut]
    assert list(layout.doubts(sections)) == expected
