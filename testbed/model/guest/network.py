"""What the guest says on its network: it answers ARP and pings, so that a client can see it live.

The boot image has no driver; a model's guest has this, so that a `ping` through bridges and TAPs
shows where it runs, and for how long it did not. Frames come from whoever is on the network: what
is not exactly a question to this guest has no answer. Nothing is kept from one frame to the next.

Formats: RFC 826 (ARP), RFC 5227 (its announcement), RFC 791 (IPv4), RFC 792 (echo).
"""

from __future__ import annotations

import struct

MAC_BYTES = 6
ETHERNET = struct.Struct("!6s6s2s")  # destination, source, EtherType
ARP = struct.Struct("!8s6s4s6s4s")  # formats and opcode, sender's and target's addresses
IPV4 = struct.Struct("!BBHHHBBH4s4s")
ECHO = struct.Struct("!BBH")  # type, code, checksum; then identifier, number and data
ETHERTYPE_ARP, ETHERTYPE_IPV4 = b"\x08\x06", b"\x08\x00"
ARP_REQUEST = bytes.fromhex("0001080006040001")
ARP_REPLY = bytes.fromhex("0001080006040002")
BROADCAST = b"\xff" * MAC_BYTES
FRAME_BYTES_MIN = 60
FRAME_BYTES_MAX = 1514
"""Without the checksum, as a TAP has them; nobody offered this guest longer ones."""
MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x2000, 0x1FFF
PROTOCOL_ICMP = 1
ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_BYTES_MIN = 8
TTL = 64
UNICAST = range(1, 224)
"""First byte of an address that a single host can have."""
NICS_MAX = 253


def guest_address(nic: int) -> bytes:
    """The IPv4 address of a NIC, counted from 0 in the order of their creation.

    10.99.0.2 for the first, 10.99.0.3 for the next; the guest network's client has 10.99.0.1.
    """
    assert 0 <= nic < NICS_MAX, "the network is a /24"
    return bytes((10, 99, 0, 2 + nic))


class NetworkStack:
    """The guest's side of one NIC.

    Args:
        mac: of the NIC, six bytes.
        address: IPv4, four bytes, that it answers for.
    """

    def __init__(self, mac: bytes, address: bytes) -> None:
        assert len(mac) == MAC_BYTES, "a MAC has six bytes"
        self._mac, self._address = mac, address

    def gratuitous_arp(self) -> bytes:
        """The frame that a guest sends once when it boots: its address is here (RFC 5227)."""
        body = ARP.pack(ARP_REQUEST, self._mac, self._address, bytes(MAC_BYTES), self._address)
        return self._frame(BROADCAST, ETHERTYPE_ARP, body)

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to a frame that came in; None if it has none."""
        if not ETHERNET.size < len(frame) <= FRAME_BYTES_MAX:
            return None
        destination, source, ethertype = ETHERNET.unpack_from(frame)
        if source[0] & 1 or destination not in (self._mac, BROADCAST):
            return None  # a group cannot have sent it, and to other groups it does not belong
        if ethertype == ETHERTYPE_ARP:
            return self._answer_arp(frame[ETHERNET.size :])
        if ethertype == ETHERTYPE_IPV4 and destination == self._mac:
            return self._answer_ipv4(source, frame[ETHERNET.size :])
        return None

    def _answer_arp(self, body: bytes) -> bytes | None:
        if len(body) < ARP.size:
            return None
        kind, sender_mac, sender, _, target = ARP.unpack_from(body)
        if kind != ARP_REQUEST or target != self._address or sender == self._address:
            return None  # the last one announces that it has this address, too
        if sender_mac[0] & 1:
            return None
        reply = ARP.pack(ARP_REPLY, self._mac, self._address, sender_mac, sender)
        return self._frame(sender_mac, ETHERTYPE_ARP, reply)

    def _answer_ipv4(self, source_mac: bytes, packet: bytes) -> bytes | None:
        if len(packet) < IPV4.size:
            return None
        first, service, length, _, fragment, _, protocol, _, source, target = IPV4.unpack_from(
            packet
        )
        header = (first & 0xF) * 4
        if first >> 4 != 4 or header < IPV4.size or not header <= length <= len(packet):
            return None
        if checksum(packet[:header]) or fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
            return None
        if source[0] not in UNICAST or source == self._address:
            return None
        if protocol != PROTOCOL_ICMP or target != self._address:
            return None
        reply = _echo_reply(packet[header:length])  # what is behind it is padding
        if reply is None:
            return None
        back = IPV4.pack(
            *(0x45, service, IPV4.size + len(reply), 0, 0, TTL, PROTOCOL_ICMP, 0, target, source)
        )
        back = back[:10] + checksum(back).to_bytes(2, "big") + back[12:]
        return self._frame(source_mac, ETHERTYPE_IPV4, back + reply)

    def _frame(self, destination: bytes, ethertype: bytes, body: bytes) -> bytes:
        head = ETHERNET.pack(destination, self._mac, ethertype)
        return (head + body).ljust(FRAME_BYTES_MIN, b"\0")


def _echo_reply(request: bytes) -> bytes | None:
    if len(request) < ECHO_BYTES_MIN or checksum(request):
        return None
    kind, code, _ = ECHO.unpack_from(request)
    if kind != ECHO_REQUEST or code:
        return None
    rest = request[ECHO.size :]
    return ECHO.pack(ECHO_REPLY, 0, checksum(ECHO.pack(ECHO_REPLY, 0, 0) + rest)) + rest


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); over what contains its own it is 0."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
