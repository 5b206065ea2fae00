"""Whatever comes, and whenever it pauses: no error, and all that no fault has struck goes on."""

import random

import pytest
from fault_helpers import DESTINATION, SOURCE, passed
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import postcopy, precopy

from testbed.fault.command import Command, Observed
from testbed.fault.engine import FaultEngine
from testbed.fault.places.place import ELEMENTS
from testbed.fault.plan import (
    Action,
    Before,
    BlockPlace,
    Channel,
    CommandPlace,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Place,
    Reached,
    Replay,
    SectionPlace,
    SetField,
    StalePage,
    StreamPlace,
    Swap,
    Vcpus,
)
from testbed.wire import ChannelKind, build, encode
from testbed.wire.element import ContentType, TlsRecord
from testbed.wire.packet import MultifdInit

MULTIFD = encode(MultifdInit(bytes(16), 0)) + b"".join(
    encode(value)
    for n in range(3)
    for value in build.multifd_packet("pc.ram", [(4096 * n, bytes([n]) * 4096)], packet_num=n)
)
STREAMS = {
    ChannelKind.MAIN: precopy(),
    ChannelKind.RECOVERY: postcopy(),
    ChannelKind.MULTIFD: MULTIFD,
    ChannelKind.PREEMPT: encode(build.page("pc.ram", 0, b"x" * 4096)) * 3,
    ChannelKind.TLS: encode(TlsRecord(ContentType.APPLICATION_DATA, 0x303, bytes(99))) * 5,
}
CHANNELS = [Channel.MAIN, Channel.MULTIFD, Channel.PREEMPT, Channel.TLS, Channel.RETURN_PATH]


def any_place(rng: random.Random) -> StreamPlace:
    """Some place that may be there or not."""
    few = rng.randint(1, 3)
    return rng.choice(
        [
            SectionPlace(rng.choice(["ram", "timer", "*net", "*"]), occurrence=few),
            SectionPlace("*", part=rng.choice(["header", "payload", "footer"]), occurrence=few),
            SectionPlace("ram", part="payload", byte=rng.randrange(3000)),
            PagePlace("*", nth=few),
            PagePlace("pc.ram", page=rng.randrange(3), occurrence=few),
            BlockPlace("*", share=rng.random() or 1.0),
            CommandPlace("PING", few),
            MessagePlace("PONG"),
            ElementPlace(rng.choice(ELEMENTS), occurrence=few, channel=rng.choice(CHANNELS)),
            OffsetPlace(rng.randrange(5000), rng.choice(CHANNELS)),
        ]
    )


def any_fault(rng: random.Random, name: str, conditions: tuple[object, ...] = ()) -> Fault:
    place: Place = any_place(rng)
    action: Action = rng.choice(
        [
            SetField(rng.randrange(256)),
            SetField(rng.randbytes(rng.randrange(5))),
            FlipBits(b"\x80"),
            Insert(b"inserted"),
            Delete(),
            Duplicate(),
            Swap(),
            Replay(any_place(rng)),
            StalePage(),
        ]
    )
    if isinstance(action, StalePage):
        place = PagePlace("pc.ram", page=rng.randrange(3), occurrence=2)
    times = rng.choice([1, 2, None])
    return Fault(place, action, name, times=times, conditions=conditions)  # type: ignore[arg-type]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The stream with some bytes changed, taken out or put in."""
    damage = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 4])):
        at = rng.randrange(len(damage))
        damage[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(damage)


def played(
    engine: FaultEngine, kind: ChannelKind, data: bytes, rng: random.Random
) -> list[Command]:
    """All commands for data that comes in pieces, from one side or the other, with pauses."""
    relay = engine.connection(1, kind)
    commands: list[Command] = []
    at = 0
    while at < len(data):
        size = rng.choice([1, 3, 50, 700, 10_000])
        commands += relay.received(SOURCE, data[at : at + size])
        at += size
        if rng.random() < 0.1 and relay.undecided(SOURCE):
            commands += relay.silence(SOURCE)
    return commands + relay.ended(SOURCE)


@pytest.mark.parametrize("kind", STREAMS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_fault_and_no_stream_is_an_error(kind: ChannelKind, seed: int) -> None:
    rng = random.Random(seed)
    faults = tuple(any_fault(rng, str(number)) for number in range(rng.randint(1, 6)))
    data = damaged(rng, STREAMS[kind])
    engine = FaultEngine(faults, seed=seed)
    commands = played(engine, kind, data, rng)
    has_struck = any(isinstance(c, Observed) and c.kind == "fault-struck" for c in commands)
    if not has_struck:
        assert passed(commands) == data
    assert len(engine.unfired()) == len(faults) - len(
        {c.facts["fault"] for c in commands if isinstance(c, Observed) and "fault" in c.facts}
    )


@pytest.mark.parametrize("kind", STREAMS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_fault_that_waits_in_vain_changes_nothing(kind: ChannelKind, seed: int) -> None:
    rng = random.Random(seed)
    never = Reached((CommandPlace("0xffff"),))
    more = rng.choice([(), (Vcpus(rng.random() < 0.5),), (Before(any_place(rng)),)])
    faults = tuple(
        any_fault(rng, str(number), (Reached((any_place(rng),)), never, *more))
        for number in range(5)
    )
    data = damaged(rng, STREAMS[kind])
    engine = FaultEngine(faults)
    assert passed(played(engine, kind, data, rng), DESTINATION) == data
    assert len(engine.unfired()) == len(faults)
