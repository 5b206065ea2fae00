"""The state of a virtio-net, which QEMU codes by hand: of what length it is, it says itself.

Its vmdesc has nothing but the size. What varies is how many addresses the guest filters by, and
which subsections there are.

Source: QEMU `hw/virtio/virtio.c`, `virtio_save` and its subsections; `hw/virtio/virtio-pci.c`;
`hw/net/virtio-net.c`, `vmstate_virtio_net_device`; 2.9 and 7.2.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from testbed.vmstate import Element, Info, Loader, Saver, Story, VmStateFailed

from .virtio_cut import QUEUE_BYTES, QUEUES_MAX, cut

MAC_BYTES = 6
MAC_TABLE_MAX = 64
COUNT_AT = 18
"""Where `mac_table.in_use` is, a be32, from the MAC on: between them are a queue that waits, merged
buffers, status and modes."""
SUBSECTION = 0x05
VERSION_BYTES = 4
SIZES = {
    "virtio/64bit_features": 8,
    "virtio/virtqueues": QUEUES_MAX * 16,
    "virtio/packed_virtqueues": QUEUES_MAX * 10,
    "virtio/ringsize": QUEUES_MAX * 4,
    "virtio/broken": 1,
    "virtio/extra_state": 0,  # but for the next one, which is in it
    "virtio_pci/modern_state": 16 + QUEUES_MAX * 28,
    "virtio/started": 1,
    "virtio/disabled": 1,
}
"""Of the subsections, in bytes."""
FIRST = b"\x05\x15virtio/64bit_features"
"""Where the subsections begin: every modern device has this one."""


@dataclass(frozen=True)
class VirtioNet(Info):
    """Codes it, by the place of its MAC and the number of bytes before the first subsection.

    Its value is its bytes. Places differ by what the machine type has of PCI.
    """

    mac_at: int
    head_bytes: int  # of a device that filters by no address
    queues: int
    dies_if_cut: bool
    name = "virtio"
    uses_current = False

    @classmethod
    def of(cls, payload: bytes, mac: bytes, *, dies_if_cut: bool) -> VirtioNet:
        """By a payload that has that MAC, and no address to filter by."""
        mac_at = payload.index(mac)
        queues = next(each for each in range(1, QUEUES_MAX) if _counts(payload, mac_at, each))
        return cls(mac_at, payload.index(FIRST), queues, dies_if_cut)

    def put(self, saver: Saver, element: Element) -> None:
        """Save the bytes."""
        saver.data += element.value

    def get(self, loader: Loader, element: Element) -> Story[Any]:
        """Load as many as it has.

        Raises:
            VmStateFailed: there are more addresses than can be, or it was cut.
            DeviceCrash: it was cut where QEMU does not survive that.
        """
        del element
        source, to_table = loader.source, self.mac_at + COUNT_AT + 4
        data = yield from source.read(to_table)
        if len(data) == to_table:
            count = int.from_bytes(data[-4:], "big")
            if count > MAC_TABLE_MAX:  # QEMU skips them then, and filters by none
                raise VmStateFailed(-errno.EINVAL)
            data += yield from source.read(count * MAC_BYTES + self.head_bytes - to_table)
            while (size := (yield from self._subsection(loader))) is not None:
                data += yield from source.read(size)
        if source.error:
            with source.in_hand() as rest:
                data += bytes(rest)
            raise cut(data, self.mac_at, self.queues, dies=self.dies_if_cut)
        return data

    def _subsection(self, loader: Loader) -> Story[int | None]:
        """How many bytes the next subsection has; None if there is none more."""
        head = yield from loader.source.peek(1)
        if head != bytes([SUBSECTION]):
            return None
        head = yield from loader.source.peek(2)
        if len(head) < 2:
            return None
        name = yield from loader.source.peek(head[1], skip=2)
        size = SIZES.get(name.decode("latin-1"))
        return None if size is None else len(head) + len(name) + VERSION_BYTES + size


def _counts(payload: bytes, mac_at: int, queues: int) -> bool:
    """Whether it has so many queues: their number stands before them."""
    at = mac_at - queues * QUEUE_BYTES - 4
    return payload[at : at + 4] == queues.to_bytes(4, "big")
