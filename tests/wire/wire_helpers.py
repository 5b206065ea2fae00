"""Feeding parsers in pieces, and streams to feed them: recorded and built."""

import json
import lzma
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import cycle
from mmap import mmap
from pathlib import Path

from testbed.wire import (
    MainChannel,
    MultifdChannel,
    PreemptChannel,
    ReturnPath,
    Stream,
    build_command,
    build_section,
    encode,
)
from testbed.wire.channel import Channel
from testbed.wire.element import (
    CommandType,
    Configuration,
    ConfigurationSubsection,
    Element,
    EndOfStream,
    FileHeader,
    Opaque,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionType,
    VmDescription,
)
from testbed.wire.identify import FIRST_BYTES, ChannelKind, channel_of

DATA = Path(__file__).parent.parent / "data"
PAGE_BYTES = 1024
"""The smallest target page: it keeps the built streams short."""
RAM_ID = 2


@lru_cache(2)
def recorded(name: str) -> bytes:
    """A recorded stream: what one direction of one connection carried between two real QEMUs."""
    return lzma.decompress((DATA / f"{name}.bin.xz").read_bytes())


def pieces(data: bytes, seed: int) -> Iterable[bytes]:
    """`data` in random pieces, most of them small, some of many elements."""
    rng = random.Random(seed)
    start = 0
    while start < len(data):
        size = rng.choice((1, 2, 7, 60, 1500, 40_000, 300_000))
        yield data[start : start + size]
        start += size


def steps(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def in_windows(
    channel: Channel, data: bytes, *, headroom: int, sizes: Sequence[int]
) -> list[Element]:
    """All elements of data that comes in windows of these sizes in turn, in two buffers in turn."""
    elements: list[Element] = []
    turns, at = cycle(sizes), 0
    buffers = cycle([mmap(-1, headroom + max(sizes)) for _ in range(2)])
    while at < len(data):
        window = data[at : at + next(turns)]
        buffer = next(buffers)
        buffer[headroom:] = window.ljust(len(buffer) - headroom, b"\x7e")  # of earlier windows
        elements += channel.feed_window(buffer, headroom, headroom + len(window))
        at += len(window)
    return elements


def parse(channel: Channel, chunks: Iterable[bytes], *, end: bool = True) -> list[Element]:
    """All elements of a channel; they lie back to back and leave nothing out."""
    elements: list[Element] = []
    tiled = 0
    for chunk in chunks:
        for element in channel.feed(chunk):
            assert element.offset == tiled
            tiled = element.end
            elements.append(element)
        assert tiled + channel.pending == channel.fed
    if end:
        for element in channel.end():
            assert element.offset == tiled
            tiled = element.end
            elements.append(element)
        assert channel.pending == 0
        assert tiled == channel.fed
    return elements


def opaque(elements: Iterable[Element]) -> list[Element]:
    return [element for element in elements if isinstance(element.value, Opaque)]


def head(*, page_bits: int = 10) -> bytes:
    return b"".join(
        map(
            encode,
            (
                FileHeader(0x5145564D, 3),
                Configuration("pc-i440fx-7.2"),
                ConfigurationSubsection(
                    "configuration/target-page-bits", 1, page_bits.to_bytes(4, "big")
                ),
                ConfigurationSubsection("configuration/uuid", 1, bytes(range(16))),
            ),
        )
    )


def ram_start(*, footer: bool = True) -> bytes:
    payload = b"".join(
        map(
            encode,
            (
                RamTotal(0x30000),
                RamBlock("pc.ram", 0x20000),
                RamBlock("/rom@etc/acpi/rsdp", 0x10000),
                RamMark(RamFlag.EOS),
            ),
        )
    )
    return build_section(SectionType.START, RAM_ID, "ram", 0, 4, payload, footer=footer)


def ram_part(
    *values: RamPage | RamMark, kind: int = SectionType.PART, footer: bool = True
) -> bytes:
    payload = b"".join(map(encode, (*values, RamMark(RamFlag.EOS))))
    return build_section(kind, RAM_ID, "ram", 0, 4, payload, footer=footer)


PAGES = (
    RamPage("pc.ram", 0x400, RamFlag.PAGE, bytes(range(256)) * 4),
    RamPage("pc.ram", 0x800, RamFlag.ZERO | RamFlag.CONTINUE, b"\0"),
    RamPage("/rom@etc/acpi/rsdp", 0, RamFlag.XBZRLE, b"\x01\x02xy"),
    RamPage("/rom@etc/acpi/rsdp", 0x400, RamFlag.COMPRESS_PAGE | RamFlag.CONTINUE, b"zlib"),
    RamMark(RamFlag.MULTIFD_FLUSH),
    RamMark(RamFlag.HOOK),
)


def device(section_id: int, idstr: str, payload: bytes, instance_id: int = 0) -> bytes:
    return build_section(SectionType.FULL, section_id, idstr, instance_id, 1, payload)


def vmdesc(*devices: tuple[str, int, int]) -> bytes:
    """A vmdesc of devices (idstr, instance_id, size), each of one buffer."""
    described = [
        {
            "name": idstr,
            "instance_id": instance_id,
            "vmsd_name": idstr,
            "version": 1,
            "fields": [{"name": "data", "type": "buffer", "size": size}],
        }
        for idstr, instance_id, size in devices
    ]
    text = json.dumps({"page_size": PAGE_BYTES, "devices": described})
    return encode(EndOfStream()) + encode(VmDescription(text.encode()))


def precopy() -> bytes:
    """A small stream with every kind of element that precopy has."""
    return b"".join(
        (
            head(),
            build_command(CommandType.OPEN_RETURN_PATH),
            build_command(CommandType.PING, b"\0\0\0\1"),
            ram_start(),
            ram_part(*PAGES),
            build_command(CommandType.SWITCHOVER_START),
            ram_part(kind=SectionType.END),
            device(0, "timer", b"timer's state"),
            device(7, "0000:00:02.0/virtio-net", b"ring \x7e\0\0\0 index"),
            device(8, "slirp", b"", 1),
            vmdesc(("timer", 0, 13), ("0000:00:02.0/virtio-net", 0, 15), ("slirp", 1, 0)),
        )
    )


def postcopy() -> bytes:
    """A small stream with every kind of element that postcopy adds."""
    package = b"".join(
        (
            build_command(CommandType.POSTCOPY_LISTEN),
            device(0, "timer", b"timer's state"),
            device(7, "serial", b"of the FIFO"),
            build_command(CommandType.PING, b"\0\0\0\3"),
            build_command(CommandType.POSTCOPY_RUN),
        )
    )
    return b"".join(
        (
            head(),
            build_command(CommandType.POSTCOPY_ADVISE, bytes(6) + b"\x10\0" + bytes(6) + b"\4\0"),
            ram_start(),
            ram_part(PAGES[0]),
            build_command(
                CommandType.POSTCOPY_RAM_DISCARD, b"\0\x06pc.ram\0" + bytes(14) + b"\4\0"
            ),
            build_command(CommandType.PING, b"\0\0\0\2"),
            build_command(CommandType.PACKAGED, len(package).to_bytes(4, "big")),
            package,
            build_command(CommandType.PING, b"\0\0\0\4"),
            ram_part(*PAGES),
            ram_part(kind=SectionType.END),
            encode(EndOfStream()),
        )
    )


TARGETS = sorted(
    f"targets/{path.name.removesuffix('.bin.xz')}" for path in DATA.glob("targets/*.bin.xz")
)
"""Streams of other machines than x86-64's `pc`."""
RECORDED = sorted(path.name.removesuffix(".bin.xz") for path in DATA.glob("*.bin.xz"))
BUILT = {"precopy": precopy(), "postcopy": postcopy()}


def channel_for(name: str, data: bytes) -> Channel:
    """The parser for what was recorded under that name."""
    if ".ret" in name:
        return ReturnPath()
    if name == "qemu7.2-preempt.c1.fwd":
        return PreemptChannel()
    if ".rec." in name:
        return MainChannel(recovery=True)
    kind = channel_of(data[:FIRST_BYTES])
    return MultifdChannel() if kind is ChannelKind.MULTIFD else MainChannel()


@lru_cache(2)
def elements_of(name: str) -> list[Element]:
    """The elements of a stream that was recorded, or of one of `BUILT`."""
    data = BUILT.get(name) or recorded(name)
    return parse(channel_for(name, data), [data])


def stream_of(name: str) -> Stream:
    """A stream that was recorded, or one of `BUILT`, to be edited."""
    return Stream(elements_of(name))


def index_of(name: str, kind: type, nth: int = 0) -> int:
    """Where that stream has its nth element of that kind."""
    found = [at for at, each in enumerate(elements_of(name)) if isinstance(each.value, kind)]
    return found[nth]
