"""Character devices: the sockets that monitors and the serial line are on.

Source of syntax and texts: QEMU `chardev/char-socket.c`, `util/qemu-sockets.c` (7.2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .command_line import Option, Usage
from .qmp.error import CommandError
from .uri import listening_tcp, listening_unix

BACKLOG = 1


@dataclass(frozen=True, slots=True)
class Chardev:
    """One of them: a socket that is connected, or one that listens."""

    sock: socket.socket
    listens: bool
    first: socket.socket | None = None
    """The client that it waited for."""


def opened(option: Option, say: Callable[[str], None]) -> Chardev:
    """Open what `-chardev socket,...`, or the value of `-qmp`, describes.

    Args:
        option: without the backend's name.
        say: told that it waits for a connection, where it is to wait.

    Raises:
        Usage: it cannot be opened.
    """
    values = option.values
    if "fd" in values:
        return _inherited(option)
    server = values.get("server", "off") == "on"
    if "path" in values:
        name, family = values["path"], socket.AF_UNIX
    elif "port" in values:
        name, family = f"{values.get('host', '')}:{values['port']}", socket.AF_INET
    else:
        raise option.refused("Either 'path', 'host' and 'port', or 'fd' is required")
    if not server:
        return Chardev(_connected(option, family, name), listens=False)
    try:
        if family == socket.AF_UNIX:
            listening = listening_unix(name)
        else:
            listening = listening_tcp(values.get("host", ""), values["port"])
    except CommandError as error:
        raise option.refused(error.desc) from error
    if values.get("wait", "on") == "off":
        listening.setblocking(False)
        return Chardev(listening, listens=True)
    kind = "unix" if family == socket.AF_UNIX else "tcp"
    say(
        f"{option.text}: info: QEMU waiting for connection on: disconnected:{kind}:{name},server=on"
    )
    connected, _ = listening.accept()
    # What connects later finds it, too.
    listening.close()
    return Chardev(connected, listens=False)


def compat(option: Option) -> Option:
    """The value of `-qmp`, such as `unix:PATH,server=on,wait=off`, as a socket's."""
    kind, _, rest = option.first.partition(":")
    values = dict(option.values)
    if values.pop("nowait", "off") == "on":
        values["wait"] = "off"
    if kind == "unix" and rest:
        values["path"] = rest
    elif kind == "tcp" and ":" in rest:
        values["host"], _, values["port"] = rest.rpartition(":")
    else:
        raise option.refused(f"could not parse '{option.first}'")
    return Option(option.text, "socket", values)


def _inherited(option: Option) -> Chardev:
    number = option.number("fd")
    assert number is not None
    try:
        inherited = socket.socket(fileno=number)
        listens = bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        raise option.refused(f"File descriptor '{number}' is not a socket") from error
    inherited.set_inheritable(False)
    inherited.setblocking(False)
    return Chardev(inherited, listens)


def _connected(option: Option, family: socket.AddressFamily, name: str) -> socket.socket:
    try:
        if family == socket.AF_UNIX:
            connecting = socket.socket(family)
            connecting.connect(name)
        else:
            host, _, port = name.rpartition(":")
            connecting = socket.create_connection((host or "localhost", port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise option.refused(f"Failed to connect to '{name}': {why}") from error
    connecting.setblocking(False)
    return connecting


class Serial:
    """The serial line: what the guest says goes out if somebody takes it, and is lost if not."""

    def __init__(self, write: Callable[[bytes], int] | None) -> None:
        self._write = write

    def say(self, data: bytes) -> None:
        """Say bytes."""
        if self._write is not None and data:
            with suppress(OSError):
                self._write(data)


def serial(option: Option | None, chardevs: dict[str, Chardev]) -> Serial:
    """The serial line that `-serial` describes; none where it is not said.

    Raises:
        Usage: it cannot be.
    """
    value = "none" if option is None else option.first
    kind, _, rest = value.partition(":")
    if value in ("none", "null"):
        return Serial(None)
    assert option is not None
    if value == "stdio":
        return Serial(lambda data: os.write(1, data))
    if kind == "chardev" and rest in chardevs and not chardevs[rest].listens:
        return Serial(chardevs[rest].sock.send)
    if kind == "file" and rest:
        return _file(option, rest)
    why = f"could not connect serial device to character backend '{value}'"
    raise Usage(f"{option.text}: {why}")


def _file(option: Option, name: str) -> Serial:
    try:
        file = Path(name).open("wb", buffering=0)  # as long as the machine is
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise option.refused(f"Unable to open file {name}: {why}") from error
    return Serial(file.write)
