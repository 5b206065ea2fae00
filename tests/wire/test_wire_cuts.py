"""A connection that ends or falls silent anywhere: what was cut has a name."""

from collections.abc import Callable, Iterator

import pytest
from thoroughness import usually
from wire_helpers import (
    PAGES,
    device,
    head,
    opaque,
    parse,
    postcopy,
    precopy,
    ram_part,
    ram_start,
    recorded,
    steps,
    vmdesc,
)

from testbed.wire import MainChannel, Phase, ReturnPath, build_command, build_message, build_section
from testbed.wire.element import (
    Certainty,
    Command,
    Configuration,
    ConfigurationSubsection,
    Element,
    EndOfStream,
    FileHeader,
    Message,
    Opaque,
    Payload,
    RamBlock,
    RamFlag,
    RamMark,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)

STREAMS = [
    pytest.param(precopy, MainChannel, id="precopy"),
    pytest.param(postcopy, MainChannel, id="postcopy"),
    pytest.param(
        lambda: ram_part(*PAGES),
        lambda: _after(head() + ram_start()).recovered(),
        id="recovery",
    ),
]


@pytest.mark.parametrize("step", [usually(7, thoroughly=1), 1 << 20])
@pytest.mark.parametrize(("stream", "make"), STREAMS)
def test_every_cut_gives_the_elements_before_it_and_names_what_was_cut(
    stream: Callable[[], bytes], make: Callable[[], MainChannel], step: int
) -> None:
    data = stream()
    whole = parse(make(), [data], end=False)
    assert opaque(whole) == []
    for cut in range(len(data)):
        elements = parse(make(), steps(data[:cut], step))
        if _ended(whole, cut):
            assert opaque(elements) == []
            continue
        *complete, last = elements
        assert complete == whole[: len(complete)]
        assert isinstance(last.value, Opaque)
        assert last.value.why.startswith("cut short at offset")
        assert any(name in last.value.why for name in _inside(whole, len(complete), cut))


def _after(data: bytes) -> MainChannel:
    channel = MainChannel()
    parse(channel, [data], end=False)
    return channel


def _ended(whole: list[Element], cut: int) -> bool:
    """Nothing says that a vmdesc should follow EOF."""
    return any(isinstance(e.value, EndOfStream) and e.end == cut for e in whole)


INSIDE: dict[type, str] = {
    FileHeader: "in file header",
    Configuration: "in configuration:",
    ConfigurationSubsection: "in configuration's subsection",
    SectionHeader: "in header of a ",
    RamTotal: "in RAM record",
    RamBlock: "in block list",
    RamPage: "in RAM record",
    RamMark: "in RAM record",
    Payload: "in payload of FULL ",
    SectionFooter: "footer",
    Command: "command",
    VmDescription: "in vmdesc",
}


def _inside(whole: list[Element], at: int, cut: int) -> Iterator[str]:
    """What a cut in element `at` may be said to be in."""
    element = whole[at]
    if element.offset == cut:  # the type byte would tell
        yield "in section type"
    if isinstance(whole[at - 1].value, RamBlock):  # so would the next word
        yield "in block list"
    if not isinstance(element.value, EndOfStream):
        yield INSIDE[type(element.value)]


def test_block_is_not_complete_before_what_may_follow_it() -> None:
    """The last block may carry a page size, which only the next record tells."""
    data = head() + ram_start()
    eos = data.index(bytes(7) + b"\x10\x7e")
    elements = parse(MainChannel(), [data[:eos]])
    assert isinstance(elements[-2].value, RamBlock)
    assert elements[-2].value.idstr == "pc.ram"
    assert len(elements[-1].raw) > 0


def test_elements_come_as_early_as_the_format_allows() -> None:
    channel = MainChannel()
    eos = bytes(7) + b"\x10"
    before_footer = (head() + ram_start())[: -len(b"\x7e\0\0\0\2")]
    assert before_footer.endswith(eos)
    assert parse(channel, [before_footer], end=False)[-1].value == RamMark(RamFlag.EOS)
    assert channel.pending == 0

    (footer,) = channel.feed(b"\x7e\0\0\0\2")
    assert footer.value == SectionFooter(2)
    (command,) = channel.feed(build_command(2, b"\0\0\0\1"))
    assert command.value == Command(2, b"\0\0\0\1")
    (part,) = channel.feed(b"\2\0\0\0\2")
    assert isinstance(part.value, SectionHeader)


def test_device_section_is_decided_by_footer_and_successor() -> None:
    channel = _after(head() + ram_start() + ram_part(kind=SectionType.END))
    assert channel.phase is Phase.DEVICE
    assert len(channel.feed(device(5, "timer", b"state"))) == 1  # the header
    following = b"\4\0\0\0\6\1a" + bytes(7)
    assert channel.feed(following) == []
    payload, footer, header = channel.feed(b"\1")
    assert payload.value == Payload(b"state")
    assert payload.certainty is footer.certainty is Certainty.INFERRED
    assert isinstance(header.value, SectionHeader)


def test_silence_decides_an_end_without_vmdesc() -> None:
    channel = _after(head() + ram_start() + ram_part(kind=SectionType.END))
    channel.feed(device(5, "timer", b"state") + b"\0")
    assert channel.pending == 11
    assert [e.value for e in channel.silence()] == [
        Payload(b"state"),
        SectionFooter(5),
        EndOfStream(),
    ]
    assert channel.phase is Phase.ENDED
    assert channel.end() == []


def test_silence_in_the_middle_changes_nothing() -> None:
    data = precopy()
    for cut in range(0, len(data), 7):
        channel = MainChannel()
        elements = parse(channel, [data[:cut]], end=False)
        elements += channel.silence()
        elements += channel.feed(data[cut:])
        assert elements == parse(MainChannel(), [data], end=False)


def test_postcopy_ends_without_vmdesc() -> None:
    channel = MainChannel()
    elements = parse(channel, [postcopy() + b"\6\0\0"])
    assert isinstance(elements[-2].value, EndOfStream)
    assert elements[-1].value == Opaque("after the end")
    assert channel.phase is Phase.ENDED


def test_what_trails_the_vmdesc_is_after_the_end() -> None:
    elements = parse(MainChannel(), [precopy() + b"trailing"])
    assert elements[-1].value == Opaque("after the end")
    assert elements[-1].raw == b"trailing"


def test_streams_without_footers_decode_up_to_their_devices() -> None:
    data = (
        head()
        + ram_start(footer=False)
        + ram_part(*PAGES, footer=False)
        + ram_part(kind=SectionType.END, footer=False)
    )
    channel = MainChannel()
    elements = parse(channel, steps(data, 3), end=False)
    assert channel.footers is False
    assert opaque(elements) == []
    assert channel.pending == 0
    (header,) = channel.feed(build_section(4, 5, "timer", 0, 1, b"state", footer=False))
    assert isinstance(header.value, SectionHeader)
    (rest,) = channel.end()
    assert rest.raw == b"state"
    assert "sections without footers end where it or a learned layout says" in str(rest.value)

    whole = MainChannel()
    assert opaque(parse(whole, [data + vmdesc()])) == []
    assert whole.confirmed


def test_package_with_unreadable_inside_still_ends_where_it_said() -> None:
    inside = build_command(4) + b"\x55 nobody knows what this is"
    package = build_command(7, len(inside).to_bytes(4, "big")) + inside
    data = head() + ram_start() + package + ram_part(*PAGES)
    for step in (1, 1 << 20):
        channel = MainChannel()
        elements = parse(channel, steps(data, step), end=False)
        assert b"".join(element.raw for element in opaque(elements)) == inside[5:]
        assert all(element.in_package for element in opaque(elements))
        assert "expected 0x00 to 0x04 or 0x08, got 0x55" in str(opaque(elements)[0].value)
        assert isinstance(elements[-1].value, SectionFooter)
        assert channel.phase is Phase.POSTCOPY


def test_bytes_after_run_are_no_elements() -> None:
    inside = build_command(4) + build_command(5) + b"late"
    package = build_command(7, len(inside).to_bytes(4, "big")) + inside
    elements = parse(MainChannel(), [head() + package], end=False)
    assert elements[-1].value == Opaque("after the end")
    assert elements[-1].raw == b"late"


RETURN_PATH = b"".join(
    (
        build_message(2, b"\0\0\0\1"),
        build_message(3, bytes(11) + b"\x10\0\6pc.ram"),
        build_message(
            5,
            b"\6pc.ram",
            bitmap=bytes(7) + b"\4" + b"bits" + bytes.fromhex("0123456789abcdef"),
        ),
        build_message(7),
        build_message(99, b"?"),
        build_message(1, bytes(4)),
    )
)


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_every_cut_of_the_return_path(step: int) -> None:
    whole = parse(ReturnPath(), [RETURN_PATH])
    assert [e.value.name for e in whole if isinstance(e.value, Message)] == [
        "PONG",
        "REQ_PAGES_ID",
        "RECV_BITMAP",
        "SWITCHOVER_ACK",
        "0x63",
        "SHUT",
    ]
    for cut in range(len(RETURN_PATH)):
        elements = parse(ReturnPath(), steps(RETURN_PATH[:cut], step))
        complete = [element for element in elements if not isinstance(element.value, Opaque)]
        assert complete == [element for element in whole if element.end <= cut]
        is_between = cut in {0, *(element.end for element in whole)}
        assert len(opaque(elements)) == (not is_between)
        if not is_between:
            assert elements[-1].raw
            assert "cut short" in str(elements[-1].value)


def test_bitmap_has_fields_of_its_own() -> None:
    element = parse(ReturnPath(), [RETURN_PATH])[2]
    found = {s.name: element.raw[s.start : s.start + s.size_bytes] for s in element.spans}
    assert found["payload"] == b"\6pc.ram"
    assert found["bitmap"] == b"bits"
    assert found["end_mark"].hex() == "0123456789abcdef"


def test_occurrences_count_by_name_and_go_on_after_recovery() -> None:
    channel = ReturnPath()
    first = parse(channel, [build_message(2, bytes(4)) * 2], end=False)
    second = parse(channel.recovered(), [build_message(2, bytes(4))], end=False)
    assert [element.occurrence for element in first + second] == [1, 2, 3]


def test_recorded_stream_cut_in_the_device_phase_keeps_what_was_decided() -> None:
    data = recorded("qemu7.2-precopy.c0.fwd")
    whole = parse(MainChannel(), [data])
    timer = next(n for n, e in enumerate(whole) if isinstance(e.value, Payload))
    for cut in range(whole[timer].offset + 1, whole[timer + 6].offset + 1, 5):
        elements = parse(MainChannel(), [data[:cut]])
        assert elements[:-1] == whole[: len(elements) - 1]
        assert isinstance(elements[-1].value, Opaque)
