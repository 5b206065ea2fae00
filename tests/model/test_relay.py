"""A real machine's devices, taken in and sent on: the same bytes, described in the same words."""

import pytest
from described_helpers import register_described
from model_helpers import EOF, Ram
from wire_helpers import recorded

from testbed.model.machines.described import Sized
from testbed.model.migration.configuration import Configuration, configuration
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Became, GuestMayRun
from testbed.model.migration.incoming import Machine
from testbed.model.migration.outgoing import Outgoing
from testbed.model.migration.registry import Registry
from testbed.model.profile import PROFILES
from testbed.vmstate import Manner
from testbed.wire import MainChannel
from testbed.wire.element import Configuration as ConfigurationElement
from testbed.wire.element import SectionHeader, SectionType, VmDescription

STREAMS = [
    ("qemu7.2-precopy.c0.fwd", Manner.QEMU_7_2),
    ("qemu7.2-devices-net.fwd", Manner.QEMU_7_2),
    ("qemu7.2-xbzrle.c0.fwd", Manner.QEMU_7_2),
]


@pytest.mark.parametrize(("name", "manner"), STREAMS)
def test_what_was_taken_in_is_sent_on(name, manner):
    data = recorded(name)
    elements = MainChannel().feed(data)
    headers = [
        each
        for each in elements
        if isinstance(each.value, SectionHeader) and each.value.type is SectionType.FULL
    ]
    vmdesc = next(each.value.text for each in elements if isinstance(each.value, VmDescription))
    machine = next(
        each.value.machine for each in elements if isinstance(each.value, ConfigurationElement)
    )
    versions = {(e.value.idstr, e.value.instance_id): e.value.version_id for e in headers}

    registry, profile = Registry(), PROFILES["7.2"]
    entries = register_described(registry, vmdesc, versions)
    for entry, header in zip(entries, headers, strict=True):
        entry.section_id = header.value.section_id
    vmsd, configured = configuration(profile), Configuration(machine)
    destination = Destination(Machine(machine, registry, Ram(), vmsd, configured), profile)
    head = b"".join(each.raw for each in elements[:2])
    phase = data[headers[0].offset :]
    effects = destination.begin() + destination.feed(head + phase) + destination.end()
    assert [each.status for each in effects if isinstance(each, Became)][-1] == "completed"
    assert any(isinstance(each, GuestMayRun) for each in effects)

    outgoing = Outgoing(registry, Ram(), vmsd, configured, manner=manner)
    assert outgoing.header() == head
    sections = b"".join(outgoing.devices())
    assert sections + outgoing.end() == phase
    assert phase.startswith(sections + EOF)
    assert not any(isinstance(each.old_style, Sized) for each in entries)  # none only by its size
