"""The listening socket: accepts, really refuses for a while, and outlives a lack of descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from testbed.log import Log

from .address import Address, OpensSockets, Sockaddr, UnixAddress, of_socket

BACKLOG = 256
AT_ONCE_MAX = 32
"""Accepted before others have their turn."""
PAUSE_S = 0.2
"""After the system had nothing left for another socket: it tells nobody when it has again."""
SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Listens for the source; made by `Listener.open`.

    While it refuses, its address is still ours: a socket is bound to it, on which nobody listens.
    """

    def __init__(
        self,
        namespace: OpensSockets,
        at: tuple[int, Sockaddr] | socket.socket,
        accepted: Callable[[socket.socket], None],
        log: Log,
    ) -> None:
        self._namespace = namespace
        self._given = at if isinstance(at, socket.socket) else None
        self._family: int
        place: Sockaddr
        self._family, place = (at.family, at.getsockname()) if isinstance(at, socket.socket) else at
        self._place = place
        self._accepted = accepted
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._remove: Callable[[], None] = _nothing_to_remove
        self._socket = self._bound()
        self._listens = False
        self._is_short = False  # of descriptors, and it has been told
        self.address: Address = of_socket(self._socket)
        if not isinstance(self.address, UnixAddress) and not isinstance(place, str):
            self._place = (place[0], self.address.port, *place[2:])

    @classmethod
    @contextmanager
    def open(
        cls,
        namespace: OpensSockets,
        at: tuple[int, Sockaddr] | socket.socket,
        accepted: Callable[[socket.socket], None],
        log: Log,
    ) -> Iterator[Listener]:
        """Have the address until the block ends; `listen` is for the one who opened it to call.

        Args:
            namespace: where the socket lives.
            at: socket family and address, as `resolve` says them; or a socket that listens
                already, somewhere else, which stays open and so never refuses.
            accepted: is given each socket that comes.
            log: where a lack of descriptors is told.

        Raises:
            OSError: the address cannot be had.
        """
        listener = cls(namespace, at, accepted, log)
        try:
            yield listener
        finally:
            listener._close()

    def listen(self) -> None:
        """Listen, from now on."""
        self._cancel_timer()
        if not self._listens:
            self._socket.listen(BACKLOG)
            self._listens = True
        self._loop.add_reader(self._socket, self._accept)

    def refuse(self, for_s: float | None) -> None:
        """Refuse whoever comes (ECONNREFUSED) for a time; None: until `listen`.

        Whom the kernel has taken already is reset.
        """
        self._cancel_timer()
        if self._listens:
            self._close()
            self._socket = self._bound()
        if for_s is not None:
            self._timer = self._loop.call_later(for_s, self.listen)

    def _bound(self) -> socket.socket:
        if self._given is not None:
            given = self._given.dup()
            given.setblocking(False)
            return given
        opened, self._remove = bound(self._namespace, self._family, self._place)
        return opened

    def _close(self) -> None:
        self._cancel_timer()
        if self._listens:
            self._loop.remove_reader(self._socket)
            self._listens = False
        self._socket.close()
        self._remove()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _accept(self) -> None:
        """Take those who wait."""
        for _ in range(AT_ONCE_MAX):
            if not self._listens:
                return
            try:
                opened, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORT_OF:
                    self._pause(error)
                    return
                continue  # who came has gone again
            self._is_short = False
            self._accepted(opened)

    def _pause(self, error: OSError) -> None:
        """Accept nobody for a while; they wait in the kernel."""
        if not self._is_short:
            self._log.write("proxy", "accept-paused", error=error_text(error))
        self._is_short = True
        self._loop.remove_reader(self._socket)
        self._timer = self._loop.call_later(PAUSE_S, self.listen)


def error_text(error: OSError) -> str:
    """The error by its name and in words."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return str(error)
    return f"{errno.errorcode.get(error.errno, error.errno)} {os.strerror(error.errno)}"


def bound(
    namespace: OpensSockets, family: int, place: Sockaddr
) -> tuple[socket.socket, Callable[[], None]]:
    """Return a non-blocking socket that is bound to an address, and what removes its file.

    The file of a Unix socket is removed only while it is the one that was made here.

    Raises:
        OSError: the address cannot be had.
    """
    opened = namespace.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        if family == socket.AF_INET6 and place[0] == "":
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if not isinstance(place, str):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(place)
            return opened, _nothing_to_remove
        remove_stale(place)
        opened.bind(place)
        return opened, partial(_remove, place, _file_of(place))
    except BaseException:
        opened.close()
        raise


def remove_stale(path: str) -> None:
    """Remove a socket that a process left behind that is gone; never one that is in use."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not is_in_use(path):
            os.unlink(path)


def is_in_use(path: str) -> bool:
    """True if a socket is bound to a path, in whatever network namespace. It does not notice.

    A QEMU that waits there would take a mere connection for its migration, and end. A datagram
    socket makes none: the kernel looks up who is bound to the file, and answers EPROTOTYPE if that
    is a stream socket, before anything reaches it; and ECONNREFUSED if nobody is (`unix_find_bsd`
    in Linux `net/unix/af_unix.c`). /proc/net/unix would tell less: it has the path as whoever bound
    it wrote it, and the sockets of one network namespace.

    Raises:
        OSError: there is no such file, or it may not be written to.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asks:
        try:
            asks.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    return True


def _file_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _remove(path: str, file: tuple[int, int]) -> None:
    with suppress(OSError):  # somebody has removed it
        if _file_of(path) == file:
            os.unlink(path)


def _nothing_to_remove() -> None:
    """Nothing was made in the file system."""
