"""Generated streams of every kind of channel are read as they were meant, and written again."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from wire_helpers import opaque, parse

from testbed.wire import (
    MainChannel,
    MultifdChannel,
    PreemptChannel,
    ReturnPath,
    build,
    encode,
)
from testbed.wire.element import (
    Command,
    CommandType,
    Configuration,
    EndOfStream,
    FileHeader,
    LiveRecord,
    Message,
    Payload,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
    Value,
    VmDescription,
)
from testbed.wire.packet import MultifdDeviceState, MultifdFlag, MultifdInit, MultifdPayload

PAGE_BYTES = 1024
BLOCKS = ("pc.ram", "vga.vram", "/rom@etc/acpi/tables")
BLOCK_BYTES = 1 << 20
RAM_ID = 2
EOS = RamMark(RamFlag.EOS)


IDSTR = st.text(st.characters(codec="latin-1"), min_size=1, max_size=255)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
# No payload imitates a footer: where device sections end would then be for the vmdesc to say.
STATE = st.binary(min_size=1, max_size=60).filter(lambda data: 0x7E not in data)
DEVICE = st.from_regex(r"[0-9a-z_][0-9a-z_:./-]{0,40}", fullmatch=True)
VERSION_ID = st.integers(0, (1 << 31) - 1)
OFFSETS = st.integers(0, BLOCK_BYTES // PAGE_BYTES - 1).map(lambda page: page * PAGE_BYTES)
CONTENT = st.sampled_from((bytes(PAGE_BYTES), b"\1" * PAGE_BYTES, bytes(range(256)) * 4))


@st.composite
def page_records(draw: st.DrawFn, *, urgent: bool = False) -> list[Value]:
    """Records of pages, the first of them with its block's name."""
    kinds = ("page", "zero") if urgent else ("page", "zero", "xbzrle", "compressed", "mark")
    values: list[Value] = []
    last = None
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=6)):
        if kind == "mark":
            values.append(RamMark(draw(st.sampled_from((RamFlag.HOOK, RamFlag.MULTIFD_FLUSH)))))
            continue
        block, offset, content = draw(st.sampled_from(BLOCKS)), draw(OFFSETS), draw(CONTENT)
        same_block = block == last and draw(st.booleans())
        last = block
        if kind == "xbzrle":
            old = content[:7] + b"old" + content[10:]
            value = build.xbzrle_page(block, offset, old, content, same_block=same_block)
            assert value is not None
            values.append(value)
        elif kind == "compressed":
            values.append(build.compressed_page(block, offset, content, same_block=same_block))
        else:
            content = bytes(PAGE_BYTES) if kind == "zero" else content
            values.append(build.page(block, offset, content, same_block=same_block))
    return values


def section(
    kind: SectionType, idstr: str, payload: Iterable[Value], section_id: int, version_id: int
) -> list[Value]:
    header = SectionHeader(kind, section_id, idstr, 0, version_id)
    return [header, *payload, SectionFooter(section_id)]


@st.composite
def devices(draw: st.DrawFn) -> list[Value]:
    """FULL sections, each of an id of its own."""
    values: list[Value] = []
    for n, (idstr, state) in enumerate(draw(st.lists(st.tuples(DEVICE, STATE), max_size=4))):
        values += section(SectionType.FULL, idstr, [Payload(state)], 10 + n, draw(VERSION_ID))
    return values


COMMANDS = st.one_of(
    st.builds(build.ping, U32),
    st.builds(build.discard, IDSTR, st.lists(st.tuples(U64, U64), max_size=3)),
    st.builds(build.recv_bitmap, IDSTR),
    st.builds(build.advise, U64, st.just(PAGE_BYTES)),
    st.sampled_from((CommandType.OPEN_RETURN_PATH, CommandType.ENABLE_COLO)).map(
        lambda number: Command(number, b"")
    ),
    st.builds(Command, st.integers(12, 0xFFFF), st.binary(max_size=40)),  # nobody knows these
)


@st.composite
def main_streams(draw: st.DrawFn) -> list[Value]:
    """A main channel: precopy to its vmdesc, or postcopy to its EOF."""
    values: list[Value] = [FileHeader(0x5145564D, 3), Configuration(draw(IDSTR))]
    values += [build.target_page_bits(10)]
    values += draw(st.sampled_from(([], [build.guest_uuid(bytes(16))])))
    names = draw(st.lists(IDSTR.filter(lambda name: name not in ("x-ignore-shared", "mapped-ram"))))
    values += draw(st.sampled_from(([], [build.capabilities(names)])))
    values += draw(st.lists(COMMANDS, max_size=4))
    sizes = draw(st.sampled_from((None, 2 << 20)))
    blocks = build.block_list([RamBlock(idstr, BLOCK_BYTES, sizes) for idstr in BLOCKS])
    values += section(SectionType.START, "ram", [*blocks, EOS], RAM_ID, 4)
    bitmaps = [LiveRecord("EOS", b"\1")]
    values += draw(st.sampled_from(([], section(SectionType.START, "dirty-bitmap", bitmaps, 3, 1))))
    for records in draw(st.lists(page_records(), max_size=3)):
        values += _ram(SectionType.PART, records)
    if draw(st.booleans()):
        listen, run = CommandType.POSTCOPY_LISTEN, CommandType.POSTCOPY_RUN
        inner = [Command(listen, b""), *draw(devices()), build.ping(3), Command(run, b"")]
        size = sum(len(encode(value)) for value in inner)
        values += [Command(CommandType.PACKAGED, size.to_bytes(4, "big")), *inner]
        values += _ram(SectionType.END, draw(page_records()))
        return [*values, EndOfStream()]
    values += _ram(SectionType.END, draw(page_records()))
    text = b'{"page_size": 1024, ' + draw(st.binary(max_size=50)) + b"}"
    return [*values, *draw(devices()), EndOfStream(), VmDescription(text)]


def _ram(kind: SectionType, records: list[Value]) -> list[Value]:
    return section(kind, "ram", [*records, EOS], RAM_ID, 4)


MESSAGES = st.one_of(
    st.builds(build.shut, U32),
    st.builds(build.pong, U32),
    st.builds(build.request_pages, U64, U32, st.none() | IDSTR),
    st.builds(build.received_bitmap, IDSTR, st.binary(max_size=64)),
    st.builds(build.resume_ack, U32),
    st.just(build.switchover_ack()),
    st.builds(Message, st.integers(8, 0xFFFF), st.binary(max_size=512)),  # nobody knows these
)


@st.composite
def packets(draw: st.DrawFn) -> list[Value]:
    """A packet of a multifd channel: pages, compressed pages or device state."""
    number, idstr = draw(U64), draw(st.text(st.characters(codec="ascii", min_codepoint=1)))
    data = draw(st.binary(max_size=100))
    if draw(st.booleans()):
        header = MultifdDeviceState(MultifdFlag.DEVICE_STATE, idstr, draw(U32), len(data))
        return [header, MultifdPayload(data)] if data else [header]
    pages = draw(st.lists(st.tuples(U64, st.just(b"\1" * 4096)), max_size=3))
    zeros = draw(st.lists(U64, max_size=3))
    flags = draw(st.sampled_from((0, MultifdFlag.SYNC)))
    return build.multifd_packet(idstr, pages, zeros, packet_num=number, flags=flags)


def _written_and_read(channel, values: list[Value]) -> None:
    stream = b"".join(map(encode, values))
    elements = parse(channel, [stream])
    assert opaque(elements) == []
    assert [element.value for element in elements] == values
    assert b"".join(encode(element.value) for element in elements) == stream


@given(main_streams())
def test_main_channel_is_read_as_it_was_meant(values: list[Value]) -> None:
    _written_and_read(MainChannel(), values)


@given(st.lists(MESSAGES))
def test_return_path_is_read_as_it_was_meant(values: list[Value]) -> None:
    _written_and_read(ReturnPath(), values)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 255), st.lists(packets(), max_size=4))
def test_multifd_channel_is_read_as_it_was_meant(
    uuid: bytes, channel_id: int, sent: list[list[Value]]
) -> None:
    values = [MultifdInit(uuid, channel_id), *(value for packet in sent for value in packet)]
    _written_and_read(MultifdChannel(), values)


@given(page_records(urgent=True), st.booleans())
def test_preempt_channel_is_read_as_it_was_meant(records: list[Value], has_end: bool) -> None:
    values = [*records, EOS] if has_end else records
    channel = PreemptChannel(page_bytes=PAGE_BYTES)
    _written_and_read(channel, values)
    assert all(isinstance(value, RamPage) for value in records)
