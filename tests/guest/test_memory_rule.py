"""The check of a memory: what the rule says, built here in another way, and all that is not so."""

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.guest import GuestSpec, boot_image, check_memory

PAGE = 4096
PAGES = 6
MIB = 1 << 20
FIRST = 256
SPEC = GuestSpec(MIB * 2 + PAGE * PAGES, seed=0xDEADBEEF, pages_per_second=100)
U32 = 0xFFFFFFFF


def pattern(number):
    start = number * 0x9E3779B1 + SPEC.seed
    return start & U32, [(start + word * 0x01000193) & U32 for word in range(1024)]


PATTERNS = {number: pattern(number) for number in range(FIRST, FIRST + PAGES)}


def page(number, pass_number):
    start, words = PATTERNS[number]
    stamp = [pass_number, number, start ^ (pass_number * 0x85EBCA6B & U32)]
    return struct.pack("<1024I", *stamp, *words[3:])


def memory(pass_number, index, ticks=0):
    """A guest's memory, as the rule says."""
    ram = bytearray(SPEC.memory_bytes)
    ram[0x7C00 : 0x7C00 + 1536] = boot_image(SPEC)[:1536]
    struct.pack_into("<8sIII", ram, 0x10000, b"TBGSTATE", index, pass_number, ticks)
    for at in range(PAGES):
        put(ram, FIRST + at, page(FIRST + at, pass_number if at < index else pass_number - 1))
    return ram


def put(ram, number, data):
    ram[number * PAGE : (number + 1) * PAGE] = data


passes = st.integers(1, U32)
indexes = st.integers(0, PAGES - 1)


@given(passes, indexes, st.integers(0, U32))
def test_a_memory_as_the_rule_says_is_intact(pass_number, index, ticks):
    report = check_memory(memory(pass_number, index, ticks), SPEC)
    assert report.intact
    assert report.findings == ()
    assert (report.pages, report.ticks) == (PAGES, ticks)
    assert (report.pass_number, report.index) == (pass_number, index)
    assert report.stamps == (pass_number - 1) * PAGES + index


@given(passes, indexes, st.integers(0, PAGES * PAGE - 1), st.integers(1, 255))
def test_one_changed_byte_is_named(pass_number, index, at, mask):
    ram = memory(pass_number, index)
    ram[FIRST * PAGE + at] ^= mask
    number, byte = FIRST + at // PAGE, at % PAGE
    edge = number == FIRST + index
    before, after = page(number, pass_number - 1), page(number, pass_number)
    report = check_memory(ram, SPEC)
    if edge and ram[number * PAGE : (number + 1) * PAGE] in (after[:4] + before[4:], after):
        assert report.intact  # the byte that the guest writes next
        return
    assert (report.stale, report.damaged) == (0, 1)
    (finding,) = report.findings
    assert finding.page == number
    assert finding.byte == byte or edge  # at the edge it may look like the other pass's


@given(passes, indexes, indexes, st.integers(0, U32))
def test_a_page_of_another_pass_is_stale(pass_number, index, at, other):
    ram = memory(pass_number, index)
    must = {pass_number if at < index else pass_number - 1}
    must |= {pass_number} if at == index else set()
    put(ram, FIRST + at, page(FIRST + at, other))
    report = check_memory(ram, SPEC)
    assert (report.stale, report.damaged) == (0 if other in must else 1, 0)
    for finding in report.findings:
        assert finding.page == FIRST + at
        assert finding.got == f"pass {other}"


@pytest.mark.parametrize("index", range(PAGES))
def test_the_stamp_under_way_may_be_in_between(index):
    before, after = (page(FIRST + index, pass_number) for pass_number in (8, 9))
    for written in (0, 4, 12):
        ram = memory(9, index)
        put(ram, FIRST + index, after[:written] + before[written:])
        assert check_memory(ram, SPEC).intact


def test_the_stamp_under_way_may_not_be_the_other_way_round():
    ram = memory(9, 2)
    put(ram, FIRST + 2, page(FIRST + 2, 8)[:4] + page(FIRST + 2, 9)[4:])
    assert check_memory(ram, SPEC).damaged == 1


@pytest.mark.parametrize("at", [1, 3])
def test_no_other_stamp_may_be_in_between(at):
    ram = memory(9, 2)
    put(ram, FIRST + at, page(FIRST + at, 9)[:4] + page(FIRST + at, 8)[4:])
    assert check_memory(ram, SPEC).damaged == 1


def test_a_page_of_zeroes_is_called_one():
    ram = memory(3, 2)
    put(ram, FIRST + 4, bytes(PAGE))
    report = check_memory(ram, SPEC)
    assert [str(finding) for finding in report.findings] == [
        "page 260, byte 0: expected pass 2, got a page of zeroes"
    ]


def test_a_page_in_anothers_place_is_called_one():
    ram = memory(3, 2)
    put(ram, FIRST + 4, page(FIRST + 5, 2))
    report = check_memory(ram, SPEC)
    assert [str(finding) for finding in report.findings] == [
        "page 260, byte 4: expected page 260, got page 261"
    ]


def test_all_are_counted_and_the_first_are_named():
    spec = GuestSpec(MIB * 2 + PAGE * 20)
    ram = bytearray(spec.memory_bytes)
    ram[0x7C00 : 0x7C00 + 1536] = boot_image(spec)[:1536]
    struct.pack_into("<8sIII", ram, 0x10000, b"TBGSTATE", 0, 1, 0)
    report = check_memory(ram, spec)
    assert (report.pages, report.stale, report.damaged) == (20, 0, 20)
    assert [finding.page for finding in report.findings] == list(range(256, 264))


@pytest.mark.parametrize(
    ("magic", "index", "pass_number"),
    [(b"TBGSTATF", 0, 1), (bytes(8), 0, 1), (b"TBGSTATE", PAGES, 1), (b"TBGSTATE", 0, 0)],
)
def test_without_its_state_page_nothing_else_is_judged(magic, index, pass_number):
    ram = memory(1, 0)
    struct.pack_into("<8sII", ram, 0x10000, magic, index, pass_number)
    report = check_memory(ram, SPEC)
    assert not report.intact
    assert (report.pages, report.stamps, report.damaged) == (0, 0, 1)
    assert report.findings[0].page == 16


def test_an_older_state_page_finds_the_pages_newer():
    ram = memory(7, 3)
    struct.pack_into("<8sII", ram, 0x10000, b"TBGSTATE", 3, 5)
    report = check_memory(ram, SPEC)
    assert (report.stale, report.damaged) == (PAGES, 0)
    assert str(report.findings[0]) == "page 256, byte 0: expected pass 5, got pass 7"


def test_a_changed_image_is_damage():
    ram = memory(1, 0)
    ram[0x8001] ^= 1
    report = check_memory(ram, SPEC)
    assert (report.damaged, report.pages) == (1, PAGES)
    assert (report.findings[0].page, report.findings[0].byte) == (8, 1)


def test_the_memory_of_another_guest_is_not_this_ones():
    other = GuestSpec(SPEC.memory_bytes, seed=1, pages_per_second=100)
    report = check_memory(memory(2, 3), other)
    assert report.damaged == PAGES + 1


def test_a_memory_without_the_whole_area_is_no_memory():
    with pytest.raises(ValueError, match="the guest's area ends at"):
        check_memory(bytes(MIB), SPEC)


def test_64_mib_are_checked_in_well_under_half_a_second():
    spec = GuestSpec(64 * MIB)
    ram = bytearray(spec.memory_bytes)
    struct.pack_into("<8sII", ram, 0x10000, b"TBGSTATE", 0, 1)
    began = time.process_time()
    check_memory(ram, spec)
    assert time.process_time() - began < 0.5
