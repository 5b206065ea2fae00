"""The shell around the uplink's rule: the interposer, the ports of the switch, the timer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from testbed.fault.plan import Side
from testbed.log import Log
from testbed.netns.interposer import Direction, Interposer, interposed
from testbed.netns.packet import packet_socket
from testbed.netns.topology import UPLINK, Topology
from testbed.tasks import together

from .announce import AnnounceFaults, Port
from .uplink import UplinkRule


class InterposedUplink:
    """The destination's uplink, at work; made by `interposed_uplink`."""

    def __init__(self, rule: UplinkRule, interposer: Interposer, log: Log) -> None:
        self._log = log
        self._rule = rule
        self._interposer = interposer
        self._timer: asyncio.TimerHandle | None = None

    def observed(self, side: Side, event: str, status: str | None = None) -> None:
        """Take in what an endpoint reported: frames may be sent for it, the link may come up."""
        for outgoing in self._rule.observed(side, event, status):
            self._interposer.send(Direction.A_TO_B, outgoing)
        due_in_s = self._rule.link_due_in_s(side, event, status)
        if due_in_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(due_in_s, self._rule.bring_link_up)

    def note_unfired(self) -> None:
        """Write down which faults on announcements never struck; no more come."""
        self._rule.note_unfired()
        if self._interposer.overflowed:
            self._log.write("switch", "uplink-overflowed", frames=self._interposer.overflowed)

    def close(self) -> None:
        """Leave the link as it is."""
        if self._timer is not None:
            self._timer.cancel()


@asynccontextmanager
async def interposed_uplink(
    net: Topology, faults: AnnounceFaults, log: Log
) -> AsyncIterator[InterposedUplink]:
    """Join the two TAPs of the destination's uplink until the block ends.

    Raises:
        OSError: packet sockets, from which forged frames are sent, are not allowed.
    """
    async with _senders(net, {forged.port for forged in faults.forge}) as senders:
        ports = {port: sender.fileno() for port, sender in senders.items()}
        near, far = (tap.fd for tap in net.uplink_taps)
        rule = UplinkRule(faults, log, {**ports, Port.DESTINATION: far})
        async with interposed(near, far, rule) as interposer:
            uplink = InterposedUplink(rule, interposer, log)
            try:
                yield uplink
            finally:
                uplink.close()


@asynccontextmanager
async def _senders(
    net: Topology, ports: Iterable[Port]
) -> AsyncIterator[dict[Port, socket.socket]]:
    """A packet socket for each host from which frames are forged, but the interposer's own."""
    hosts = {Port.SOURCE: net.source, Port.CLIENT: net.client}
    senders: dict[Port, socket.socket] = {}
    try:
        for port in ports:
            if port in hosts:
                senders[port] = packet_socket(hosts[port], UPLINK, 0)
        yield senders
    finally:
        # Each takes some 15 ms to be closed.
        await together(*(asyncio.to_thread(each.close) for each in senders.values()))
