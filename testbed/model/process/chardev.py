"""Character devices: the sockets that monitors and the serial line are on.

Source of syntax and texts: QEMU `chardev/char-socket.c`, `util/qemu-sockets.c` (7.2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from testbed.model.qmp.error import CommandError

from .command_line import Keys, Option, Usage, checked, listed
from .uri import listening_tcp, listening_unix

SWITCHES = ("server", "wait", "nowait")
COMPAT_KEYS = Keys("", SWITCHES, SWITCHES)
"""What may stand behind `unix:PATH` or `tcp:HOST:PORT`."""


class Chardev(NamedTuple):
    """One of them: a socket that is connected, or one that listens."""

    sock: socket.socket
    listens: bool
    first: socket.socket | None = None
    """The client that it waited for."""
    path: str | None = None
    """Where it listens."""

    def close(self) -> None:
        """Have nothing of it left behind, as a process does that ends in order."""
        self.sock.close()
        if self.path is not None:
            with suppress(OSError):
                Path(self.path).unlink()


def all_opened(options: Sequence[Option], say: Callable[[str], None]) -> dict[str, Chardev]:
    """Open what `-chardev` describes, by id; see `opened`."""
    found: dict[str, Chardev] = {}
    for option in options:
        name = option.values.get("id")
        if name is None:
            raise option.refused("chardev: no id specified")
        if name in found:
            raise option.refused(f"Duplicate ID '{name}' for chardev")
        if not option.first:
            raise option.refused(f'chardev: "{name}" missing backend')
        if option.first != "socket":
            raise option.refused(f"'{option.first}' is not a valid char driver name")
        found[name] = opened(option, say)
    return found


def monitored(
    monitors: Sequence[Option], chardevs: dict[str, Chardev], *, serial: Option | None
) -> list[Chardev]:
    """Those that `-mon` describes monitors on.

    Raises:
        Usage: there is no such one, or it is for something else.
    """
    used = {serial.first} if serial is not None else set()
    found = []
    for option in monitors:
        name, mode = option.first, option.values.get("mode", "readline")
        if not name:
            raise option.refused("Parameter 'chardev' is missing")
        if mode not in ("control", "readline"):
            raise option.refused(f"Parameter 'mode' does not accept value '{mode}'")
        if name not in chardevs:
            raise option.refused(f'chardev "{name}" not found')
        if f"chardev:{name}" in used:
            raise option.refused(f"Device '{name}' is in use")
        if mode != "control":
            raise option.refused("the model has only mode=control")
        used.add(f"chardev:{name}")
        found.append(chardevs[name])
    return found


def opened(option: Option, say: Callable[[str], None]) -> Chardev:
    """Open what `-chardev socket,...`, or the value of `-qmp`, describes.

    Args:
        option: without the backend's name.
        say: told that it waits for a connection, where it is to wait.

    Raises:
        Usage: it cannot be opened.
    """
    values = option.values
    if sum(key in values for key in ("path", "host", "fd")) > 1:
        raise option.refused("None or one of 'path', 'fd' or 'host' option required.")
    if "fd" in values:
        return _inherited(option)
    server = option.is_on("server")
    if "wait" in values and not server:
        why = "'wait' option is incompatible with socket in client connect mode"
        raise option.refused(why)
    if "path" in values:
        name, family = values["path"], socket.AF_UNIX
    elif "host" in values:
        if "port" not in values:
            raise option.refused("chardev: socket: no port given")
        name, family = f"{values['host']}:{values['port']}", socket.AF_INET
    else:
        raise option.refused("Unable to parse FD number ")
    if not server:
        return Chardev(_connected(option, family, name), listens=False)
    try:
        if family == socket.AF_UNIX:
            listening = listening_unix(name)
        else:
            listening = listening_tcp(values.get("host", ""), values["port"])
    except CommandError as error:
        raise option.refused(error.desc) from error
    first = None
    if option.is_on("wait", usual=True):
        kind = "unix" if family == socket.AF_UNIX else "tcp"
        where = f"disconnected:{kind}:{name},server=on"
        say(f"{option.text}: info: QEMU waiting for connection on: {where}")
        first, _ = listening.accept()
        first.setblocking(False)
    listening.setblocking(False)
    path = name if family == socket.AF_UNIX else None
    return Chardev(listening, listens=True, first=first, path=path)


def compat(option: Option) -> Option:
    """The value of `-qmp`, such as `unix:PATH,server=on,wait=off`, as a socket's."""
    kind, _, rest = option.first.partition(":")
    values = dict(option.values)
    unparsable = f"parse error: {option.text.partition(' ')[2]}"
    if values.pop("nowait", "off") == "on":
        values["wait"] = "off"
    if kind == "unix" and rest:
        values["path"] = rest
    elif kind == "tcp" and ":" in rest:
        values["host"], _, values["port"] = rest.rpartition(":")
    elif kind in ("unix", "tcp"):
        raise option.refused(unparsable)
    else:
        raise option.refused(f"'{option.first}' is not a valid char driver", unparsable)
    try:
        checked(option, COMPAT_KEYS)
    except Usage as refused:
        raise Usage(*refused.texts, f"{option.text}: {unparsable}") from refused
    return Option(option.text, "socket", values)


def _inherited(option: Option) -> Chardev:
    if not option.values["fd"].isdigit():
        raise option.refused(f"Unable to parse FD number {option.values['fd']}")
    number = int(option.values["fd"])
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
            try:
                connecting.connect(name)
            except OSError:
                connecting.close()
                raise
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


class _Listening:
    """Says it to whoever is connected; the next one may come when that has gone."""

    def __init__(self, device: Chardev) -> None:
        self._device, self._client = device, device.first

    def write(self, data: bytes) -> int:
        """Send to the client, or to the one that has come since."""
        if self._client is not None:
            try:
                return self._client.send(data)
            except BlockingIOError:
                return 0
            except OSError:
                self._client.close()
        self._client = None
        self._client, _ = self._device.sock.accept()
        self._client.setblocking(False)
        return self._client.send(data)


def serial(
    option: Option | None, chardevs: dict[str, Chardev], say: Callable[[str], None]
) -> tuple[Serial, list[Chardev]]:
    """The serial line that `-serial` describes, none where it is not said; and what it opened.

    Raises:
        Usage: it cannot be.
    """
    value = "none" if option is None else option.first
    kind, _, rest = value.partition(":")
    if value in ("none", "null"):
        return Serial(None), []
    assert option is not None
    why = f"could not connect serial device to character backend '{value}'"
    if value == "stdio":
        return Serial(lambda data: os.write(1, data)), []
    if kind == "file":
        return _file(option, rest, why), []
    if kind in ("unix", "tcp"):
        own = opened(compat(listed(option.text, value)), say)
        return _on(own), [own]
    if kind == "chardev":
        if rest not in chardevs:
            raise option.refused(why)
        return _on(chardevs[rest]), []
    raise option.refused(f"'{value}' is not a valid char driver", why)


def _on(device: Chardev) -> Serial:
    return Serial(_Listening(device).write if device.listens else device.sock.send)


def _file(option: Option, name: str, consequence: str) -> Serial:
    try:
        file = open(name, "wb", buffering=0)  # as long as the machine is
    except OSError as error:
        why = f"Could not open '{name}': {os.strerror(error.errno or 0)}"
        raise option.refused(why, consequence) from error
    return Serial(file.write)
