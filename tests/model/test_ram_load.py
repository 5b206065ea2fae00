import lzma
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ram_helpers import EOS, HUGE, PAGE, Loading, filled, named, small_memory, word

from testbed.decode.ramout import RamOut
from testbed.model.migration.memory import Memory
from testbed.model.migration.ram_load import RamLoad
from testbed.model.profile import PROFILES
from testbed.vmstate import Incoming, VmStateFailed
from testbed.wire import MainChannel, xbzrle
from testbed.wire.element import (
    Command,
    CommandType,
    RamBlock,
    SectionFooter,
    SectionHeader,
)

DATA = Path(__file__).parent.parent / "data"
RAM = named("pc.ram")
EINVAL, EIO, EEXIST = -22, -5, -17

REFUSED = {
    "no flags": (word(0, 0), "Unknown combination of migration flags: 0x0"),
    "the old FULL": (word(0, 1), "Unknown combination of migration flags: 0x1"),
    "MULTIFD_FLUSH": (word(0, 0x200), "Unknown combination of migration flags: 0x200"),
    "MEM_SIZE that ends": (word(0, 0x14), "Unknown combination of migration flags: 0x14"),
    "PAGE and ZERO": (word(0, 0xA) + RAM, "Unknown combination of migration flags: 0xa"),
    "CONTINUE of nothing": (
        word(0x3000, 0x28),
        "Ack, bad migration stream!",
        "Illegal RAM offset 3000",
    ),
    "an unknown block": (
        word(0, 8) + named("vga"),
        "Can't find block vga",
        "Illegal RAM offset 0",
    ),
    "a block of no migration": (
        word(0, 8) + named("local"),
        "block local should not be migrated !",
        "Illegal RAM offset 0",
    ),
    "beyond the block": (word(16 * PAGE, 8) + RAM, "Illegal RAM offset 10000"),
    "a compressed page": (
        word(0, 0x100) + RAM,
        "Received an unexpected compressed page",
    ),
    "HOOK": (word(0, 0x80),),
    "another encoding": (
        word(PAGE, 0x40) + RAM + b"\2\0\1",
        "Failed to load XBZRLE page - wrong compression!",
        "Failed to decompress XBZRLE page at 1000",
    ),
    "a difference beyond a page": (
        word(PAGE, 0x40) + RAM + b"\1\x10\1",
        "Failed to load XBZRLE page - len overflow!",
        "Failed to decompress XBZRLE page at 1000",
    ),
    "no difference": (
        word(PAGE, 0x40) + RAM + b"\1\0\2\0\0",
        "Failed to load XBZRLE page - decode error!",
        "Failed to decompress XBZRLE page at 1000",
    ),
    "an unknown block in the list": (
        word(PAGE, 4) + named("vga") + PAGE.to_bytes(8, "big"),
        'Unknown ramblock "vga", cannot accept migration',
    ),
    "a total beyond the list": (
        word(17 * PAGE, 4) + RAM + (16 * PAGE).to_bytes(8, "big") + EOS,
        'Unknown ramblock "", cannot accept migration',
    ),
    "a block that stays, in the list": (
        word(PAGE, 4) + named("local") + PAGE.to_bytes(8, "big"),
        "block local should not be migrated !",
    ),
    "another size": (
        word(8 * PAGE, 4) + RAM + (8 * PAGE).to_bytes(8, "big"),
        "Size mismatch: pc.ram: 0x8000 != 0x10000: Invalid argument",
    ),
    "a size beyond what it can have": (
        word(4 * PAGE, 4) + named("/rom@tables") + (4 * PAGE).to_bytes(8, "big"),
        "Size too large: /rom@tables: 0x4000 > 0x3000: Invalid argument",
    ),
}
"""What follows the records that are well: EINVAL."""
OLD = {
    "0x0": "0",
    "Size mismatch: pc.ram: 0x8000 != 0x10000": "Length mismatch: pc.ram: 0x8000 in != 0x10000",
    "Size too large": "Length too large",
}


def as_of_2_9(line):
    for new, old in OLD.items():
        if line.endswith(new) or new != "0x0":
            line = line.replace(new, old)
    return line


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_in_a_section_is_said_in_qemus_words(name):
    records, *lines = REFUSED[name]
    assert Loading().load(records + bytes(9000)) == (EINVAL, *lines)
    older = Loading(profile="2.9").load(records + bytes(9000))
    assert older == (EINVAL, *map(as_of_2_9, lines))


def test_another_version_is_refused_without_a_word():
    assert Loading().load(EOS, version_id=3) == (EINVAL,)


CUTS = {
    "at once": (b"", EINVAL, "Unknown combination of migration flags: 0x0"),
    "in the flags": (word(0, 8)[:7], EINVAL, "Unknown combination of migration flags: 0x0"),
    "in a page": (word(0, 8) + RAM + filled(1, 9), EIO),
    "before a page": (word(0, 8) + RAM, EIO),
    "in a name": (word(0, 8) + RAM[:3], EINVAL, "Can't find block pc", "Illegal RAM offset 0"),
    "before the fill": (word(0, 2) + RAM, EIO),
    "between records": (
        word(0, 2) + RAM + b"\0",
        EINVAL,
        "Unknown combination of migration flags: 0x0",
    ),
    "in the list's name": (
        word(PAGE, 4) + RAM[:-1],
        EINVAL,
        'Unknown ramblock "pc.ra", cannot accept migration',
    ),
    "before the list": (word(PAGE, 4), EINVAL, 'Unknown ramblock "", cannot accept migration'),
    "in a size": (
        word(PAGE, 4) + RAM + b"\0\0",
        EINVAL,
        "Size mismatch: pc.ram: 0x0 != 0x10000: Invalid argument",
    ),
    "behind the list": (
        word(16 * PAGE, 4) + RAM + (16 * PAGE).to_bytes(8, "big"),
        EINVAL,
        "Unknown combination of migration flags: 0x0",
    ),
    "in a difference": (
        word(0, 0x40) + RAM + b"\1\0\5",
        EINVAL,
        "Failed to load XBZRLE page - decode error!",
        "Failed to decompress XBZRLE page at 0",
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_what_was_cut_reads_as_zeros(name):
    records, ret, *lines = CUTS[name]
    assert Loading().load(records) == (ret, *lines)
    assert Loading().load(records, ended=False) == "waits"


@pytest.mark.parametrize("step", [1, 7, PAGE, 1 << 20])
def test_pages_get_to_their_places_however_they_come(step):
    data = b"".join(
        (
            *(word(0, 8), RAM, filled(1), word(PAGE, 0x28), filled(2), word(2 * PAGE, 0x28)),
            *(filled(3), word(2 * PAGE, 0x22), b"\0", word(3 * PAGE, 0x22), b"\5"),
            *(word(PAGE, 2), named("pc.bios"), b"\0", word(0, 0x28), filled(6), EOS),
        )
    )
    loading = Loading()
    loading.load_by(step, data)
    assert [loading.page("pc.ram", number)[:1] for number in range(4)] == [
        b"\1",
        b"\2",
        b"\0",
        b"\5",
    ]
    assert loading.page("pc.bios", 0) == filled(6)
    assert loading.received("pc.ram") == [0, 1, 2, 3]
    assert loading.received("pc.bios") == [0, 1]


def test_the_last_block_is_kept_from_section_to_section():
    loading = Loading()
    assert loading.load(word(0, 2), RAM, b"\0", EOS) is None
    assert loading.load(word(PAGE, 0x28), filled(7), EOS) is None
    assert loading.page("pc.ram", 1) == filled(7)


def test_a_difference_changes_the_page_that_is_there():
    old, new = filled(1), filled(1, 100) + b"new" + filled(1, PAGE - 103)
    data = xbzrle.encode(old, new)
    loading = Loading()
    head = b"\1" + len(data).to_bytes(2, "big")
    assert loading.load(word(0, 8), RAM, old, word(0, 0x60), head, data, EOS) is None
    assert loading.page("pc.ram", 0) == new


def test_a_block_list_resizes_what_can_be():
    loading = Loading()
    size = (3 * PAGE).to_bytes(8, "big")
    assert loading.load(word(3 * PAGE, 4), named("/rom@tables"), size, EOS) is None
    assert loading.memory.find("/rom@tables").used_bytes == 3 * PAGE


def test_compressed_pages_are_taken_with_the_capability():
    packed = zlib.compress(filled(9))
    record = word(0, 0x100) + RAM
    loading = Loading()
    loading.ram.accepts_compressed = True
    assert loading.load(record, len(packed).to_bytes(4, "big"), packed, EOS) is None
    assert loading.page("pc.ram", 0) == filled(9)
    broken = loading.load(record, b"\0\0\0\4abcd", EOS)
    assert broken == (-1, "decompress data failed")
    too_long = loading.load(record, b"\xff\xff\xff\xff")
    assert too_long == (EINVAL, "Invalid compressed data length: -1")


WELL_FORMED = b"".join(
    (
        *(word(18 * PAGE, 4), RAM, (16 * PAGE).to_bytes(8, "big")),
        *(named("/rom@tables"), (2 * PAGE).to_bytes(8, "big")),
        *(word(PAGE, 0x40), RAM, b"\1\0\3\0\1a", word(0, 0x22), b"\0"),
        *(word(0, 2), named("pc.bios"), b"\0", EOS),
    )
)
EDITS = st.lists(st.tuples(st.integers(0, len(WELL_FORMED) - 1), st.integers(0, 255)), max_size=4)


@given(EDITS, st.integers(0, len(WELL_FORMED)), st.booleans(), st.sampled_from(sorted(PROFILES)))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_loaded_or_refused(edits, size, waits, profile):
    data = bytearray(WELL_FORMED)
    for at, value in edits:
        data[at] = value
    memory = small_memory()
    memory.waits = waits
    source = Incoming(bytes(data[:size]) + bytes(PAGE), ended=True)
    with suppress(VmStateFailed):
        list(RamLoad(memory, PROFILES[profile]).load(source, 4))
    for block in memory:
        assert 0 <= block.used_bytes <= block.max_bytes == len(block.data)


# Huge pages, and postcopy


def huge_memory():
    memory = Memory()
    memory.add("pc.ram", 2 * HUGE, page_bytes=HUGE)
    memory.add("pc.bios", PAGE)
    return memory


def huge_list(page_bytes):
    size = (2 * HUGE).to_bytes(8, "big")
    return word(2 * HUGE, 4) + RAM + size + page_bytes.to_bytes(8, "big")


def test_the_sizes_of_huge_pages_are_compared_with_postcopy():
    loading = Loading(huge_memory())
    loading.ram.advise()
    assert loading.load(huge_list(HUGE), EOS) is None
    line = f"Mismatched RAM page size pc.ram (local) {HUGE} != {1 << 30}"
    assert loading.load(huge_list(1 << 30)) == (EINVAL, line)
    assert huge_memory().page_sizes == HUGE | PAGE


def postcopy(memory=None, profile="7.2"):
    loading = Loading(memory, profile)
    loading.ram.advise()
    loading.memory.waits = True
    return loading


def target_page(number, data=None, *, first=False):
    flags = 2 if data is None else 8
    name = RAM if first else b""
    return word(number * PAGE, flags | (0 if first else 0x20)) + name + (data or b"\0")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_huge_page_is_placed_when_all_of_it_is_there(profile):
    count = HUGE // PAGE
    loading = postcopy(huge_memory(), profile)
    block = loading.memory.find("pc.ram")
    records = [target_page(0, filled(1), first=True)]
    records += [target_page(number) for number in range(1, count)]
    loading.load(*records[:-1], ended=False)
    assert loading.memory.missing(block, 0, 1).size_bytes == HUGE
    assert loading.load(*records, EOS) is None
    assert loading.memory.missing(block, 0, HUGE) is None
    assert loading.memory.missing(block, 0, HUGE + 1).offset_bytes == HUGE
    assert loading.page("pc.ram", 0) == filled(1)
    assert loading.page("pc.ram", 1) == bytes(PAGE)


def test_parts_of_another_huge_page_are_refused():
    records = target_page(0, first=True) + target_page(HUGE // PAGE)
    ret, line = postcopy(huge_memory()).load(records)
    assert ret == EINVAL
    assert line.startswith("Non-same host page detected on channel 0: Target host page 0x7f")
    assert line.endswith("(rb pc.ram offset 0x200000 target_pages 2)")
    older = postcopy(huge_memory(), "2.9")
    ret, line = older.load(target_page(0, first=True), target_page(2))
    assert (ret, line[:26]) == (EINVAL, "Non-sequential target page")
    ret, line = older.load(target_page(3, first=True))
    assert line.endswith("/(nil)")


IN_POSTCOPY = {
    "no flags": (word(0, 0), EINVAL, "Unknown combination of migration flags: 0x0 (postcopy mode)"),
    "a difference": (
        word(0, 0x40),
        EINVAL,
        "Unknown combination of migration flags: 0x40 (postcopy mode)",
    ),
    "HOOK": (
        word(0, 0x80),
        EINVAL,
        "Unknown combination of migration flags: 0x80 (postcopy mode)",
    ),
    "a block list": (
        word(0, 4),
        EINVAL,
        "Unknown combination of migration flags: 0x4 (postcopy mode)",
    ),
    "an unknown block": (word(0, 8) + named("vga"), EINVAL, "Can't find block vga"),
    "CONTINUE of nothing": (word(0, 0x22), EINVAL, "Ack, bad migration stream!"),
    "beyond the block": (word(16 * PAGE, 8) + RAM, EINVAL, "Illegal RAM offset 10000"),
    "a page that is there": (
        target_page(0, first=True) + target_page(0),
        EEXIST,
        "postcopy_place_page_zero: File exists zero host: 0x7f0000200000",
    ),
}


@pytest.mark.parametrize("name", IN_POSTCOPY)
def test_what_is_wrong_in_postcopy_is_said_in_qemus_words(name):
    records, ret, *lines = IN_POSTCOPY[name]
    assert postcopy().load(records + bytes(9000)) == (ret, *lines)


def test_2_9_says_more_of_a_bad_block_in_postcopy():
    loading = postcopy(profile="2.9")
    lines = "Can't find block vga", "Illegal RAM offset 0"
    assert loading.load(word(0, 8), named("vga")) == (EINVAL, *lines)


def test_a_link_that_is_lost_in_postcopy_is_noticed_at_the_next_record():
    assert postcopy().load(target_page(0, first=True)) == (EIO,)
    text = "Unknown combination of migration flags: 0 (postcopy mode)"
    assert postcopy(profile="2.9").load(target_page(0, first=True)) == (EINVAL, text)
    assert postcopy().load(target_page(0, filled(1), first=True)[:-1]) == (EIO,)


# Discarding


def test_what_is_discarded_is_zero_and_missing():
    loading = Loading()
    assert loading.load(word(0, 8), RAM, filled(1), target_page(1, filled(2)), EOS) is None
    loading.ram.discard("pc.ram", PAGE, PAGE)
    assert loading.received("pc.ram") == [0]
    assert loading.page("pc.ram", 1) == bytes(PAGE)
    assert loading.page("pc.ram", 0) == filled(1)


DISCARDS = {
    "an unknown block": (("vga", 0, PAGE), "ram_discard_range: Failed to find block 'vga'"),
    "half a page": (
        ("pc.ram", 0, PAGE // 2),
        "ram_block_discard_range: Unaligned length: 800",
    ),
    "from within a page": (
        ("pc.ram", 0x10, PAGE),
        "ram_block_discard_range: Unaligned start address: 0x7f0000200010",
    ),
    "beyond the block": (
        ("pc.ram", 15 * PAGE, 2 * PAGE),
        "ram_block_discard_range: Overrun block 'pc.ram' (61440/2000/10000)",
    ),
}


@pytest.mark.parametrize("name", DISCARDS)
def test_a_range_that_cannot_be_discarded_is_refused(name):
    what, line = DISCARDS[name]
    with pytest.raises(VmStateFailed) as failed:
        Loading().ram.discard(*what)
    assert (failed.value.ret, *failed.value.lines) == (-1, line)


def test_2_9_says_where_a_range_would_end():
    with pytest.raises(VmStateFailed, match="Unaligned end address: 0x7f0000200800"):
        Loading(profile="2.9").ram.discard("pc.ram", 0, PAGE // 2)


# Recorded streams

RECORDED = (
    *("qemu7.2-precopy.c0", "qemu7.2-xbzrle.c0", "qemu7.2-postcopy.c0"),
    *("qemu10.0-precopy.c0", "qemu10.0-xbzrle.c0", "qemu10.0-postcopy.c0"),
)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_sections_load_to_the_memory_that_was_sent(name, tmp_path):
    data = lzma.decompress((DATA / f"{name}.fwd.bin.xz").read_bytes())
    elements = MainChannel().feed(data)
    memory = Memory()
    for block in (each.value for each in elements if isinstance(each.value, RamBlock)):
        memory.add(block.idstr, block.used_bytes, page_bytes=block.page_bytes)
    ram = RamLoad(memory, PROFILES["7.2"])
    with RamOut(tmp_path, None) as out:
        for section in ram_sections(elements, ram):
            source = Incoming(b"".join(element.raw for element in section), ended=True)
            assert list(ram.load(source, 4)) == []
            assert not source.available
        for element in elements:
            out.add(element, PAGE)
        files = dict(out.files())
    assert {block.idstr for block in memory} == set(files)
    for block in memory:
        assert block.data[:] == files[block.idstr].read_bytes()


def ram_sections(elements, ram):
    """The elements of each payload; commands that concern RAM are carried out in between."""
    found = None
    for element in elements:
        match element.value:
            case SectionHeader(idstr="ram"):
                found = []
            case SectionFooter():
                if found is not None:
                    yield found
                found = None
            case Command(command=CommandType.POSTCOPY_ADVISE):
                ram.advise()
            case Command(command=CommandType.POSTCOPY_LISTEN):
                ram.memory.waits = True
            case Command(command=CommandType.POSTCOPY_RAM_DISCARD, payload=payload):
                discard(ram, payload)
            case _ if found is not None:
                found.append(element)


def discard(ram, payload):
    length = payload[1]
    idstr, ranges = payload[2 : 2 + length].decode(), payload[3 + length :]
    for at in range(0, len(ranges), 16):
        start, size = (int.from_bytes(ranges[n : n + 8], "big") for n in (at, at + 8))
        ram.discard(idstr, start, size)
