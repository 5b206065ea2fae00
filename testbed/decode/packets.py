"""Packet captures: pcap and pcapng files as TCP segments, without copying a payload.

Framing and headers are read by hand, in place. scapy's readers cut packets at 65535 bytes, where
a segment on `lo` or behind segmentation offload has more, and take an error of the file for its
end; dissecting takes scapy 95 us a packet, over a minute for a GiB, and this 2 us. scapy is
asked only for link types that are not known here.

Layouts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, tcpdump.org/linktypes.html, RFC 791,
8200, 9293.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .channels import SourceError

PACKET_BYTES_MAX = 1 << 21
"""Of a packet; the kernel makes none above 512 KiB (`GSO_MAX_SIZE`). What claims more is broken."""
INTERFACES_MAX = 1 << 16
"""In one section of a pcapng file."""
EXTENSION_HEADERS_MAX = 8
"""Of an IPv6 packet, before the TCP header."""

PCAP_MAGICS = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
"""Byte order and nanoseconds in a stamp's second part."""
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
PCAPNG_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET, SECTION = 1, 2, 3, 6, 0x0A0D0D0A
PACKET_BLOCKS = frozenset({OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET})
OPTION_RESOLUTION, OPTION_OFFSET = 9, 14
LINKTYPE_MASK = 0x03FFFFFF
"""The bits above it say how long a frame's checksum is."""

IP_TYPES = frozenset({b"\x08\x00", b"\x86\xdd"})
VLAN_TYPES = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})
TCP = 6
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
FIN, SYN, RST = 0x01, 0x02, 0x04
TCP_HEADER = struct.Struct(">4xIIBB")  # ports are part of the flow

NOT_IP, NOT_TCP = "are not IP", "are not TCP"
CUT = "end before their TCP header does"
FRAGMENTED = "are fragments of IP packets, which are not put together"
WRONG = "contradict themselves"
"""Why packets give no segment."""
UNKNOWN_LINK = "are of an unknown link type"
REASONS_MAX = 16
"""Told apart; link types can be many."""

STAMP_NS_MAX = (1 << 63) - 1
NO_STAMP = -1

Buffer = mmap.mmap | bytes


class Segment(NamedTuple):
    """A TCP segment; its payload is `kept` bytes of the capture at `where`."""

    at_ns: int  # since 1970; NO_STAMP if the capture does not say
    flow: bytes  # both addresses, then both ports, as on the wire
    seq: int  # of the first byte, the SYN counted
    flags: int
    where: int
    kept: int  # bytes of the payload in the capture
    length: int  # bytes of the payload on the wire


class Packet(NamedTuple):
    """A packet of the capture, where it lies."""

    at_ns: int
    linktype: int
    start: int
    stop: int
    wire_bytes: int


class PacketReader:
    """Reads one capture from its first packet to its last; what it passes is counted.

    Args:
        buffer: the whole capture.
        name: of the source, for errors.
    """

    def __init__(self, buffer: Buffer, name: str) -> None:
        self._buffer = buffer
        self._name = name
        self.packets = 0
        self.began_ns = NO_STAMP
        self.passed: Counter[str] = Counter()  # packets that gave no segment, by reason
        self.trouble: str | None = None  # why it was not read to the end of the file

    def segments(self) -> Iterator[Segment]:
        """The TCP segments in the capture's order.

        Raises:
            SourceError: it is no capture.
        """
        read = self._ip_packet
        network = _NETWORK
        for packet in self._packets():
            self.packets += 1
            if self.began_ns == NO_STAMP:
                self.began_ns = packet.at_ns
            find = network.get(packet.linktype)
            if find is None:
                segment = self._foreign(packet)
            else:
                at = find(self._buffer, packet.start, packet.stop)
                segment = read(packet, at) if at else NOT_IP
            if isinstance(segment, str):
                self.passed[segment] += 1
            else:
                yield segment

    def _packets(self) -> Iterator[Packet]:
        magic = self._buffer[:4]
        if magic == PCAPNG_MAGIC:
            return self._pcapng()
        if magic in PCAP_MAGICS:
            return self._pcap(*PCAP_MAGICS[magic])
        raise SourceError(f"{self._name}: not a capture: it begins with {magic.hex(' ')}")

    def _pcap(self, order: str, unit_ns: int) -> Iterator[Packet]:
        buffer, stop = self._buffer, len(self._buffer)
        if stop < 24:
            raise SourceError(f"{self._name}: a pcap file cut short in its header, {stop} bytes")
        linktype = struct.unpack_from(f"{order}I", buffer, 20)[0] & LINKTYPE_MASK
        header = struct.Struct(f"{order}IIII")
        at = 24
        while at + header.size <= stop:
            seconds, rest, kept, wire_bytes = header.unpack_from(buffer, at)
            start = at + header.size
            if kept > PACKET_BYTES_MAX:
                self._broken(at, f"a packet of {kept} bytes")
                return
            at = start + kept
            if at > stop:
                break
            yield Packet(
                seconds * 1_000_000_000 + rest * unit_ns, linktype, start, at, max(kept, wire_bytes)
            )
        if at != stop:
            self.trouble = "the capture is cut short in its last packet"

    def _pcapng(self) -> Iterator[Packet]:
        buffer, stop = self._buffer, len(self._buffer)
        order, interfaces = "<", list[_Interface]()
        at = 0
        while at + 12 <= stop:
            kind, size = struct.unpack_from(f"{order}II", buffer, at)
            if kind == SECTION:
                marked = PCAPNG_ORDERS.get(buffer[at + 8 : at + 12])
                if marked is None:
                    self._broken(at, "a section without byte order")
                    return
                order, interfaces = marked, []
                size = struct.unpack_from(f"{order}I", buffer, at + 4)[0]
            if size < 12 or size % 4:
                self._broken(at, f"a block of {size} bytes")
                return
            if at + size > stop:
                break
            if kind == INTERFACE and size >= 20 and len(interfaces) < INTERFACES_MAX:
                interfaces.append(_interface(buffer, order, at + 8, at + size - 4))
            elif kind in PACKET_BLOCKS:
                packet = _packet_in(kind, buffer, order, at + 8, at + size - 4, interfaces)
                if packet is None:
                    self._broken(at, "a packet block that contradicts itself")
                    return
                yield packet
            at += size
        if at != stop:
            self.trouble = "the capture is cut short in its last block"

    def _broken(self, at: int, got: str) -> None:
        self.trouble = f"the capture is broken at offset {at:#x}: expected a packet, got {got}"

    def _foreign(self, packet: Packet) -> Segment | str:
        """A segment of a link type that only scapy knows."""
        layers = _scapy_layers(packet.linktype)
        if layers is None:
            many = len(self.passed) >= REASONS_MAX
            return UNKNOWN_LINK if many else f"{UNKNOWN_LINK}, {packet.linktype}"
        parse, ip_layers = layers
        try:
            frame = parse(self._buffer[packet.start : packet.stop])
        except Exception:  # noqa: BLE001 - its many dissectors raise whatever they stumble over
            return WRONG
        found = next((frame[layer] for layer in ip_layers if layer in frame), None)
        if found is None:
            return NOT_IP
        within = bytes(frame.original).find(found.original)
        return self._ip_packet(packet, packet.start + within) if within >= 0 else NOT_IP

    # What follows returns a packet's segment, or why it has none.

    def _ip_packet(self, packet: Packet, at: int) -> Segment | str:
        if packet.stop - at < 20:
            return CUT
        version = self._buffer[at] >> 4
        if version == 4:
            return self._ipv4(packet, at)
        if version == 6:
            return self._ipv6(packet, at)
        return NOT_IP

    def _ipv4(self, packet: Packet, at: int) -> Segment | str:
        buffer = self._buffer
        if buffer[at + 9] != TCP:
            return NOT_TCP
        # More fragments, or an offset.
        if buffer[at + 6] & 0x3F or buffer[at + 7]:
            return FRAGMENTED
        total = buffer[at + 2] << 8 | buffer[at + 3]
        # 0: longer than the field can say, or left to the network card.
        stop = at + total if total else packet.start + packet.wire_bytes
        tcp_at = at + (buffer[at] & 0x0F) * 4
        return self._tcp(packet, buffer[at + 12 : at + 20], tcp_at, stop)

    def _ipv6(self, packet: Packet, at: int) -> Segment | str:
        buffer = self._buffer
        if packet.stop - at < 40:
            return CUT
        length = buffer[at + 4] << 8 | buffer[at + 5]
        stop = at + 40 + length if length else packet.start + packet.wire_bytes
        kind, header_at = buffer[at + 6], at + 40
        for _ in range(EXTENSION_HEADERS_MAX):
            if kind == TCP:
                return self._tcp(packet, buffer[at + 8 : at + 40], header_at, stop)
            if packet.stop - header_at < 8:
                return CUT
            if kind in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
                size = (buffer[header_at + 1] + 1) * 8
            elif kind == AUTHENTICATION:
                size = (buffer[header_at + 1] + 2) * 4
            else:
                break
            kind, header_at = buffer[header_at], header_at + size
        if kind == FRAGMENT:
            return FRAGMENTED
        return NOT_TCP

    def _tcp(self, packet: Packet, addresses: bytes, at: int, ip_stop: int) -> Segment | str:
        buffer = self._buffer
        if at + 20 > packet.stop:
            return CUT
        seq, _, words, flags = TCP_HEADER.unpack_from(buffer, at)
        where = at + (words >> 4) * 4
        length = ip_stop - where
        if length < 0 or words < 0x50:
            return WRONG
        kept = min(packet.stop - where, length)
        flow = addresses + buffer[at : at + 4]
        return Segment(packet.at_ns, flow, seq, flags, where, max(kept, 0), length)


class _Interface(NamedTuple):
    linktype: int
    kept_bytes_max: int  # of a packet; 0: no limit
    ticks_per_s: int
    offset_ns: int

    def stamp_ns(self, high: int, low: int) -> int:
        ticks = high << 32 | low
        at_ns = ticks * 1_000_000_000 // self.ticks_per_s + self.offset_ns
        return min(max(at_ns, 0), STAMP_NS_MAX)


def _interface(buffer: Buffer, order: str, at: int, stop: int) -> _Interface:
    linktype, kept_bytes_max = struct.unpack_from(f"{order}HxxI", buffer, at)
    ticks_per_s, offset_ns = 1_000_000, 0
    at += 8
    while at + 4 <= stop:
        code, size = struct.unpack_from(f"{order}HH", buffer, at)
        value = buffer[at + 4 : min(at + 4 + size, stop)]
        if code == OPTION_RESOLUTION and len(value) == 1:
            ticks_per_s = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
        elif code == OPTION_OFFSET and len(value) == 8:
            offset_ns = struct.unpack(f"{order}q", value)[0] * 1_000_000_000
        at += 4 + size + -size % 4
    return _Interface(linktype, kept_bytes_max, ticks_per_s, offset_ns)


def _packet_in(
    kind: int, buffer: Buffer, order: str, at: int, stop: int, interfaces: list[_Interface]
) -> Packet | None:
    """The packet of a block whose body is `at` to `stop`; None if the block contradicts itself."""
    if kind == SIMPLE_PACKET:
        return _simple_packet(buffer, order, at, stop, interfaces)
    if stop - at < 20:
        return None
    layout = f"{order}IIIII" if kind == ENHANCED_PACKET else f"{order}HxxIIII"
    number, high, low, kept, wire_bytes = struct.unpack_from(layout, buffer, at)
    start = at + 20
    if number >= len(interfaces) or start + kept > stop or kept > PACKET_BYTES_MAX:
        return None
    interface = interfaces[number]
    at_ns = interface.stamp_ns(high, low)
    return Packet(at_ns, interface.linktype, start, start + kept, max(kept, wire_bytes))


def _simple_packet(
    buffer: Buffer, order: str, at: int, stop: int, interfaces: list[_Interface]
) -> Packet | None:
    if stop - at < 4 or not interfaces:
        return None
    (wire_bytes,) = struct.unpack_from(f"{order}I", buffer, at)
    start, interface = at + 4, interfaces[0]
    kept = min(wire_bytes, interface.kept_bytes_max or wire_bytes)
    if start + kept > stop or kept > PACKET_BYTES_MAX:
        return None
    return Packet(NO_STAMP, interface.linktype, start, start + kept, wire_bytes)


def _after_type(buffer: Buffer, at: int, stop: int) -> int:
    """Where the IP header begins if the EtherType is at `at`, VLAN tags or not; 0 if none does."""
    while at + 2 <= stop:
        kind = buffer[at : at + 2]
        if kind in IP_TYPES:
            return at + 2
        if kind not in VLAN_TYPES:
            return 0
        at += 4
    return 0


def _ethernet(buffer: Buffer, start: int, stop: int) -> int:
    return _after_type(buffer, start + 12, stop)


def _linux_sll(buffer: Buffer, start: int, stop: int) -> int:
    return _after_type(buffer, start + 14, stop)


def _linux_sll2(buffer: Buffer, start: int, stop: int) -> int:
    kind = buffer[start : start + 2]
    if kind in VLAN_TYPES:
        return _after_type(buffer, start + 22, stop)
    return start + 20 if kind in IP_TYPES else 0


def _loopback(_buffer: Buffer, start: int, _stop: int) -> int:
    return start + 4


def _raw_ip(_buffer: Buffer, start: int, _stop: int) -> int:
    return start


_NETWORK: dict[int, Callable[[Buffer, int, int], int]] = {
    0: _loopback,  # NULL: the address family, in its host's byte order
    1: _ethernet,
    12: _raw_ip,  # RAW, as some systems number it
    14: _raw_ip,
    101: _raw_ip,
    108: _loopback,  # LOOP
    113: _linux_sll,
    228: _raw_ip,  # IPV4
    229: _raw_ip,  # IPV6
    276: _linux_sll2,
}
"""Where a packet's IP header begins, 0 if it has none, by LINKTYPE."""

_Foreign = tuple[Callable[[bytes], Any], tuple[Any, ...]]
_foreign: dict[int, _Foreign | None] = {}


def _scapy_layers(linktype: int) -> _Foreign | None:
    """How scapy parses a frame of that link type, and its IP layers; None if it does not know."""
    if linktype not in _foreign:
        from scapy.config import conf
        from scapy.layers.all import IP, IPv6

        layer = conf.l2types.num2layer.get(linktype)
        _foreign[linktype] = None if layer is None else (layer, (IP, IPv6))
    return _foreign[linktype]
