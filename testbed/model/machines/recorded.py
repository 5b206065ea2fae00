"""Machines as they were recorded: streams of real ones without their pages.

`scripts/record-machines` makes them. What a machine must be able to have more of than one is there
more than once: CPUs and NICs.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from testbed.wire import MainChannel
from testbed.wire.element import (
    Configuration,
    Payload,
    RamBlock,
    SectionHeader,
    SectionType,
)

from .described import size_of

MACHINES = ("pc-i440fx-7.2", "pc-i440fx-2.9", "pc-q35-7.2", "pc-q35-2.9")
MACS = ("52:54:00:6e:69:30", "52:54:00:6e:69:31", "52:54:00:6e:69:32", "52:54:00:6e:69:33")
"""Of the NICs of each."""
VMDESC_BEGINS = b'{"page_size"'


@dataclass(frozen=True, slots=True)
class Section:
    """A device section, and its description."""

    section_id: int
    idstr: str
    instance_id: int
    version_id: int
    payload: bytes
    described: dict[str, Any]


class Recording(NamedTuple):
    """A machine."""

    machine: str
    blocks: tuple[RamBlock, ...]
    ram_id: int  # section_id
    sections: tuple[Section, ...]


def read(machine: str, *, power_on: bool = False) -> Recording:
    """The recording of one of `MACHINES`, at rest, or as it is before it ever ran."""
    name = f"{machine}.power-on.xz" if power_on else f"{machine}.stream.xz"
    path = Path(__file__).with_name(name)
    return parse(lzma.decompress(path.read_bytes()))


def parse(stream: bytes) -> Recording:
    """A stream without pages, whole, and of a machine that means no harm."""
    # The parser would check sections against the vmdesc; that takes longer than all else.
    vmdesc_at = stream.rindex(VMDESC_BEGINS)
    vmdesc = stream[vmdesc_at:]
    machine, ram_id = "", 0
    blocks: list[RamBlock] = []
    found: list[tuple[SectionHeader, bytes]] = []
    channel = MainChannel()
    for element in (*channel.feed(stream[:vmdesc_at]), *channel.end()):
        match element.value:
            case Configuration(name):
                machine = name
            case SectionHeader(type=SectionType.START, section_id=number):
                ram_id = number
            case RamBlock() as block:
                blocks.append(block)
            case Payload(data):
                assert element.section is not None, "a payload is in one"
                found.append((element.section, data))
    described = json.loads(vmdesc)["devices"]
    for (_, payload), node in zip(found, described, strict=True):
        assert len(payload) == size_of(node), f"a part of {node['name']} passed for its footer"
    return Recording(
        machine,
        tuple(blocks),
        ram_id,
        tuple(
            Section(
                header.section_id,
                header.idstr,
                header.instance_id,
                header.version_id,
                payload,
                node,
            )
            for (header, payload), node in zip(found, described, strict=True)
        ),
    )
