"""Sockets that are watched edge by edge, and whose turn it is."""

import asyncio
import math
import socket

import pytest

from testbed.proxy import poller
from testbed.proxy.poller import Poller


@pytest.mark.parametrize(
    ("rounds_s", "rounds"), [(math.inf, poller.ROUNDS_MAX), (-1.0, 1)], ids=["short", "long"]
)
async def test_all_else_in_the_event_loop_has_its_turn(
    rounds_s: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon where each round is short, after the first one where that takes long."""
    monkeypatch.setattr(poller, "ROUNDS_S", rounds_s)
    loop = asyncio.get_running_loop()
    other = loop.create_future()
    told = 0
    one, two = socket.socketpair()
    with Poller.open() as watching, one, two:

        def changed(_events: int) -> None:
            nonlocal told
            told += 1
            if told == 1:
                loop.call_soon(lambda: other.set_result(told))
            two.send(b"more")  # something changes in each round

        watching.watch(one, changed)
        async with asyncio.timeout(10):
            assert await other == rounds
        watching.forget(one)
