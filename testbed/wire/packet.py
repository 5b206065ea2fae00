"""The values of multifd channels: what their elements are, as frozen records.

Layouts: QEMU `migration/multifd.h`, `MultiFDInit_t`, `MultiFDPacket_t`, and since 10.0
`MultiFDPacketDeviceState_t`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from struct import unpack_from


class MultifdFlag(IntFlag):
    """`MULTIFD_FLAG_*` in `migration/multifd.h`."""

    SYNC = 0x01
    ZLIB = 0x02
    ZSTD = 0x04
    QPL = 0x08
    UADK = 0x10
    QATZIP = 0x20
    DEVICE_STATE = 0x40


COMPRESSION = (
    MultifdFlag.ZLIB | MultifdFlag.ZSTD | MultifdFlag.QPL | MultifdFlag.UADK | MultifdFlag.QATZIP
)


@dataclass(frozen=True, slots=True)
class MultifdInit:
    """What a multifd channel begins with: magic, version 1, UUID, id, reserved; 64 bytes."""

    uuid: bytes  # 16, of the guest; zero without `-uuid`
    channel_id: int  # u8
    reserved: bytes = bytes(39)


@dataclass(frozen=True, slots=True)
class MultifdPacket:
    """Header of a packet: magic, version 1, these, reserved bytes, block and offsets.

    A source before 9.0 leaves in it what an earlier packet said: without `normal_pages` it means
    nothing by `next_packet_size`, and never anything by what `offsets` has beyond its pages.
    """

    flags: int  # be32, MultifdFlag
    pages_alloc: int  # be32, most pages of a packet; since 9.0 zero where there are none
    normal_pages: int  # be32, pages in the payload
    next_packet_size: int  # be32, bytes of the payload
    packet_num: int  # be64
    zero_pages: int  # be32; before 9.0 reserved, and zero
    block: str  # idstr, without the NULs that fill its 256 bytes
    offsets: bytes  # be64 each, as many as fit: pages of the payload, zero pages, unused ones
    reserved: bytes = bytes(28)

    @property
    def normal_offsets_bytes(self) -> tuple[int, ...]:
        """Offsets within the block of the pages in the payload."""
        return unpack_from(f">{self.normal_pages}Q", self.offsets)

    @property
    def zero_offsets_bytes(self) -> tuple[int, ...]:
        """Offsets within the block of the pages that are all zero, which have no payload."""
        return unpack_from(f">{self.zero_pages}Q", self.offsets, 8 * self.normal_pages)


@dataclass(frozen=True, slots=True)
class MultifdDeviceState:
    """Header of a packet with device state, of a VFIO device since 10.0; its payload follows."""

    flags: int  # be32, MultifdFlag
    idstr: str  # without the NULs that fill its 256 bytes
    instance_id: int  # be32
    next_packet_size: int  # be32, bytes of the payload


@dataclass(frozen=True, slots=True)
class MultifdPages:
    """Payload of a packet that is not compressed: its pages, back to back."""

    block: str
    offsets_bytes: tuple[int, ...]  # of each page, within the block
    data: bytes


@dataclass(frozen=True, slots=True)
class MultifdPayload:
    """Payload that cannot be read alone: device state, or a piece of a compressed stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class MultifdPiece:
    """Some bytes of a payload whose channel was told to copy none; see `MultifdChannel`."""

    left_bytes: int  # of the payload, these included


MultifdValue = (
    MultifdInit | MultifdPacket | MultifdDeviceState | MultifdPages | MultifdPayload | MultifdPiece
)
