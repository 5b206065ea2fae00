import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ram_helpers import EOS, HUGE, PAGE, Loading, filled, named, small_memory, word

from testbed.model.migration.memory import Memory, packed
from testbed.model.migration.ram import Ram
from testbed.model.profile import PROFILES
from testbed.wire import MainChannel, build, build_section, encode
from testbed.wire.element import (
    Configuration,
    FileHeader,
    Opaque,
    RamFlag,
    RamPage,
    SectionHeader,
    SectionType,
)

RAM = named("pc.ram")
MUCH = 1 << 30


class Recorded(Ram):
    """It keeps what it sends."""

    def setup(self):
        self.payloads = [super().setup()]
        return self.payloads[0]

    def iterate(self, most_bytes):
        payload, done = super().iterate(most_bytes)
        self.payloads.append(payload)
        return payload, done

    def complete(self, *, postcopy):
        self.payloads.append(b"".join(super().complete(postcopy=postcopy)))
        return self.payloads[-1]


def ram_of(memory=None, profile="7.2"):
    return Recorded(memory or small_memory(), PROFILES[profile])


def write(ram, number, data=b"x", *, block="pc.ram"):
    assert ram.memory.write(ram.memory.find(block), number * PAGE, data) is None


def records(ram):
    """The pages of its last section, as `testbed.wire` reads all of its stream."""
    kinds = [SectionType.START] + [SectionType.PART] * (len(ram.payloads) - 1)
    stream = encode(FileHeader(0x5145564D, 3)) + encode(Configuration("pc"))
    for kind, payload in zip(kinds, ram.payloads, strict=True):
        stream += build_section(kind, 2, "ram", 0, 4, payload)
    parser = MainChannel()
    elements = [each.value for each in parser.feed(stream + b"\0") + parser.end()]
    assert not any(isinstance(value, Opaque) for value in elements)
    headers = [at for at, value in enumerate(elements) if isinstance(value, SectionHeader)]
    return [value for value in elements[headers[-1] :] if isinstance(value, RamPage)]


def sent(ram):
    """Block, number, kind, and whether the idstr was left out, of each page sent last."""
    return [
        (
            page.block,
            page.offset_bytes // PAGE,
            (page.flags & ~RamFlag.CONTINUE).name,
            bool(page.flags & RamFlag.CONTINUE),
        )
        for page in records(ram)
    ]


def passed(ram):
    """The first pass was sent."""
    ram.setup()
    assert ram.iterate(MUCH)[1]


def test_setup_lists_what_is_migrated_the_largest_first():
    expected = word(22 * PAGE, 4)
    for name, count in (("pc.ram", 16), ("pc.bios", 4), ("/rom@tables", 2)):
        expected += named(name) + (count * PAGE).to_bytes(8, "big")
    assert ram_of().setup() == expected + EOS


@pytest.mark.parametrize(("profile", "postcopy", "listed"), [
    ("7.2", True, True),
    ("7.2", False, False),
    ("2.9", True, False),
])  # fmt: skip
def test_the_sizes_of_huge_pages_are_sent_with_postcopy(profile, postcopy, listed):
    memory = Memory()
    memory.add("pc.ram", HUGE, page_bytes=HUGE)
    memory.add("pc.bios", PAGE)
    ram = ram_of(memory, profile)
    ram.sends_page_sizes = postcopy
    size = HUGE.to_bytes(8, "big")
    expected = word(HUGE + PAGE, 4) + RAM + size + (size if listed else b"")
    expected += named("pc.bios") + PAGE.to_bytes(8, "big") + EOS
    assert ram.setup() == expected


def test_the_first_pass_sends_every_page_in_order():
    ram = ram_of()
    write(ram, 3)
    passed(ram)
    pages = sent(ram)
    assert [(block, number) for block, number, *_ in pages] == [
        *(("pc.ram", number) for number in range(16)),
        *(("pc.bios", number) for number in range(4)),
        *(("/rom@tables", number) for number in range(2)),
    ]
    assert [number for _, number, kind, _ in pages if kind == "PAGE"] == [3]
    assert [block for block, _, _, again in pages if not again] == [
        "pc.ram",
        "pc.bios",
        "/rom@tables",
    ]
    assert (ram.counters.normal, ram.counters.duplicate) == (1, 21)


def test_a_part_ends_where_its_limit_is_and_the_next_goes_on_there():
    ram = ram_of()
    ram.setup()
    for number in range(16):
        write(ram, number)
    first, done = ram.iterate(2 * PAGE)
    assert (sent(ram)[-1][1], done) == (1, False)
    assert first.startswith(word(0, 8) + RAM)
    second, _ = ram.iterate(1)
    assert second.startswith(word(2 * PAGE, 0x28))


def test_what_the_guest_writes_is_sent_in_the_next_pass():
    ram = ram_of()
    passed(ram)
    assert ram.pending_bytes() == 0
    write(ram, 5)
    write(ram, 5)
    ram.memory.write(ram.memory.find("pc.ram"), 8 * PAGE - 1, b"ab")
    assert ram.pending_bytes() == 3 * PAGE
    _, done = ram.iterate(MUCH)
    assert [(number, kind) for _, number, kind, _ in sent(ram)] == [
        (5, "PAGE"),
        (7, "PAGE"),
        (8, "PAGE"),
    ]
    assert (done, ram.pending_bytes()) == (True, 0)
    assert ram.counters.dirty_sync_count == 2


def test_it_ends_with_all_that_is_dirty():
    ram = ram_of()
    passed(ram)
    write(ram, 1)
    ram.complete(postcopy=False)
    assert sent(ram)[0][:2] == ("pc.ram", 1)
    assert ram.complete(postcopy=False) == EOS
    ram.cleanup()
    assert ram.pending_bytes() == 0


def test_a_page_that_changes_a_little_is_sent_as_its_difference():
    ram, loading = ram_of(), Loading()
    ram.xbzrle_cache_bytes = 2 * PAGE
    assert loading.load(ram.setup()) is None
    payload, _ = ram.iterate(MUCH)
    assert loading.load(payload) is None
    kinds = []
    for turn in (b"first", b"secnd", b"secnd", bytes(5), b"third"):
        write(ram, 2, turn)
        payload, _ = ram.iterate(MUCH)
        assert loading.load(payload) is None
        kinds += [kind for _, _, kind, _ in sent(ram)] or ["nothing"]
    # Of what became zero the cache knows, too.
    assert kinds == ["PAGE", "XBZRLE", "nothing", "ZERO", "XBZRLE"]
    assert loading.page("pc.ram", 2) == b"third".ljust(PAGE, b"\0")
    assert ram.counters.xbzrle_cache_miss == 1


def test_a_cache_that_is_full_forgets_what_is_oldest():
    ram = ram_of()
    ram.xbzrle_cache_bytes = 2 * PAGE
    passed(ram)
    for number in (1, 2, 3):
        write(ram, number)
        ram.iterate(MUCH)
    kinds = []
    for number in (3, 1):
        write(ram, number, b"y")
        ram.iterate(MUCH)
        kinds += [kind for _, _, kind, _ in sent(ram)]
    assert kinds == ["XBZRLE", "PAGE"]


def test_a_page_that_changes_much_is_sent_whole():
    ram = ram_of()
    ram.xbzrle_cache_bytes = MUCH
    passed(ram)
    write(ram, 0, filled(1))
    ram.iterate(MUCH)
    write(ram, 0, bytes(1 + number % 2 for number in range(PAGE)))
    ram.iterate(MUCH)
    assert sent(ram)[0][2] == "PAGE"
    assert ram.counters.xbzrle_overflow == 1


# Postcopy


def in_postcopy(*dirty):
    ram = ram_of()
    passed(ram)
    for number in dirty:
        write(ram, number)
    return ram


def test_what_is_dirty_is_discarded_in_ranges():
    ram = in_postcopy(1, 2, 3, 8)
    write(ram, 0, block="pc.bios")
    assert ram.discards() == [
        build.discard("pc.ram", [(PAGE, 3 * PAGE), (8 * PAGE, PAGE)]),
        build.discard("pc.bios", [(0, PAGE)]),
    ]


def test_a_command_has_twelve_ranges_at_most():
    memory = Memory()
    memory.add("pc.ram", 30 * PAGE)
    ram = ram_of(memory)
    passed(ram)
    for number in range(0, 26, 2):
        write(ram, number)
    ranges = [(number * PAGE, PAGE) for number in range(0, 26, 2)]
    assert ram.discards() == [
        build.discard("pc.ram", ranges[:12]),
        build.discard("pc.ram", ranges[12:]),
    ]


def test_nothing_is_discarded_of_what_is_clean():
    assert in_postcopy().discards() == []


def test_a_huge_page_is_discarded_and_sent_as_a_whole():
    memory = Memory()
    memory.add("pc.ram", 3 * HUGE, page_bytes=HUGE)
    ram = ram_of(memory)
    passed(ram)
    write(ram, HUGE // PAGE + 5)
    write(ram, 2 * HUGE // PAGE)
    assert ram.discards() == [build.discard("pc.ram", [(HUGE, 2 * HUGE)])]
    assert ram.request("pc.ram", 2 * HUGE, HUGE) is None
    assert not ram.iterate(1)[1]
    assert [page.offset_bytes for page in records(ram)] == list(range(2 * HUGE, 3 * HUGE, PAGE))


def test_what_is_asked_for_goes_first_and_the_rest_from_there():
    ram = in_postcopy(1, 2, 8, 9)
    ram.discards()
    assert ram.request("pc.ram", 8 * PAGE, PAGE) is None
    assert ram.request("pc.ram", 5 * PAGE, PAGE) is None
    ram.iterate(MUCH)
    assert [(number, again) for _, number, _, again in sent(ram)] == [
        (8, False),
        (9, True),
        (1, True),
        (2, True),
    ]
    assert ram.counters.postcopy_requests == 2
    assert ram.complete(postcopy=True) == EOS


def test_a_page_is_sent_once_however_often_it_is_asked_for():
    ram = in_postcopy(1, 2)
    ram.discards()
    for _ in range(3):
        assert ram.request("pc.ram", 2 * PAGE, PAGE) is None
    assert ram.request(None, PAGE, PAGE) is None
    ram.complete(postcopy=True)
    assert [number for _, number, _, _ in sent(ram)] == [2, 1]


REFUSED = {
    "no block yet": ((None, 0, PAGE), "ram_save_queue_pages no previous block"),
    "an unknown block": (("vga", 0, PAGE), "ram_save_queue_pages no block 'vga'"),
    "beyond the block": (
        ("pc.ram", 15 * PAGE, 2 * PAGE),
        "ram_save_queue_pages request overrun start=f000 len=2000 blocklen=10000",
    ),
    "nothing of nothing": (
        ("pc.ram", 0, 0),
        "ram_save_queue_pages request overrun start=0 len=0 blocklen=10000",
    ),
    "within a page": (
        ("pc.ram", 8, PAGE),
        "migrate_handle_rp_req_pages: Misaligned page request, start: 8 len: 4096",
    ),
    "half a page": (
        ("pc.ram", PAGE, 100),
        "migrate_handle_rp_req_pages: Misaligned page request, start: 1000 len: 100",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for_is_refused_in_qemus_words(name):
    what, line = REFUSED[name]
    assert in_postcopy(1).request(*what) == line


# Recovery


def test_what_was_not_received_is_dirty_again():
    ram = in_postcopy(*range(16))
    ram.discards()
    ram.iterate(MUCH)
    assert ram.requests_bitmaps()[0] == build.recv_bitmap("pc.ram")
    received = bytearray(b"\1") * 16
    received[3] = received[9] = 0
    assert ram.reload_bitmap(build.received_bitmap("pc.ram", packed(received))) is None
    assert ram.pending_bytes() == 2 * PAGE
    payload = ram.complete(postcopy=True)
    assert payload.startswith(word(3 * PAGE, 8) + RAM)
    assert [number for _, number, _, _ in sent(ram)] == [3, 9]


def test_a_bitmap_that_is_none_is_refused():
    ram = in_postcopy()
    good = build.received_bitmap("pc.ram", b"\xff\xff")
    short = build.received_bitmap("pc.ram", bytes(9))
    name = "ram_dirty_bitmap_reload: ramblock 'pc.ram'"
    assert ram.reload_bitmap(short) == f"{name} bitmap size mismatch (0x10 != 0x8)"
    ended = type(good)(good.type, good.payload, good.bitmap[:-1] + b"\0")
    assert ram.reload_bitmap(ended) == f"{name} end mark incorrect: 0x123456789abcd00"
    unknown = build.received_bitmap("vga", b"")
    assert ram.reload_bitmap(unknown) == "migrate_handle_rp_recv_bitmap: invalid block name 'vga'"


# All of it

WRITES = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 3), st.integers(1, 2 * PAGE)), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WRITES, st.integers(1, 20 * PAGE)), max_size=8), st.booleans(), WRITES)
def test_whatever_the_guest_writes_between_passes_arrives(passes, differences, last):
    ram, loading = ram_of(), Loading()
    ram.xbzrle_cache_bytes = 4 * PAGE * differences
    ram.setup()
    for writes, most_bytes in (*passes, (last, 0)):
        for number, value, size in writes:
            at = min(number * PAGE + size % 7, 16 * PAGE - size)
            ram.memory.write(ram.memory.find("pc.ram"), at, filled(value, size))
        if most_bytes:
            ram.iterate(most_bytes)
    ram.complete(postcopy=False)
    for payload in ram.payloads:
        assert loading.load(payload) is None
    records(ram)  # and it is well-formed
    for block in ram.memory.migratable:
        assert loading.memory.find(block.idstr).data[:] == block.data[:]
