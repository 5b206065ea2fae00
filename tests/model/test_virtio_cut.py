"""A virtio-net whose state is cut, at each part: the model ends and speaks as QEMU 7.2.22 does."""

import json
import signal
import subprocess

import pytest

from testbed.model.machines.machine import Nic, build
from testbed.model.machines.virtio import VirtioNet
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Exit, Say
from testbed.model.profile import PROFILES
from testbed.wire import MainChannel
from testbed.wire.element import Payload

MAC = "52:54:00:12:34:56"
WITHIN = "Failed to load virtio-net:virtio"
EIO = "load of migration failed: Input/output error"
DIES = ("dies",)
# Where it is cut in the payload on `pc`, and what is said first; all but DIES go on with WITHIN.
CUTS = {
    0: ("Failed to load PCIDevice:version_id",),
    3: ("Failed to load PCIDevice:version_id",),
    168: ("Failed to load PCIDevice:config",),
    259: ("Failed to load PCIDevice:config",),
    260: ("Failed to load PCIDevice:irq_state",),
    275: ("Failed to load PCIDevice:irq_state",),
    276: DIES,
    300: DIES,
    366: DIES,
    367: ("Failed to load virtio-net-device:mac",),
    382: (),
    383: ("Failed to load virtio-net-device:mac",),
    398: (),
    414: (),
    417: ("Failed to load virtio-net-device:mac",),
    423: (
        "Failed to load virtio-net-queue-tx_waiting:tx_waiting",
        "Failed to load virtio-net-device:vqs",
    ),
    426: ("Failed to load virtio-net-device:mergeable_rx_bufs",),
    429: ("Failed to load virtio-net-device:status",),
    432: ("Failed to load virtio-net-device:allmulti",),
    435: ("Failed to load virtio-net-device:mac_table.in_use",),
    438: ("Failed to load virtio-net-device:vlans",),
    945: ("Failed to load virtio-net-device:vlans",),
    951: (
        "Failed to load virtio-net-vnet:has_vnet_hdr",
        "Failed to load virtio-net-device:tmp",
    ),
    954: ("Failed to load virtio-net-device:mac_table.uni_overflow",),
    957: ("Failed to load virtio-net-device:nouni",),
    960: ("Failed to load virtio-net-device:tmp",),
    984: (
        "virtio/64bit_features: incoming version_id 0 is too old for local minimum version_id  1",
    ),
    987: ("Failed to load virtio/64bit_features:guest_features",),
    996: (),
    1014: ("virtio/virtqueues: incoming version_id 0 is too old for local minimum version_id  1",),
    1020: ("Failed to load virtqueue_state:vring.avail", "Failed to load virtio/virtqueues:vq"),
    1026: ("Failed to load virtqueue_state:vring.used", "Failed to load virtio/virtqueues:vq"),
    1050: ("Failed to load virtio/virtqueues:vq",),
    46053: (
        "Failed to load virtio_pci/modern_queue_state:used",
        "Failed to load virtio_pci/modern_state:vqs",
        "Failed to load virtio/extra_state:extra_state",
    ),
    46059: (
        "Failed to load virtio_pci/modern_state:vqs",
        "Failed to load virtio/extra_state:extra_state",
    ),
    46089: (
        "Failed to load virtio_pci/modern_queue_state:unused",
        "Failed to load virtio_pci/modern_state:vqs",
        "Failed to load virtio/extra_state:extra_state",
    ),
    46137: (
        "Failed to load virtio_pci/modern_queue_state:used",
        "Failed to load virtio_pci/modern_state:vqs",
        "Failed to load virtio/extra_state:extra_state",
    ),
}
INVALID = (382, 398, 414, 984, 1014)
"""Where a value is wrong because of the cut, and not the cut what is wrong."""


@pytest.fixture(scope="module")
def sent():
    """What a machine with one NIC sends, and where its state begins and ends in that."""
    machine = build(PROFILES["7.2"], "pc-i440fx-7.2", 16 << 20, 1, [Nic(MAC)])
    stream = b"".join(machine.outgoing.whole(1 << 20))
    channel = MainChannel()
    elements = channel.feed(stream) + channel.end()
    payload = next(
        each
        for each in elements
        if isinstance(each.value, Payload) and each.section.idstr.endswith("/virtio-net")
    )
    return stream, payload.offset, payload.offset + len(payload.raw)


def judged(data):
    """What is said, and the exit status."""
    machine = build(PROFILES["7.2"], "pc-i440fx-7.2", 16 << 20, 1, [Nic(MAC)], waits=True)
    destination = Destination(machine.incoming, machine.profile)
    effects = destination.begin() + destination.feed(data) + destination.end()
    said = [each.line for each in effects if isinstance(each, Say)]
    return said, next((each.status for each in effects if isinstance(each, Exit)), None)


@pytest.mark.parametrize("at", CUTS)
def test_each_part_is_named_or_is_the_end(sent, at):
    stream, begin, _ = sent
    said, status = judged(stream[: begin + at])
    if CUTS[at] is DIES:
        assert (said, status) == ([], -signal.SIGSEGV)
        return
    around = "error while loading state for instance 0x0 of device '0000:00:02.0/virtio-net'"
    last = "load of migration failed: Invalid argument" if at in INVALID else EIO
    assert said == [*CUTS[at], WITHIN, around, last]
    assert status == 1


def test_wherever_it_is_cut_it_is_refused(sent):
    stream, begin, end = sent
    for at in range(begin, end, 997):
        said, status = judged(stream[:at])
        assert status == -signal.SIGSEGV if not said else status == 1


def test_a_model_of_an_older_version_survives_it():
    machine = build(PROFILES["2.9"], "pc", 16 << 20, 1, [Nic(MAC)])
    (key,) = [each for each in machine.payloads if each[0].endswith("/virtio-net")]
    info = VirtioNet.of(
        machine.payloads[key], bytes.fromhex(MAC.replace(":", "")), dies_if_cut=False
    )
    assert (info.queues, info.dies_if_cut) == (3, False)


@pytest.mark.parametrize(
    ("device", "at", "said"),
    [
        ("0000:00:00.0/I440FX", 200, "Failed to load PCIDevice:config"),
        ("0000:00:01.3/piix4_pm", 173, "Failed to load PCIDevice:config"),
        ("mc146818rtc", 145, "Failed to load mc146818rtc:unused"),
        ("PCIBUS", 1, "4 != 0"),
        ("vmmouse", 1, "400 != 0"),
        ("mc146818rtc", 182, "Failed to load mc146818rtc:unused"),
    ],
)
def test_other_devices_are_told_in_the_same_words(sent, device, at, said):
    stream, _, _ = sent
    channel = MainChannel()
    payload = next(
        each
        for each in channel.feed(stream) + channel.end()
        if isinstance(each.value, Payload) and each.section.idstr == device
    )
    assert judged(stream[: payload.offset + at])[0][0] == said


@pytest.mark.live
@pytest.mark.parametrize("at", [260, 276, 367, 414, 423])
def test_the_qemu_installed_does_the_same(sent, tmp_path, at):
    stream, begin, _ = sent
    path = tmp_path / "cut"
    path.write_bytes(stream[: begin + at])
    done = subprocess.run(
        [
            *("qemu-system-x86_64", "-M", "pc-i440fx-7.2", "-m", "16M", "-accel", "tcg"),
            *("-S", "-serial", "null"),
            *("-nodefaults", "-display", "none", "-device", f"virtio-net-pci,romfile=,mac={MAC}"),
            *("-device", "ide-hd,drive=d", "-drive", "if=none,id=d,format=raw,file.driver=null-co"),
            *("-incoming", f"exec:cat {json.dumps(str(path))}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line.partition(": ")[2] for line in done.stderr.splitlines() if "no peer" not in line]
    assert (said, done.returncode) == judged(stream[: begin + at])
