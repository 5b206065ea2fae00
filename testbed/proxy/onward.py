"""Connecting onward, to where the destination listens."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable

from .address import Address, OpensSockets, Sockaddr, resolve
from .side import set_to_reset

CONNECT_S = 10.0
"""For the destination to take a connection: it is one hop away."""


async def connected(namespace: OpensSockets, upstream: Address) -> socket.socket:
    """Connect to the first place that the address stands for and that takes the connection.

    Raises:
        OSError: none did; the error of the last one.
    """
    error = OSError(errno.EADDRNOTAVAIL, "no address")
    for family, place in await resolve(upstream):
        try:
            return await _connected(namespace, family, place)
        except OSError as this:
            error = this
    raise error


async def in_time(connecting: Awaitable[socket.socket]) -> socket.socket:
    """Wait for a connection that is being opened.

    Raises:
        OSError: it cannot be, or not within `CONNECT_S`.
    """
    try:
        async with asyncio.timeout(CONNECT_S):
            return await connecting
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "nobody answers") from None


async def _connected(namespace: OpensSockets, family: int, place: Sockaddr) -> socket.socket:
    opened = namespace.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, place)
    except BaseException:
        set_to_reset(opened)  # it may have been taken at the other end already
        opened.close()
        raise
    return opened
