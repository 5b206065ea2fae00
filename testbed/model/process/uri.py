"""Where a migration goes to or comes from: `tcp:`, `unix:`, `fd:`, `exec:`, in QEMU's words.

Source of syntax and texts: QEMU `migration/migration.c`, `migration/socket.c`, `migration/exec.c`,
`util/qemu-sockets.c` (7.2), each checked with the real one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.migration_info import SocketAddress

from .channel import Channel

ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^:,]*)):(?P<port>[^:,]+)(?:,.*)?")
UNIX_PATH_BYTES_MAX = 107
TOO_LONG = "UNIX socket path '{path}' is too long"
BACKLOG = 1


class NotConnected(Exception):
    """A connection did not come about; the text is QEMU's."""


def channel_at_hand(uri: str, descriptors: Descriptors) -> Channel | None:
    """The outgoing channel that needs no connecting; None for a URI that needs it.

    Raises:
        CommandError: the URI cannot be one.
    """
    kind, _, rest = uri.partition(":")
    if kind == "fd":
        return Channel.over_descriptor(_descriptor(rest, descriptors), outgoing=True)
    if kind == "exec":
        return _command(rest)
    if kind == "tcp":
        _address(rest)
    elif kind == "unix":
        _path(rest)
    return None


async def connect(uri: str) -> Channel:
    """Connect to a `tcp:` or `unix:` URI.

    Raises:
        NotConnected: nobody is there.
    """
    kind, _, rest = uri.partition(":")
    if kind == "unix":
        path = _path(rest)
        if _is_too_long(path):
            raise NotConnected(TOO_LONG.format(path=path))
        return await _connect(socket.AF_UNIX, path, path)
    host, port = _address(rest)
    failed = NotConnected(f"address resolution failed for {host}:{port}")
    for family, where in await _resolved(host, port):
        try:
            return await _connect(family, where, f"{host}:{port}")
        except NotConnected as error:
            failed = error
    raise failed


async def _connect(family: socket.AddressFamily, where: object, name: str) -> Channel:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, where)  # type: ignore[arg-type]
    except OSError as error:
        connecting.close()
        why = os.strerror(error.errno) if error.errno else str(error)
        raise NotConnected(f"Failed to connect to '{name}': {why}") from error
    except BaseException:
        connecting.close()
        raise
    return Channel.over_socket(connecting)


async def _resolved(host: str, port: str) -> list[tuple[socket.AddressFamily, object]]:
    try:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=numeric)
    except socket.gaierror:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM
            )
        except socket.gaierror as error:
            raise NotConnected(
                f"address resolution failed for {host}:{port}: {error.strerror}"
            ) from error
    return [(family, where) for family, _, _, _, where in found]


class Listener:
    """Waits for one incoming connection, and closes when it has come."""

    def __init__(self, listening: socket.socket, arrived: Callable[[Channel], None]) -> None:
        self._listening, self._arrived = listening, arrived
        listening.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening, self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError:  # it has gone again
            return
        self.close()
        self._arrived(Channel.over_socket(connected))

    @property
    def address(self) -> SocketAddress:
        """Where it listens."""
        where = self._listening.getsockname()
        if self._listening.family == socket.AF_UNIX:
            return SocketAddress(path=where)
        return SocketAddress(host=where[0], port=str(where[1]))

    def close(self) -> None:
        """Wait no more."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()


def listen(
    uri: str, descriptors: Descriptors, arrived: Callable[[Channel], None]
) -> Listener | None:
    """Wait for a connection at a URI, or take one that is there; `arrived` is called with it.

    Raises:
        CommandError: that cannot be, in QEMU's words.
    """
    kind, _, rest = uri.partition(":")
    if kind == "fd":
        channel = Channel.over_descriptor(_descriptor(rest, descriptors), outgoing=False)
    elif kind == "exec":
        channel = _command(rest)
    elif kind == "unix":
        return Listener(listening_unix(_path(rest)), arrived)
    elif kind == "tcp":
        return Listener(listening_tcp(*_address(rest)), arrived)
    else:
        raise CommandError(f"unknown migration protocol: {uri}")
    asyncio.get_running_loop().call_soon(arrived, channel)
    return None


def listening_unix(path: str) -> socket.socket:
    """A socket that listens at a path; what was there is taken away.

    Raises:
        CommandError: it cannot be, in QEMU's words.
    """
    if _is_too_long(path):
        raise CommandError(TOO_LONG.format(path=path))
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise CommandError(f"Failed to unlink socket {path}: {why}") from error
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        why = os.strerror(error.errno or 0)
        raise CommandError(f"Failed to bind socket to {path}: {why}") from error
    return listening


def listening_tcp(host: str, port: str) -> socket.socket:
    """A socket that listens at an address; without a host, at all of them. Raises the same."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        said = f"address resolution failed for {host}:{port}: {error.strerror}"
        raise CommandError(said) from error
    family, _, _, _, where = found[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not host else 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        busy = error.errno == errno.EADDRINUSE
        what = "Failed to find an available port" if busy else "Failed to bind socket"
        raise CommandError(f"{what}: {os.strerror(error.errno or 0)}") from error
    return listening


def _address(text: str) -> tuple[str, str]:
    found = ADDRESS.fullmatch(text)
    if found is None:
        what = "IPv6 address" if text.startswith("[") else "address"
        raise CommandError(f"error parsing {what} '{text}'")
    return found["v6"] or found["host"] or "", found["port"]


def _path(text: str) -> str:
    path = text.partition(",")[0]
    if not path:
        raise CommandError("invalid Unix socket address")
    return path


def _is_too_long(path: str) -> bool:
    return len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX


def _descriptor(name: str, descriptors: Descriptors) -> int:
    """The descriptor of a name that a client gave it, or of a number that was inherited."""
    if not name[:1].isdigit():
        return descriptors.take(name)
    try:
        fd = int(name)
        os.fstat(fd)
    except (ValueError, OSError) as error:
        raise CommandError(f"Invalid file descriptor number '{name}'") from error
    return fd


def _command(text: str) -> Channel:
    """A shell command whose standard input takes a stream, or whose standard output gives one."""
    running = subprocess.Popen(
        ["/bin/sh", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdin is not None
    assert running.stdout is not None
    # Copies: the command object closes its own when it is done with.
    reading, writing = os.dup(running.stdout.fileno()), os.dup(running.stdin.fileno())
    running.stdin.close()
    running.stdout.close()
    loop, ended = asyncio.get_running_loop(), os.pidfd_open(running.pid)

    def reap() -> None:
        loop.remove_reader(ended)
        os.close(ended)
        running.wait()

    loop.add_reader(ended, reap)
    return Channel("command", reading=reading, writing=writing)
