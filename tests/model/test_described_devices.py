"""Every device of recorded streams: declared by its own description, loaded, saved, described.

The declaration is made from the vmdesc, so it proves nothing about the device, but much about
loading, saving and describing what some eighty devices are made of.
"""

import json

import pytest
from vmstate_helpers import loaded, sections

from testbed.model.machines.described import blank, declared, size_of
from testbed.vmstate import Manner, device_node, save, text

STREAMS = [
    ("qemu7.2-precopy.c0", Manner.QEMU_7_2),
    ("qemu7.2-devices-net", Manner.QEMU_7_2),
    ("qemu10.0-precopy.c0", Manner.QEMU_10_0),
    ("qemu10.0-devices-storage", Manner.QEMU_10_0),
    ("qemu10.0-devices-memory", Manner.QEMU_10_0),
]


@pytest.mark.parametrize(("stream", "manner"), STREAMS)
def test_every_device_saves_back_to_its_bytes_and_its_description(
    stream: str, manner: Manner
) -> None:
    for (idstr, instance_id), section in sections(stream).items():
        vmstate = declared(section.node)
        state = blank(vmstate)
        stream_bytes = section.payload + b"\x7e"
        source = loaded(vmstate, state, section.version_id, stream_bytes, ended=False)
        assert source.offset == len(section.payload) == size_of(section.node), idstr
        saved = save(vmstate, state, manner=manner)
        assert saved.data == section.payload, idstr
        node = device_node(idstr, instance_id, saved.node)
        assert text(node) == json.dumps(section.node), idstr
    assert len(sections(stream)) > 30
