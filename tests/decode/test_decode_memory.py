"""Memory blocks put together again are the memory that the stream carried."""

from __future__ import annotations

import lzma
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_helpers import RAM_ID, build_section, head, ram_part, ram_start, recorded

from testbed.decode.channels import SourceError
from testbed.decode.memory import BLOCKS_MAX, OTHERS, Memory
from testbed.decode.show import Wanted, show
from testbed.wire import MainChannel, encode, xbzrle
from testbed.wire.element import RamBlock, RamFlag, RamMark, RamPage, RamTotal, SectionType

PAGE_BYTES = 4096


def expected_memory(data: bytes) -> dict[str, bytearray]:
    """What the pages of a stream make of each block, by the rule of each kind of page."""
    blocks: dict[str, bytearray] = {}
    for element in MainChannel().feed(data):
        match element.value:
            case RamBlock(idstr=block, used_bytes=used):
                blocks[block] = bytearray(used)
            case RamPage(block, at, flags, content):
                old = bytes(blocks[block][at : at + PAGE_BYTES])
                if flags & RamFlag.ZERO:
                    content = bytes(PAGE_BYTES)
                elif flags & RamFlag.XBZRLE:
                    content = xbzrle.decode(old, content)
                blocks[block][at : at + PAGE_BYTES] = content
    return blocks


@pytest.mark.parametrize("name", ["qemu7.2-precopy.c0.fwd", "qemu10.0-xbzrle.c0.fwd"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_blocks_are_what_the_pages_make_of_them(
    tmp_path: Path, name: str, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recorded(name)
    stream = tmp_path / "stream"
    stream.write_bytes(lzma.compress(data, preset=0) if packed else data)
    assert show(str(stream), Wanted(ram_out=tmp_path / "ram"))
    said = capsys.readouterr().err
    expected = expected_memory(data)
    files = {path.name: path for path in (tmp_path / "ram").iterdir()}
    assert len(files) == len(expected)
    for block, content in expected.items():
        path = files[f"{block.replace('/', '%2F')}.ram"]
        assert path.read_bytes() == content
        assert f"memory block {block} is in {path}\n" in said
    # What was zero from the first to the last pass is a hole.
    main = files["pc.ram.ram"].stat()
    assert main.st_blocks * 512 < main.st_size


def test_a_later_zero_page_clears_an_earlier_one(tmp_path: Path) -> None:
    page = RamPage("pc.ram", 0, RamFlag.PAGE, b"x" * 1024)
    zero = RamPage("pc.ram", 0, RamFlag.ZERO, b"\0")
    stream = tmp_path / "stream"
    stream.write_bytes(head() + ram_start() + ram_part(page) + ram_part(zero))
    show(str(stream), Wanted(ram_out=tmp_path / "ram"))
    assert not any((tmp_path / "ram" / "pc.ram.ram").read_bytes())


def test_compressed_pages_are_unpacked_and_broken_ones_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytes(range(256)) * 4
    flags = RamFlag.COMPRESS_PAGE
    pages = (
        RamPage("pc.ram", 0x400, flags, zlib.compress(content)),
        RamPage("pc.ram", 0x800, flags, b"no zlib"),
        RamPage("pc.ram", 0xC00, RamFlag.XBZRLE, b"\1\0"),
    )
    stream = tmp_path / "stream"
    stream.write_bytes(head() + ram_start() + ram_part(*pages))
    show(str(stream), Wanted(ram_out=tmp_path / "ram"))
    assert (tmp_path / "ram" / "pc.ram.ram").read_bytes()[:0x1000] == (
        bytes(0x400) + content + bytes(0x800)
    )
    assert "2 pages cannot be unpacked" in capsys.readouterr().err


def test_a_block_of_an_impossible_size_is_refused(tmp_path: Path) -> None:
    start = ram_start()
    total = encode(RamTotal(0x30000))
    block = encode(RamBlock("pc.ram", 0x20000))
    huge = start.replace(total, encode(RamTotal(1 << 60))).replace(
        block, encode(RamBlock("pc.ram", 1 << 59))
    )
    stream = tmp_path / "stream"
    stream.write_bytes(head() + huge)
    with pytest.raises(SourceError, match=f"block pc.ram claims {1 << 59} bytes"):
        show(str(stream), Wanted(ram_out=tmp_path / "ram"))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "stream").write_bytes(head())
    with pytest.raises(SourceError, match="file/ram: cannot be made: Not a directory"):
        show(str(tmp_path / "stream"), Wanted(ram_out=tmp_path / "file" / "ram"))


@given(st.binary(min_size=64, max_size=64), st.binary(max_size=80))
def test_any_bytes_are_a_page_or_an_error(page: bytes, data: bytes) -> None:
    try:
        made = xbzrle.decode(page, data)
    except xbzrle.XbzrleError:
        return
    assert len(made) == len(page)


def test_a_mapped_ram_file_has_the_pages_that_its_bitmaps_name(tmp_path: Path) -> None:
    data = bytearray(recorded("qemu10.0-mapped-ram.c0.fwd"))
    tables = {
        "pc.ram": 0x100000,
        "%2From@etc%2Facpi%2Ftables": 0x600000,
        "%2From@etc%2Ftable-loader": 0x900000,
    }
    data[0x100000:0x100005] = b"stale"  # of an earlier use of the file: no bit names it
    stream = tmp_path / "stream"
    stream.write_bytes(data)
    assert show(str(stream), Wanted(ram_out=tmp_path / "ram"))
    for name, at in tables.items():
        content = (tmp_path / "ram" / f"{name}.ram").read_bytes()
        expected = data[at : at + len(content)]
        assert content == (bytes(len(content)) if name == "pc.ram" else expected)
        assert any(content) == (name != "pc.ram")


def test_names_of_blocks_without_end_are_counted_together() -> None:
    """A stream can list other blocks again and again; what is told of them has a bound."""
    memory = Memory()
    for number in range(BLOCKS_MAX + 1000):
        memory.add(RamPage(f"block{number}", 0, RamFlag.ZERO, b"\0"), PAGE_BYTES)
    assert len(memory.blocks) == BLOCKS_MAX + 1
    assert memory.blocks[OTHERS].pages == 1000
    assert memory.pages == BLOCKS_MAX + 1000


def start_of(block: str) -> bytes:
    """The block list of a machine with that block of a page."""
    values = (RamTotal(PAGE_BYTES), RamBlock(block, PAGE_BYTES), RamMark(RamFlag.EOS))
    payload = b"".join(map(encode, values))
    return build_section(SectionType.START, RAM_ID, "ram", 0, 4, payload)


@pytest.mark.parametrize("character", ["x", "/", "\u00e9"])
def test_a_block_may_have_the_longest_name_that_there_is(tmp_path: Path, character: str) -> None:
    """255 bytes on the wire; escaped in a file name they are more than one may have."""
    names = [character * 255, character * 254 + "1"]
    for number, name in enumerate(names):
        page = RamPage(name, 0, RamFlag.PAGE, bytes([number + 1]) * PAGE_BYTES)
        stream = tmp_path / "stream"
        stream.write_bytes(head() + start_of(name) + ram_part(page))
        show(str(stream), Wanted(ram_out=tmp_path / "ram"))
    found = {path.read_bytes()[0] for path in (tmp_path / "ram").iterdir()}
    assert found == {1, 2}  # no file is two blocks'


@pytest.mark.parametrize("planted", ["link", "fifo"])
def test_what_waits_under_the_name_of_a_block_is_not_written_through(
    tmp_path: Path, planted: str
) -> None:
    other, folder = tmp_path / "other", tmp_path / "ram"
    other.write_text("precious")
    folder.mkdir()
    if planted == "link":
        (folder / "b.ram").symlink_to(other)
    else:
        os.mkfifo(folder / "b.ram")
    stream = tmp_path / "stream"
    stream.write_bytes(head() + start_of("b"))
    with pytest.raises(SourceError, match=r"ram/b\.ram: cannot be written: "):
        show(str(stream), Wanted(ram_out=folder))
    assert other.read_text() == "precious"
