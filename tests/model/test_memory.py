import pytest
from ram_helpers import HUGE, PAGE, filled, small_memory

from testbed.model.migration.memory import Memory, Missing, packed, united, unpacked
from testbed.model.migration.ram import Ram
from testbed.model.profile import PROFILES
from testbed.wire import build


def test_blocks_are_in_order_of_what_they_can_have():
    memory = small_memory()
    assert [block.idstr for block in memory] == ["pc.ram", "pc.bios", "/rom@tables", "local"]
    assert [block.idstr for block in memory.migratable] == ["pc.ram", "pc.bios", "/rom@tables"]
    memory.add("vga", 2 * PAGE, max_bytes=4 * PAGE)
    assert [block.idstr for block in memory][1:3] == ["pc.bios", "vga"]  # as they came


def test_two_blocks_do_not_have_one_name():
    with pytest.raises(AssertionError, match="two blocks"):
        small_memory().add("pc.ram", PAGE)


def test_what_the_guest_writes_it_reads_and_it_is_written():
    memory = small_memory()
    block = memory.find("pc.ram")
    assert memory.write(block, PAGE - 1, b"ab") is None
    assert memory.read(block, PAGE - 2, 4) == b"\0ab\0"
    assert [number for number, mark in enumerate(block.written) if mark] == [0, 1]


def test_a_missing_page_has_to_be_waited_for():
    memory = small_memory()
    block = memory.find("pc.ram")
    memory.waits = True
    block.place(0, filled(1))
    assert memory.read(block, 0, 2) == b"\1\1"
    wanted = Missing("pc.ram", PAGE, PAGE)
    assert memory.read(block, PAGE - 1, 2) == wanted
    assert memory.write(block, PAGE - 1, b"ab") == wanted
    assert memory.read(block, PAGE - 1, 1) == b"\1"  # nothing of it was written
    assert memory.read(memory.find("local"), 0, 1) == b"\0"
    block.place(PAGE, filled(2))
    assert memory.write(block, PAGE - 1, b"ab") is None
    block.drop(0, PAGE)
    assert memory.missing(block, 100, 1) == Missing("pc.ram", 0, PAGE)


def test_a_huge_page_is_missing_as_a_whole():
    memory = Memory()
    block = memory.add("pc.ram", 2 * HUGE, page_bytes=HUGE)
    memory.waits = True
    block.place(0, bytes(HUGE - PAGE))
    assert memory.read(block, 0, 1) == Missing("pc.ram", 0, HUGE)
    assert memory.read(block, HUGE + PAGE, 1) == Missing("pc.ram", HUGE, HUGE)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1000])
def test_a_bitmap_has_the_first_page_in_its_lowest_bit(count):
    pages = bytearray(number % 3 == 0 for number in range(count))
    bitmap = packed(pages)
    assert len(bitmap) == -(-count // 8)
    assert all(bitmap[number // 8] >> number % 8 & 1 == pages[number] for number in range(count))
    assert unpacked(bitmap + b"\xff", count) == pages


def test_what_is_in_either_is_in_both_together():
    assert united(bytearray(b"\1\0\0"), bytearray(b"\1\1\0")) == b"\1\1\0"


# Requests of a destination


def waiting():
    ram = Ram(small_memory(), PROFILES["7.2"])
    ram.listen()
    return ram


def test_the_block_is_named_when_it_is_another_one():
    ram = waiting()
    first, second = Missing("pc.ram", 0, PAGE), Missing("pc.ram", PAGE, PAGE)
    assert ram.want(first) == build.request_pages(0, PAGE, "pc.ram")
    assert ram.want(second) == build.request_pages(PAGE, PAGE)
    assert ram.want(first) is None
    assert ram.want(Missing("pc.bios", 0, PAGE)) == build.request_pages(0, PAGE, "pc.bios")
    assert ram.want(Missing("pc.ram", 2 * PAGE, PAGE)).payload.endswith(b"pc.ram")


def test_what_is_still_missing_is_asked_for_again():
    ram = waiting()
    for number in (3, 2, 1):
        ram.want(Missing("pc.ram", number * PAGE, PAGE))
    ram.memory.find("pc.ram").place(2 * PAGE, filled(1))
    again = [
        build.request_pages(PAGE, PAGE, "pc.ram"),
        build.request_pages(3 * PAGE, PAGE),
    ]
    assert ram.requested_again() == again
    assert ram.requested_again() == again


def test_the_bitmap_tells_what_was_received():
    ram = waiting()
    ram.memory.find("pc.ram").place(PAGE, filled(1))
    assert ram.received_bitmap("pc.ram") == build.received_bitmap("pc.ram", b"\2\0")
    assert ram.received_bitmap("vga") is None


def test_at_the_end_nobody_waits():
    ram = waiting()
    block = ram.memory.find("pc.ram")
    ram.want(Missing("pc.ram", 0, PAGE))
    ram.end()
    assert ram.memory.read(block, 0, 1) == b"\0"
    assert ram.requested_again() == []
