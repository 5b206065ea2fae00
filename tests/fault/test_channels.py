"""Every connection of a migration has a relay: what it carries is told, counted, and struck."""

import pytest
from fault_helpers import DESTINATION, SOURCE, acts, main, passed, run, struck
from wire_helpers import PAGES, head, precopy, ram_start, recorded, steps

from testbed.fault.command import Command, End, HalfClose, Observed, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    Channel,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    OffsetPlace,
    PagePlace,
    Place,
    Reset,
    SetField,
    StalePage,
    StatePlace,
    Swap,
    Truncate,
)
from testbed.wire import ChannelKind, build, encode
from testbed.wire.element import ContentType, RamFlag, RamPage, TlsRecord
from testbed.wire.packet import MultifdInit

MULTIFD, PREEMPT, TLS = ChannelKind.MULTIFD, ChannelKind.PREEMPT, ChannelKind.TLS
STEPS = [3, 700, 1 << 20]


def fault(place: Place, action: Action, **more: object) -> Fault:
    return Fault(place, action, "it", **more)  # type: ignore[arg-type]


def init(number: int) -> bytes:
    return encode(MultifdInit(bytes(16), number - 1))


def packet(number: int, *pages: int) -> list[bytes]:
    """Header and payload of a multifd packet with these pages."""
    values = build.multifd_packet(
        "pc.ram", [(4096 * page, bytes([page]) * 4096) for page in pages], packet_num=number
    )
    return list(map(encode, values))


FIRST, SECOND = packet(0, 1, 2), packet(1, 7)
STREAM = b"".join([init(1), *FIRST, *SECOND])
OFFSET = 320 + 8  # of the second page's offset in a packet's header

MULTIFD_EDITS: list[tuple[Place, Action, bytes]] = [
    (
        ElementPlace("multifd-init", "channel_id", channel=Channel.MULTIFD),
        SetField(9),
        init(10) + STREAM[64:],
    ),
    (
        ElementPlace("multifd-packet", "offset[1]", channel=Channel.MULTIFD),
        SetField(0x5000),
        STREAM.replace((0x2000).to_bytes(8, "big"), (0x5000).to_bytes(8, "big"), 1),
    ),
    (
        ElementPlace("multifd-pages", "page[0]", 1, channel=Channel.MULTIFD, occurrence=2),
        SetField(0xEE),
        init(1) + b"".join([*FIRST, SECOND[0], b"\7\xee" + SECOND[1][2:]]),
    ),
    (
        ElementPlace("multifd-packet", "packet_num", channel=Channel.MULTIFD, name="pc.*"),
        SetField(0xFF),
        STREAM[: 64 + 24] + (0xFF).to_bytes(8, "big") + STREAM[64 + 32 :],
    ),
    (
        ElementPlace("multifd-pages", channel=Channel.MULTIFD),
        Delete(),
        b"".join([init(1), FIRST[0], *SECOND]),
    ),
    (
        ElementPlace("multifd-packet", channel=Channel.MULTIFD, occurrence=2),
        Duplicate(),
        b"".join([init(1), *FIRST, SECOND[0] * 2, SECOND[1]]),
    ),
    (
        ElementPlace("multifd-pages", channel=Channel.MULTIFD),
        Swap(),
        b"".join([init(1), FIRST[0], SECOND[1], SECOND[0], FIRST[1]]),
    ),
    (OffsetPlace(100, Channel.MULTIFD), Truncate(), STREAM[:100]),
]


@pytest.mark.parametrize(
    ("place", "action", "expected"), MULTIFD_EDITS, ids=map(str, range(len(MULTIFD_EDITS)))
)
@pytest.mark.parametrize("step", STEPS)
def test_a_multifd_channel_is_struck_at_its_packets(
    place: Place, action: Action, expected: bytes, step: int
) -> None:
    engine = FaultEngine((fault(place, action),))
    main(engine)
    assert passed(run(engine.connection(2, MULTIFD), steps(STREAM, step))) == expected != STREAM
    assert engine.unfired() == []


@pytest.mark.parametrize("step", STEPS)
def test_a_multifd_channel_has_the_number_that_it_says(step: int) -> None:
    place = ElementPlace("multifd-packet", "flags", channel=Channel.MULTIFD, number=2)
    engine = FaultEngine((fault(place, SetField(1)),))
    outs = []
    for number, said in ((1, 3), (2, 1), (3, 2)):  # they come in any order
        stream = init(said) + STREAM[64:]
        commands = run(engine.connection(number, MULTIFD), steps(stream, step))
        outs.append(passed(commands) == stream)
        (totals,) = told(commands, "stream-totals")[-1:]
        assert totals["channel"] == f"multifd {said}"
        assert totals["packets"] == 2
        assert totals["pages"] == 3
        assert totals["pages_of"] == {"pc.ram": 3}
    assert outs == [True, True, False]


def test_an_occurrence_on_any_channel_counts_all_of_them() -> None:
    place = ElementPlace("multifd-packet", channel=Channel.MULTIFD, occurrence=3)
    engine = FaultEngine((fault(place, Reset()),))
    first, second = engine.connection(1, MULTIFD), engine.connection(2, MULTIFD)
    assert struck(first.received(SOURCE, STREAM)) == []
    commands = second.received(SOURCE, init(2) + STREAM[64:])
    assert struck(commands) == ["multifd packet 1 of pc.ram"]
    assert acts(commands)[-2:] == [End(SOURCE, reset=True), End(DESTINATION, reset=True)]


@pytest.mark.parametrize("name", ["qemu7.2-multifd.c1.fwd", "qemu10.0-multifd.c2.fwd"])
def test_a_recorded_multifd_channel_passes_as_it_came(name: str) -> None:
    data = recorded(name)
    place = ElementPlace("multifd-packet", channel=Channel.MULTIFD, occurrence=100_000)
    for faults in ((), (fault(place, Delete()),)):
        relay = FaultEngine(faults).connection(1, MULTIFD)
        assert passed(run(relay, steps(data, 100_000))) == data


# Preempt


URGENT = build.page("pc.ram", 0x2000, b"u" * 1024)
AGAIN = RamPage("pc.ram", 0x3000, RamFlag.PAGE | RamFlag.CONTINUE, b"v" * 1024)
PREEMPTED = encode(URGENT) + encode(AGAIN)


@pytest.mark.parametrize("step", STEPS)
def test_a_preempt_channel_knows_the_blocks_of_the_main_one(step: int) -> None:
    place = PagePlace(page=12, channel=Channel.PREEMPT, field="data", byte=0, phase="postcopy")
    engine = FaultEngine((fault(place, SetField(b"!")),))
    relay = main(engine)
    relay.received(SOURCE, head() + ram_start())
    commands = run(engine.connection(2, PREEMPT), steps(PREEMPTED, step))
    assert passed(commands) == PREEMPTED.replace(b"v", b"!", 1)
    (totals,) = told(commands, "stream-totals")
    assert (totals["channel"], totals["pages"]) == ("preempt", 2)


def test_a_preempt_channel_that_comes_first_is_read_by_name() -> None:
    place = ElementPlace("ram-page", channel=Channel.PREEMPT, name="pc.ram")
    engine = FaultEngine((fault(place, Truncate()),))
    page = encode(build.page("pc.ram", 0x2000, b"u" * 4096))
    commands = run(engine.connection(1, PREEMPT), [page])
    assert acts(commands) == [HalfClose(DESTINATION)]


def test_a_page_on_the_preempt_channel_is_not_one_on_the_main_channel() -> None:
    engine = FaultEngine((fault(PagePlace(page=8), Delete()),))
    main(engine).received(SOURCE, head() + ram_start())
    assert passed(run(engine.connection(2, PREEMPT), [PREEMPTED])) == PREEMPTED
    assert "no page 8 of pc.ram passed" in engine.unfired()[0]


def test_an_urgent_page_can_be_as_old_as_the_one_on_the_main_channel() -> None:
    place = PagePlace(page=1, channel=Channel.PREEMPT)
    engine = FaultEngine((fault(place, StalePage()),))
    main(engine).received(SOURCE, precopy())
    page = encode(build.page("pc.ram", 0x400, b"new!" * 256))
    out = passed(run(engine.connection(2, PREEMPT), [page]))
    assert out == page.replace(b"new!" * 256, PAGES[0].data)  # type: ignore[union-attr]


# TLS and what nobody knows


RECORDS = [
    encode(TlsRecord(ContentType.HANDSHAKE, 0x0301, b"hello")),
    encode(TlsRecord(ContentType.APPLICATION_DATA, 0x0303, bytes(900))),
    encode(TlsRecord(ContentType.APPLICATION_DATA, 0x0303, b"more")),
]
SEALED = b"".join(RECORDS)


@pytest.mark.parametrize(
    ("place", "action", "expected"),
    [
        (ElementPlace("tls-record", channel=Channel.TLS, occurrence=2), Truncate(), RECORDS[0]),
        (
            ElementPlace("tls-record", "version", name="application-data", channel=Channel.TLS),
            SetField(0x0304),
            SEALED.replace(b"\x17\3\3", b"\x17\3\4", 1),
        ),
        (
            ElementPlace("tls-record", channel=Channel.TLS, occurrence=2),
            Swap(),
            RECORDS[0] + RECORDS[2] + RECORDS[1],
        ),
        (OffsetPlace(7, Channel.TLS), FlipBits(b"\xff"), SEALED[:7] + b"\x93" + SEALED[8:]),
    ],
    ids=["cut", "field", "exchanged", "offset"],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_tls_connection_is_struck_at_its_records(
    place: Place, action: Action, expected: bytes, step: int
) -> None:
    engine = FaultEngine((fault(place, action),))
    commands = run(engine.connection(1, TLS), steps(SEALED, step))
    assert passed(commands) == expected
    (totals,) = told(commands, "stream-totals")
    assert (totals["channel"], totals["packets"]) == ("tls 1", 3)


def test_both_directions_of_a_tls_connection_have_records() -> None:
    place = ElementPlace("tls-record", "data", channel=Channel.RETURN_PATH, occurrence=2, number=2)
    engine = FaultEngine((fault(place, SetField(b"")),))
    back = run(engine.connection(1, TLS), [SEALED], DESTINATION)
    assert passed(back, SOURCE) == SEALED
    back = run(engine.connection(2, TLS), [SEALED], DESTINATION)
    assert passed(back, SOURCE) == RECORDS[0] + RECORDS[1][:5] + RECORDS[2]
    assert engine.unfired() == []


@pytest.mark.parametrize("step", STEPS)
def test_of_an_unknown_connection_offsets_are_places(step: int) -> None:
    data = b"GET / HTTP/1.1\r\nHost: migration\r\n\r\n"
    engine = FaultEngine((fault(OffsetPlace(5, Channel.UNKNOWN), SetField(b"?x")),))
    relay = engine.connection(1, None)
    assert passed(run(relay, steps(data, step))) == data[:5] + b"?x" + data[7:]
    assert passed(run(relay, [data], DESTINATION), SOURCE) == data
    assert engine.unfired() == []


@pytest.mark.parametrize("kind", [*ChannelKind, None])
def test_nothing_is_changed_or_held_without_a_fault(kind: ChannelKind | None) -> None:
    relay = FaultEngine().connection(1, kind)
    for sender, toward in ((SOURCE, DESTINATION), (DESTINATION, SOURCE)):
        assert acts(relay.received(sender, b"\1\2\3\4")) == [Send(toward, b"\1\2\3\4")]
        assert acts(relay.ended(sender)) == [HalfClose(toward)]
    assert acts(relay.was_reset(SOURCE)) == [End(DESTINATION, reset=True)]


def test_a_state_acts_on_the_channel_that_it_names() -> None:
    place = StatePlace(SOURCE, status="active", channel=Channel.MULTIFD, number=2)
    engine = FaultEngine((fault(place, Reset(SOURCE)),))
    main(engine)
    for number, said in ((2, 1), (3, 2)):
        engine.connection(number, MULTIFD).received(SOURCE, init(said))
    ((number, commands),) = engine.observed(SOURCE, "MIGRATION", "active")
    assert number == 3
    assert acts(commands) == [End(SOURCE, reset=True)]


def test_each_channel_has_its_numbers_and_its_connections() -> None:
    """Of a recovery, the preempt channel belongs to connection 2 as well."""
    place = PagePlace(nth=1, channel=Channel.PREEMPT)
    engine = FaultEngine((fault(place, Delete(), connection=2),))
    relay = main(engine)
    relay.received(SOURCE, head() + ram_start())
    assert passed(run(engine.connection(2, PREEMPT), [PREEMPTED])) == PREEMPTED
    run(relay, [])
    engine.connection(3, ChannelKind.RECOVERY)
    out = passed(run(engine.connection(4, PREEMPT), [PREEMPTED]))
    assert out == PREEMPTED[len(encode(URGENT)) :]


def told(commands: list[Command], kind: str) -> list[dict[str, object]]:
    """The facts of that kind in what was answered."""
    found = (each for each in commands if isinstance(each, Observed) and each.kind == kind)
    return [dict(each.facts) for each in found]
