"""Where to listen and where to connect: `HOST:PORT`, `[::1]:4444`, `:4444`, `unix:PATH`."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Protocol

PORT_MAX = 65535
UNIX = "unix:"
UNIX_BYTES_MAX = 107
"""Of a path, in bytes; Linux, unix(7)."""


class TcpAddress(NamedTuple):
    """A host, by name or number (empty: every one of ours), and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


Address = TcpAddress | UnixAddress
Sockaddr = tuple[str, int] | tuple[str, int, int, int] | str
"""As the socket module takes it."""


class AddressError(ValueError):
    """A text is no address, or names no host: what was expected, and what came."""


class OpensSockets(Protocol):
    """Where the proxy's sockets live: a network namespace, or the `socket` module."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket there."""


HERE: OpensSockets = socket


def parse_address(text: str) -> Address:
    """Read an address as people write it.

    Raises:
        AddressError: it is none.
    """
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not 0 < len(path.encode()) <= UNIX_BYTES_MAX:
            raise _wrong(text, f"a path of 1 to {UNIX_BYTES_MAX} bytes after {UNIX!r}")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise _wrong(text, "HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _wrong(text, "an IPv6 address in brackets, as in [::1]:4444")
    if not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise _wrong(text, f"a port of 0 to {PORT_MAX} after the last colon")
    return TcpAddress(host, int(port))


async def resolve(address: Address, *, listen: bool = False) -> list[tuple[int, Sockaddr]]:
    """Socket family and address of each place that it stands for, in the order to try them.

    Args:
        address: what to resolve; of an empty host, all of our addresses or the loopback one.
        listen: it is to be listened on.

    Raises:
        OSError: the name cannot be resolved (`socket.gaierror`).
    """
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, address.path)]
    host, port = address
    if (family := _number_family(host)) is not None:
        return [(family, (host, port))]  # nobody needs to be asked
    if not host and listen:
        return [(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET, ("", port))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE if listen else 0
        )
    except UnicodeError:  # a label that no name can have
        raise OSError(f"{host!r} cannot be a host name") from None
    return [(family, (str(place[0]), *place[1:])) for family, _, _, _, place in found]


def _number_family(host: str) -> int | None:
    """The family of an address in numbers, without a scope; None: it is a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family
    return None


def leads_to(place: Sockaddr, listening: Address) -> bool:
    """True if who connects to that place comes to a socket that listens here.

    Args:
        place: as `resolve` says it.
        listening: the address that the socket is bound to; `0.0.0.0` and `::` are all of ours.
    """
    if isinstance(place, str) or isinstance(listening, UnixAddress):
        return (
            isinstance(place, str)
            and isinstance(listening, UnixAddress)
            and os.path.realpath(place) == os.path.realpath(listening.path)
        )
    there, port = ip_address(place[0]), place[1]
    here = ip_address(listening.host)
    if port != listening.port or here.version == 4 < there.version:
        return False
    return _is_ours(place[0]) if here.is_unspecified else there == here


def _is_ours(host: str) -> bool:
    """True for an address of this machine, in numbers: others cannot be bound to."""
    with socket.socket(_number_family(host) or socket.AF_INET6) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def of_socket(opened: socket.socket) -> Address:
    """The address that a socket is bound to."""
    name = opened.getsockname()
    return UnixAddress(name) if isinstance(name, str) else TcpAddress(name[0], name[1])


def peer_of(opened: socket.socket) -> str | None:
    """Who is at the other end of a socket; None: nobody any more, or one without an address."""
    try:
        name = opened.getpeername()
    except OSError:
        return None
    return str(TcpAddress(name[0], name[1])) if isinstance(name, tuple) else None


def _wrong(text: str, expected: str) -> AddressError:
    return AddressError(f"not an address: {text!r}: expected {expected}")
