"""Layouts learned from one stream cut the device sections of another one that has no vmdesc."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    device,
    head,
    opaque,
    parse,
    pieces,
    ram_part,
    ram_start,
    recorded,
    steps,
    vmdesc,
)

from testbed.wire import LearnedLayout, MainChannel, StreamError, build_command, learned
from testbed.wire.element import (
    Certainty,
    CommandType,
    Element,
    Payload,
    SectionHeader,
    SectionType,
)

LIVE = head() + ram_start() + ram_part() + ram_part(kind=SectionType.END)
TIMER = device(0, "timer", b"timer's state")
SERIAL = device(7, "serial", b"of the FIFO")
KNOWN = vmdesc(("timer", 0, 13), ("serial", 0, 11))


def learn(stream: bytes) -> LearnedLayout:
    return LearnedLayout.of(parse(MainChannel(), [stream]))


def payloads(elements: Iterable[Element]) -> list[tuple[bytes, str]]:
    return [(e.value.data, e.certainty) for e in elements if isinstance(e.value, Payload)]


def in_package(*sections: bytes) -> bytes:
    package = b"".join(
        (
            build_command(CommandType.POSTCOPY_LISTEN),
            *sections,
            build_command(CommandType.PING, b"\0\0\0\3"),
            build_command(CommandType.POSTCOPY_RUN),
        )
    )
    size = len(package).to_bytes(4, "big")
    return head() + ram_start() + build_command(CommandType.PACKAGED, size) + package


@pytest.mark.parametrize("version", ["qemu7.2", "qemu10.0"])
def test_postcopy_is_cut_by_what_precopy_told(version: str) -> None:
    layout = learn(recorded(f"{version}-precopy.c0.fwd"))
    data = recorded(f"{version}-postcopy.c0.fwd")
    plain = parse(MainChannel(), [data])
    channel = MainChannel(learned=LearnedLayout.from_json(layout.to_json()))
    elements = parse(channel, pieces(data, seed=5))
    assert [e.raw for e in elements] == [e.raw for e in plain]
    found = [(e.section, e.certainty) for e in elements if isinstance(e.value, Payload)]
    assert len(found) > 30
    assert {certainty for _, certainty in found} == {Certainty.LEARNED}
    assert channel.layout is not None
    assert not channel.confirmed
    for section, _ in found:
        assert section is not None
        assert channel.layout.fields(section.idstr, section.instance_id)


def test_another_machine_s_layout_is_refused() -> None:
    layout = learn(recorded("qemu7.2-precopy.c0.fwd"))
    assert layout.machine == "pc-i440fx-7.2"
    channel = MainChannel(learned=layout)
    elements = parse(channel, [recorded("qemu10.0-postcopy.c0.fwd")])
    assert channel.refused == "learned from 'pc-i440fx-7.2', not from 'pc-i440fx-10.0'"
    assert {certainty for _, certainty in payloads(elements)} == {Certainty.INFERRED}
    assert channel.layout is None


HOSTILE = device(0, "timer", b"a" + b"\x7e\0\0\0\0" + SERIAL + b"b")
"""Its payload imitates its own footer and another section."""
HOSTILE_BYTES = len(HOSTILE) - len(device(0, "timer", b""))


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_learned_size_is_not_deceived(step: int) -> None:
    stream = (
        LIVE
        + HOSTILE
        + device(8, "serial", b"")
        + vmdesc(("timer", 0, HOSTILE_BYTES), ("serial", 0, 0))
    )
    told = learn(
        LIVE + device(0, "timer", bytes(HOSTILE_BYTES)) + vmdesc(("timer", 0, HOSTILE_BYTES))
    )
    assert payloads(parse(MainChannel(), [stream]))[0] == (b"a", Certainty.INFERRED)
    channel = MainChannel(learned=told)
    elements = parse(channel, steps(stream, step))
    assert payloads(elements) == [(HOSTILE[-HOSTILE_BYTES - 5 : -5], Certainty.LEARNED)]
    assert channel.confirmed


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_sections_that_it_does_not_know_are_found_by_their_footer(step: int) -> None:
    layout = learn(LIVE + TIMER + SERIAL + KNOWN)
    other_version = device(0, "timer", b"timer's state")
    ids = other_version.index(b"timer") + 5 + 7
    other_version = other_version[:ids] + b"\x02" + other_version[ids + 1 :]
    longer = device(7, "serial", b"of the FIFO, and more of it")
    shorter = device(9, "serial", b"FIFO", 1)
    stream = in_package(other_version, longer, shorter)
    elements = parse(MainChannel(learned=layout), steps(stream, step), end=False)
    assert opaque(elements) == []
    assert payloads(elements) == [
        (b"timer's state", Certainty.INFERRED),
        (b"of the FIFO, and more of it", Certainty.INFERRED),
        (b"FIFO", Certainty.INFERRED),
    ]


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_a_section_of_several_sizes_is_cut_at_the_one_that_fits(step: int) -> None:
    layout = learn(LIVE + TIMER + SERIAL + KNOWN)
    long = device(7, "serial", b"of the FIFO, and more of it")
    layout = layout.merge(learn(LIVE + TIMER + long + vmdesc(("timer", 0, 13), ("serial", 0, 27))))
    assert layout.merge(layout).to_json() == layout.to_json()
    for section, payload in ((SERIAL, b"of the FIFO"), (long, b"of the FIFO, and more of it")):
        for stream in (in_package(TIMER, section), LIVE + TIMER + section + b"\0"):
            channel = MainChannel(learned=layout)
            elements = parse(channel, steps(stream, step))
            assert (payload, Certainty.LEARNED) in payloads(elements)
            assert channel.layout is not None
            assert channel.layout.size("serial", 0) == len(payload)


def test_a_footer_at_a_learned_size_must_have_a_successor() -> None:
    layout = learn(LIVE + SERIAL + vmdesc(("serial", 0, 11)))
    payload = b"of the FIFO" + b"\x7e\0\0\0\7" + b"forged"
    package = in_package(device(7, "serial", payload))
    elements = parse(MainChannel(learned=layout), [package])
    assert payloads(elements) == [(payload, Certainty.INFERRED)]
    longer = LIVE + device(7, "serial", bytes(len(payload))) + vmdesc(("serial", 0, len(payload)))
    layout = layout.merge(learn(longer))
    elements = parse(MainChannel(learned=layout), [package])
    assert payloads(elements) == [(payload, Certainty.LEARNED)]


def test_silence_gives_up_waiting_for_a_size() -> None:
    layout = learn(LIVE + SERIAL + vmdesc(("serial", 0, 11)))
    channel = MainChannel(learned=layout)
    stream = LIVE + device(7, "serial", b"FIFO") + b"\0"
    before = parse(channel, [stream], end=False)
    assert isinstance(before[-1].value, SectionHeader)
    assert payloads(channel.silence()) == [(b"FIFO", Certainty.INFERRED)]


def test_silence_behind_eof_tells_that_no_vmdesc_comes() -> None:
    layout = learn(LIVE + SERIAL + vmdesc(("serial", 0, 11)))
    channel = MainChannel(learned=layout)
    parse(channel, [LIVE + SERIAL + b"\0"], end=False)
    assert payloads(channel.silence()) == [(b"of the FIFO", Certainty.LEARNED)]
    assert channel.pending == 0


def test_only_a_stream_cut_as_its_vmdesc_says_teaches() -> None:
    with pytest.raises(StreamError, match="expected a vmdesc to learn from, got none"):
        learn(in_package(TIMER))
    with pytest.raises(StreamError, match="device section 2: the vmdesc has serial"):
        learn(LIVE + TIMER + KNOWN)


def test_layouts_of_two_machines_do_not_merge() -> None:
    layout = learn(LIVE + TIMER + SERIAL + KNOWN)
    with pytest.raises(StreamError, match=r"expected one of 'pc-i440fx-7.2', got one of 'q35'"):
        layout.merge(LearnedLayout("q35", ()))


def test_the_number_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "STREAMS_MAX", 1)
    layout = learn(LIVE + TIMER + SERIAL + KNOWN)
    with pytest.raises(StreamError, match="at most 1 streams"):
        layout.merge(learn(LIVE + TIMER + vmdesc(("timer", 0, 13))))
    monkeypatch.setattr(learned, "LEARNED_BYTES_MAX", 10)
    with pytest.raises(StreamError, match="at most 10 bytes"):
        LearnedLayout.from_json(layout.to_json())


WRITTEN = [
    pytest.param("[]", "an object with a `machine`", id="list"),
    pytest.param('{"machine": 1}', "an object with a `machine`", id="machine"),
    pytest.param('{"machine": ""}', "a list of objects as `streams`", id="no-streams"),
    pytest.param('{"machine": "", "streams": [{}]}', "a text of bytes as `vmdesc`", id="no-vmdesc"),
    pytest.param(
        '{"machine": "", "streams": [{"vmdesc": "\\u0100"}]}', "text of bytes", id="no-bytes"
    ),
    pytest.param(
        '{"machine": "", "streams": [{"vmdesc": "{}"}]}', "or null as `version_ids`", id="versions"
    ),
    pytest.param(
        '{"machine": "", "streams": [{"vmdesc": "{}", "version_ids": []}]}',
        "a list of objects as `devices`",
        id="no-devices",
    ),
    pytest.param(
        '{"machine": "", "streams": [{"vmdesc": "{\\"devices\\":[]}", "version_ids": [1]}]}',
        "expected 0 version_ids, got 1",
        id="more-versions",
    ),
]


@pytest.mark.parametrize(("text", "why"), WRITTEN)
def test_a_layout_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(StreamError) as caught:
        LearnedLayout.from_json(text.encode())
    assert why in str(caught.value)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["machine", "streams", "vmdesc", "version_ids"]), inner)
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({"machine": st.just(""), "streams": JSON}) | JSON)
def test_any_json_is_a_learned_layout_or_an_error(value: object) -> None:
    try:
        layout = LearnedLayout.from_json(json.dumps(value).encode())
    except StreamError:
        return
    assert LearnedLayout.from_json(layout.to_json()).machine == layout.machine


CHUNKS = st.lists(st.integers(1, 60), min_size=1, max_size=30)
BYTES = st.sampled_from([b"\x7e\0\0\0\7", b"\x7e", b"\0\6\0\0\0\2{}", SERIAL, b"\4\0\0\0", b"x"])


@settings(max_examples=100, deadline=None)
@given(st.lists(BYTES, max_size=6).map(b"".join), CHUNKS, st.booleans())
def test_any_chunking_gives_the_same_elements(payload: bytes, sizes: list[int], two: bool) -> None:
    layout = learn(LIVE + SERIAL + vmdesc(("serial", 0, 11)))
    if two:
        layout = layout.merge(
            learn(LIVE + device(7, "serial", bytes(16)) + vmdesc(("serial", 0, 16)))
        )
    stream = LIVE + device(7, "serial", payload) + TIMER + b"\0"
    whole = parse(MainChannel(learned=layout), [stream])
    known = [element for element in whole if element not in opaque(whole)]
    chunks, at = [stream[: len(LIVE)]], len(LIVE)
    for size in sizes:
        chunks.append(stream[at : at + size])
        at += size
    elements = parse(MainChannel(learned=layout), [*chunks, stream[at:]])
    assert elements[: len(known)] == known
    assert len(opaque(elements)) == len(elements) - len(known)
