"""What `testbed decode` says of a stream, as lines and as JSON."""

from __future__ import annotations

import json
import lzma
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from wire_helpers import DATA, device, head, ram_part, ram_start, recorded, vmdesc

from testbed.decode.channels import SourceError
from testbed.decode.show import Wanted, learn, read_layout, show
from testbed.wire import LearnedLayout, MainChannel
from testbed.wire.element import RamFlag, RamPage, SectionType
from testbed.wire.identify import ChannelKind

PRECOPY = "qemu7.2-precopy.c0.fwd"
POSTCOPY = "qemu10.0-postcopy.c0.fwd"


@pytest.fixture
def decoded(capsys: pytest.CaptureFixture[str]):
    """Decode a file: whether it was whole, and the lines."""

    def run(path: Path | str, **wanted: Any) -> tuple[bool, list[str]]:
        whole = show(str(path), Wanted(**wanted))
        return whole, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def stream(tmp_path: Path):
    """A file of those bytes."""

    def make(data: bytes, name: str = "stream") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


def test_an_outline_of_precopy(decoded) -> None:
    whole, lines = decoded(DATA / f"{PRECOPY}.bin.xz")
    assert whole
    assert lines[0].endswith("qemu7.2-precopy.c0.fwd.bin.xz: main channel")
    assert lines[1:5] == [
        "0x0000000000           8  file header, version 3",
        "0x0000000008          18  configuration: machine pc-i440fx-7.2",
        "0x000000001a         170  START ram, section 2, version 4, block list of 16.51 MiB",
        "                            pc.ram  16 MiB",
    ]
    assert "0x00000000c4     3645831  PART ram: 4226 pages, 3345 zero" in lines
    assert "0x000067ba64         ~48  FULL timer, section 0, version 2" in lines
    assert "0x000068a35f           1  EOF" in lines
    assert "0x000068a360       99657  vmdesc: 32 device sections, confirms all ends" in lines
    assert lines[-1] == "whole: 6957225 bytes"


def test_an_outline_of_postcopy_has_the_return_path_beside_it(decoded) -> None:
    back = str(DATA / "qemu10.0-postcopy.c0.ret.bin.xz")
    whole, lines = decoded(DATA / f"{POSTCOPY}.bin.xz", return_path=back)
    assert whole
    assert "0x0000141466           9  PACKAGED package 0xe90e" in lines
    assert "0x000014146f           5    POSTCOPY_LISTEN" in lines
    assert "0x0000000020          23  <- REQ_PAGES_ID 0x21f000 length 0x1000 pc.ram" in lines


def test_a_return_path_is_known_by_its_first_bytes(decoded) -> None:
    whole, lines = decoded(DATA / "qemu10.0-postcopy.c0.ret.bin.xz")
    assert whole
    assert lines[0].endswith(": return-path channel")
    assert lines[1] == "0x0000000000           8  PONG 1"


@pytest.mark.parametrize("name", [PRECOPY, POSTCOPY, "qemu7.2-xbzrle.c0.fwd"])
def test_the_items_lie_back_to_back(decoded, name: str) -> None:
    _, lines = decoded(DATA / f"{name}.bin.xz", as_json=True)
    items = [json.loads(line) for line in lines]
    end = 0
    for item in items:
        if "offset" in item:
            assert item["offset"] == end
            end += item["length"]
    assert items[-1] == {"item": "end", "bytes": end, "whole": True}


@pytest.mark.parametrize("name", [PRECOPY, "qemu10.0-xbzrle.c0.fwd"])
def test_the_counts_of_memory_are_those_of_its_pages(decoded, stream, name: str) -> None:
    data = recorded(name)
    pages = [
        element.value for element in MainChannel().feed(data) if isinstance(element.value, RamPage)
    ]
    _, lines = decoded(stream(data), as_json=True)
    blocks = {
        item["block"]: item for item in map(json.loads, lines) if item.get("item") == "memory"
    }
    for block in {page.block for page in pages}:
        own = [page for page in pages if page.block == block]
        offsets = [page.offset_bytes for page in own]
        steps = [b - a for a, b in pairwise(offsets)]
        found = blocks.pop(block)
        assert found["pages"] == len(own)
        assert found["zero"] == sum(bool(page.flags & RamFlag.ZERO) for page in own)
        assert found["data"] == sum(bool(page.flags & RamFlag.PAGE) for page in own)
        assert found.get("xbzrle", 0) == sum(bool(page.flags & RamFlag.XBZRLE) for page in own)
        assert found["runs"] == 1 + sum(step != 4096 for step in steps)
        assert found["passes"] == 1 + sum(step <= 0 for step in steps)
    assert blocks == {}


def test_a_pipe_a_packed_and_a_mapped_file_say_the_same(decoded, stream) -> None:
    data = recorded(PRECOPY)
    said = [
        decoded(path, as_json=True)[1][1:]
        for path in (stream(data), stream(lzma.compress(data, preset=0), "packed"))
    ]
    items = [[json.loads(line) for line in lines] for lines in said]
    assert items[0] == items[1]


CUTS = [
    (5, "in file header: expected 8 bytes, got the end of the channel after 5"),
    (20, "in configuration: expected 18 bytes, got the end of the channel after 12"),
    (3_000_000, "in RAM record: expected 4104 bytes, got the end of the channel after 1865"),
    (0x67BA70, "in header of a FULL section: expected 19 bytes, got the end of the channel"),
    (0x67BB00, "in payload of FULL cpu (section 5), before its footer: expected"),
    (0x68A35F, "in section type: expected 1 byte, got the end of the channel after 0"),
    (6_900_000, "in vmdesc: expected 99657 bytes, got the end of the channel after 42432"),
]


@pytest.mark.parametrize(("size", "why"), CUTS)
def test_a_cut_stream_tells_what_was_whole_and_where_it_broke(
    decoded, stream, size: int, why: str
) -> None:
    whole, lines = decoded(stream(recorded(PRECOPY)[:size]))
    assert not whole
    assert lines[-1].startswith(f"not whole, {size} bytes: cut short at offset 0x")
    assert why in lines[-1]


def test_a_section_that_was_cut_is_marked(decoded, stream) -> None:
    _, lines = decoded(stream(recorded(PRECOPY)[:3_000_000]))
    assert "0x00000000c4     2997939  PART ram: 953 pages, 223 zero  -- cut short" in lines


def test_damage_is_told_with_what_was_expected(decoded, stream) -> None:
    data = bytearray(recorded(PRECOPY))
    at = data.index(bytes.fromhex("7e00000002"))
    data[at] = 0x7D
    whole, lines = decoded(stream(bytes(data)))
    assert not whole
    why = f"offset {at:#x}, in footer of START ram (section 2): expected 7e00000002, got 7d"
    assert lines[-1] == f"not whole, {len(data)} bytes: {why}"


def test_part_sections_in_a_row_are_one_line(decoded, stream) -> None:
    page = RamPage("pc.ram", 0, RamFlag.ZERO, b"\0")
    start = recorded(PRECOPY)[:0xC4]
    whole, lines = decoded(stream(start + ram_part(page) * 3))
    assert not whole
    (line,) = [line for line in lines if "PART" in line]
    assert line.endswith("3 PART ram: 3 pages, 3 zero")


def test_fields_are_those_of_the_sections_meant(decoded) -> None:
    _, lines = decoded(DATA / f"{PRECOPY}.bin.xz", fields="i8254")
    at = lines.index("0x000067caa2         108  payload of i8254, version 3")
    words = ["+4", "4", "channels[0].count:", "int32", "65536", "(0x10000)"]
    assert lines[at + 2].split() == words
    assert sum("payload of" in line for line in lines) == 1


def test_without_a_vmdesc_a_section_s_bytes_are_shown(decoded) -> None:
    _, lines = decoded(DATA / f"{POSTCOPY}.bin.xz", fields="timer", as_json=True)
    (item,) = [item for item in map(json.loads, lines) if item["item"] == "device"]
    assert item["why"] == "no vmdesc tells its fields"
    assert len(bytes.fromhex(item["bytes"])) == item["length"] == 24


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "qemu7.2-block.c0.fwd",
            "0x000000001a          32  START block, section 1, version 1: 1 EOS",
        ),
        (
            "qemu7.2-block.c0.fwd",
            "0x00000000e4     3194391  1454 PART block, ram: 1106 pages, 1103 zero, 7 PROGRESS, "
            "3 DEVICE_BLOCK, 727 EOS, 5 ZERO_BLOCK",
        ),
        (
            "qemu7.2-dirty-bitmaps.c0.fwd",
            "0x00000000c9          93  START dirty-bitmap, section 3, version 1: 3 START, 1 EOS",
        ),
    ],
)
def test_a_live_section_is_told_by_its_records(decoded, name: str, line: str) -> None:
    whole, lines = decoded(DATA / f"{name}.bin.xz")
    assert whole
    assert line in lines


def test_a_mapped_ram_file_is_told_by_its_bitmaps(decoded) -> None:
    whole, lines = decoded(DATA / "qemu10.0-mapped-ram.c0.fwd.bin.xz")
    assert whole
    (start,) = [line for line in lines if "START ram" in line]
    assert start.endswith("block list of 4.32 MiB: 4 pages, 0 zero, 4.32 MiB in place")
    assert f"{'':28}pc.ram  4 MiB, pages from 0x100000" in lines
    memory = "memory /rom@etc/acpi/tables of 128 KiB: 2 pages (2 data), 1 run, 1 pass"
    assert f"{'':26}{memory}" in lines


def test_multifd_packets_in_a_row_are_one_line(decoded) -> None:
    whole, lines = decoded(DATA / "qemu10.0-multifd.c1.fwd.bin.xz")
    assert whole
    assert lines[0].endswith(": multifd channel")
    assert lines[1] == "0x0000000000          64  multifd channel 0, version 1"
    assert any("multifd packets: " in line and "pages, " in line for line in lines)


def test_a_preempt_channel_has_records_alone(decoded) -> None:
    whole, lines = decoded(DATA / "qemu7.2-preempt.c1.fwd.bin.xz", kind=ChannelKind.PREEMPT)
    assert whole
    assert lines[0].endswith(": preempt channel")
    assert lines[1:] == ["0x0000000000           8  record flags EOS", "whole: 8 bytes"]


FOOTER = bytes.fromhex("7e00000000")
FORGED = [
    # In place of the true section; and one that the true stream then does not fit.
    b"state" + FOOTER + bytes.fromhex("0400000001 06") + b"serial" + bytes(7) + b"\1tail",
    b"state" + FOOTER + device(9, "forged", b"x") + b" more",
]


@pytest.mark.parametrize("payload", FORGED)
def test_sections_that_the_vmdesc_denies_are_told_again_as_it_has_them(
    decoded, stream, payload: bytes
) -> None:
    payloads = {"timer": payload, "serial": b"FIFO"}
    sections = [device(number, *each) for number, each in enumerate(payloads.items())]
    told = vmdesc(*((idstr, 0, len(data)) for idstr, data in payloads.items()))
    data = head() + ram_start() + ram_part(kind=SectionType.END) + b"".join(sections) + told
    whole, lines = decoded(stream(data), fields="*")
    assert whole
    assert any("correction: " in line for line in lines)
    again = [line.split()[1:4] for line in lines if line.endswith("  -- as the vmdesc says")]
    lengths = [str(len(section)) for section in sections]
    assert again == [[lengths[0], "FULL", "timer,"], [lengths[1], "FULL", "serial,"]]
    devices = [line for line in lines if "  payload of" in line]
    assert [line.split()[1] for line in devices] == [f"{len(each)}" for each in payloads.values()]
    assert not any("no vmdesc tells" in line for line in lines)


@pytest.fixture
def layout_of_precopy(tmp_path: Path) -> LearnedLayout:
    path = tmp_path / "layout.json"
    path.write_bytes(learn([str(DATA / "qemu10.0-precopy.c0.fwd.bin.xz")]).to_json())
    return read_layout(path)


def test_a_learned_layout_names_the_fields_of_postcopy(decoded, layout_of_precopy) -> None:
    path = DATA / f"{POSTCOPY}.bin.xz"
    whole, lines = decoded(path, fields="timer", learned=layout_of_precopy)
    assert whole
    at = next(index for index, line in enumerate(lines) if "payload of timer" in line)
    assert lines[at + 1].split()[2:4] == ["cpu_ticks_offset:", "int64"]
    assert not any("layout was not used" in line for line in lines)


def test_a_layout_of_another_machine_is_not_used(decoded, layout_of_precopy) -> None:
    path = DATA / "qemu7.2-postcopy.c0.fwd.bin.xz"
    whole, lines = decoded(path, fields="timer", learned=layout_of_precopy)
    assert whole
    (line,) = [line for line in lines if "the layout was not used: " in line]
    assert "pc-i440fx-10.0" in line
    assert "pc-i440fx-7.2" in line


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"{", "no layout that `dump-layout` wrote: "),
        (b"\xff", "no layout that `dump-layout` wrote: "),
        (b"[]", "no layout that `dump-layout` wrote: "),
    ],
)
def test_what_is_no_layout_is_said(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "layout.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError) as raised:
        read_layout(path)
    assert str(raised.value).startswith(f"{path}: {what}")


@pytest.mark.parametrize(
    ("streams", "why"),
    [
        (["qemu7.2-postcopy.c0.fwd"], "expected a vmdesc to learn from, got none"),
        (["qemu7.2-precopy.c0.fwd", "qemu10.0-precopy.c0.fwd"], "pc-i440fx-10.0"),
        (["qemu7.2-postcopy.c0.ret"], "expected a vmdesc to learn from, got none"),
    ],
)
def test_what_nothing_can_be_learned_from_is_said(streams: list[str], why: str) -> None:
    with pytest.raises(SourceError, match=why) as raised:
        learn([str(DATA / f"{name}.bin.xz") for name in streams])
    assert streams[-1] in str(raised.value)


def test_a_name_cannot_write_to_the_terminal_what_it_likes(decoded, stream) -> None:
    whole, lines = decoded(stream(head() + device(7, "a\x1b[2Jb\nc\x9bd", b"state")))
    assert not whole
    assert any("a\\x1b[2Jb\\nc\\x9bd" in line for line in lines)


@pytest.mark.parametrize("claimed", [0, -1, -100, +1, +1000, 1 << 24, 0xFFFFFFFF])
def test_a_vmdesc_that_is_not_as_long_as_it_says_is_told(decoded, stream, claimed: int) -> None:
    data = bytearray(recorded(PRECOPY))
    at, text_bytes = 0x68A360, 99652
    length = text_bytes + claimed if abs(claimed) <= 1000 and claimed else claimed
    data[at + 1 : at + 5] = length.to_bytes(4, "big")
    whole, lines = decoded(stream(bytes(data)))
    assert not whole
    assert lines[-1] == (
        f"not whole, {len(data)} bytes: offset {at:#x}, in length of the vmdesc: "
        f"expected {text_bytes}, the bytes of the text that follows, got {length}"
    )


def test_a_vmdesc_that_is_no_json_is_told(decoded, stream) -> None:
    data = recorded(PRECOPY)
    whole, lines = decoded(stream(data[:-2] + b"!}"))
    assert not whole
    assert "0x68a360: the vmdesc, said to be 99652 bytes long, cannot be read: " in lines[-1]


@pytest.mark.parametrize("message", ["REQ_PAGES", "REQ_PAGES_ID"])
def test_no_value_of_a_message_takes_the_place_of_its_own_length(decoded, message: str) -> None:
    _, lines = decoded(DATA / "qemu10.0-postcopy.c0.ret.bin.xz", as_json=True)
    asked = [item for item in map(json.loads, lines) if item.get("message") == message]
    assert asked
    block_bytes = 1 + len("pc.ram") if message == "REQ_PAGES_ID" else 0
    for item in asked:
        length = 4 + 12 + (1 + len(item["block"]) if block_bytes else 0)
        assert (item["length"], item["requested_bytes"]) == (length, 4096)
