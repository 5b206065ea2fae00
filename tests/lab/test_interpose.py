"""The uplink at work in the network of a run: where frames come out, and what the switch learns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from netns_helpers import GUEST_MAC, drained, rarp, true_within

from testbed.fault.plan import Side, StatePlace
from testbed.lab.announce import AnnounceFaults, Forged, LinkUp, Port
from testbed.lab.interpose import InterposedUplink, interposed_uplink
from testbed.log import Log
from testbed.netns.forwarding import forwarding_table
from testbed.netns.topology import BRIDGE, Topology

pytestmark = pytest.mark.live

VNET_HEADER = bytes(10)
OTHER = "52:54:00:aa:bb:cc"


class Network:
    """A run's guest network, and what its log says."""

    def __init__(self, net: Topology, uplink: InterposedUplink, log: Log) -> None:
        self.net, self.uplink, self.log = net, uplink, log

    def announce(self) -> None:
        """Have the destination announce the guest."""
        os.write(self.net.destination_guest.fd, VNET_HEADER + rarp())

    async def learned(self, port: str, mac: str = GUEST_MAC) -> None:
        """Wait until the switch has the address at that port."""
        async with asyncio.timeout(5):
            while True:
                table = await forwarding_table(self.net.switch, BRIDGE)
                if table.get(mac) == port:
                    return
                await asyncio.sleep(0.005)

    async def did(self, count: int) -> list[str]:
        """Wait for so many events of the log; what was done in each."""
        await true_within(lambda: len([*self.log.find("announce-fault")]) >= count)
        return [event.facts["what"] for event in self.log.find("announce-fault")]


@asynccontextmanager
async def network(faults: AnnounceFaults) -> AsyncIterator[Network]:
    log = Log()
    async with (
        Topology.guests(interposable=True) as net,
        interposed_uplink(net, faults, log) as uplink,
    ):
        yield Network(net, uplink, log)


async def test_the_switch_believes_whoever_spoke_last() -> None:
    running = StatePlace(Side.DESTINATION, event="RESUME")
    faults = AnnounceFaults(
        forge=(
            Forged(GUEST_MAC, Port.SOURCE, after=2),
            Forged(OTHER, Port.DESTINATION, before=2),
            Forged(GUEST_MAC, Port.CLIENT, at=running),
        )
    )
    async with network(faults) as it:
        it.announce()
        await it.learned("destination")
        it.announce()
        await it.learned("source")
        await it.learned("destination", OTHER)
        it.uplink.observed(Side.DESTINATION, "RESUME")
        await it.learned("client")
        assert await it.did(3) == ["forge"] * 3


async def test_a_forged_frame_reaches_the_other_hosts_and_not_its_own() -> None:
    faults = AnnounceFaults(
        forge=(Forged(OTHER, Port.SOURCE, at=StatePlace(Side.SOURCE, event="STOP")),)
    )
    async with network(faults) as it:
        it.uplink.observed(Side.SOURCE, "STOP")
        reached = bytearray()

        def arrived() -> bool:
            reached.extend(b"".join(drained(it.net.destination_guest.fd)))
            return rarp(OTHER) in reached

        await true_within(arrived)
        assert rarp(OTHER) not in b"".join(drained(it.net.source_guest.fd))


async def test_a_port_that_is_up_late_learns_late() -> None:
    faults = AnnounceFaults(
        link_up=LinkUp(0.01, StatePlace(Side.SOURCE, status="completed")),
    )
    async with network(faults) as it:
        it.announce()
        assert await it.did(1) == ["link-down"]
        assert GUEST_MAC not in await forwarding_table(it.net.switch, BRIDGE)
        it.uplink.observed(Side.SOURCE, "MIGRATION", "completed")
        await it.log.wait(
            lambda event: event.kind == "link-up", what="the link to be up", within_s=5
        )
        it.announce()
        await it.learned("destination")
        assert await it.did(1) == ["link-down"]


async def test_a_link_that_was_due_when_the_run_ended_does_not_come_up() -> None:
    place = StatePlace(Side.SOURCE, status="completed")
    async with network(AnnounceFaults(link_up=LinkUp(0.0, place))) as it:
        it.uplink.observed(Side.SOURCE, "MIGRATION", "completed")
        it.uplink.close()
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.0, later.set)
        await later.wait()
        it.uplink.note_unfired()
    assert it.log.first("link-up") is None
    assert it.log.first("announce-totals").facts["unfired"] == [
        "the uplink did not come up: the run ended before that"
    ]
