"""Bytes of a peer that is broken or means harm: never an error, never a byte lost."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import (
    device,
    head,
    opaque,
    parse,
    pieces,
    postcopy,
    precopy,
    ram_part,
    ram_start,
    recorded,
    steps,
    vmdesc,
)

from testbed.wire import MainChannel, Phase, ReturnPath, build_command, build_message, build_section
from testbed.wire import device as device_module
from testbed.wire import main_channel as main_channel_module
from testbed.wire.element import (
    CommandType,
    Opaque,
    Payload,
    RamFlag,
    RamPage,
    SectionHeader,
    SectionType,
)
from testbed.wire.structs import U32

PRECOPY, POSTCOPY = precopy(), postcopy()
TO_DEVICES = head() + ram_start() + ram_part(kind=SectionType.END)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes set, inserted, deleted or repeated."""
    wire = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(wire)))
        some = draw(st.binary(max_size=6) | st.sampled_from([b"\x7e\0\0\0\7", b"\0", b"\xff" * 8]))
        match draw(st.sampled_from(["set", "insert", "delete", "repeat"])):
            case "set":
                wire[at : at + len(some)] = some
            case "insert":
                wire[at:at] = some
            case "delete":
                del wire[at : at + draw(st.integers(1, 40))]
            case "repeat":
                wire[at:at] = wire[at : at + draw(st.integers(1, 60))]
    return bytes(wire)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([PRECOPY, POSTCOPY]).flatmap(mutated), st.integers(0, 99))
def test_mutations_never_raise_and_tile_exactly(data: bytes, seed: int) -> None:
    in_one = parse(MainChannel(), [data])
    in_pieces = parse(MainChannel(), pieces(data, seed))
    known = [element for element in in_one if not isinstance(element.value, Opaque)]
    assert known == [e for e in in_pieces if not isinstance(e.value, Opaque)]
    assert b"".join(element.raw for element in in_pieces) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 99))
def test_any_bytes_on_a_return_path(data: bytes, seed: int) -> None:
    in_one, in_pieces = parse(ReturnPath(), [data]), parse(ReturnPath(), pieces(data, seed))
    known = [element for element in in_one if not isinstance(element.value, Opaque)]
    assert known == [e for e in in_pieces if not isinstance(e.value, Opaque)]


@pytest.mark.parametrize("name", ["qemu7.2-precopy.c0.fwd", "qemu10.0-postcopy.c0.fwd"])
def test_mutations_of_recorded_streams(name: str) -> None:
    data, rng = recorded(name), random.Random(7)
    for _ in range(20):
        at = rng.randrange(len(data))
        wire = data[:at] + rng.randbytes(3) + data[at + rng.randrange(6) :]
        elements = parse(MainChannel(), pieces(wire, at))
        assert b"".join(element.raw for element in elements) == wire


WRONG = [
    pytest.param(b"\x16\x03\x01\x02\x00", "expected magic 0x5145564d, got 0x16030102", id="tls"),
    pytest.param(b"QEVM\0\0\0\4?", "expected version 3, got 4", id="version"),
    pytest.param(
        b"QEVM\0\0\0\3\7\xff\xff\xff\xff", "a name of at most 1024 bytes", id="machine-name"
    ),
    pytest.param(
        head() + b"\5\x11configuration/foo\0\0\0\1", "a subsection of known length", id="subsection"
    ),
    pytest.param(head(page_bits=3), "bits of a target page, got 3", id="page-bits"),
    pytest.param(head() + b"\x55", "expected 0x00 to 0x04 or 0x08, got 0x55", id="type"),
    pytest.param(head() + b"\x7e\0\0\0\1", "got 0x7e", id="footer-as-type"),
    pytest.param(head() + b"\2\0\0\0\7", "the section_id of a START section, got 7", id="part"),
    pytest.param(head() + b"\4\0\0\0\7\0", "an idstr, got one of length 0", id="idstr"),
    pytest.param(
        head() + ram_start()[:-5] + b"\x7e\0\0\0\3", "expected 7e00000002, got 7e00000003", id="id"
    ),
    pytest.param(
        head() + ram_start() + ram_part(footer=False) + b"\2", "7e00000002, got 02", id="mark"
    ),
    pytest.param(
        head() + ram_start() + ram_part()[:5] + bytes(7) + b"\1", "flags of a record", id="FULL"
    ),
    pytest.param(
        head() + ram_start() + ram_part()[:5] + bytes(7) + b"\x0a", "flags of a record", id="mix"
    ),
    pytest.param(
        head() + ram_start() + ram_part()[:5] + bytes(7) + b"\x28",
        "a page record with its block",
        id="continue-first",
    ),
    pytest.param(
        head() + ram_start() + ram_part(RamPage("pc.rom", 0, RamFlag.ZERO, b"\0")),
        "a RAM block of the list, got b'pc.rom'",
        id="block",
    ),
    pytest.param(
        head() + ram_start() + ram_part(RamPage("pc.ram", 0, RamFlag.XBZRLE, bytes(1025))),
        "an XBZRLE page",
        id="xbzrle-length",
    ),
    pytest.param(
        head() + ram_start() + ram_part(RamPage("pc.ram", 0, RamFlag.COMPRESS_PAGE, bytes(4096))),
        "a compressed page",
        id="compress-length",
    ),
    pytest.param(
        head() + ram_start().replace(b"\0\3\0\4", b"\0\2\4\4"), "at most 4096 blocks", id="total"
    ),
    pytest.param(TO_DEVICES + b"\0\6\xff\xff\xff\xff{", "at most 67108864 bytes", id="vmdesc"),
]


@pytest.mark.parametrize(("data", "why"), WRONG)
def test_what_cannot_be_is_opaque_from_there_on(data: bytes, why: str) -> None:
    for step in (1, 1 << 20):
        channel = MainChannel()
        elements = parse(channel, steps(data, step), end=False)
        assert why in str(elements[-1].value)
        assert channel.phase is Phase.OPAQUE
        assert channel.pending == 0
        for chunk in (b"more", b"and more"):
            (element,) = channel.feed(chunk)
            assert element.raw == chunk
            assert element.value == elements[-1].value
        assert channel.end() == []


RETURN_PATH_WRONG = [
    pytest.param(build_message(2, bytes(513)), "at most 512 bytes, got 513", id="length"),
    pytest.param(
        build_message(5, b"\1a", bitmap=b"\0\0\0\0\xff\0\0\0"), "at most 1073741824", id="bitmap"
    ),
    pytest.param(
        build_message(5, b"\1a", bitmap=bytes(16)), "expected 0x123456789abcdef, got 0x0", id="mark"
    ),
]


@pytest.mark.parametrize(("data", "why"), RETURN_PATH_WRONG)
def test_what_cannot_be_on_a_return_path(data: bytes, why: str) -> None:
    channel = ReturnPath()
    elements = parse(channel, [data], end=False)
    assert why in str(elements[-1].value)
    assert channel.feed(b"more")[0].raw == b"more"


def test_footer_and_header_of_a_known_section_in_a_payload_are_not_believed() -> None:
    """A used section_id, an idstr that is no text, a type that cannot follow: not a boundary."""
    imitations = (
        b"\x7e\0\0\0\5\4\0\0\0\5\5timer\0\0\0\0\0\0\0\1",
        b"\x7e\0\0\0\5\4\0\0\0\7\5ti\0er\0\0\0\0\0\0\0\1",
        b"\x7e\0\0\0\5\4\0\0\0\7\5timer\0\0\0\0\x80\0\0\0",
        b"\x7e\0\0\0\5\2\0\0\0\2",
        b"\x7e\0\0\0\5\x08\0\2\0\4",
        b"\x7e\0\0\0\5\0\6\0\0\0\2[]",
        b"\x7e\0\0\0\5\0\0",
        b"\x7e\0\0\0\5" * 9,
    )
    payload = b"state".join(imitations) + b"."
    data = TO_DEVICES + device(5, "timer", payload) + vmdesc(("timer", 0, len(payload)))
    for step in (1, 1 << 20):
        channel = MainChannel()
        elements = parse(channel, steps(data, step))
        assert [e.value for e in elements if isinstance(e.value, Payload)] == [Payload(payload)]
        assert channel.confirmed


def test_silence_is_no_reason_to_believe_an_imitation() -> None:
    payload = b"state\x7e\0\0\0\5\4\0\0\0\6\5ti\0er" + bytes(8) + b"\x7e\0\0\0\5\x55"
    data = TO_DEVICES + device(5, "timer", payload) + vmdesc(("timer", 0, len(payload)))
    for cut in range(len(TO_DEVICES), len(data)):
        channel = MainChannel()
        parse(channel, [data[:cut]], end=False)
        channel.silence()
        channel.feed(data[cut:])
        assert channel.confirmed


def test_forged_section_is_corrected_by_the_vmdesc() -> None:
    """A guest that knows the next section_id can hide a boundary; the vmdesc gives it away."""
    forged = device(6, "forged", b"")[:-5]
    serial = b"guest's\x7e\0\0\0\5" + forged + b"rest"
    data = (
        TO_DEVICES
        + device(5, "serial", serial)
        + device(6, "timer", b"state")
        + vmdesc(("serial", 0, len(serial)), ("timer", 0, 5))
    )
    channel = MainChannel()
    elements = parse(channel, [data])
    headers = [e.value.idstr for e in elements if isinstance(e.value, SectionHeader)]
    assert headers[-2:] == ["serial", "forged"]
    assert channel.layout is not None
    assert not channel.confirmed
    assert channel.corrections == [
        f"device section 1: the vmdesc has serial instance 0 with {len(serial)} bytes, "
        "the stream was cut as serial instance 0 with 7 bytes",
        "device section 2: the vmdesc has timer instance 0 with 5 bytes, "
        "the stream was cut as forged instance 0 with 33 bytes",
    ]


def test_unreadable_vmdesc_confirms_nothing() -> None:
    channel = MainChannel()
    elements = parse(channel, [TO_DEVICES + b'\0\6\0\0\0\2{"'])
    assert opaque(elements) == []
    assert channel.layout is None
    assert not channel.confirmed
    assert "bytes long, cannot be read" in channel.corrections[0]


def test_payload_without_end_is_held_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "PAYLOAD_BYTES_MAX", 10_000)
    channel = MainChannel()
    parse(channel, [TO_DEVICES + device(5, "timer", b"")[:-5]], end=False)
    most = 0
    for _ in range(100):
        channel.feed(b"\x7e\0\0\0\5\x55" * 50)
        most = max(most, channel.pending)
    assert most < 11_000
    assert channel.phase is Phase.OPAQUE


def test_sections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_channel_module, "SECTIONS_MAX", 50)
    sections = (device(5, f"forged{n}", b"") for n in range(60))
    channel = MainChannel()
    same_id = [build_section(1, 5, f"forged{n}", 0, 1, b"") for n in range(60)]
    elements = parse(channel, [TO_DEVICES, *sections, *same_id], end=False)
    assert channel.phase is not Phase.DEVICE or channel.pending
    assert len(elements) < 200


def test_early_device_sections_are_told_from_setup() -> None:
    """`early_setup` sections come before or after START ram, and commands may follow them."""
    early = device(9, "0000:00:03.0/virtio-mem-device-early", b"\0\0\0\1")
    for setup in (early + ram_start(), ram_start() + early, ram_start() + early + early_2()):
        data = head() + setup + build_command(2, bytes(4)) + ram_part()
        channel = MainChannel()
        elements = parse(channel, [data], end=False)
        assert opaque(elements) == []
        assert channel.phase is Phase.ITERATE
        assert channel.pending == 0


def early_2() -> bytes:
    return device(10, "0000:00:04.0/virtio-mem-device-early", b"\0\0\0\2")


def test_other_live_sections_are_found_by_their_footers() -> None:
    """Those that nobody here reads: cut, not understood."""
    live = [
        build_section(kind, 3, "unheard-of", 0, 1, b"chunks\1")
        for kind in (SectionType.START, SectionType.PART, SectionType.PART, SectionType.END)
    ]
    data = head() + ram_start() + b"".join(live) + ram_part(kind=SectionType.END) + vmdesc()
    channel = MainChannel()
    elements = parse(channel, [data])
    assert opaque(elements) == []
    assert sum(e.value == Payload(b"chunks\1") for e in elements) == 4
    assert [e.occurrence for e in elements if e.value == Payload(b"chunks\1")] == [1, 1, 2, 1]


def packaged(inside: bytes, size: int | None = None) -> bytes:
    claimed = len(inside) if size is None else size
    return build_command(CommandType.PACKAGED, claimed.to_bytes(4, "big")) + inside


IN_A_PACKAGE = [
    pytest.param(
        packaged(packaged(b"\0")),
        "no package inside it, got one of 1 byte",
        id="package-in-package",
    ),
    pytest.param(
        packaged(packaged(packaged(b""))),
        "no package inside it, got one of 9 bytes",
        id="three-deep",
    ),
    pytest.param(
        packaged(build_command(CommandType.PING, b"\0\0\0\1")[:-2]) + b"\0\1",
        "expected 9 bytes, got the end of the package after 7",
        id="command-across-its-end",
    ),
    pytest.param(
        packaged(device(7, "serial", bytes(20)), 30), "the end of the package", id="section-cut"
    ),
]


@pytest.mark.parametrize(("data", "why"), IN_A_PACKAGE)
def test_a_package_holds_what_it_may(data: bytes, why: str) -> None:
    start = head() + ram_start()
    for step in (1, 1 << 20):
        elements = parse(MainChannel(), steps(start + data + bytes(100), step), end=False)
        first = opaque(elements)[0]
        assert why in str(first.value)
        assert first.in_package


KIB = 1 << 10
RUN = ram_part(*(RamPage("pc.ram", at, RamFlag.ZERO, b"\0") for at in range(0, 0x8000, 0x400)))
LITTLE = 64 * KIB
HELD = 1024 * KIB
ENDLESS = {
    # the bytes before, what comes again and again, what may be held of it, how much of it comes
    "no-stream": (b"", b"GET / HTTP/1.1\r\n", 0, 8 * HELD),
    "bytes-behind-the-end": (precopy(), b"more", 0, 8 * HELD),
    "vmdesc-of-4-GiB": (TO_DEVICES + b"\0\6\xff\xff\xff\xff", b"{", 0, 8 * HELD),
    "pages": (head() + ram_start(), RUN, LITTLE, HELD // 4),
    "package-of-4-GiB": (head() + ram_start() + packaged(b"", 0xFFFFFFFF), RUN, LITTLE, HELD // 4),
    "commands": (head(), build_command(CommandType.PING, b"\0\0\0\1"), LITTLE, HELD // 8),
    "device-without-end": (TO_DEVICES + device(5, "timer", b"")[:-5], b"state", HELD, 4 * HELD),
    "footers": (TO_DEVICES + device(5, "timer", b"")[:-5], b"\x7e\0\0\0\5", HELD, HELD + 128 * KIB),
    "vmdesc-as-long-as-may-be": (TO_DEVICES + b"\0\6" + U32.pack(HELD), b"{", HELD, 4 * HELD),
}
COPIES = 3
"""Of what is held: in hand, set aside, and joined."""


@pytest.mark.parametrize("name", ENDLESS)
def test_memory_stays_within_its_bound_whatever_comes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "PAYLOAD_BYTES_MAX", HELD)
    start, again, held, fed = ENDLESS[name]
    chunk = again * (LITTLE // len(again))
    channel = MainChannel(page_bytes=1024)
    channel.feed(start)
    tracemalloc.start()
    try:
        for _ in range(fed // LITTLE):
            channel.feed(chunk)
            assert channel.pending <= held + len(chunk)
        channel.end()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A chunk of small elements takes more than its bytes while they are handed out.
    assert peak < held * COPIES + 100 * LITTLE
