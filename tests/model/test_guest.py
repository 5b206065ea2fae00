"""The guest without a CPU: its memory is as the rule says at any instant, its time is ticks."""

import random
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.guest import GuestSpec, boot_image, check_memory, stamps_said
from testbed.guest.image import RATE_MAX
from testbed.guest.rule import IMAGE_AT, STATE, STATE_AT
from testbed.model.guest import guest as module
from testbed.model.guest.guest import FILLED_AT_ONCE, STAMPED_AT_ONCE, Guest, Registers
from testbed.model.guest.pattern import filled_pages
from testbed.model.migration.memory import Memory, Missing

PAGE = 4096
SMALL = 2 << 20


def spec_of(pages, rate, seed=1):
    return GuestSpec(SMALL + pages * PAGE, None, rate, seed)


class Bed:
    """A guest, its memory and a clock; it is advanced when it says so, and never at other times."""

    def __init__(self, spec, image=None, *, block="pc.ram", runs=True):
        self.spec, self.now_s, self.said, self.turns = spec, 100.0, b"", 0
        self.memory = Memory()
        self.ram = self.memory.add(block, spec.memory_bytes)
        self.guest = Guest(self.memory)
        self.guest.boot(boot_image(spec) if image is None else image)
        if runs:
            self.guest.resume(self.now_s)

    def turn(self):
        self.turns += 1
        turn = self.guest.advance(self.now_s)
        self.said += turn.serial
        return turn

    def until(self, now_s):
        """Advance whenever it has something to do, up to that time."""
        while self.guest.next_at_s is not None and self.guest.next_at_s <= now_s:
            self.now_s = max(self.now_s, self.guest.next_at_s)
            self.turn()
        self.now_s = now_s
        return self

    def for_s(self, seconds):
        return self.until(self.now_s + seconds)

    def filled(self):
        while b"guest filled" not in self.said:
            self.turn()
        return self

    @property
    def report(self):
        return check_memory(memoryview(self.ram.data), self.spec)

    @property
    def lines(self):
        return self.said.decode().splitlines()

    @property
    def stamps(self):
        return [said for said in map(stamps_said, self.lines) if said is not None]


def moved(bed):
    """The same guest at another machine, which booted, and then was loaded."""
    other = Bed(bed.spec, runs=False)
    other.ram.data[:] = bed.ram.data[:]
    other.guest.loaded()
    return other


# Memory


@given(
    st.integers(1, 300),
    st.integers(0, 20_000),
    st.integers(0, (1 << 32) - 1),
    st.lists(st.integers(0, 120), max_size=8),
)
def test_memory_is_intact_at_any_instant_once_it_is_filled(pages, rate, seed, waits_ms):
    bed = Bed(spec_of(pages, rate, seed)).filled()
    for wait_ms in [0, *waits_ms]:
        bed.now_s += wait_ms / 1000
        bed.turn()
        report = bed.report
        assert report.findings == ()
        assert report.intact
        at_rest = bed.guest.registers()
        assert (report.index, report.pass_number) == (at_rest.index, at_rest.pass_number)
        assert report.ticks == at_rest.ticks
        assert report.ticks * rate == report.stamps * 100 + at_rest.owed


@given(st.integers(256, 1 << 20), st.integers(1, 3), st.integers(0, (1 << 32) - 1))
def test_the_pattern_is_that_of_the_rule(first, count, seed):
    made = struct.unpack(f"<{count * 1024}I", filled_pages(first, count, seed))
    for at in range(count):
        number, words = first + at, made[at * 1024 : (at + 1) * 1024]
        start = number * 0x9E3779B1 + seed
        assert words[:3] == (0, number, start & 0xFFFFFFFF)
        assert all(words[i] == (start + i * 0x01000193) & 0xFFFFFFFF for i in range(3, 1024))


def test_every_page_that_it_writes_counts_as_written():
    bed = Bed(spec_of(200, 1000)).filled()
    area, low = range(256, 456), {IMAGE_AT // PAGE, IMAGE_AT // PAGE + 1, STATE_AT // PAGE}
    written = {page for page, mark in enumerate(bed.ram.written) if mark}
    assert written == low | set(area)
    bed.ram.written[:] = bytes(len(bed.ram.written))
    bed.for_s(0.0201)
    written = {page for page, mark in enumerate(bed.ram.written) if mark}
    assert written == {STATE_AT // PAGE, *range(256, 276)}


# Boot


def test_it_says_what_the_boot_image_says():
    bed = Bed(spec_of(300, 1000)).filled()
    assert bed.lines == [
        "guest started",
        "guest filled 000000000000012c",
        "guest stamps 0000000000000000",
    ]
    bed.for_s(0.3001)
    assert bed.lines[3:] == [f"guest stamps {count:016x}" for count in (90, 190, 290)]


def test_nothing_is_in_memory_until_it_runs():
    bed = Bed(spec_of(3, 100), runs=False)
    assert bed.guest.next_at_s is None
    bed.turn()
    assert not any(bed.ram.written)
    assert not bed.guest.ran
    bed.guest.resume(bed.now_s)
    bed.turn()
    assert bed.guest.ran
    assert bed.said == b"guest started\n"


def test_the_magic_comes_when_all_pages_are_there():
    bed = Bed(spec_of(3 * FILLED_AT_ONCE - 1, 1000))
    for _ in range(3):
        bed.turn()
        assert bed.ram.data[STATE_AT : STATE_AT + PAGE] == bytes(PAGE)
        assert bed.guest.next_at_s == bed.now_s
        assert bed.guest.registers() is None
    bed.turn()
    assert bed.report.intact
    assert bed.guest.registers() == Registers(0, 1, 0, 0)


@pytest.mark.parametrize(
    ("image", "written"),
    [
        pytest.param(b"", 0, id="no disk"),
        pytest.param(bytes(1 << 20), 0, id="no signature"),
        pytest.param(b"\x90" * 510 + b"\x55\xaa" + bytes(4096), 512, id="another system"),
        pytest.param(boot_image(spec_of(3, 1))[:1024], 512, id="a disk that ends in the image"),
        pytest.param(boot_image(spec_of(3, 1))[:500], 0, id="a disk that ends in the sector"),
    ],
)
def test_what_is_no_guest_of_ours_halts_for_ever(image, written):
    bed = Bed(spec_of(3, 100), image)
    bed.for_s(1)
    assert bed.said == b""
    assert bed.guest.next_at_s is None
    assert bed.guest.registers() is None
    assert bed.guest.ran
    expected = image[:written].ljust(2048, b"\0")
    assert bed.ram.data[IMAGE_AT : IMAGE_AT + 2048] == expected
    assert not any(bed.ram.data[:IMAGE_AT])
    assert not any(bed.ram.data[IMAGE_AT + 2048 :])
    bed.guest.stop()
    bed.guest.resume(bed.now_s)
    assert bed.guest.next_at_s is None


@pytest.mark.parametrize(
    ("first_page", "count"),
    [(256, 0), (0, 3), (255, 3), (256, 260), (256, 0xFFFFFFFF), (0xFFFFFFFF, 1)],
)
def test_an_image_whose_area_is_not_there_halts(first_page, count):
    image = bytearray(boot_image(spec_of(3, 100)))
    struct.pack_into("<II", image, 20, first_page, count)
    bed = Bed(spec_of(3, 100), bytes(image)).for_s(1)
    assert bed.said == b"guest started\n"
    assert bed.guest.next_at_s is None
    assert not any(bed.ram.written[STATE_AT // PAGE + 1 :])


@pytest.mark.parametrize("block", ["vga.vram", "pc.ram"])
def test_a_machine_without_room_for_it_halts(block):
    bed = Bed(spec_of(3, 100), runs=False)
    bed.memory = Memory()
    bed.ram = bed.memory.add(block, 64 * PAGE)
    bed.guest = Guest(bed.memory)
    bed.guest.boot(boot_image(bed.spec))
    bed.guest.resume(bed.now_s)
    bed.for_s(1)
    assert bed.guest.next_at_s is None
    assert not any(bed.ram.written)
    bed.guest.loaded()
    bed.turn()
    assert bed.guest.next_at_s is None


def test_a_reset_boots_the_disk_anew():
    bed = Bed(spec_of(200, 5000)).filled().for_s(0.5)
    assert bed.report.pass_number > 2
    bed.ram.data[IMAGE_AT : IMAGE_AT + 8] = bytes(8)
    bed.said = b""
    bed.guest.reset()
    assert not bed.guest.ran
    bed.turn()
    assert bed.said == b"guest started\n"
    assert bed.report.damaged  # no state, as long as it fills
    bed.filled()
    assert bed.report.intact
    assert bed.report.stamps == 0


# Time


@pytest.mark.parametrize("rate", [0, 1, 30, 3333, 100_000])
def test_each_tick_brings_its_share_of_the_rate(rate):
    bed = Bed(spec_of(40, rate)).filled().for_s(1.0001)
    assert bed.report.ticks == 100
    assert bed.report.stamps == rate
    assert bed.stamps == [0, *(rate * (10 * n - 1) // 100 for n in range(1, 11))]


def test_no_turn_does_more_than_its_share_of_the_fastest_guest(monkeypatch):
    bed = Bed(spec_of(3000, RATE_MAX))
    packed = []
    pack = module.STAMP.pack

    class Counting:
        def pack(self, *words):
            packed.append(words)
            return pack(*words)

    monkeypatch.setattr(module, "STAMP", Counting())
    bed.filled()
    assert bed.turns == 1 + -(-3000 // FILLED_AT_ONCE)
    bed.now_s = bed.guest.next_at_s
    for turn in range(1, 6):
        bed.turn()
        assert len(packed) == turn * STAMPED_AT_ONCE
        assert bed.guest.next_at_s == bed.now_s  # it never rests
    assert bed.report.intact


def test_a_second_s_work_is_owed_at_most():
    bed = Bed(spec_of(10, 1000)).filled()
    bed.now_s += 3600.0
    bed.turn()
    assert bed.report.ticks == 100
    assert bed.report.stamps == 1000
    assert bed.guest.next_at_s == pytest.approx(bed.now_s + 0.01)
    fast = Bed(spec_of(10, RATE_MAX)).filled()
    for _ in range(300):
        fast.now_s = fast.guest._next_tick_s
        fast.turn()
    assert fast.guest.registers().owed == RATE_MAX * 100 - STAMPED_AT_ONCE * 100


def test_time_stands_still_while_it_is_stopped():
    bed = Bed(spec_of(10, 1000)).filled().for_s(0.5001)
    before, held = bed.report.stamps, bytes(bed.ram.data)
    bed.guest.stop()
    assert bed.guest.next_at_s is None
    bed.for_s(100)
    bed.turn()
    assert bytes(bed.ram.data) == held
    bed.guest.resume(bed.now_s)
    bed.guest.resume(bed.now_s + 0.005)  # it runs already
    bed.for_s(0.5001)
    assert (before, bed.report.stamps) == (500, 1000)


# Memory that comes from elsewhere


@given(st.integers(1, 300), st.integers(0, 5000), st.integers(0, 400))
def test_it_goes_on_from_memory_alone(pages, rate, after_ms):
    source = Bed(spec_of(pages, rate)).filled().for_s(after_ms / 1000)
    source.guest.stop()
    left = source.report
    bed = moved(source)
    assert not bed.guest.ran
    assert bed.guest.registers() == Registers(left.index, left.pass_number, left.ticks, 0)
    bed.guest.resume(bed.now_s)
    bed.for_s(1.0001)
    assert bed.guest.ran
    report = bed.report
    assert report.intact
    assert (report.ticks, report.stamps) == (left.ticks + 100, left.stamps + rate)
    assert bed.stamps == sorted(bed.stamps)
    assert all(left.stamps <= said <= report.stamps for said in bed.stamps)


@given(st.integers(1, 6 * FILLED_AT_ONCE), st.integers(1, 8))
def test_one_that_was_sent_while_it_filled_fills_again(pages, turns):
    source = Bed(spec_of(pages, 1000))
    for _ in range(turns):
        source.turn()
    bed = moved(source)
    bed.guest.resume(bed.now_s)
    bed.for_s(0.1)
    assert b"guest started" not in bed.said
    assert bed.report.intact


def test_a_stamp_that_was_begun_is_made_again():
    """A real guest can be stopped between the stores of a stamp."""
    source = Bed(spec_of(10, 1000)).filled().for_s(0.0301)
    left = source.report
    assert (left.index, left.pass_number) == (0, 4)
    struct.pack_into("<I", source.ram.data, 256 * PAGE, 4)
    assert source.report.intact
    bed = moved(source)
    bed.guest.resume(bed.now_s)
    bed.for_s(0.0101)
    assert bed.report.intact
    assert bed.report.stamps == 40


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=24, max_size=24))
def test_whatever_comes_does_no_harm(state, image):
    bed = Bed(spec_of(3, 100), runs=False)
    bed.ram.data[IMAGE_AT + 8 : IMAGE_AT + 32] = b"TBGUEST1" + image[8:]
    bed.ram.data[STATE_AT : STATE_AT + 20] = b"TBGSTATE" + state[8:]
    bed.guest.loaded()
    bed.guest.resume(bed.now_s)
    bed.turn()
    halted = bed.guest.next_at_s is None
    assert halted != bed.guest.ran


@pytest.mark.parametrize("index", [10, 0xFFFFFFFF])
def test_a_state_that_cannot_be_halts(index):
    bed = moved(Bed(spec_of(10, 1000)).filled())
    struct.pack_into("<8sIII", bed.ram.data, STATE_AT, b"TBGSTATE", index, 1, 0)
    bed.guest.resume(bed.now_s)
    bed.for_s(1)
    assert bed.guest.next_at_s is None
    assert bed.guest.registers() is None
    assert not bed.guest.ran


def test_the_pass_wraps_as_the_register_does():
    bed = moved(Bed(spec_of(1, 100)).filled())
    last = 0xFFFFFFFF
    struct.pack_into("<8sIII", bed.ram.data, STATE_AT, b"TBGSTATE", 0, last, last)
    bed.guest.resume(bed.now_s)
    bed.for_s(0.0101)
    assert bed.guest.registers() == Registers(0, 0, 0, 0)
    assert bed.stamps == [0xFFFFFFFE]


# Postcopy


class Postcopy(Bed):
    """A guest at its destination: pages come when it asks, or by themselves."""

    def __init__(self, source):
        super().__init__(source.spec, runs=False)
        self.source = source
        self.memory.waits = True
        self.guest.loaded()
        self.asked = []

    def come(self, page):
        self.ram.place(page * PAGE, self.source.ram.data[page * PAGE : (page + 1) * PAGE])

    def turn(self):
        turn = super().turn()
        if turn.missing is not None:
            assert self.guest.next_at_s is None
            self.asked.append(turn.missing.offset_bytes // PAGE)
        return turn


@given(st.integers(1, 60), st.integers(100, 5000), st.integers(0, 200), st.randoms())
def test_it_waits_for_each_page_that_it_has_not(pages, rate, after_ms, chance: random.Random):
    source = Bed(spec_of(pages, rate)).filled().for_s(after_ms / 1000)
    source.guest.stop()
    left = source.report
    bed = Postcopy(source)
    there = chance.sample(range(pages), chance.randint(0, pages))
    for page in there:
        bed.come(256 + page)
    bed.guest.resume(bed.now_s)
    for _ in range(200):
        bed.for_s(0.01)
        while bed.guest.next_at_s is None:
            before = bytes(bed.ram.data)
            assert bed.turn().missing == Missing("pc.ram", bed.asked[-1] * PAGE, PAGE)
            assert bytes(bed.ram.data) == before  # it waits, and does nothing
            bed.come(bed.asked[-1])
            bed.turn()
    assert bed.asked[0] == IMAGE_AT // PAGE
    assert {256 + page for page in there}.isdisjoint(bed.asked)
    for page in range(source.spec.memory_bytes // PAGE):
        if not bed.ram.received[page]:
            bed.come(page)
    assert bed.report.intact
    assert left.stamps < bed.report.stamps


def test_what_was_said_before_a_wait_is_said():
    source = Bed(spec_of(10, 1000)).filled().for_s(0.0901)
    bed = Postcopy(source)
    for page in (IMAGE_AT // PAGE, STATE_AT // PAGE):
        bed.come(page)
    bed.guest.resume(bed.now_s)
    bed.for_s(0.0101)
    assert bed.asked == [256]
    assert bed.stamps == [90]
    assert STATE.unpack_from(bed.ram.data, STATE_AT)[1:] == (0, 10, 10)  # the tick has come


def test_a_guest_that_is_reset_in_postcopy_waits_for_pages_to_write_to():
    source = Bed(spec_of(10, 1000)).filled()
    bed = Postcopy(source)
    bed.guest.reset()
    bed.guest.resume(bed.now_s)
    low = [IMAGE_AT // PAGE, IMAGE_AT // PAGE + 1, STATE_AT // PAGE]
    for page in [*low, None, *range(256, 266)]:
        bed.turn()
        assert bed.asked == ([] if page is None else [page])
        for asked in bed.asked:
            bed.come(asked)
        bed.asked.clear()
    bed.filled()
    assert bed.lines[0] == "guest started"


def test_it_is_there_without_a_slow_import():
    code = (
        "import sys, testbed.model.guest.guest\n"
        "slow = {'numpy', 'scapy', 'asyncio', 'importlib.resources'} & {*sys.modules}\n"
        "sys.exit(' '.join(slow) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
