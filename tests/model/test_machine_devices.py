"""Devices of machines as they may come: with other subsections, lengths and versions."""

import random

import pytest
from machine_helpers import modelled, sections_of
from test_adopting import SMALL, adopted, sent

from testbed.model.machines.virtio import COUNT_AT, FIRST, MAC_TABLE_MAX
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Say
from testbed.wire import build_section
from testbed.wire.element import SectionType

MUTATIONS = 400


class Sent:
    """What a machine sends, to be sent to another with a section of it changed."""

    def __init__(self, machine="pc-i440fx-7.2"):
        self.machine = machine
        self.stream = b"".join(modelled(machine).outgoing.whole(1 << 20))
        self.headers, self.payloads, _ = sections_of(self.stream)

    def section(self, header, payload, version_id=None):
        version_id = header.version_id if version_id is None else version_id
        ids = header.section_id, header.idstr, header.instance_id
        return build_section(SectionType.FULL, *ids, version_id, payload)

    def changed(self, idstr, payload, version_id=None):
        header = next(each for each in self.headers if each.idstr == idstr)
        old = self.section(header, self.payloads[idstr, header.instance_id])
        assert self.stream.count(old) == 1
        return self.stream.replace(old, self.section(header, payload, version_id))

    def load(self, *streams):
        """Into one machine, one after the other; it, and what the last one has it say."""
        hardware, effects = modelled(self.machine), []
        for stream in streams:
            destination = Destination(hardware.incoming, hardware.profile)
            effects = destination.begin() + destination.feed(stream) + destination.end()
        return hardware, [effect.line for effect in effects if isinstance(effect, Say)]


def held(hardware, idstr):
    stream = b"".join(hardware.outgoing.whole(1 << 20))
    return sections_of(stream)[1][idstr, 0]


def subsection(name, version, payload):
    return bytes([5, len(name)]) + name.encode() + version.to_bytes(4, "big") + payload


SUBSECTIONS = {
    "serial": [
        ("serial/tsr", 1, bytes([0, 0, 0, 1, 2, 3])),
        ("serial/xmit_fifo", 1, bytes(range(16)) + bytes(8)),
        ("serial/poll", 1, bytes(12)),
    ],
    "mc146818rtc": [("mc146818rtc/irq_reinject_on_ack_count", 1, b"\1\2")],
    "cpu": [
        ("cpu/fpop_ip_dp", 1, bytes(range(18))),
        ("cpu/msr_tsc_adjust", 1, bytes(range(8))),
    ],
    "ps2kbd": [("ps2kbd/need_high_bit", 1, b"\1")],
}


@pytest.mark.parametrize("idstr", SUBSECTIONS)
def test_a_subsection_that_no_recording_has_is_loaded_and_sent(idstr):
    there = Sent()
    payload = there.payloads[idstr, 0]
    more = b"".join(subsection(*each) for each in SUBSECTIONS[idstr])
    first = payload.find(b"\5" + bytes([len(idstr + "/poll_control_msr")]) + idstr.encode() + b"/")
    at = len(payload) if first < 0 else first
    stream = there.changed(idstr, payload[:at] + more + payload[at:])
    hardware, said = there.load(stream)
    assert said == []
    found = held(hardware, idstr)
    assert sorted(found) == sorted(payload[:at] + more + payload[at:])
    places = [found.index(subsection(*each)) for each in SUBSECTIONS[idstr]]
    assert places == sorted(places)


@pytest.mark.parametrize("idstr", ["serial", "ps2kbd"])
def test_a_subsection_of_an_earlier_load_is_forgotten(idstr):
    there = Sent()
    payload = there.payloads[idstr, 0]
    more = b"".join(subsection(*each) for each in SUBSECTIONS[idstr])
    hardware, said = there.load(there.changed(idstr, payload + more), there.stream)
    assert said == []
    assert held(hardware, idstr) == payload


@pytest.mark.parametrize("machine", ["pc-i440fx-7.2", "pc-q35-7.2"])
def test_a_disk_that_is_taken_out_is_loaded_as_none(machine):
    there = Sent(machine)
    without = b"".join(modelled(machine, disk=False).outgoing.whole(1 << 20))
    hardware, said = there.load(without)
    assert said == []
    assert b"".join(hardware.outgoing.whole(1 << 20)) == without
    assert len(without) < len(there.stream) - 500


NIC = "0000:00:02.0/virtio-net"


def virtio_with(there, count, *, disabled):
    """A NIC that filters by so many addresses, on or off."""
    payload = there.payloads[NIC, 0]
    at = payload.index(bytes.fromhex("525400123456")) + COUNT_AT
    addresses = bytes(range(256))[: 6 * min(count, 40)].ljust(6 * count, b"\7")
    payload = payload[:at] + count.to_bytes(4, "big") + addresses + payload[at + 4 :]
    switch = subsection("virtio/disabled", 1, b"")
    return payload if disabled else payload[: payload.index(switch)]


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize("count", [0, 1, MAC_TABLE_MAX])
def test_a_nic_says_itself_how_long_it_is(count, disabled):
    there = Sent()
    payload = virtio_with(there, count, disabled=disabled)
    hardware, said = there.load(there.changed(NIC, payload))
    assert said == []
    assert held(hardware, NIC) == payload
    assert FIRST in payload


def test_a_nic_with_more_addresses_than_can_be_is_refused():
    there = Sent()
    payload = virtio_with(there, MAC_TABLE_MAX + 1, disabled=True)
    _, said = there.load(there.changed(NIC, payload))
    assert said[-1] == "load of migration failed: Invalid argument"


def test_an_older_version_lacks_what_came_later():
    there = Sent()
    payload = there.payloads["timer", 0]
    hardware, said = there.load(there.changed("timer", payload[:16], version_id=1))
    assert said == []
    assert held(hardware, "timer")[:16] == payload[:16]


@pytest.mark.parametrize(
    ("idstr", "version_id", "line"),
    [
        (
            "timer",
            0,
            "timer: incoming version_id 0 is too old for local minimum version_id  1",
        ),
        ("timer", 3, "savevm: unsupported version 3 for 'timer' v2"),
        (
            "cpu",
            10,
            "cpu: incoming version_id 10 is too old for local minimum version_id  11",
        ),
        (
            "fdc",
            1,
            "fdc: incoming version_id 1 is too old for local minimum version_id  2",
        ),
    ],
)
def test_versions_are_refused_as_by_qemu(idstr, version_id, line):
    there = Sent()
    stream = there.changed(idstr, there.payloads[idstr, 0], version_id=version_id)
    _, said = there.load(stream)
    assert said[0] == line
    assert said[-1] == "load of migration failed: Invalid argument"


def test_nothing_that_comes_breaks_what_adopts_it():
    """Streams that were changed at random: adopted or refused, and sent on if they were adopted."""
    chance = random.Random(20)
    statuses = set()
    for _ in range(MUTATIONS):
        stream = bytearray(SMALL)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(stream))
            match chance.randrange(3):
                case 0:
                    stream[at] = chance.randrange(256)
                case 1:
                    stream[at:at] = chance.randbytes(chance.randint(1, 9))
                case 2:
                    del stream[at : at + chance.randint(1, 9)]
        hardware, core, _ = adopted(bytes(stream))
        statuses.add(str(core.status))
        if core.status == "completed":
            hardware.run_state = "paused"
            hardware.put_registers(index=0, pass_number=1, ticks=0, owed=0)
            sent(hardware)
    assert statuses == {"completed", "failed"}
