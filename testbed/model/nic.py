"""A NIC of the machine: the TAP that it is on, and the guest's network stack behind it."""

from __future__ import annotations

from .network import NetworkStack
from .tap import Tap


class Nic:
    """One NIC.

    Args:
        name: of QEMU's network client: the device's id, or its model and a number.
        mac: six bytes.
        stack: the guest's.
    """

    def __init__(self, name: str, mac: bytes, stack: NetworkStack) -> None:
        self.name, self.mac, self._stack = name, mac, stack
        self._tap: Tap | None = None

    def attach(self, fd: int, *, netdev: str) -> None:
        """Have it on a TAP; see `Tap`, also for what it raises."""
        self._tap = Tap(fd, self._received, netdev=netdev)

    def listen(self) -> None:
        """The guest runs: it answers what it is asked, also what was asked while it did not."""
        if self._tap is not None:
            self._tap.listen()

    def deafen(self) -> None:
        """The guest does not run."""
        if self._tap is not None:
            self._tap.deafen()

    def send(self, frame: bytes) -> None:
        """Send a frame, as the device does: whether the guest runs or not."""
        if self._tap is not None:
            self._tap.send(frame)

    def introduce(self) -> None:
        """Tell the network of the guest, which boots."""
        self.send(self._stack.gratuitous_arp())

    def _received(self, frame: bytes) -> None:
        answer = self._stack.answer(frame)
        if answer is not None:
            self.send(answer)
