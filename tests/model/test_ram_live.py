"""The same damaged RAM sections to the model's destination and to the QEMU that is installed."""

import json
import re
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from model_helpers import (
    ADVISE,
    LISTEN,
    OPEN,
    RAM_ID,
    RUN,
    Bed,
    head,
    packaged,
    ping,
)
from ram_helpers import EOS, PAGE, filled, named, word
from test_destination_live import QEMU, WITHIN_S, connected, refused_by_qemu

from testbed.model.migration.memory import Memory
from testbed.model.migration.ram import Ram
from testbed.model.profile import PROFILES
from testbed.vmstate import Incoming
from testbed.wire import MainChannel, build, build_section, encode
from testbed.wire.element import (
    EndOfStream,
    RamBlock,
    RamMark,
    RamPage,
    RamTotal,
    SectionHeader,
    SectionType,
)

pytestmark = pytest.mark.live

BLOCKS = (
    ("pc.ram", 16 << 20, None),
    ("/rom@etc/acpi/tables", 0x20000, 0x200000),
    ("pc.bios", 0x40000, None),
    ("pc.rom", 0x20000, None),
    ("/rom@etc/table-loader", 0x1000, 0x10000),
    ("/rom@etc/acpi/rsdp", 0x1000, 0x1000),
)
"""Of the machine that `refused_by_qemu` starts; with the size that it can grow to, if it can."""
TOTAL = sum(used for _, used, _ in BLOCKS)
RAM = named("pc.ram")
ADDRESS = re.compile(r"0x7f[0-9a-f]{10}|0x[0-9a-f]{12}")


def be64(number):
    return number.to_bytes(8, "big")


def start(payload):
    return build_section(SectionType.START, RAM_ID, "ram", 0, 4, payload)


def part(*records):
    return build_section(SectionType.PART, RAM_ID, "ram", 0, 4, b"".join(records))


def listed(total=TOTAL, blocks=BLOCKS):
    return word(total, 4) + b"".join(named(idstr) + be64(used) for idstr, used, _ in blocks)


def with_size(changed, size):
    blocks = [(name, size if name == changed else used, most) for name, used, most in BLOCKS]
    return listed(sum(used for _, used, _ in blocks), blocks)


BEGUN = head() + start(listed() + EOS)
PAGE_0 = word(0, 8) + RAM + filled(1)
ADVISED = head() + ADVISE


def discards(*ranges, block="pc.ram"):
    return ADVISED + encode(build.discard(block, ranges))


STREAMS = {
    "pages, and no more": BEGUN + part(PAGE_0, word(PAGE, 0x28), filled(2), EOS),
    "zeros, and no more": BEGUN + part(word(0, 2), RAM, b"\0", word(PAGE, 0x22), b"\7", EOS),
    "another block": BEGUN + part(word(0, 8), named("vga"), filled(1)),
    "another block, further on": BEGUN + part(word(3 * PAGE, 8), named("vga"), filled(1)),
    "a name with a NUL": BEGUN + part(word(0, 8), named("pc.ram\0x"), filled(1), EOS),
    "no name": BEGUN + part(word(0, 8), b"\0", filled(1)),
    "CONTINUE at first": BEGUN + part(word(PAGE, 0x28), filled(1)),
    "beyond the block": BEGUN + part(word(16 << 20, 8), RAM, filled(1)),
    "far beyond the block": BEGUN + part(word(1 << 63, 8), RAM, filled(1)),
    "no flags": BEGUN + part(word(0, 0)),
    "FULL": BEGUN + part(word(0, 1)),
    "PAGE and ZERO": BEGUN + part(word(0, 0xA), RAM, filled(1)),
    "CONTINUE alone": BEGUN + part(word(0, 0x20)),
    "EOS and CONTINUE": BEGUN + part(word(0, 0x30)),
    "EOS and MEM_SIZE": BEGUN + part(word(0, 0x14)),
    "EOS at an address": BEGUN + part(word(PAGE, 0x10)),
    "MULTIFD_FLUSH": BEGUN + part(word(0, 0x200)),
    "HOOK": BEGUN + part(word(0, 0x80)),
    "HOOK and PAGE": BEGUN + part(word(0, 0x88), RAM, filled(1)),
    "all flags": BEGUN + part(word(0, 0xFFF), RAM, filled(1)),
    "a compressed page": BEGUN + part(word(0, 0x100), RAM, b"\0\0\0\4abcd"),
    "another encoding": BEGUN + part(word(PAGE, 0x40), RAM, b"\2\0\1\0"),
    "a difference that is too long": BEGUN + part(word(PAGE, 0x40), RAM, b"\1\x10\1", bytes(4097)),
    "no difference": BEGUN + part(word(PAGE, 0x40), RAM, b"\1\0\2\0\0"),
    "a difference of nothing": BEGUN + part(word(PAGE, 0x40), RAM, b"\1\0\0", EOS),
    "a difference beyond the page": BEGUN + part(word(0, 0x40), RAM, b"\1\0\4\xff\x1f\2a", EOS),
    "a difference": BEGUN + part(word(PAGE, 0x40), RAM, b"\1\0\3\0\1a", EOS),
    "cut in the flags": BEGUN + part(PAGE_0)[:-5] + b"\0\0",
    "cut in a page": BEGUN + part(PAGE_0)[:-50],
    "cut before a page": BEGUN + part(word(0, 8), RAM)[:-5],
    "cut in a name": BEGUN + part(word(0, 8), RAM)[:-8],
    "cut before the fill": BEGUN + part(word(0, 2), RAM)[:-5],
    "cut between records": BEGUN + part(PAGE_0)[:-5],
    "cut in a difference's head": BEGUN + part(word(0, 0x40), RAM, b"\1")[:-5],
    "version 3": head() + build_section(SectionType.START, RAM_ID, "ram", 0, 3, listed() + EOS),
    "an unknown block in the list": head() + start(word(PAGE, 4) + named("vga") + be64(PAGE)),
    "a list beyond its blocks": head() + start(listed(TOTAL + PAGE) + EOS),
    "a list that its blocks exceed": head() + start(listed(TOTAL - PAGE) + EOS),
    "a block that is larger": head() + start(with_size("pc.ram", 32 << 20) + EOS),
    "a block that is smaller": head() + start(with_size("pc.bios", PAGE) + EOS),
    "a block larger than can be": head() + start(with_size("/rom@etc/acpi/tables", 1 << 22) + EOS),
    "a block that grows": head() + start(with_size("/rom@etc/acpi/tables", 0x40000) + EOS),
    "a list cut": head() + start(listed())[:-30],
    "a list cut in a size": head() + start(listed())[:-7],
    "no list": head() + start(b"")[:-5],
    "nothing in the list": head() + start(word(0, 4) + EOS) + part(PAGE_0, EOS),
    "DISCARD of half a page": discards((0, 100)),
    "DISCARD from within a page": discards((100, PAGE)),
    "DISCARD of a ROM": discards((0, PAGE), block="pc.bios") + b"\x55",
}  # fmt: skip
PACKAGE = packaged(LISTEN, ping(3), RUN)


def bed_of_pc():
    memory = Memory()
    for idstr, used, most in BLOCKS:
        memory.add(idstr, used, max_bytes=most)
    return Bed(ram=Ram(memory, PROFILES["7.2"]))


@pytest.mark.parametrize("name", STREAMS)
def test_ram_is_refused_as_by_qemu(name):
    status, said = refused_by_qemu(STREAMS[name])
    bed = bed_of_pc().feed(STREAMS[name], end=True)
    assert [ADDRESS.sub("(host)", line) for line in bed.said] == [
        ADDRESS.sub("(host)", line) for line in said
    ]
    assert bed.exit_status == status == 1


# In postcopy, with the guest stopped so that it asks for nothing

DISCARD = encode(build.discard("pc.ram", [(PAGE, PAGE)]))
BEGUN_POSTCOPY = (
    head() + OPEN + ADVISE + start(listed() + EOS) + part(PAGE_0, EOS) + DISCARD + PACKAGE
)
PAUSED = "Detected IO failure for postcopy. Migration paused."
IN_POSTCOPY = {
    "nothing more": b"",
    "a page, and no more": part(word(PAGE, 0x28), filled(1), EOS),
    "no flags": part(word(0, 0)),
    "a difference": part(word(0, 0x40), RAM, b"\1\0\0"),
    "HOOK": part(word(0, 0x80)),
    "a block list": part(listed()),
    "MULTIFD_FLUSH": part(word(0, 0x200)),
    "PAGE and ZERO": part(word(PAGE, 0xA), RAM, filled(1)),
    "another block": part(word(PAGE, 8), named("vga"), filled(1)),
    "beyond the block": part(word(16 << 20, 8), RAM, filled(1)),
    "a page twice": part(word(PAGE, 8), RAM, filled(1), word(PAGE, 0x28), filled(1)),
    "a page that was there": part(word(0, 8), RAM, filled(1)),
    "zeros where a page was": part(word(0, 2), RAM, b"\0", EOS),
    "other zeros where a page was": part(word(0, 2), RAM, b"\1", EOS),
    "cut in the flags": part(word(PAGE, 8))[:-9],
    "cut in a page": part(word(PAGE, 8), RAM, filled(1))[:-50],
    "cut in a name": part(word(PAGE, 8), RAM)[:-8],
    "cut before the fill": part(word(PAGE, 2), RAM)[:-5],
    "cut between records": part(word(PAGE, 2), RAM, b"\0")[:-5],
}


@contextmanager
def machine(*arguments, **pipes):
    """The real one, which listens, and a connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(QEMU, "-M", "pc-i440fx-7.2", "-m", "16M", "-accel", "tcg", "-nodefaults"),
        *("-display", "none", "-S", "-global", "migration.x-postcopy-ram=on"),
        *("-incoming", f"tcp:127.0.0.1:{port}", *arguments),
    ]
    with subprocess.Popen(command, **pipes, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connected(port, process) as connection:
                connection.settimeout(WITHIN_S)
                yield process, connection
        finally:
            process.kill()


def paused_by_qemu(stream):
    """What the real one says until it pauses, of what comes while its guest could run."""
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with machine("-qmp", "stdio", **pipes) as (process, connection):
        connection.sendall(BEGUN_POSTCOPY)
        tell(process, "qmp_capabilities")
        awaited(process, "query-status", '"paused"')
        connection.sendall(stream)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(PAGE):
            pass  # until it hangs up
        said = []
        while PAUSED not in said:
            said.append(process.stderr.readline().removeprefix(f"{QEMU}: ").rstrip("\n"))
            assert said[-1]
        return said


def tell(process, command, **arguments):
    """A QMP command, and its answer."""
    asked = {"execute": command, "arguments": arguments}
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    while True:
        line = process.stdout.readline()
        assert line, "it ended"
        if '"return"' in line:
            return line


def awaited(process, command, status):
    """Ask until that is the answer."""
    ends = time.monotonic() + WITHIN_S
    while status not in (said := tell(process, command)):
        assert time.monotonic() < ends, said


@pytest.mark.parametrize("name", IN_POSTCOPY)
def test_postcopy_pauses_as_that_of_qemu(name):
    stream = IN_POSTCOPY[name]
    bed = bed_of_pc().feed(BEGUN_POSTCOPY, stream, end=True)
    assert [ADDRESS.sub("(host)", line) for line in bed.said] == [
        ADDRESS.sub("(host)", line) for line in paused_by_qemu(stream)
    ]
    assert bed.statuses[-1] == "postcopy-paused"


# What the model saves


def test_qemu_loads_what_the_model_saves(tmp_path):
    """Three passes, with differences; the machine is saved again then, and its memory compared."""
    bed = bed_of_pc()
    ram, memory = bed.ram, bed.ram.memory
    ram.xbzrle_cache_bytes = 1 << 20
    block = memory.find("pc.ram")
    payloads = [ram.setup()]
    for turn in range(3):
        for number in range(100):
            memory.write(block, number * 3 * PAGE + turn, filled(turn + 1, 700 + number))
        payloads.append(ram.iterate(1 << 30)[0])
    payloads.append(b"".join(ram.complete(postcopy=False)))
    assert ram.counters.xbzrle_pages
    kinds = [SectionType.START, *[SectionType.PART] * 3, SectionType.END]
    sections = (
        build_section(kind, RAM_ID, "ram", 0, 4, payload)
        for kind, payload in zip(kinds, payloads, strict=True)
    )
    saved = saved_again(head() + b"".join(sections) + encode(EndOfStream()), tmp_path / "stream")
    copy = bed_of_pc().ram
    for payload in saved:
        assert list(copy.load(Incoming(payload, ended=True), 4)) == []
    assert copy.memory.find("pc.ram").data[:] == block.data[:]


def saved_again(stream, path):
    """The payloads of RAM that the real one saves, once it has loaded a stream."""
    # With postcopy it would wait for an answer from the file.
    without = "-global", "migration.x-postcopy-ram=off"
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with machine("-qmp", "stdio", *without, **pipes) as (process, connection):
        connection.sendall(stream)
        connection.shutdown(socket.SHUT_WR)
        tell(process, "qmp_capabilities")
        awaited(process, "query-status", '"paused"')
        tell(process, "migrate", uri=f"exec:cat > {path}")
        awaited(process, "query-migrate", '"completed"')
        tell(process, "quit")
        process.wait(WITHIN_S)
    payloads = []
    for element in MainChannel().feed(path.read_bytes()):
        match element.value:
            case SectionHeader(idstr="ram"):
                payloads.append(b"")
            case RamTotal() | RamBlock() | RamPage() | RamMark():
                payloads[-1] += element.raw
    return payloads
