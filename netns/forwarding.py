"""A bridge's forwarding table, read over netlink: where the switch thinks each address is."""

from __future__ import annotations

import socket

from .links import index_of
from .namespace import Namespace

NUD_PERMANENT = 0x80
"""State of the addresses of the bridge's own ports: configured, not learned."""


async def forwarding_table(namespace: Namespace, bridge: str) -> dict[str, str]:
    """The learned entries of a bridge.

    Returns:
        Port name by MAC address (`52:54:00:12:34:56`).
    """
    netlink = namespace.netlink
    master = index_of(namespace, bridge)
    names = {link["index"]: link.get("ifname") async for link in await netlink.get_links()}
    table: dict[str, str] = {}
    async for entry in await netlink.fdb("dump", family=socket.AF_BRIDGE):
        if entry.get("master") == master and not entry["state"] & NUD_PERMANENT:
            table[entry.get("lladdr")] = names[entry["ifindex"]]
    return table
