"""Recorded streams of real QEMUs decode to their last byte, whatever pieces they come in."""

import pytest
from thoroughness import usually
from wire_helpers import opaque, parse, pieces, recorded, steps

from testbed.wire import Layout, MainChannel, Phase, ReturnPath, encode
from testbed.wire.element import (
    Certainty,
    Command,
    CommandType,
    Element,
    Payload,
    RamBlock,
    RamPage,
    RamTotal,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)

VERSIONS = ["qemu7.2", "qemu10.0"]
PRECOPY = [f"{version}-{kind}.c0.fwd" for version in VERSIONS for kind in ("precopy", "xbzrle")]
POSTCOPY = [f"{version}-{kind}.c0.fwd" for version in VERSIONS for kind in ("postcopy", "preempt")]
MULTIFD = [f"{version}-multifd.c0.fwd" for version in VERSIONS]
WHOLE = PRECOPY + POSTCOPY + MULTIFD


@pytest.mark.parametrize("name", WHOLE)
def test_stream_decodes_to_its_end(name: str) -> None:
    data = recorded(name)
    channel = MainChannel()
    elements = parse(channel, [data])
    assert opaque(elements) == []
    assert channel.phase is Phase.ENDED
    assert channel.footers
    assert b"".join(encode(element.value) for element in elements) == data


@pytest.mark.parametrize("name", WHOLE)
def test_pieces_change_nothing(name: str) -> None:
    data = recorded(name)
    assert parse(MainChannel(), pieces(data, seed=20)) == parse(MainChannel(), [data])


@pytest.mark.parametrize(
    "name",
    usually(
        ["qemu7.2-recover.c0.fwd", "qemu10.0-devices-storage.fwd"],
        thoroughly=["qemu7.2-postcopy.c0.fwd", "qemu10.0-precopy.c0.fwd"],
    ),
)
def test_single_bytes_change_nothing(name: str) -> None:
    data = recorded(name)
    assert parse(MainChannel(), steps(data, 1)) == parse(MainChannel(), [data])


@pytest.mark.parametrize("name", PRECOPY)
def test_vmdesc_confirms_every_inferred_boundary(name: str) -> None:
    channel = MainChannel()
    elements = parse(channel, [recorded(name)])
    assert channel.confirmed
    assert channel.corrections == []
    layout = channel.layout
    assert layout is not None
    payloads = [element for element in elements if isinstance(element.value, Payload)]
    assert len(payloads) == len(layout.devices) > 30
    for element in payloads:
        assert element.certainty is Certainty.INFERRED
        assert element.section is not None
        assert len(element.raw) == layout.size(element.section.idstr, element.section.instance_id)


@pytest.mark.parametrize("name", PRECOPY)
def test_fields_of_the_vmdesc_tile_each_section(name: str) -> None:
    elements = parse(MainChannel(), [recorded(name)])
    text = next(e.value.text for e in elements if isinstance(e.value, VmDescription))
    layout = Layout.parse(text)
    for device in layout.devices:
        end = 0
        for span in layout.spans(device.idstr, device.instance_id):
            assert span.start == end
            end += span.size_bytes
        assert end == device.size_bytes


@pytest.mark.parametrize("name", WHOLE)
def test_format_invariants(name: str) -> None:
    elements = parse(MainChannel(), [recorded(name)])
    blocks = {e.value.idstr: e.value for e in elements if isinstance(e.value, RamBlock)}
    (total,) = [e.value.total_bytes for e in elements if isinstance(e.value, RamTotal)]
    assert sum(block.used_bytes for block in blocks.values()) == total
    for element in elements:
        match element.value:
            case RamPage(block, offset_bytes):
                assert offset_bytes < blocks[block].used_bytes
            case SectionFooter(section_id):
                assert element.section is not None
                assert section_id == element.section.section_id


@pytest.mark.parametrize("name", POSTCOPY)
def test_package_is_parsed_in_place(name: str) -> None:
    elements = parse(MainChannel(), [recorded(name)])
    packaged = next(n for n, e in enumerate(elements) if _is(e, CommandType.PACKAGED))
    inside = [element for element in elements if element.in_package]
    command = elements[packaged].value
    assert isinstance(command, Command)
    assert sum(len(e.raw) for e in inside) == int.from_bytes(command.payload, "big")
    assert elements[packaged + 1] is inside[0]
    assert _is(inside[0], CommandType.POSTCOPY_LISTEN)
    assert _is(inside[-1], CommandType.POSTCOPY_RUN)
    assert sum(isinstance(e.value, Payload) for e in inside) > 30


@pytest.mark.parametrize("version", VERSIONS)
def test_recovery_goes_on_where_the_first_connection_was_cut(version: str) -> None:
    first = MainChannel()
    cut = parse(first, [recorded(f"{version}-recover.c0.fwd")])
    # A rate-limited source waits between EOS and footer, so that is where the link broke.
    assert [element.raw for element in opaque(cut)] == [b""]
    assert "footer of PART ram" in str(cut[-1].value)
    assert first.phase is Phase.POSTCOPY

    second = first.recovered()
    data = recorded(f"{version}-recover.rec.c0.fwd")
    elements = parse(second, pieces(data, seed=9))
    assert opaque(elements) == []
    assert second.phase is Phase.ENDED
    assert elements[0].offset == 0
    assert _is(elements[0], CommandType.RECV_BITMAP)
    parts = [e.occurrence for e in cut if _is_part(e)]
    assert next(e.occurrence for e in elements if _is_part(e)) == parts[-1] + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_recovery_needs_what_the_first_connection_said(version: str) -> None:
    channel = MainChannel().recovered()
    elements = parse(channel, [recorded(f"{version}-recover.rec.c0.fwd")])
    assert "the section_id of a START section" in str(elements[-1].value)


def test_seen_is_a_sentence() -> None:
    channel = MainChannel()
    parse(channel, [recorded("qemu7.2-postcopy.c0.fwd")])
    said = channel.seen()
    assert said.startswith("START ram, 11 PART ram, FULL timer, FULL cpu_common,")
    assert "FULL dma (instance 0x1)" in said
    assert "END ram" in said
    assert said.endswith(
        "OPEN_RETURN_PATH, PING x4, POSTCOPY_ADVISE, POSTCOPY_RAM_DISCARD x6, PACKAGED, "
        "POSTCOPY_LISTEN, POSTCOPY_RUN"
    )


RETURN_PATHS = [
    ("qemu7.2-postcopy.c0.ret", "PONG x4, REQ_PAGES_ID, REQ_PAGES x15, SHUT"),
    ("qemu10.0-postcopy.c0.ret", "PONG x4, REQ_PAGES_ID, REQ_PAGES x6, SHUT"),
    ("qemu7.2-preempt.c0.ret", "PONG x4, REQ_PAGES_ID, REQ_PAGES x5, SHUT"),
    ("qemu10.0-preempt.c0.ret", "PONG x4, SHUT"),
    ("qemu7.2-recover.c0.ret", "PONG x4, REQ_PAGES_ID, REQ_PAGES x5"),
    ("qemu10.0-recover.c0.ret", "PONG x4, REQ_PAGES_ID, REQ_PAGES x7"),
    (
        "qemu7.2-recover.rec.c0.ret",
        "RECV_BITMAP x6, RESUME_ACK, REQ_PAGES_ID, REQ_PAGES x28, SHUT",
    ),
    ("qemu10.0-recover.rec.c0.ret", "RECV_BITMAP x6, RESUME_ACK, REQ_PAGES_ID, REQ_PAGES, SHUT"),
]


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize(("name", "seen"), RETURN_PATHS)
def test_return_path_decodes_to_its_end(name: str, seen: str, step: int) -> None:
    data = recorded(name)
    channel = ReturnPath()
    elements = parse(channel, steps(data, step))
    assert opaque(elements) == []
    assert channel.seen() == seen
    assert b"".join(encode(element.value) for element in elements) == data


def _is(element: Element, command: CommandType) -> bool:
    return isinstance(element.value, Command) and element.value.command == command


def _is_part(element: Element) -> bool:
    return isinstance(element.value, SectionHeader) and element.value.type is SectionType.PART
