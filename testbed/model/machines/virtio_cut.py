"""What QEMU says of the state of a virtio-net that ends too early: which part of it was cut.

The parts are coded by hand in QEMU (`hw/virtio/virtio.c`, `virtio_load`) and have no description;
here are those that can be named. Seen with QEMU 7.2.22, cut at each part of a recording; where the
MSI-X table or the device's configuration is cut, it does not get as far as saying anything.
"""

from __future__ import annotations

import errno

from testbed.vmstate import DeviceCrash, Field, Incoming, VmState, VmStateFailed, fields, load

from .described import blank

QUEUES_MAX = 1024
CONFIG_BYTES = 256
IRQ_BYTES = 16
PCI_BYTES = 4 + CONFIG_BYTES + IRQ_BYTES
QUEUE_BYTES = 16
"""Of a queue before the device's own part: size, alignment or none, descriptors, index, vector."""
VLAN_BYTES = 512


def _u(bits: int, *names: str) -> tuple[Field, ...]:
    made = {8: fields.uint8, 16: fields.uint16, 32: fields.uint32, 64: fields.uint64}[bits]
    return tuple(made(name, attribute="") for name in names)


def _queues(name: str, inside: str, *parts: Field) -> Field:
    return fields.array(fields.struct(name, VmState(inside, 1, 1, parts)), QUEUES_MAX)


PCI = VmState(
    "PCIDevice",
    2,
    1,
    (
        fields.int32("version_id", attribute=""),
        fields.buffer("config", CONFIG_BYTES, attribute=""),
        fields.buffer("irq_state", IRQ_BYTES, attribute=""),
    ),
)
TX_WAITING = VmState("virtio-net-queue-tx_waiting", 0, 0, _u(32, "tx_waiting"))
VNET = VmState("virtio-net-vnet", 0, 0, _u(32, "has_vnet_hdr"))
UFO = VmState("virtio-net-ufo", 0, 0, _u(8, "has_ufo"))
REST = VmState("virtio-net-tx_waiting")
NET = VmState(
    "virtio-net-device",
    11,
    11,
    (
        fields.array(fields.uint8("mac", attribute=""), 6),
        fields.struct("vqs", TX_WAITING),
        *_u(32, "mergeable_rx_bufs"),
        *_u(16, "status"),
        *_u(8, "promisc", "allmulti"),
        fields.uint32("mac_table.in_use", attribute="in_use"),
        fields.vbuffer("mac_table.macs", "in_use", multiply=6, attribute=""),
        fields.buffer("vlans", VLAN_BYTES, attribute=""),
        fields.tmp(VNET, lambda: blank(VNET)),
        *_u(8, "mac_table.multi_overflow", "mac_table.uni_overflow"),
        *_u(8, "alluni", "nomulti", "nouni", "nobcast"),
        fields.tmp(UFO, lambda: blank(UFO)),
        fields.tmp(REST, lambda: blank(REST)),
    ),
)
MODERN_QUEUE = (
    *_u(16, "num"),
    fields.unused(1),
    fields.boolean("enabled", attribute=""),
    *(fields.array(each, 2) for each in _u(32, "desc", "avail", "used")),
)
MODERN = VmState(
    "virtio_pci/modern_state",
    1,
    1,
    (
        *_u(32, "dfselect", "gfselect"),
        fields.array(fields.uint32("guest_features", attribute=""), 2),
        _queues("vqs", "virtio_pci/modern_queue_state", *MODERN_QUEUE),
    ),
)
EXTRA = VmState("virtio_pci", 1, 1, (), (MODERN,))
VIRTIO = VmState(
    "virtio",
    1,
    1,
    (),
    (
        VmState("virtio/64bit_features", 1, 1, _u(64, "guest_features")),
        VmState(
            "virtio/virtqueues",
            1,
            1,
            (_queues("vq", "virtqueue_state", *_u(64, "vring.avail", "vring.used")),),
        ),
        VmState(
            "virtio/ringsize",
            1,
            1,
            (_queues("vq", "ringsize_state", *_u(32, "vring.num_default")),),
        ),
        VmState("virtio/broken", 1, 1, (fields.boolean("broken", attribute=""),)),
        VmState("virtio/extra_state", 1, 1, (fields.struct("extra_state", EXTRA),)),
        VmState("virtio/started", 1, 1, (fields.boolean("started", attribute=""),)),
        VmState("virtio/disabled", 1, 1, (fields.boolean("disabled", attribute=""),)),
    ),
)


def cut(data: bytes, mac_at: int, queues: int, *, dies: bool) -> VmStateFailed | DeviceCrash:
    """What comes of the state of a virtio-net of which these bytes are all.

    Args:
        data: the payload from its first byte on, cut.
        mac_at: where the device's own part begins, with its MAC.
        queues: how many it has.
        dies: QEMU does where MSI-X table or configuration are cut: from 7.2 on, not in 5.2.
    """
    size, queues_at = len(data), mac_at - queues * QUEUE_BYTES
    if size < PCI_BYTES:
        return _failed(data, PCI)
    if size < queues_at and dies:
        return DeviceCrash()
    if size >= mac_at:
        return _failed(data[mac_at:], NET, VIRTIO)
    # Half of a vector that is not used is one that the device does not have.
    half = size >= queues_at and (size - queues_at) % QUEUE_BYTES == QUEUE_BYTES - 1
    if half and data[-1]:
        return VmStateFailed(-errno.EINVAL)
    return _failed(b"", NET)


def _failed(data: bytes, *parts: VmState) -> VmStateFailed:
    """How loading these parts from the bytes fails."""
    source = Incoming(data, ended=True)
    try:
        for part in parts:
            for _ in load(part, blank(part), part.version_id, source):
                raise AssertionError("a source that has ended leaves nothing to wait for")
    except VmStateFailed as failed:
        return failed
    return VmStateFailed(source.error or -errno.EIO)
