"""A way out of a sandbox, with a real one: what is inside reaches one address, and nothing else."""

import asyncio
import errno
import os
import select
import socket

from testbed.netns.doorway import Doorway
from testbed.netns.sandbox import Sandbox

LOOPBACK = "127.0.0.1"
WITHIN_S = 10


def answered(doorway, sandbox):
    """Answer until the sandbox says something; what it said."""
    while True:
        ready, _, _ = select.select([doorway, sandbox.fd], [], [], WITHIN_S)
        assert ready, "neither a question nor a word within the bound"
        if sandbox.fd in ready:
            return os.read(sandbox.fd, 1 << 16)
        doorway.answer()


def test_a_connection_is_handed_in():
    async def talk(doorway):
        first, second = await doorway.connect(), await doorway.connect()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(first, b"out of one ")
        await loop.sock_sendall(second, b"out of another")
        with first, second:
            return await loop.sock_recv(first, 100) + await loop.sock_recv(second, 100)

    with socket.create_server((LOOPBACK, 0)) as outside:
        doorway = Doorway(outside.getsockname())
        with Sandbox.start(
            lambda side: side.write(asyncio.run(talk(doorway))) or 0, keep=doorway.fds
        ) as sandbox:
            for _ in range(2):
                select.select([doorway], [], [], WITHIN_S)
                doorway.answer()
            accepted = [outside.accept()[0] for _ in range(2)]
            assert [each.recv(100) for each in accepted] == [b"out of one ", b"out of another"]
            for each in accepted:
                each.sendall(b"and in")
                each.close()
            assert os.read(sandbox.fd, 100) == b"and inand in"
            assert sandbox.wait() == 0
        doorway.close()


def test_what_cannot_be_reached_is_said_inside():
    async def refused(doorway):
        try:
            await doorway.connect()
        except OSError as error:
            return str(error.errno).encode()

    with socket.create_server((LOOPBACK, 0)) as nobody:
        address = nobody.getsockname()
    doorway = Doorway(address)
    with Sandbox.start(
        lambda side: side.write(asyncio.run(refused(doorway))) or 0, keep=doorway.fds
    ) as sandbox:
        assert answered(doorway, sandbox) == str(errno.ECONNREFUSED).encode()
        assert sandbox.wait() == 0
    doorway.close()


async def test_an_answer_to_who_gave_up_is_nobody_else_s():
    with socket.create_server((LOOPBACK, 0)) as outside:
        doorway = Doorway(outside.getsockname())
        impatient = asyncio.ensure_future(doorway.connect())
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        patient = asyncio.ensure_future(doorway.connect())
        for _ in range(2):
            await asyncio.to_thread(doorway.answer)
        with await patient as opened:
            accepted = [outside.accept()[0] for _ in range(2)]
            names = [each.getpeername() for each in accepted]
            assert names[1] == opened.getsockname()
            assert accepted[0].recv(1) == b"", "the one that nobody wanted is closed"
            for each in accepted:
                each.close()
        doorway.close()
