"""A saved machine is read into the memory and device state that its stream has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest
from wire_helpers import parse, pieces, recorded

from testbed.lab.saved import SavedStateError, read_saved
from testbed.wire import MainChannel
from testbed.wire.element import Payload, RamBlock, RamFlag, RamPage, SectionType

STREAM = recorded("qemu7.2-precopy.c0.fwd")


async def chunks(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("seed", range(3))
async def test_memory_and_devices_are_those_of_the_stream(seed: int) -> None:
    blocks: dict[str, bytearray] = {}
    devices: list[bytes] = []
    for element in parse(MainChannel(), [STREAM]):
        match element.value:
            case RamBlock(idstr=idstr, used_bytes=used_bytes):
                blocks[idstr] = bytearray(used_bytes)
            case RamPage(block=block, offset_bytes=at, flags=flags, data=data):
                zero = flags & RamFlag.ZERO
                blocks[block][at : at + 4096] = bytes(4096) if zero else data
            case Payload(data=data) if element.section.type is SectionType.FULL:
                devices.append(data)
    saved = await read_saved(chunks(pieces(STREAM, seed)))
    assert {name: bytes(block) for name, block in saved.blocks.items()} == blocks
    assert [section.payload for section in saved.devices.values()] == devices
    assert saved.guest_ram()[0] == "pc.ram"


async def test_what_is_no_whole_stream_is_an_error() -> None:
    with pytest.raises(SavedStateError, match="saved stream, offset 0x"):
        await read_saved(chunks([STREAM[:200_000], b"\xff" * 4096]))
