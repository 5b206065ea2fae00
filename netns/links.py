"""Links between namespaces: veth pairs, bridges, TAPs, addresses.

None is taken down again by name: a link dies with its namespace, a TAP too. What the kernel refuses
is a `pyroute2.NetlinkError` (EOPNOTSUPP: it lacks the kind of device), and for a TAP an OSError.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .namespace import Namespace

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFREQ = struct.Struct("16sH22x")

_indices = itertools.count(1000)
"""Of veth devices, no two alike. Where both ends of a pair have the same number, as the nth device
of each namespace has, the kernel takes them for one (`linkwatch_urgent_event`), is in no hurry to
see that they are up, and a bridge drops what comes in for up to a second."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A TAP device: what the kernel sends out of it is read from `fd`, and the reverse.

    Whoever inherits the descriptor may use it, one process after another.
    """

    namespace: Namespace
    name: str
    fd: int


@contextmanager
def tap(namespace: Namespace, name: str, *, vnet_header: bool = False) -> Iterator[Tap]:
    """Make a TAP device in the namespace; its descriptor is closed when the block ends.

    The device stays until the namespace is gone: the kernel takes that down by itself, where a
    device that goes with its descriptor has whoever closes that wait, some 15 ms for each.

    Args:
        namespace: where the device lives.
        name: of the device, at most 15 characters.
        vnet_header: frames carry a `virtio_net_hdr`, as QEMU negotiates on its own descriptors.

    Raises:
        OSError: /dev/net/tun is missing or may not be opened, or the kernel refused.
    """
    with namespace.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_header else 0)
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), flags))
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
        except BaseException:
            os.close(fd)
            raise
    try:
        yield Tap(namespace, name, fd)
    finally:
        os.close(fd)


async def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """Join two namespaces by a pair of veth devices, both up."""
    peer = {"ifname": b_name, "net_ns_fd": b.fd, "index": next(_indices)}
    await a.netlink.link("add", ifname=a_name, kind="veth", index=next(_indices), peer=peer)
    await up(a, a_name)
    await up(b, b_name)


async def bridge(namespace: Namespace, name: str, *ports: str) -> None:
    """Make a learning bridge of the ports, all up; no spanning tree, no snooping, no IGMP."""
    netlink = namespace.netlink
    await netlink.link(
        "add",
        ifname=name,
        kind="bridge",
        br_stp_state=0,
        br_forward_delay=0,
        br_mcast_snooping=0,
    )
    index = index_of(namespace, name)
    for port in ports:
        await netlink.link("set", index=index_of(namespace, port), master=index)
        await up(namespace, port)
    await up(namespace, name)


async def address(namespace: Namespace, name: str, cidr: str) -> None:
    """Give a device an IPv4 address, as in `10.77.0.1/30`."""
    host, _, prefix = cidr.partition("/")
    await namespace.netlink.addr(
        "add", index=index_of(namespace, name), address=host, prefixlen=int(prefix)
    )


async def route(namespace: Namespace, destination: str, gateway: str) -> None:
    """Add an IPv4 route, as in `10.77.1.0/30` by way of `10.77.0.2`."""
    await namespace.netlink.route("add", dst=destination, gateway=gateway)


async def up(namespace: Namespace, name: str) -> None:
    """Set a device up."""
    await namespace.netlink.link("set", index=index_of(namespace, name), state="up")


def index_of(namespace: Namespace, name: str) -> int:
    """The interface index of a device.

    Raises:
        LookupError: the namespace has no such device.
    """
    with namespace.entered():
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise LookupError(f"{namespace!r} has no device {name!r}") from error


async def mac_of(namespace: Namespace, name: str) -> str:
    """The MAC address of a device."""
    async for link in await namespace.netlink.get_links(index_of(namespace, name)):
        return str(link.get("address"))
    raise LookupError(f"{namespace!r} has no device {name!r}")


def forwards_ipv4(namespace: Namespace) -> bool:
    """True if the namespace routes IPv4 between its devices."""
    with namespace.entered():
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
