"""A multifd channel has the number that it says, in whichever order the channels came."""

from __future__ import annotations

import pytest
from fault_helpers import acts, run

from testbed.fault.command import End, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Channel, ElementPlace, Fault, OffsetPlace, Reset, Side
from testbed.wire import ChannelKind, encode
from testbed.wire.packet import MultifdInit

INIT_BYTES = 64


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("place", ["offset", "element"])
@pytest.mark.parametrize("came", [(0, 1), (1, 0)])
def test_a_fault_strikes_the_channel_that_says_its_number(
    came: tuple[int, int], place: str, watched: bool
) -> None:
    where = (
        OffsetPlace(0, Channel.MULTIFD, 2)
        if place == "offset"
        else ElementPlace("multifd-init", channel=Channel.MULTIFD, number=2)
    )
    engine = FaultEngine((Fault(where, Reset(), "it"),), watched=watched)
    outcome = {}
    for number, channel_id in enumerate(came, 2):
        relay = engine.connection(number, ChannelKind.MULTIFD)
        has_struck = 1 in outcome
        assert has_struck or not relay.is_passing(Side.SOURCE)  # it may be the one: it says later
        init = encode(MultifdInit(bytes(16), channel_id))
        outcome[channel_id] = acts(run(relay, [init[:20], init[20:]]))
    assert [type(command) for command in outcome[1]] == [End, End]
    sent = [bytes(command.data) for command in outcome[0] if isinstance(command, Send)]
    assert len(b"".join(sent)) == INIT_BYTES
    assert engine.unfired() == []
