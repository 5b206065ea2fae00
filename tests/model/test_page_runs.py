"""Records in bulk are those that are made one by one, and have the same effects."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ram_helpers import EOS, PAGE, Loading, filled, named, word

from testbed.model.migration.memory import Memory
from testbed.model.migration.page_runs import AT_ONCE_MAX, ATTEMPT, place
from testbed.model.migration.ram_save import RUN_PAGES_MAX, RamSave
from testbed.model.profile import PROFILES

PAGES = 3 * AT_ONCE_MAX
HOST = 4
"""Target pages of a larger host page."""
ZERO, PLAIN, AGAIN = 0x02, 0x08, 0x20

RUNS = st.lists(
    st.tuples(st.sampled_from("zpc"), st.integers(1, 2 * AT_ONCE_MAX)), min_size=1, max_size=9
)
"""Of pages that are zero, plain, or clean."""


def kinds_of(runs):
    return "".join(kind * count for kind, count in runs)[:PAGES].ljust(PAGES, "c")


def content(number):
    return struct.pack("<Q", number + 1) * (PAGE // 8)


def record(number, kind, first=False):
    flags = (ZERO if kind == "z" else PLAIN) | (0 if first else AGAIN)
    name = named("pc.ram") if first else b""
    return word(number * PAGE, flags) + name + (b"\0" if kind == "z" else content(number))


def one_by_one(kinds, most_bytes, host_pages):
    """Payloads of as many PART sections as it takes, by QEMU's rule: the limit counts after each
    host page; the last one finds no page that is dirty."""
    payloads, made, first = [], b"", True
    for host in range(0, PAGES, host_pages):
        for number in range(host, host + host_pages):
            if kinds[number] != "c":
                made += record(number, kinds[number], first)
                first = False
        if len(made) >= most_bytes:
            payloads.append(made + EOS)
            made = b""
    return [*payloads, made + EOS]


@settings(max_examples=60, deadline=None)
@given(
    runs=RUNS, most_bytes=st.integers(1, 2 * PAGES * PAGE), host_pages=st.sampled_from([1, HOST])
)
def test_what_is_sent_does_not_depend_on_how_it_is_made(runs, most_bytes, host_pages):
    kinds = kinds_of(runs)
    memory = Memory()
    block = memory.add("pc.ram", PAGES * PAGE, page_bytes=host_pages * PAGE)
    for number, kind in enumerate(kinds):
        if kind != "z":
            block.data[number * PAGE : (number + 1) * PAGE] = content(number)
    ram = RamSave(memory, PROFILES["7.2"])
    ram.setup()
    ram._dirty[block] = bytearray(kind != "c" for kind in kinds)
    ram._count()
    made, done = [], False
    while not done:
        assert ram.pending_bytes() == ram._dirty[block].count(1) * PAGE
        payload, done = ram.iterate(most_bytes)
        made.append(payload)
    assert made == one_by_one(kinds, most_bytes, host_pages)
    assert (ram.counters.duplicate, ram.counters.normal) == (kinds.count("z"), kinds.count("p"))
    assert b"".join(ram.complete(postcopy=False)) == EOS


RECORDS = st.lists(
    st.tuples(
        st.sampled_from("zp"),
        st.integers(0, PAGES - 1),
        st.one_of(st.integers(1, 9), st.integers(1, PAGES)),
    ),
    min_size=1,
    max_size=5,
)
"""Runs: their kind, first page, and length."""


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, step=st.sampled_from([PAGE, 10 * PAGE, 1 << 18]), odd=st.booleans())
def test_what_is_loaded_does_not_depend_on_how_it_comes(records, step, odd):
    stream, first = b"", True
    for kind, begin, count in records:
        for number in range(begin, min(begin + count, PAGES)):
            stream += record(number, kind, first)
            first = False
        if odd and kind == "z":  # a page full of something else, which is no zero page
            stream += word(begin * PAGE, ZERO | AGAIN) + b"\7"
    stream += EOS

    def loaded(step):
        memory = Memory()
        block = memory.add("pc.ram", PAGES * PAGE)
        block.data[:] = filled(3, PAGES * PAGE)
        Loading(memory).load_by(step, stream)
        return block.data[:], bytes(block.received)

    assert loaded(step) == loaded(7 * len(record(0, "z")))


def block_of(pages):
    return Memory().add("pc.ram", pages * PAGE)


@pytest.mark.parametrize("kind", "zp")
def test_a_run_ends_with_the_block(kind):
    block = block_of(ATTEMPT)
    stream = b"".join(record(number, kind) for number in range(2 * ATTEMPT))
    assert place(memoryview(stream), block, once=False) == len(stream) // 2
    assert bytes(block.received) == b"\1" * ATTEMPT


@pytest.mark.parametrize("kind", "zp")
@pytest.mark.parametrize("there", [0, ATTEMPT // 2, ATTEMPT + 1, 3 * ATTEMPT])
def test_in_postcopy_a_page_that_was_received_is_not_placed_again(kind, there):
    block = block_of(4 * ATTEMPT)
    block.received[there] = 1
    stream = b"".join(record(number, kind) for number in range(4 * ATTEMPT))
    size = len(stream) // (4 * ATTEMPT)
    assert place(memoryview(stream), block, once=True) == there * size
    assert block.data[there * PAGE :] == bytes((4 * ATTEMPT - there) * PAGE)


def test_the_last_stage_sends_all_in_runs_of_bounded_length():
    memory = Memory()
    block = memory.add("pc.ram", 3 * RUN_PAGES_MAX * PAGE)
    block.data[:] = b"".join(map(content, range(block.pages)))
    ram = RamSave(memory, PROFILES["2.9"])
    ram.setup()
    expected = b"".join(record(number, "p", not number) for number in range(block.pages))
    assert b"".join(ram.complete(postcopy=False)) == expected + EOS
    assert ram.pending_bytes() == 0


def test_what_is_pending_is_looked_for_only_if_what_is_known_is_not_enough():
    memory = Memory()
    block = memory.add("pc.ram", 8 * PAGE)
    ram = RamSave(memory, PROFILES["7.2"])
    ram.setup()
    ram.iterate(1)
    memory.write(block, 0, b"again")
    assert ram.pending_bytes() == 8 * PAGE
    assert ram.pending_bytes(7 * PAGE) == 7 * PAGE
    assert ram.pending_bytes(8 * PAGE) == 8 * PAGE
