"""A NIC of the machine: the TAP that it is on, and the guest's network stack behind it.

Source of texts: QEMU `net/net.c`, `net/tap.c` (7.2), each checked with the real one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from testbed.model.guest.network import NetworkStack, guest_address

from .command_line import Option
from .devices import mac
from .tap import Tap, TapRefused

TYPES = (
    *("none", "nic", "user", "tap", "l2tpv3", "socket", "stream", "dgram", "vde", "bridge"),
    *("hubport", "netmap", "vhost-user", "vhost-vdpa"),
)
"""Of network clients; the model has one."""


KEPT_MAX = 10_000
"""Frames: QEMU's `nq_maxlen` (`net/queue.c`); those behind them are dropped."""


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
        self._listens = False
        self._kept: list[bytes] = []  # sent while the guest did not run

    def attach(self, fd: int, *, netdev: str) -> None:
        """Have it on a TAP; see `Tap`, also for what it raises."""
        self._tap = Tap(fd, self._received, netdev=netdev)

    def listen(self) -> None:
        """The guest runs: what was kept goes out, and it answers also what was asked meanwhile."""
        self._listens = True
        if self._tap is not None:
            kept, self._kept = self._kept, []
            for frame in kept:
                self._tap.send(frame)
            self._tap.listen()

    def deafen(self) -> None:
        """The guest does not run."""
        self._listens = False
        if self._tap is not None:
            self._tap.deafen()

    def send(self, frame: bytes) -> None:
        """Send a frame, or keep it until the guest runs (`qemu_can_send_packet`, `net/net.c`)."""
        if self._tap is None:
            return
        if self._listens:
            self._tap.send(frame)
        elif len(self._kept) < KEPT_MAX:
            self._kept.append(frame)

    def introduce(self) -> None:
        """Tell the network of the guest, which boots."""
        self.send(self._stack.gratuitous_arp())

    def _received(self, frame: bytes) -> None:
        answer = self._stack.answer(frame)
        if answer is not None:
            self.send(answer)


def plugged(devices: Sequence[Option], netdevs: Sequence[Option]) -> list[Nic]:
    """The NICs of a command line, each on its TAP.

    Args:
        devices: the NICs, in order.
        netdevs: what `-netdev` describes.

    Raises:
        Usage: one of them cannot be.
    """
    taps = _checked(netdevs)
    found = []
    for count, device in enumerate(devices):
        address = bytes.fromhex(mac(device, count).replace(":", ""))
        name = device.values.get("id", f"{device.first}.{count}")
        nic = Nic(name, address, NetworkStack(address, guest_address(count)))
        if "netdev" in device.values:
            netdev = device.values["netdev"]
            if netdev not in taps:
                why = f"Property 'virtio-net-device.netdev' can't find value '{netdev}'"
                raise device.refused(why)
            option, fd = taps[netdev]
            try:
                nic.attach(fd, netdev=netdev)
            except TapRefused as error:
                raise option.refused(str(error.strerror)) from error
        found.append(nic)
    return found


def _checked(netdevs: Sequence[Option]) -> dict[str, tuple[Option, int]]:
    """TAPs by id, with their descriptors."""
    found: dict[str, tuple[Option, int]] = {}
    names: set[str] = set()
    for option in netdevs:
        if not option.first:
            raise option.refused("Parameter 'type' is missing")
        if "id" not in option.values:
            raise option.refused("Parameter 'id' is missing")
        if option.first not in TYPES:
            raise option.refused(f"Parameter 'type' does not accept value '{option.first}'")
        if option.values["id"] in names:
            raise option.refused(f"Duplicate ID '{option.values['id']}' for netdev")
        names.add(option.values["id"])
    for option in netdevs:
        name, given = option.values["id"], option.values.get("fd")
        if option.first != "tap" or given is None:
            raise option.refused("the model has only TAPs that it inherits: tap,id=ID,fd=N")
        if not given.isdigit():
            raise option.refused(f"Invalid file descriptor number '{given}'")
        try:
            os.fstat(int(given))
        except (OSError, OverflowError) as error:
            why = f"{name}: Can't use file descriptor {given}: Bad file descriptor"
            raise option.refused(why) from error
        found[name] = option, int(given)
    return found
