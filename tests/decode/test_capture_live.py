"""A recorded migration through real TCP, captured off the wire and read back."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest
from decode_helpers import holed, joined
from scapy.utils import RawPcapWriter
from wire_helpers import recorded

from testbed.decode.sources import open_source
from testbed.netns.namespace import Namespace

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
"""`asm-generic/socket.h`: beyond what the host's limit allows."""
FRAME_BYTES_MAX = 1 << 17
BUFFER_BYTES = 64 << 20
"""Enough for all frames of a test: none may be dropped while nobody reads them."""
PORT = 4444
NAME = "qemu7.2-recover.rec.c0"


@asynccontextmanager
async def captured_on_lo(namespace, path):
    """Write what passes `lo` during the block: each frame twice, as it leaves and as it comes."""
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        packets.bind(("lo", ETH_P_ALL))
        packets.setblocking(False)
        yield
        with RawPcapWriter(str(path), linktype=1, nano=True) as writer:
            writer.write_header(None)
            while True:
                try:
                    raw = packets.recv(FRAME_BYTES_MAX)
                except BlockingIOError:
                    return
                writer.write_packet(raw, sec=int(time.time()), usec=0)


async def talk(namespace, sent, returned, *, chunk_bytes):
    """One connection in which each side sends all it has, and closes; returns the client's port."""
    served = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        writer.write(returned)
        assert await reader.read(-1) == sent
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PORT))
    async with await asyncio.start_server(serve, sock=listener):
        opened = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", PORT))
        reader, writer = await asyncio.open_connection(sock=opened)
        port = opened.getsockname()[1]
        for start in range(0, len(sent), chunk_bytes):
            writer.write(sent[start : start + chunk_bytes])
            await writer.drain()
        writer.write_eof()
        assert await reader.read(-1) == returned
        await served
        writer.close()
        await writer.wait_closed()
    return port


@pytest.mark.live
@pytest.mark.parametrize("chunk_bytes", [1000, 32 << 10, 4 << 20], ids=["small", "QEMU's", "GSO"])
async def test_a_migration_captured_off_the_wire_is_what_was_sent(chunk_bytes, tmp_path):
    sent, returned = recorded(f"{NAME}.fwd"), recorded(f"{NAME}.ret")
    path = tmp_path / "lo.pcap"
    async with Namespace.create("wire") as namespace, captured_on_lo(namespace, path):
        await talk(namespace, b"SSH-2.0-x\r\n", b"SSH-2.0-y\r\n", chunk_bytes=100)
        port = await talk(namespace, sent, returned, chunk_bytes=chunk_bytes)
    with open_source(str(path)) as source:
        (channel,) = source.channels
        assert channel.name == f"127.0.0.1:{port} -> 127.0.0.1:{PORT}"
        assert holed(channel) == [sent]
        assert channel.return_path is not None
        assert joined(channel.return_path) == returned
        assert (channel.ended, channel.return_path.ended) == ("FIN", "FIN")
        (note,) = source.notes
        assert note.startswith("passed over: 1 TCP connection: 127.0.0.1:")
