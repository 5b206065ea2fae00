"""Where to listen and where to connect: `HOST:PORT`, `[::1]:4444`, `:4444`, `unix:PATH`."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Protocol

PORT_MAX = 65535
UNIX = "unix:"
UNIX_BYTES_MAX = 107
"""Of a path, in bytes; Linux, unix(7)."""
HOST_CHARACTERS_MAX = 255
"""Of a name (RFC 1035); a scoped IPv6 address is shorter."""
PORT = re.compile(r"[0-9]{1,5}")
SHOWN_MAX = 120
"""Characters of a text that is no address, in the message that says so."""


class TcpAddress(NamedTuple):
    """A host, by name or number (empty: every one of ours), and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system; as text, what is not UTF-8 in its path is escaped."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{os.fsencode(self.path).decode(errors='backslashreplace')}"


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

    What comes out can be handed to any system call: it has no NUL, and it can be encoded.

    Raises:
        AddressError: it is none.
    """
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not _is_path(path):
            raise _wrong(text, f"a path of 1 to {UNIX_BYTES_MAX} bytes without NUL after {UNIX!r}")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise _wrong(text, "HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _wrong(text, "an IPv6 address in brackets, as in [::1]:4444")
    if len(host) > HOST_CHARACTERS_MAX or not host.isprintable():
        raise _wrong(text, f"a host of at most {HOST_CHARACTERS_MAX} printable characters")
    if not PORT.fullmatch(port) or int(port) > PORT_MAX:
        raise _wrong(text, f"a port of 0 to {PORT_MAX} after the last colon")
    return TcpAddress(host, int(port))


def _is_path(path: str) -> bool:
    """True if a socket can have the path. Bytes that are no UTF-8 are surrogates in it."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return 0 < len(encoded) <= UNIX_BYTES_MAX and b"\0" not in encoded


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
    except ValueError:  # a label that no name can have (UnicodeError), or a character
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
    shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
    return AddressError(f"not an address: {shown!r}: expected {expected}")
