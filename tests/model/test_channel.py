"""A channel: bytes out in order, bytes in as they come, whatever it is over and whoever goes."""

import asyncio
import errno
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.model.process.channel import QUEUED_BYTES_HIGH, READ_BYTES, Channel

WITHIN_S = 10
BIG = os.urandom(1 << 16) * 64


class Reader:
    """What a channel brings."""

    def __init__(self, channel):
        self.data, self.ends = bytearray(), 0
        self.ended = asyncio.Event()
        self.came = asyncio.Event()
        channel.read(self._came, self._ended)

    def _came(self, data):
        assert not self.ends
        self.data += data
        self.came.set()

    def _ended(self):
        self.ends += 1
        self.ended.set()


async def within(awaitable):
    async with asyncio.timeout(WITHIN_S):
        return await awaitable


@pytest.fixture
def pair():
    """A channel's own socket, and the peer's."""
    one, other = socket.socketpair()
    with one, other:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        other.setblocking(False)
        yield one, other


async def received(peer, count):
    loop, data = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(WITHIN_S):
        while len(data) < count:
            data += await loop.sock_recv(peer, 1 << 16)
    return bytes(data)


# Out


async def test_what_does_not_fit_at_once_arrives_whole_and_in_order(pair):
    channel = Channel.over_socket(pair[0])
    channel.write(BIG)
    channel.write(b"")
    channel.write(b"end")
    flushed = asyncio.ensure_future(channel.flush())
    assert await received(pair[1], len(BIG) + 3) == BIG + b"end"
    await within(flushed)
    channel.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9000), min_size=1, max_size=800),
    st.integers(1, 1 << 14),
)
def test_pieces_of_any_size_arrive_as_one(sizes, read_bytes):
    async def run():
        one, other = socket.socketpair()
        with one, other:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            other.setblocking(False)
            channel = Channel.over_socket(one)
            pieces = [bytes((number % 256,)) * size for number, size in enumerate(sizes)]
            for piece in pieces:
                channel.write(piece)
            flushed = asyncio.ensure_future(channel.flush())
            sent, got = b"".join(pieces), bytearray()
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(WITHIN_S):
                while len(got) < len(sent):
                    got += await loop.sock_recv(other, read_bytes)
                await flushed
            assert got == sent
            channel.close()

    asyncio.run(run())


async def test_a_flush_with_nothing_to_send_is_done(pair):
    channel = Channel.over_socket(pair[0])
    await within(channel.flush())
    channel.write(b"a")
    await within(channel.flush())
    channel.close()


async def test_a_peer_that_goes_fails_what_is_flushed_and_what_comes_after(pair):
    channel = Channel.over_socket(pair[0])
    channel.write(BIG)
    flushed = asyncio.ensure_future(channel.flush())
    await received(pair[1], 1)
    pair[1].close()
    for waited in (flushed, channel.flush()):
        with pytest.raises(OSError, match=r"Broken pipe|Connection reset") as caught:
            await within(waited)
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)
    channel.write(BIG)  # lost: nothing is kept of it
    assert not channel._queue
    channel.close()


async def test_closed_while_it_is_flushed_it_says_so(pair):
    channel = Channel.over_socket(pair[0])
    channel.write(BIG)
    flushed = asyncio.ensure_future(channel.flush())
    await received(pair[1], 1)
    channel.close()
    for waited in (flushed, channel.flush()):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await within(waited)
    channel.write(b"more")
    channel.close()


async def test_finished_it_sends_what_is_left_and_closes(pair):
    channel = Channel.over_socket(pair[0])
    reader = Reader(channel)
    channel.write(BIG)
    channel.finish()
    assert not channel.closed
    assert await received(pair[1], len(BIG)) == BIG
    assert await within(asyncio.get_running_loop().sock_recv(pair[1], 1)) == b""
    assert channel.closed
    assert reader.ends == 0


async def test_finished_with_nothing_left_it_closes_at_once(pair):
    channel = Channel.over_socket(pair[0])
    channel.finish()
    assert channel.closed
    channel.finish()


async def test_finished_and_its_peer_goes_it_keeps_nothing(pair):
    channel = Channel.over_socket(pair[0])
    channel.write(BIG)
    flushed = asyncio.ensure_future(channel.flush())
    channel.finish()
    pair[1].close()
    with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
        await within(flushed)
    assert not channel._queue
    channel.close()


# In


async def test_what_comes_is_told_and_the_end_once(pair):
    channel = Channel.over_socket(pair[0])
    reader = Reader(channel)
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(pair[1], BIG))
    await within(sending)
    pair[1].close()
    await within(reader.ended.wait())
    assert reader.data == BIG
    assert reader.ends == 1
    channel.close()


async def test_a_connection_that_breaks_ends_like_one_that_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    channel = Channel.over_socket(one)
    reader = Reader(channel)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()  # by RST
    await within(reader.ended.wait())
    assert reader.data == b""
    channel.close()


async def test_closed_by_what_it_is_told_it_tells_no_more(pair):
    channel = Channel.over_socket(pair[0])
    seen = []

    def came(data):
        seen.append(data)
        channel.close()

    channel.read(came, lambda: seen.append("end"))
    await asyncio.get_running_loop().sock_sendall(pair[1], b"a")
    assert await within(asyncio.get_running_loop().sock_recv(pair[1], 1)) == b""
    assert seen == [b"a"]


async def test_a_peer_that_does_not_read_is_not_read_from(pair):
    channel = Channel.over_socket(pair[0])
    reader = Reader(channel)
    loop = asyncio.get_running_loop()
    for _ in range(2 * QUEUED_BYTES_HIGH // len(BIG) + 2):
        channel.write(BIG)
    queued = channel._queued_bytes
    assert queued > QUEUED_BYTES_HIGH
    pair[1].send(b"a question")
    for _ in range(20):
        await asyncio.sleep(0)
    assert reader.data == b""
    received_bytes = 0
    async with asyncio.timeout(WITHIN_S):
        while not reader.data:
            received_bytes += len(await loop.sock_recv(pair[1], 1 << 16))
    assert reader.data == b"a question"
    assert received_bytes >= queued - QUEUED_BYTES_HIGH
    channel.close()


# Other than sockets


async def test_a_pipe_goes_one_way():
    reading, writing = os.pipe()
    out = Channel.over_descriptor(writing, outgoing=True)
    into = Channel.over_descriptor(reading, outgoing=False)
    assert (out.name, into.name) == ("file", "file")
    silent, reader = Reader(out), Reader(into)
    await within(silent.ended.wait())  # nothing comes back, and that is known at once
    out.write(BIG)
    await within(out.flush())
    out.close()
    await within(reader.ended.wait())
    assert reader.data == BIG
    into.write(b"an answer")
    with pytest.raises(OSError, match="Bad file descriptor"):
        await within(into.flush())
    into.close()


async def test_a_file_is_written_and_read(tmp_path):
    path = tmp_path / "file"
    out = Channel.over_descriptor(os.open(path, os.O_WRONLY | os.O_CREAT), outgoing=True)
    out.write(BIG)
    out.write(b"end")
    await within(out.flush())
    out.close()
    assert path.read_bytes() == BIG + b"end"
    into = Channel.over_descriptor(os.open(path, os.O_RDONLY), outgoing=False)
    reader = Reader(into)
    await within(reader.ended.wait())
    assert (reader.data, reader.ends) == (BIG + b"end", 1)
    into.close()


async def test_a_file_whose_reader_has_enough_is_read_no_further(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    channel = Channel.over_descriptor(os.open(path, os.O_RDONLY), outgoing=False)
    reader = Reader(channel)
    await within(reader.came.wait())
    channel.finish()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(reader.data) <= 2 * READ_BYTES
    assert reader.ends == 0


async def test_a_full_disk_fails():
    channel = Channel.over_descriptor(os.open("/dev/full", os.O_WRONLY), outgoing=True)
    channel.write(b"a")
    with pytest.raises(OSError, match="No space left"):
        await within(channel.flush())
    channel.close()


async def test_a_socket_that_is_passed_is_one(pair):
    fd = pair[0].detach()
    channel = Channel.over_descriptor(fd, outgoing=True)
    assert channel.name == "socket"
    reader = Reader(channel)
    await asyncio.get_running_loop().sock_sendall(pair[1], b"back")
    await within(reader.came.wait())
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
