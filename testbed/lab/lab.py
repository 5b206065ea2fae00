"""One run's world put together: network, endpoints, proxy, capture, one log; one context manager.

The lab does what it is told (begin a migration, start a new destination, look at a machine) and
writes what it sees. It knows no scenario, and judges nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netns.capture import Capture, CapturedFrame
from netns.forwarding import forwarding_table
from netns.interposer import Interposer
from netns.probe import Probe
from netns.topology import Topology
from testbed.endpoint.base import EndpointError, MachineSpec, QmpRefused
from testbed.endpoint.qemu import Qemu
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault, Side
from testbed.guest import GuestSpec, boot_image, check_memory
from testbed.lab.announce import AnnounceFaults, AnnounceRule
from testbed.lab.saved import SavedState, differences, read_saved
from testbed.log import Event, Log
from testbed.proxy import Proxy

MIGRATION_PORT = 4444
"""In namespaces of the run's own, so no other program can hold it."""

GUEST_STARTS_S = 30.0
"""From power-on to a filled working set; TCG on a slow machine takes some seconds."""


@dataclass(frozen=True, slots=True)
class SidePlan:
    """How one side is started."""

    command: tuple[str, ...]
    machine: MachineSpec
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabPlan:
    """All that a lab is built from."""

    source: SidePlan
    destination: SidePlan
    guest: GuestSpec
    folder: Path
    faults: tuple[Fault, ...] = ()
    announce: AnnounceFaults = AnnounceFaults()
    probe_every_s: float | None = None


class Lab:
    """A run's world: two endpoints, the proxy between them, the guest's network.

    Made by `Lab.build`; everything of it ends with that block.
    """

    def __init__(self, plan: LabPlan, log: Log, net: Topology, stack: AsyncExitStack) -> None:
        self.plan = plan
        self.log = log
        self.net = net
        self.attempt = 0
        self._stack = stack
        self._destination_stack = AsyncExitStack()
        self.engine = FaultEngine(plan.faults)
        self.announce = AnnounceRule(plan.announce, log)
        self.source: Qemu
        self.destination: Qemu
        self.proxy: Proxy
        self.probe: Probe | None = None

    @classmethod
    @asynccontextmanager
    async def build(cls, plan: LabPlan, log: Log) -> AsyncIterator[Lab]:
        """Build the network, start both endpoints and the proxy; all gone when the block ends.

        Raises:
            EndpointError: an endpoint could not be started.
            OSError: the environment refused a namespace, link or socket.
        """
        async with AsyncExitStack() as stack:
            net = await stack.enter_async_context(Topology.create())
            lab = cls(plan, log, net, stack)
            await stack.enter_async_context(lab._destination_stack)
            await lab._watch_guest_network()
            await lab._start_endpoints()
            lab.proxy = await stack.enter_async_context(
                Proxy.start(
                    namespace=net.proxy,
                    listen=(net.proxy_source_address, MIGRATION_PORT),
                    upstream=(net.destination_address, MIGRATION_PORT),
                    engine=lab.engine,
                    log=log,
                )
            )
            stack.callback(log.listen(lab._tell_proxy))
            yield lab

    async def _watch_guest_network(self) -> None:
        """Put the interposer, the capture and the probe in place."""
        net = self.net
        await self._stack.enter_async_context(
            Interposer(net.destination_uplink.fd, net.switch_uplink.fd, self.announce)
        )
        await self._stack.enter_async_context(
            Capture(
                net.switch,
                net.switch_ports,
                self._frame_captured,
                self.plan.folder / "guest-network.pcap",
            )
        )

    async def _start_endpoints(self) -> None:
        """Start both sides side by side: neither needs the other to start."""
        image = boot_image(self.plan.guest)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_source(image))
            group.create_task(self._start_destination(image))
