"""A multifd channel: packets of pages, source to destination, beside the main channel.

Source: QEMU `migration/multifd.c`, `multifd_recv_initial_packet` and
`multifd_recv_unfill_packet`; `migration/multifd-nocomp.c`, `multifd_ram_unfill_packet`; 5.2 to
10.0.
"""

from __future__ import annotations

import struct

from . import spans
from .channel import Channel
from .packet import (
    COMPRESSION,
    MultifdDeviceState,
    MultifdFlag,
    MultifdInit,
    MultifdPacket,
    MultifdPages,
    MultifdPayload,
    MultifdPiece,
)
from .ram import UNSTATED_BYTES
from .reader import Story
from .structs import (
    MULTIFD_DEVICE_STATE,
    MULTIFD_INIT,
    MULTIFD_MAGIC,
    MULTIFD_PACKET,
    MULTIFD_VERSION,
    U64,
)
from .witness import Witness

PAGES_BYTES = 512 << 10
"""Of pages in one packet: `MULTIFD_PACKET_SIZE`. It decides how many offsets a header has."""
COMPRESSED_BYTES_MAX = 2 * PAGES_BYTES
"""Of a compressed payload: the buffer that QEMU gives zlib for it."""
DEVICE_STATE_BYTES_MAX = 64 << 20
"""Of a payload of device state; VFIO sends 1 MiB at a time."""
PAGES_ALLOC_AT = 12
NEXT_PACKET = struct.pack(">II", MULTIFD_MAGIC, MULTIFD_VERSION)
INIT = "multifd init packet"
PACKET = "multifd packet"


class MultifdChannel(Channel):
    """Parses a multifd channel incrementally; see `Channel` for feeding and ending it.

    Nothing announces its end, so it may end after any packet. `occurrence` of a packet and of
    its payload is the how-manieth packet of the channel it is.

    `in_runs` may change between two feeds: payloads come as they are fed, as `RunElement`s of a
    `MultifdPiece` each, and nothing of them is copied.

    Args:
        page_bytes: target page size where the channel does not tell: the first packet with pages
            says how many a packet can have, `PAGES_BYTES` of them.
        witness: sees the data of pages; a payload of which it has to see some comes whole.
    """

    def __init__(self, *, page_bytes: int = 4096, witness: Witness | None = None) -> None:
        self.in_runs = False
        self._witness = witness
        self._page_bytes = page_bytes
        self._slots = PAGES_BYTES // page_bytes
        self._is_sure = False  # of the page size
        self._packets = 0
        super().__init__()

    @property
    def page_bytes(self) -> int:
        """Target page size, as far as the channel told."""
        return self._page_bytes

    def _story(self) -> Story[None]:
        yield from self._init()
        while (yield from self._reader.more()):
            yield from self._packet()

    def _init(self) -> Story[None]:
        yield from self._magic(INIT)
        raw = yield from self._reader.peek(MULTIFD_INIT.size, INIT)
        _, _, uuid, channel_id, reserved = MULTIFD_INIT.unpack(raw)
        self._emit(MultifdInit(uuid, channel_id, reserved), len(raw), spans.MULTIFD_INIT)

    def _magic(self, inside: str) -> Story[None]:
        magic = yield from self._reader.u32(inside)
        if magic != MULTIFD_MAGIC:
            raise self._reader.wrong(inside, f"magic {MULTIFD_MAGIC:#x}", f"{magic:#x}")
        version = yield from self._reader.u32(inside, skip=4)
        if version != MULTIFD_VERSION:
            raise self._reader.wrong(inside, f"version {MULTIFD_VERSION}", f"{version}")

    def _packet(self) -> Story[None]:
        yield from self._magic(PACKET)
        self._packets += 1
        self._context.occurrence = self._packets
        flags = yield from self._reader.u32(PACKET, skip=8)
        if flags & MultifdFlag.DEVICE_STATE:
            yield from self._device_state()
        else:
            yield from self._ram()
        self._context.occurrence = 1

    def _learn(self) -> Story[None]:
        """Take the page size from a packet's `pages_alloc`.

        Since 9.0 that is zero where there are no pages. Then only the place where the next packet
        begins tells how many offsets it has; with larger pages, before the expected one.
        """
        reader = self._reader
        alloc = yield from reader.u32(PACKET, skip=PAGES_ALLOC_AT)
        for size in UNSTATED_BYTES:
            if alloc * size == PAGES_BYTES:
                self._set_page_bytes(size)
        whole = MULTIFD_PACKET.size + U64.size * self._slots
        while not alloc and reader.available < whole and not (reader.ended or reader.silent):
            yield from reader.wait(whole)
        for size in reversed(UNSTATED_BYTES):
            end = MULTIFD_PACKET.size + U64.size * (PAGES_BYTES // size)
            if alloc or end >= whole:
                return
            at = reader.pos + end
            if reader.available == end or reader.data[at : at + 8] == NEXT_PACKET:
                self._set_page_bytes(size)
                return

    def _set_page_bytes(self, page_bytes: int) -> None:
        self._page_bytes, self._slots = page_bytes, PAGES_BYTES // page_bytes
        self._is_sure = True

    def _ram(self) -> Story[None]:
        if not self._is_sure:
            yield from self._learn()
        size = MULTIFD_PACKET.size + U64.size * self._slots
        raw = yield from self._reader.peek(size, PACKET)
        _, _, flags, alloc, normal, following, number, zero, reserved, block = (
            MULTIFD_PACKET.unpack_from(raw)
        )
        offsets = raw[MULTIFD_PACKET.size :]
        packet = MultifdPacket(
            flags, alloc, normal, following, number, zero, _text(block), offsets, reserved
        )
        self._check_pages(packet)
        shape = spans.multifd_packet(packet.normal_pages, packet.zero_pages, self._slots)
        self._emit(packet, size, shape)
        is_seen = self._is_seen(packet)
        if not packet.normal_pages:
            return
        inside = f"payload of {PACKET} {packet.packet_num}"
        if packet.flags & COMPRESSION:
            yield from self._payload(packet.next_packet_size, COMPRESSED_BYTES_MAX, inside)
            return
        # Of pages that are not compressed nobody reads `next_packet_size`: their number tells.
        size = packet.normal_pages * self._page_bytes
        if self.in_runs and not is_seen:
            yield from self._pieces(size, inside)
            return
        data = yield from self._reader.peek(size, inside)
        if is_seen and self._witness is not None:
            self._witness.pages(packet.block, packet.normal_offsets_bytes, data)
        pages = MultifdPages(packet.block, packet.normal_offsets_bytes, data)
        self._emit(pages, size, spans.multifd_pages(packet.normal_pages, self._page_bytes))

    def _is_seen(self, packet: MultifdPacket) -> bool:
        """True if the witness has to see the packet's payload."""
        witness = self._witness
        if witness is None or not packet.normal_pages + packet.zero_pages:
            return False
        if packet.zero_pages:
            witness.zeros(packet.block, packet.zero_offsets_bytes)
        if not packet.normal_pages:
            return False
        is_seen = witness.wants(packet.block, packet.normal_offsets_bytes)
        if is_seen and packet.flags & COMPRESSION:
            witness.pages(packet.block, packet.normal_offsets_bytes, None)
        return is_seen

    def _check_pages(self, packet: MultifdPacket) -> None:
        for name, count, most in (
            ("pages_alloc", packet.pages_alloc, self._slots),
            ("normal_pages", packet.normal_pages, packet.pages_alloc),
            ("zero_pages", packet.zero_pages, packet.pages_alloc - packet.normal_pages),
        ):
            if count > most:
                raise self._reader.wrong(PACKET, f"{name} of at most {most}", f"{count}")

    def _device_state(self) -> Story[None]:
        raw = yield from self._reader.peek(MULTIFD_DEVICE_STATE.size, PACKET)
        _, _, flags, idstr, *numbers = MULTIFD_DEVICE_STATE.unpack(raw)
        header = MultifdDeviceState(flags, _text(idstr), *numbers)
        self._emit(header, len(raw), spans.MULTIFD_DEVICE_STATE)
        inside = f"device state of {header.idstr}"
        yield from self._payload(header.next_packet_size, DEVICE_STATE_BYTES_MAX, inside)

    def _payload(self, size: int, most: int, inside: str) -> Story[None]:
        if size > most:
            raise self._reader.wrong(inside, f"at most {most} bytes", f"{size}")
        if size and self.in_runs:
            yield from self._pieces(size, inside)
        elif size:
            data = yield from self._reader.peek(size, inside)
            self._emit(MultifdPayload(data), size)

    def _pieces(self, left: int, inside: str) -> Story[None]:
        """Have a payload go by as it comes."""
        while left:
            yield from self._reader.need(1, inside)
            size = min(self._reader.available, left)
            self._emit_run(MultifdPiece(left), size)
            left -= size


def _text(raw: bytes) -> str:
    """The text in a field filled with NULs; what else follows a NUL stays."""
    return raw.rstrip(b"\0").decode("latin-1")
