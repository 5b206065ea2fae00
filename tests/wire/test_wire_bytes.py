"""Every layout as a row: a value and its bytes, from captured streams, both ways."""

import pytest
from wire_helpers import head, parse, ram_part, ram_start, steps

from testbed.wire import MainChannel, build_command, build_message, build_section, encode
from testbed.wire.element import (
    Command,
    Configuration,
    ConfigurationSubsection,
    EndOfStream,
    FileHeader,
    Opaque,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    SectionType,
    Value,
)

MAGIC = "5145564d 00000003"
CONFIGURATION = "07 0000000d 70632d693434306678 2d372e32"
RAM_START = "01 00000002 03 72616d 00000000 00000004"
ONE_BLOCK = f"{RAM_START} 0000000001000004 06 70632e72616d 0000000001000000 0000000000000010"
PAGE_HEX = "00" * 4095 + "ff"
FOOTER = "7e 00000002"

ROWS = [
    # what precedes the element, the element, its value; first as captured from QEMU 7.2, `pc`
    pytest.param("", MAGIC, FileHeader(0x5145564D, 3), id="file-header"),
    pytest.param(MAGIC, CONFIGURATION, Configuration("pc-i440fx-7.2"), id="configuration"),
    pytest.param(
        MAGIC + CONFIGURATION,
        "05 12 636f6e66696775726174696f6e2f75756964 00000001 000102030405060708090a0b0c0d0e0f",
        ConfigurationSubsection("configuration/uuid", 1, bytes(range(16))),
        id="uuid",
    ),
    pytest.param(
        MAGIC + CONFIGURATION,
        "05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001"
        "00000001 0f 782d69676e6f72652d736861726564",
        ConfigurationSubsection("configuration/capabilities", 1, b"\0\0\0\1\x0fx-ignore-shared"),
        id="capabilities",
    ),
    pytest.param(
        MAGIC, RAM_START, SectionHeader(SectionType.START, 2, "ram", 0, 4), id="ram-start"
    ),
    pytest.param(MAGIC + RAM_START, "0000000001082004", RamTotal(0x1082000), id="mem-size"),
    pytest.param(
        MAGIC + RAM_START + "0000000001000004",
        "06 70632e72616d 0000000001000000",
        RamBlock("pc.ram", 16 << 20),
        id="block",
    ),
    pytest.param(
        MAGIC + RAM_START + "0000000001200004",
        "06 70632e72616d 0000000001000000 0000000000200000",
        RamBlock("pc.ram", 16 << 20, 2 << 20),
        id="block-page-size",
    ),
    pytest.param(
        MAGIC + RAM_START + "0000000001000004",
        "06 70632e72616d 0000000001000000 0000000000200000",
        RamBlock("pc.ram", 16 << 20, 2 << 20),
        id="last-block-page-size",
    ),
    pytest.param(
        MAGIC + RAM_START + "0000000001000004 06 70632e72616d 0000000001000000",
        "0000000000000010",
        RamMark(RamFlag.EOS),
        id="eos",
    ),
    pytest.param(MAGIC + ONE_BLOCK, FOOTER, SectionFooter(2), id="footer"),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER,
        "02 00000002",
        SectionHeader(SectionType.PART, 2, "ram", 0, 4),
        id="ram-part",
    ),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER + "02 00000002",
        "0000000000000008 06 70632e72616d" + PAGE_HEX,
        RamPage("pc.ram", 0, RamFlag.PAGE, bytes(4095) + b"\xff"),
        id="page",
    ),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER + "02 00000002 0000000000000008 06 70632e72616d" + PAGE_HEX,
        "0000000000001022 00",
        RamPage("pc.ram", 0x1000, RamFlag.ZERO | RamFlag.CONTINUE, b"\0"),
        id="zero-continue",
    ),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER + "02 00000002",
        "0000000000003040 06 70632e72616d 01 0003 0001aa",
        RamPage("pc.ram", 0x3000, RamFlag.XBZRLE, b"\x00\x01\xaa"),
        id="xbzrle",
    ),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER + "02 00000002",
        "0000000000003100 06 70632e72616d 00000002 789c",
        RamPage("pc.ram", 0x3000, RamFlag.COMPRESS_PAGE, b"\x78\x9c"),
        id="compress-page",
    ),
    pytest.param(
        MAGIC + ONE_BLOCK + FOOTER,
        "04 00000000 05 74696d6572 00000000 00000002",
        SectionHeader(SectionType.FULL, 0, "timer", 0, 2),
        id="full",
    ),
    pytest.param(MAGIC, "08 0001 0000", Command(1, b""), id="OPEN_RETURN_PATH"),
    pytest.param(MAGIC, "08 0002 0004 00000001", Command(2, b"\0\0\0\1"), id="PING"),
    pytest.param(
        MAGIC,
        "08 0003 0010 0000000000001000 0000000000001000",
        Command(3, bytes(6) + b"\x10\0" + bytes(6) + b"\x10\0"),
        id="ADVISE",
    ),
    pytest.param(
        MAGIC,
        "08 0006 001a 00 07 70632e62696f73 00 0000000000000000 0000000000040000",
        Command(6, b"\0\x07pc.bios\0" + bytes(13) + b"\x04\0\0"),
        id="DISCARD",
    ),
    pytest.param(MAGIC, "08 0007 0004 0000326b", Command(7, b"\0\0\x32\x6b"), id="PACKAGED"),
    pytest.param(MAGIC, "08 000a 0007 06 70632e72616d", Command(10, b"\6pc.ram"), id="RECV_BITMAP"),
    pytest.param(MAGIC, "08 000b 0000", Command(11, b""), id="SWITCHOVER_START"),
    pytest.param(MAGIC, "08 00ff 0001 aa", Command(255, b"\xaa"), id="unknown-command"),
    pytest.param(MAGIC, "08 0002 0003 000001", Command(2, b"\0\0\1"), id="PING-bad-length"),
    pytest.param(MAGIC, "00", EndOfStream(), id="eof"),
]


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize(("before", "wire", "value"), ROWS)
def test_value_and_bytes(before: str, wire: str, value: Value, step: int) -> None:
    context, raw = bytes.fromhex(before), bytes.fromhex(wire)
    assert encode(value) == raw
    behind = bytes(7) + b"\x10"  # what tells that a last block has no page size
    elements = parse(MainChannel(), steps(context + raw + behind, step), end=False)
    (element,) = [each for each in elements if each.offset == len(context)]
    assert element.raw == raw
    assert element.value == value


def test_block_addresses_of_ignore_shared_are_told_from_page_sizes() -> None:
    capabilities = ConfigurationSubsection(
        "configuration/capabilities", 1, b"\0\0\0\1\x0fx-ignore-shared"
    )
    blocks = (
        RamBlock("pc.ram", 0x1000, None, 0),
        RamBlock("huge", 0x200000, 0x200000, 0x100000000),
        RamBlock("pc.bios", 0x1000, None, 0xFFFFF000),
    )
    values = (RamTotal(0x202000), *blocks, RamMark(RamFlag.EOS))
    stream = (
        encode(FileHeader(0x5145564D, 3))
        + encode(Configuration("pc"))
        + encode(capabilities)
        + build_section(SectionType.START, 1, "ram", 0, 4, b"".join(map(encode, values)))
    )
    found = [element.value for element in parse(MainChannel(), [stream], end=False)]
    assert tuple(value for value in found if isinstance(value, RamBlock)) == blocks


FIELDS = [
    pytest.param(FileHeader, ["magic", "version"], id="file-header"),
    pytest.param(Configuration, ["type", "length", "machine"], id="configuration"),
    pytest.param(
        SectionHeader,
        ["type", "section_id", "idstr_length", "idstr", "instance_id", "version_id"],
        id="section-header",
    ),
    pytest.param(SectionFooter, ["mark", "section_id"], id="footer"),
    pytest.param(RamPage, ["record", "idstr_length", "idstr", "data"], id="page"),
    pytest.param(Command, ["type", "command", "length", "payload"], id="command"),
]


@pytest.mark.parametrize(("kind", "names"), FIELDS)
def test_fields_are_named_and_tile_their_element(kind: type, names: list[str]) -> None:
    page = RamPage("pc.ram", 0, RamFlag.PAGE, bytes(1024))
    stream = head() + build_command(2, b"\0\0\0\1") + ram_start() + ram_part(page)
    element = next(e for e in parse(MainChannel(), [stream]) if isinstance(e.value, kind))
    assert [span.name for span in element.spans] == names
    assert element.spans[0].start == 0
    ends = [span.start + span.size_bytes for span in element.spans]
    assert [span.start for span in element.spans[1:]] + [len(element.raw)] == ends


def test_idstr_field_is_the_text_without_its_length() -> None:
    element = parse(MainChannel(), [head() + ram_start()], end=False)[4]
    span = element.span("idstr")
    assert span is not None
    assert element.raw[span.start : span.start + span.size_bytes] == b"ram"


def test_builders_lie_where_they_are_told_to() -> None:
    assert build_command(2, b"\0\0\0\1", length=3).hex(" ") == "08 00 02 00 03 00 00 00 01"
    assert build_message(2, b"\1", length=9).hex(" ") == "00 02 00 09 01"
    assert build_section(4, 5, "a", 0, 1, b"xy", footer=False)[-2:] == b"xy"
    assert build_section(2, 5, "ram", 0, 4, b"", footer=True).hex() == "02000000057e00000005"


def test_opaque_bytes_have_no_encoding() -> None:
    with pytest.raises(TypeError, match="opaque"):
        encode(Opaque("whatever"))
