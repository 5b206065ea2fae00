"""Streams without footers, and payloads that mean harm: cut as the vmdesc says."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    PAGES,
    device,
    head,
    in_windows,
    opaque,
    parse,
    pieces,
    precopy,
    ram_part,
    ram_start,
    recorded,
    steps,
    vmdesc,
)

from testbed.wire import (
    LearnedLayout,
    MainChannel,
    StreamError,
    build_command,
    build_section,
    described,
    recut,
)
from testbed.wire.element import (
    Certainty,
    Element,
    EndOfStream,
    Opaque,
    Payload,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)

FOOTERLESS = ["qemu7.2-no-footers", "qemu10.0-no-footers"]
WITH_VMDESC = [
    *(f"qemu{version}-{kind}.c0" for version in ("7.2", "10.0") for kind in ("precopy", "xbzrle")),
    *("qemu7.2-devices-net", "qemu10.0-devices-storage", "qemu10.0-devices-memory"),
    *FOOTERLESS,
]
LIVE = head() + ram_start() + ram_part() + ram_part(kind=SectionType.END)
LIVE_BARE = (
    head()
    + ram_start(footer=False)
    + ram_part(*PAGES, footer=False)
    + ram_part(kind=SectionType.END, footer=False)
)


def bare(section_id: int, idstr: str, payload: bytes) -> bytes:
    return build_section(SectionType.FULL, section_id, idstr, 0, 1, payload, footer=False)


def without_vmdesc(stream: bytes) -> bytes:
    text = next(
        e.value for e in parse(MainChannel(), [stream]) if isinstance(e.value, VmDescription)
    )
    return stream[: -len(text.text) - 5]


def sections(elements: list[Element]) -> list[tuple[str, bytes]]:
    """Idstr and payload of each FULL section."""
    found: list[tuple[str, bytes]] = []
    for element in elements:
        match element.value:
            case SectionHeader(SectionType.FULL, _, idstr, _, _):
                found.append((idstr, b""))
            case Payload(data):
                found[-1] = found[-1][0], data
            case _:
                pass
    return found


# Without footers


@pytest.mark.parametrize("name", FOOTERLESS)
def test_recorded_streams_without_footers_are_cut_by_their_vmdesc(name: str) -> None:
    data = recorded(f"{name}.fwd")
    channel = MainChannel()
    elements = parse(channel, pieces(data, seed=3), end=False)
    assert channel.pending == 0, "no end of the channel is needed"
    assert channel.footers is False
    assert channel.confirmed
    cut = [element for element in elements if isinstance(element.value, Payload)]
    assert len(cut) > 30
    assert {element.certainty for element in cut} == {Certainty.EXACT}
    assert parse(MainChannel(), [data]) == elements


def test_a_stream_without_footers_is_read_in_windows() -> None:
    data = recorded("qemu7.2-no-footers.fwd")
    channel = MainChannel()
    elements = in_windows(channel, data, headroom=200, sizes=[999]) + channel.end()
    assert elements == parse(MainChannel(), [data])


@pytest.mark.parametrize("name", FOOTERLESS)
def test_a_learned_layout_cuts_them_without_a_vmdesc(name: str) -> None:
    data = recorded(f"{name}.fwd")
    learned = LearnedLayout.of(parse(MainChannel(), [data]))
    channel = MainChannel(learned=learned)
    elements = parse(channel, pieces(without_vmdesc(data), seed=4))
    assert opaque(elements) == []
    cut = [element for element in elements if isinstance(element.value, Payload)]
    assert {element.certainty for element in cut} == {Certainty.LEARNED}
    assert sections(elements) == sections(parse(MainChannel(), [data]))
    channel = MainChannel(learned=learned)
    parse(channel, [data])
    assert channel.confirmed


@pytest.mark.parametrize("name", FOOTERLESS)
def test_with_neither_they_are_opaque_and_say_why(name: str) -> None:
    data = without_vmdesc(recorded(f"{name}.fwd"))
    elements = parse(MainChannel(), pieces(data, seed=4))
    assert isinstance(elements[-2].value, SectionHeader)
    (rest,) = opaque(elements)
    why = str(rest.value)
    assert f"offset {rest.offset:#x}, in payload of FULL timer (section 0)" in why
    assert "end where it or a learned layout says, got the end of the channel" in why


FAKE_END = vmdesc(("timer", 0, 1), ("serial", 0, 5))
"""Fits no stream of these tests, though it is a vmdesc."""
BARE = (
    LIVE_BARE + bare(0, "timer", b"1" + FAKE_END) + bare(7, "serial", b"") + bare(9, "last", b"x")
)
BARE_SIZES = (("timer", 0, 1 + len(FAKE_END)), ("serial", 0, 0), ("last", 0, 1))


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_vmdesc_that_does_not_lead_to_itself_is_payload(step: int) -> None:
    channel = MainChannel()
    elements = parse(channel, steps(BARE + vmdesc(*BARE_SIZES), step))
    assert sections(elements) == [("timer", b"1" + FAKE_END), ("serial", b""), ("last", b"x")]
    assert channel.confirmed


WRONG = [
    pytest.param((("timer", 0, 9), *BARE_SIZES[1:]), id="size"),
    pytest.param((*BARE_SIZES, ("more", 0, 0)), id="one-more"),
    pytest.param(BARE_SIZES[:2], id="one-less"),
    pytest.param((("other", 0, BARE_SIZES[0][2]), *BARE_SIZES[1:]), id="idstr"),
    pytest.param((("timer", 1, BARE_SIZES[0][2]), *BARE_SIZES[1:]), id="instance"),
]


@pytest.mark.parametrize("sizes", WRONG)
def test_a_vmdesc_that_lies_cuts_nothing(sizes: tuple[tuple[str, int, int], ...]) -> None:
    elements = parse(MainChannel(), [BARE + vmdesc(*sizes)])
    assert [header for header, _ in sections(elements)] == ["timer"]
    assert elements[-1].raw == BARE[elements[-1].offset :] + vmdesc(*sizes)
    assert isinstance(elements[-1].value, Opaque)


def test_silence_behind_what_may_be_eof_tells_that_no_vmdesc_comes() -> None:
    channel = MainChannel()
    parse(channel, [BARE], end=False)
    assert channel.silence() == [], "the device phase goes on"
    assert channel.feed(b"\0") == []
    (rest,) = channel.silence()
    assert "got silence behind what may be EOF" in str(rest.value)
    assert channel.pending == 0


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "HELD_BYTES_MAX", 1000)
    elements = parse(MainChannel(), [LIVE_BARE + bare(0, "timer", bytes(2000))], end=False)
    assert "got none within 1000 bytes" in str(elements[-1].value)
    monkeypatch.setattr(described, "CANDIDATES_MAX", 2)
    elements = parse(MainChannel(), [LIVE_BARE + bare(0, "timer", FAKE_END * 2)], end=False)
    assert "got 2 that do not fit" in str(elements[-1].value)


def test_early_sections_without_footers_need_a_learned_layout() -> None:
    early = head() + ram_start(footer=False) + bare(5, "early", b"size")
    rest = ram_part(footer=False) + ram_part(kind=SectionType.END, footer=False)
    stream = early + rest + bare(0, "timer", b"1") + vmdesc(("early", 0, 4), ("timer", 0, 1))
    (opaque_rest,) = opaque(parse(MainChannel(), [stream]))
    assert "a stream without footers" in str(opaque_rest.value)
    taught = (
        LIVE
        + device(5, "early", b"size")
        + device(0, "timer", b"1")
        + vmdesc(("early", 0, 4), ("timer", 0, 1))
    )
    learned = LearnedLayout.of(parse(MainChannel(), [taught]))
    channel = MainChannel(learned=learned)
    assert sections(parse(channel, [stream])) == [("early", b"size"), ("timer", b"1")]
    assert channel.confirmed


# Payloads that imitate what follows them

OWN_FOOTER = b"\x7e\0\0\0\0"
"""Of the section `timer`, whose id is 0."""


def stream_of(payload: bytes, *, behind: bytes = b"") -> bytes:
    """A stream in whose first device section that payload is."""
    return (
        LIVE
        + device(0, "timer", payload)
        + device(7, "serial", b"of the FIFO")
        + device(9, "last", b"")
        + vmdesc(("timer", 0, len(payload)), ("serial", 0, 11), ("last", 0, 0))
        + behind
    )


FORGED = [
    # imitates, deceives the parser
    pytest.param(OWN_FOOTER * 3, False, id="footers"),
    pytest.param(OWN_FOOTER + b"\0\6\0\0\0\x10{no", False, id="eof-and-no-vmdesc"),
    pytest.param(OWN_FOOTER + b"\4\0\0\0\0\5timer" + bytes(8), False, id="used-section-id"),
    pytest.param(OWN_FOOTER + device(7, "serial", b"forged"), True, id="header"),
    pytest.param(OWN_FOOTER + device(8, "forged", b"") + device(9, "last", b""), True, id="two"),
    pytest.param(OWN_FOOTER + vmdesc(("timer", 0, 0)), True, id="eof-and-vmdesc"),
    pytest.param(OWN_FOOTER + vmdesc(("timer", 0, 0)) + b"x", True, id="eof-vmdesc-and-more"),
]


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(("payload", "deceives"), FORGED)
def test_what_a_payload_imitates_is_seen_through_or_reported(
    payload: bytes, deceives: bool, step: int
) -> None:
    stream = stream_of(payload)
    true = [("timer", payload), ("serial", b"of the FIFO"), ("last", b"")]
    channel = MainChannel()
    elements = parse(channel, steps(stream, step))
    assert (sections(elements) != true) is deceives
    assert channel.confirmed is not deceives
    assert bool(channel.corrections or opaque(elements)) is deceives

    anew = recut(elements)
    assert sections(anew) == true
    assert b"".join(element.raw for element in anew) == stream
    assert {e.certainty for e in anew} == {Certainty.EXACT}
    assert anew == recut(anew)
    learned = LearnedLayout.of(anew)
    assert sections(parse(MainChannel(learned=learned), steps(stream, step))) == true


def test_a_wrong_end_that_goes_unnoticed_is_corrected_by_the_vmdesc() -> None:
    # The forged section takes the true one of that id into its payload, and its footer.
    forged = b"state" + OWN_FOOTER + b"\4\0\0\0\7\6serial" + bytes(7) + b"\1" + b"tail"
    channel = MainChannel()
    elements = parse(channel, [stream_of(forged)])
    assert opaque(elements) == []
    assert sections(elements)[0] == ("timer", b"state")
    assert [text[:60] for text in channel.corrections] == [
        "device section 1: the vmdesc has timer instance 0 with 34 by",
        "device section 2: the vmdesc has serial instance 0 with 11 b",
    ]
    assert sections(recut(elements))[0] == ("timer", forged)


def test_bytes_behind_the_vmdesc_make_it_doubtful() -> None:
    channel = MainChannel()
    parse(channel, [precopy()], end=False)
    assert channel.confirmed
    channel.feed(b"trailing")
    assert not channel.confirmed
    assert "follow what seemed the vmdesc" in channel.corrections[-1]


def test_recut_leaves_what_trails() -> None:
    elements = parse(MainChannel(), [stream_of(b"state", behind=b"trailing")])
    anew = recut(elements)
    assert anew[-1].value == Opaque("after the end")
    assert [replace(e, certainty=Certainty.EXACT) for e in elements] == anew


@pytest.mark.parametrize("name", WITH_VMDESC)
def test_recorded_streams_were_never_cut_wrongly(name: str) -> None:
    elements = parse(MainChannel(), [recorded(f"{name}.fwd")])
    assert recut(elements) == [replace(e, certainty=Certainty.EXACT) for e in elements]


def test_recut_counts_occurrences_as_the_parser_does() -> None:
    twice = device(0, "timer", b"1") + device(1, "timer", b"2")
    early = head() + ram_start() + device(5, "timer", b"0") + ram_part()
    sizes = (("timer", 0, 1),) * 3
    stream = early + ram_part(kind=SectionType.END) + twice + vmdesc(*sizes)
    elements = parse(MainChannel(), [stream])
    assert [e.occurrence for e in elements if isinstance(e.value, Payload)] == [1, 2, 3]
    assert recut(elements) == [replace(e, certainty=Certainty.EXACT) for e in elements]


NO_RECUT = [
    pytest.param(b"", "expected device sections, got none", id="nothing"),
    pytest.param(LIVE, "expected device sections, got none", id="no-devices"),
    pytest.param(LIVE + device(0, "timer", b"1") + b"\0", "expected a vmdesc", id="no-vmdesc"),
    pytest.param(stream_of(b"")[:-1], "expected a vmdesc", id="cut"),
    pytest.param(
        head()
        + ram_start()
        + device(5, "early", b"size")
        + build_command(11)
        + device(0, "timer", b"1")
        + vmdesc(("early", 0, 5), ("timer", 0, 1)),
        "expected early device sections as the vmdesc has them",
        id="early",
    ),
]


@pytest.mark.parametrize(("stream", "why"), NO_RECUT)
def test_recut_says_why_not(stream: bytes, why: str) -> None:
    with pytest.raises(StreamError, match=why):
        recut(parse(MainChannel(), [stream]))


PARTS = st.sampled_from(
    [
        *(OWN_FOOTER, b"\x7e", b"\0", b"\4", b"\6", b'\0\6\0\0\0\2{"', b"x", b"\0\0\0\7"),
        *(device(7, "serial", b""), vmdesc(("timer", 0, 0)), vmdesc()),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=8).map(b"".join), st.integers(1, 90), st.booleans())
def test_whatever_the_payload_a_whole_stream_is_cut_truly(
    payload: bytes, step: int, footers: bool
) -> None:
    make = device if footers else bare
    stream = (LIVE if footers else LIVE_BARE) + make(0, "timer", payload) + make(7, "serial", b"12")
    stream += vmdesc(("timer", 0, len(payload)), ("serial", 0, 2))
    elements = parse(MainChannel(), steps(stream, step))
    whole = parse(MainChannel(), [stream])
    known = [element for element in whole if not isinstance(element.value, Opaque)]
    assert elements[: len(known)] == known
    assert len(opaque(elements)) == len(elements) - len(known)
    anew = recut(elements)
    assert sections(anew) == [("timer", payload), ("serial", b"12")]
    assert b"".join(element.raw for element in anew) == stream
    kinds = [type(element.value) for element in anew[-2:]]
    assert kinds == [EndOfStream, VmDescription]
    assert sum(isinstance(e.value, SectionFooter) for e in anew) == (5 if footers else 0)
