"""What many connections together have the engine keep."""

import pytest
from fault_helpers import DESTINATION, SOURCE, passed
from wire_helpers import device, head, ram_part, ram_start

from testbed.fault.command import Command, Observed
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Delete, Fault, SectionPlace
from testbed.fault.strikes import ledger
from testbed.wire import ChannelKind
from testbed.wire.element import SectionType

OPEN = head() + ram_start() + ram_part(kind=SectionType.END) + device(7, "x", b"")[:-5]
"""A device section whose end never comes."""
PIECE = bytes(1 << 16)
ARMED = (Fault(SectionPlace("x", part="footer"), Delete(), "it", attempt=None),)


@pytest.mark.parametrize("faults", [(), ARMED], ids=["watched", "armed"])
def test_what_waits_for_an_end_is_bounded_for_all_together(
    faults: tuple[Fault, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "WAITING_BYTES_MAX", 4 * len(PIECE))
    monkeypatch.setattr(ledger, "WAITING_LEAST_BYTES", len(PIECE) // 2)
    engine = FaultEngine(faults)
    relays = []
    for _ in range(8):
        engine.next_attempt()
        relays.append(engine.connection(1, ChannelKind.MAIN))
    commands: list[list[Command]] = [relay.received(SOURCE, OPEN) for relay in relays]
    for _ in range(10):
        for relay, done in zip(relays, commands, strict=True):
            done += relay.received(SOURCE, PIECE)
    waiting = sum(relay.forward.parser.pending for relay in relays)
    assert waiting <= 3 * 4 * len(PIECE)  # 1 + 1/2 + 1/3 + ... of it
    for relay, done in zip(relays, commands, strict=True):
        done += relay.received(SOURCE, b"end") + relay.ended(SOURCE)
        assert passed(done, DESTINATION) == OPEN + PIECE * 10 + b"end"
    unread = [
        each
        for done in commands
        for each in done
        if isinstance(each, Observed) and each.kind == "stream-unread"
    ]
    assert unread


def test_one_that_ended_leaves_its_share_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "WAITING_BYTES_MAX", 3 * len(PIECE))
    monkeypatch.setattr(ledger, "WAITING_LEAST_BYTES", len(PIECE) // 2)
    engine = FaultEngine(ARMED)
    for _ in range(5):
        relay = engine.connection(1, ChannelKind.MAIN)
        relay.received(SOURCE, OPEN)
        relay.received(SOURCE, PIECE * 2)
        assert relay.undecided(SOURCE)
        relay.ended(SOURCE)
        engine.next_attempt()
