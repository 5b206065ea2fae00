"""Sockets that are watched edge by edge: registered once, tried first, waited for only if need be.

asyncio's own `add_reader` and `add_writer` are told of each change of mind, a system call each; a
pump changes its mind with each window. Here a socket is registered for all that can happen to it,
with EPOLLET, at an epoll of our own, and the event loop watches that epoll.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket

AT_ONCE_MAX = 64
"""Events that are taken from the kernel at once."""
ROUNDS_MAX = 4
"""Of asking it, before the event loop and all else in it have their turn."""
ROUNDS_S = 0.001
"""After so long they have it anyway: what QMP reports may be what a fault waits for."""
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
BROKEN = select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | BROKEN
ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

Changed = Callable[[int], None]
"""Is told which of `READABLE`, `WRITABLE`, `BROKEN` something has changed in."""


class Poller:
    """Made by `Poller.open`; see the module.

    Who watches a socket must read or write it until the kernel has no more, or come back to it
    by itself: what has not changed is not told again.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self.loop = asyncio.get_running_loop()
        self._epoll = epoll
        self._watched: dict[int, Changed] = {}

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Poller]:
        """A poller in the running event loop, until the block ends."""
        with select.epoll() as epoll:
            poller = cls(epoll)
            poller.loop.add_reader(epoll.fileno(), poller._poll)
            try:
                yield poller
            finally:
                poller.loop.remove_reader(epoll.fileno())

    def watch(self, opened: socket, changed: Changed) -> None:
        """Call `changed` when something has; at first with all that is the case."""
        self._watched[opened.fileno()] = changed
        self._epoll.register(opened, ALL)

    def forget(self, opened: socket) -> None:
        """Watch it no more; to be called before it is closed."""
        if self._watched.pop(opened.fileno(), None) is not None:
            self._epoll.unregister(opened)

    def _poll(self) -> None:
        """Tell what has changed, and what has meanwhile: a round of the event loop is dearer."""
        until_s = self.loop.time() + ROUNDS_S
        for _ in range(ROUNDS_MAX):
            found = self._epoll.poll(0, AT_ONCE_MAX)
            for fd, events in found:
                # One that was told first may have closed the next one.
                if (changed := self._watched.get(fd)) is not None:
                    changed(events)
            if not found or self.loop.time() > until_s:
                return
