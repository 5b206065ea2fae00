"""The network of a run: two hosts, a relay between them, a switch with a client.

::

    source ----10.77.0.0/30---- proxy ----10.77.1.0/30---- destination      layer 3
      | guest TAP                                              | guest TAP
    bridge --------veth-------- switch -- TAP  ~~~  TAP --- bridge          layer 2
                                  |
                               client

The two TAPs of the destination's uplink are joined by nobody here: an `Interposer` copies frames
between them.
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
    destination_uplink: Tap  # in the destination's namespace, a port of its bridge
    switch_uplink: Tap  # in the switch's namespace: its port `destination`

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All of them."""
        return self.source, self.proxy, self.destination, self.switch, self.client

    @classmethod
    @asynccontextmanager
    async def create(cls) -> AsyncIterator[Topology]:
        """Build it; all of it is gone when the block ends.

        Raises:
            OSError: the environment refused a namespace or a TAP.
            pyroute2.NetlinkError: it refused a link.
        """
        async with cls.guests() as net:
            await net.join_migration_network()
            yield net

    @classmethod
    @asynccontextmanager
    async def guests(cls) -> AsyncIterator[Topology]:
        """Build all but the migration network, which an endpoint does not need to start.

        Raises:
            OSError: the environment refused a namespace or a TAP.
            pyroute2.NetlinkError: it refused a link.
        """
        async with AsyncExitStack() as stack:
            source, proxy, destination, switch, client = [
                await stack.enter_async_context(Namespace.create(label))
                for label in ("source", "proxy", "destination", "switch", "client")
            ]
            net = cls(
                source,
                proxy,
                destination,
                switch,
                client,
                *[
                    stack.enter_context(links.tap(namespace, name, vnet_header=guest))
                    for namespace, name, guest in (
                        (source, "guest", True),
                        (destination, "guest", True),
                        (destination, UPLINK, False),
                        (switch, "destination", False),
                    )
                ],
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
