"""The channels beside the main one, what tells them apart, and a recovery read alone."""

import pytest
from wire_helpers import DATA, PAGES, head, opaque, parse, pieces, ram_start, recorded, steps

from testbed.wire import (
    ChannelKind,
    MainChannel,
    OpaqueChannel,
    Phase,
    PreemptChannel,
    channel_of,
    encode,
)
from testbed.wire.element import Command, Opaque, RamFlag, RamMark, RamPage, RamTotal
from testbed.wire.identify import FIRST_BYTES

EOS = RamMark(RamFlag.EOS)
ALIKE = RamPage("pc.ram", 0x2000, RamFlag.ZERO, b"\0")

KINDS = {
    "multifd.c0.fwd": ChannelKind.MAIN,
    "multifd.c1.fwd": ChannelKind.MULTIFD,
    "multifd.c2.fwd": ChannelKind.MULTIFD,
    "preempt.c1.fwd": ChannelKind.PREEMPT,
    "recover.rec.c0.fwd": ChannelKind.RECOVERY,
}


@pytest.mark.parametrize("path", sorted(DATA.glob("*.bin.xz")), ids=lambda path: path.name)
def test_first_bytes_tell_what_was_recorded(path) -> None:
    name = path.name.removesuffix(".bin.xz")
    expected = ChannelKind.RETURN_PATH if name.endswith(".ret") else ChannelKind.MAIN
    expected = KINDS.get(name.partition("-")[2], expected)
    assert channel_of(recorded(name)[:FIRST_BYTES]) is expected


@pytest.mark.parametrize("first", [b"", b"\0", b"Q", b"QEV", b"QEMU", b"\x11\x22", b"\x08\0\x01"])
def test_what_begins_like_nothing_known_has_no_kind(first: bytes) -> None:
    assert channel_of(first) is None


def test_tls_is_told_by_its_record_and_stays_opaque() -> None:
    hello = b"\x16\x03\x01\x02\x00\x01 hello"
    assert channel_of(hello) is ChannelKind.TLS
    elements = parse(OpaqueChannel("in a TLS record"), steps(hello, 4))
    assert [element.raw for element in elements] == list(steps(hello, 4))
    assert {element.value for element in elements} == {Opaque("in a TLS record")}


def test_a_preempt_channel_may_carry_nothing() -> None:
    assert parse(PreemptChannel(), []) == []


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_a_preempt_channel_is_records_and_an_end_until_7_2(step: int) -> None:
    values = (ALIKE, RamPage("pc.ram", 0, RamFlag.PAGE | RamFlag.CONTINUE, bytes(4096)), EOS)
    elements = parse(PreemptChannel(), steps(b"".join(map(encode, values)), step))
    assert tuple(element.value for element in elements) == values
    assert all(element.section is None for element in elements)


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_preempt_channel_may_end_after_any_record_and_in_none(step: int) -> None:
    data = encode(ALIKE) * 2
    for cut in range(1, len(data)):
        elements = parse(PreemptChannel(), steps(data[:cut], step))
        if cut == len(data) // 2:
            assert opaque(elements) == []
        else:
            assert "cut short at offset" in str(elements[-1].value)
            assert "RAM record" in str(elements[-1].value)


def test_a_recorded_preempt_channel_decodes() -> None:
    (element,) = parse(PreemptChannel(), [recorded("qemu7.2-preempt.c1.fwd")])
    assert element.value == EOS


def test_a_preempt_channel_takes_over_what_the_main_channel_said() -> None:
    main = MainChannel()
    channel = PreemptChannel(main)  # 7.2 opens it before the main channel has said anything
    main.feed(head() + ram_start())
    page = RamPage("pc.ram", 0x400, RamFlag.PAGE, bytes(1024))
    unknown = RamPage("pc.rom", 0x400, RamFlag.PAGE, bytes(1024))
    elements = parse(channel, [encode(page) + encode(unknown)])
    assert elements[0].value == page
    assert "expected a RAM block of the list, got b'pc.rom'" in str(elements[1].value)


def test_the_last_block_of_one_channel_is_not_that_of_another() -> None:
    main = MainChannel()
    main.feed(head() + ram_start() + b"\2\0\0\0\2" + encode(PAGES[0]))
    again = RamPage("pc.ram", 0x400, RamFlag.ZERO | RamFlag.CONTINUE, b"\0")
    (element,) = parse(PreemptChannel(main), [encode(again)])
    assert "expected a page record with its block" in str(element.value)


@pytest.mark.parametrize(
    "value",
    [
        RamTotal(0x1000),
        RamMark(RamFlag.HOOK),
        RamPage("pc.ram", 0, RamFlag.XBZRLE, b"\0\1a"),
        RamPage("pc.ram", 0, RamFlag.COMPRESS_PAGE, b"zlib"),
        RamPage("", 0, RamFlag.PAGE, bytes(4096)),
    ],
)
def test_a_preempt_channel_carries_nothing_else(value) -> None:
    elements = parse(PreemptChannel(), [encode(ALIKE) + encode(value)])
    assert [type(element.value) for element in elements] == [RamPage, Opaque]
    assert "offset 0x10, in RAM record" in str(elements[1].value)


@pytest.mark.parametrize("version", ["qemu7.2", "qemu10.0"])
def test_a_recovery_can_be_read_alone(version: str) -> None:
    data = recorded(f"{version}-recover.rec.c0.fwd")
    channel = MainChannel(recovery=True)
    elements = parse(channel, [data])
    assert opaque(elements) == []
    assert channel.phase is Phase.ENDED
    assert b"".join(encode(element.value) for element in elements) == data
    first = MainChannel()
    parse(first, [recorded(f"{version}-recover.c0.fwd")])
    known = parse(first.recovered(), [data])
    assert [each.value for each in elements] == [each.value for each in known]
    assert parse(MainChannel(recovery=True), pieces(data, seed=3)) == elements
    asked = [e.value.payload[1:].decode() for e in elements if _asks(e.value)]
    assert {e.value.block for e in elements if isinstance(e.value, RamPage)} <= set(asked)


def _asks(value) -> bool:
    return isinstance(value, Command) and value.name == "RECV_BITMAP"


def test_a_recovery_read_alone_takes_one_section_for_ram() -> None:
    part = b"\2\0\0\0\7" + encode(ALIKE) + encode(EOS) + b"\x7e\0\0\0\7"
    other = b"\2\0\0\0\x08" + encode(EOS)
    elements = parse(MainChannel(recovery=True), [part * 2 + other])
    assert elements[4].section is not None
    assert elements[4].section.idstr == "ram"
    assert elements[4].occurrence == 2
    assert "expected the section_id of a START section, got 8" in str(elements[-1].value)
