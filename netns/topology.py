"""The network of a run: two hosts, a relay between them, a switch with a client.

::

    source ----10.77.0.0/30---- proxy ----10.77.1.0/30---- destination      layer 3
      | guest TAP                                              | guest TAP
    bridge --------veth-------- switch -----------veth----- bridge          layer 2
                                  |       or: TAP  ~~~  TAP
                               client

Where frames are to be touched, the destination's uplink is two TAPs, which nobody joins here: an
`Interposer` copies frames between them, and is as late as this process is. Otherwise it is a veth
pair, and frames come to the switch when the kernel says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from . import links
from .links import Tap
from .namespace import Namespace

SOURCE_ADDRESS = "10.77.0.1"
PROXY_SOURCE_ADDRESS = "10.77.0.2"
PROXY_DESTINATION_ADDRESS = "10.77.1.2"
DESTINATION_ADDRESS = "10.77.1.1"
CLIENT_ADDRESS = "10.99.0.1"
BRIDGE = "guests"
UPLINK = "uplink"


@dataclass(frozen=True, slots=True)
class Topology:
    """The namespaces of a run and the ends of its links; made by `Topology.create`."""

    source: Namespace
    proxy: Namespace
    destination: Namespace
    switch: Namespace
    client: Namespace
    source_guest: Tap
    destination_guest: Tap
    uplink_taps: tuple[Tap, ...] = ()  # the destination's and the switch's, or none: a veth pair

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All of them."""
        return self.source, self.proxy, self.destination, self.switch, self.client

    @classmethod
    @asynccontextmanager
    async def create(cls, *, interposable: bool = False) -> AsyncIterator[Topology]:
        """Build it; all of it is gone when the block ends.

        Args:
            interposable: the destination's uplink is two TAPs.

        Raises:
            OSError: the environment refused a namespace or a TAP.
            pyroute2.NetlinkError: it refused a link.
        """
        async with cls.guests(interposable=interposable) as net:
            await net.join_migration_network()
            yield net

    @classmethod
    @asynccontextmanager
    async def guests(cls, *, interposable: bool) -> AsyncIterator[Topology]:
        """Build all but the migration network, which an endpoint does not need to start.

        Args:
            interposable: the destination's uplink is two TAPs.

        Raises:
            OSError: the environment refused a namespace or a TAP.
            pyroute2.NetlinkError: it refused a link.
        """
        async with AsyncExitStack() as stack:
            source, proxy, destination, switch, client = [
                await stack.enter_async_context(Namespace.create(label))
                for label in ("source", "proxy", "destination", "switch", "client")
            ]
            source_guest, destination_guest = [
                stack.enter_context(links.tap(namespace, "guest", vnet_header=True))
                for namespace in (source, destination)
            ]
            uplink_ends = ((destination, UPLINK), (switch, "destination"))
            net = cls(
                source,
                proxy,
                destination,
                switch,
                client,
                source_guest,
                destination_guest,
                tuple(stack.enter_context(links.tap(*end)) for end in uplink_ends if interposable),
            )
            await net._join_guest_network()
            yield net

    async def join_migration_network(self) -> None:
        """Join the source, the proxy and the destination, with their addresses.

        Raises:
            pyroute2.NetlinkError: the environment refused a link.
        """
        await links.veth(self.source, "migration", self.proxy, "source")
        await links.veth(self.proxy, "destination", self.destination, "migration")
        await links.address(self.source, "migration", f"{SOURCE_ADDRESS}/30")
        await links.address(self.proxy, "source", f"{PROXY_SOURCE_ADDRESS}/30")
        await links.address(self.proxy, "destination", f"{PROXY_DESTINATION_ADDRESS}/30")
        await links.address(self.destination, "migration", f"{DESTINATION_ADDRESS}/30")

    async def _join_guest_network(self) -> None:
        await links.veth(self.source, UPLINK, self.switch, "source")
        await links.veth(self.client, UPLINK, self.switch, "client")
        if not self.uplink_taps:
            await links.veth(self.destination, UPLINK, self.switch, "destination")
        await links.address(self.client, UPLINK, f"{CLIENT_ADDRESS}/24")
        await links.bridge(self.source, BRIDGE, "guest", UPLINK)
        await links.bridge(self.destination, BRIDGE, "guest", UPLINK)
        await links.bridge(self.switch, BRIDGE, "source", "destination", "client")

    def pin(self, folder: Path) -> Iterator[Path]:
        """Give each namespace a file in `folder` by which `nsenter --net=FILE` reaches it."""
        for namespace in self.namespaces:
            path = folder / namespace.label
            namespace.pin(path)
            yield path
