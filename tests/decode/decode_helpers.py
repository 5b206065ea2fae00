"""Captures built with scapy, which reads none of them here: what is tested reads them by hand."""

import bz2
import gzip
import lzma
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.utils import PcapNgWriter, PcapWriter

from testbed.decode.channels import SourceChannel
from testbed.decode.sources import open_source

MTU_BYTES = 1448
EPOCH_S = 1_700_000_000


@dataclass
class Ends:
    """Both ends of a connection; numbers of the first byte, the SYN not counted."""

    source: str = "10.77.0.1"
    destination: str = "10.77.0.2"
    source_port: int = 40000
    destination_port: int = 4444
    source_isn: int = 1000
    destination_isn: int = 5000

    def packet(self, *, back=False, offset=0, data=b"", flags="A"):
        """A TCP packet over IP; `offset` counts the bytes that its end sent before."""
        layer = IPv6 if ":" in self.source else IP
        ends = (self.source, self.destination), (self.source_port, self.destination_port)
        (src, dst), (sport, dport) = (pair[::-1] for pair in ends) if back else ends
        isn = self.destination_isn if back else self.source_isn
        seq = (isn + (0 if "S" in flags else 1) + offset) % (1 << 32)
        return layer(src=src, dst=dst) / TCP(sport=sport, dport=dport, seq=seq, flags=flags) / data

    def opening(self):
        return [self.packet(flags="S"), self.packet(back=True, flags="SA"), self.packet()]

    def sending(self, data, *, back=False, size=MTU_BYTES):
        return [
            self.packet(back=back, offset=start, data=data[start : start + size])
            for start in range(0, len(data), size)
        ]

    def closing(self, sent, returned=0):
        return [
            self.packet(offset=sent, flags="FA"),
            self.packet(back=True, offset=returned, flags="FA"),
        ]

    def whole(self, data, returned=b"", *, size=MTU_BYTES):
        return [
            *self.opening(),
            *self.sending(data, size=size),
            *self.sending(returned, back=True, size=size),
            *self.closing(len(data), len(returned)),
        ]


# With both addresses, or scapy would ask the network for them.
ETHERNET = Ether(src="52:54:00:12:34:56", dst="52:54:00:12:34:57")
LINKS = {
    "Ethernet": (1, lambda ip: ETHERNET / ip),
    "VLAN": (1, lambda ip: ETHERNET / Dot1Q(vlan=7) / ip),
    "QinQ": (1, lambda ip: ETHERNET / Dot1AD(vlan=7) / Dot1Q(vlan=8) / ip),
    "SLL": (113, lambda ip: CookedLinux() / ip),
    "SLL2": (276, lambda ip: CookedLinuxV2() / ip),
    "raw": (101, lambda ip: ip),
    "loopback": (0, lambda ip: Loopback() / ip),
}


def pcap(
    packets, link="Ethernet", *, step_s=0.001, writer=PcapWriter, kept_bytes_max=None, **options
):
    """The bytes of a capture of packets that came every `step_s`, perhaps cut."""
    linktype, framed = LINKS[link]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        with writer(str(path), **options) as out:
            if writer is PcapWriter:
                out.linktype = linktype  # 0 is none to its constructor
                out.write_header(None)
            for number, packet in enumerate(packets):
                frame = framed(packet)
                frame.time = EPOCH_S + number * step_s
                if kept_bytes_max is None:
                    out.write(frame)
                    continue
                raw = bytes(frame)
                out.write_packet(raw[:kept_bytes_max], EPOCH_S, number, wirelen=len(raw))
        return path.read_bytes()


def pcapng(packets, link="Ethernet"):
    return pcap(packets, link, writer=PcapNgWriter)


PACKERS = {"xz": lzma.compress, "gzip": gzip.compress, "bzip2": bz2.compress}


def joined(channel: SourceChannel) -> bytes:
    """A channel's bytes; none is missing."""
    chunks = list(channel.chunks())
    assert not any(chunk.missing_bytes for chunk in chunks)
    data = b"".join(chunk.data for chunk in chunks)
    assert channel.total_bytes in (None, len(data))
    return data


def holed(channel: SourceChannel) -> list[bytes | int]:
    """A channel's bytes and, between them, how many are missing."""
    parts: list[bytes | int] = []
    for chunk in channel.chunks():
        if chunk.missing_bytes:
            parts.append(chunk.missing_bytes)
        if chunk.data and parts and isinstance(parts[-1], bytes):
            parts[-1] += chunk.data
        elif chunk.data:
            parts.append(chunk.data)
    return parts


def channels_of(path):
    """All that a file's channels carry: name, what was sent, what was returned."""
    with open_source(str(path)) as source:
        return [
            (each.name, joined(each), joined(each.return_path) if each.return_path else b"")
            for each in source.channels
        ]
