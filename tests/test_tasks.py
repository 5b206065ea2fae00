"""Of several errors one is raised, with the others as notes; an error in a callback ends a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from testbed import tasks
from testbed.log import Log, WaitExpired
from testbed.tasks import beside, hosting, together


class Own(Exception):
    """Of the block."""


class Other(Exception):
    """Of a task beside it."""


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def fails_when_cancelled() -> None:
    try:
        await for_ever()
    finally:
        raise Other("beside")


@asynccontextmanager
async def fails_when_left() -> AsyncIterator[None]:
    yield
    raise Other("left")


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


async def test_the_block_s_own_error_comes_out_of_beside() -> None:
    async def main() -> None:
        async with beside(fails_when_cancelled(), fails_when_cancelled()):
            await asyncio.sleep(0)  # they begin
            try:
                raise KeyError("cause")
            except KeyError as cause:
                raise Own from cause

    with pytest.raises(Own) as raised:
        await main()
    assert notes(raised.value).count("Other: beside") == 2
    assert isinstance(raised.value.__cause__, KeyError)


async def test_the_block_s_own_error_comes_out_of_hosting() -> None:
    async def main() -> None:
        async with hosting() as host:
            await host(fails_when_left()).entered()
            await host(fails_when_left()).entered()
            raise Own

    with pytest.raises(Own) as raised:
        await main()
    assert notes(raised.value).count("Other: left") == 2


async def test_an_error_beside_ends_the_block() -> None:
    async def fails() -> None:
        raise Other("first")

    with pytest.raises(Other, match="first"):
        async with beside(fails()):
            await for_ever()


async def test_together_gives_what_each_returned_in_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await together(after(3), after(1), after(2)) == [3, 1, 2]


async def test_who_runs_together_with_one_that_fails_does_not_run_on() -> None:
    log = Log()
    with pytest.raises(WaitExpired, match="waited 0 s for this"):
        await together(
            log.wait(lambda _: False, what="that", within_s=60),
            log.wait(lambda _: False, what="this", within_s=0),
        )
    assert asyncio.all_tasks() == {asyncio.current_task()}


def later() -> None:
    raise Other("in a callback")


async def reader_fails() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(later)
    await for_ever()


async def protocol_fails() -> None:
    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise Other(data.decode())

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"in a callback")
        try:
            await for_ever()
        finally:
            writer.close()


async def listener_of_the_log_fails() -> None:
    log = Log()
    log.listen(lambda _event: later())
    log.write("run", "it")
    await for_ever()


@pytest.mark.parametrize("main", [reader_fails, protocol_fails, listener_of_the_log_fails])
def test_an_error_in_a_callback_ends_a_run(main, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Other, match="in a callback"):
        tasks.run(main())
    assert capfd.readouterr().err == ""


def test_an_error_in_a_callback_fails_a_run_that_ends_well() -> None:
    async def main() -> int:
        asyncio.get_running_loop().call_soon(later)
        await asyncio.sleep(0)
        return 1

    with pytest.raises(Other, match="in a callback"):
        tasks.run(main())


def test_errors_of_a_run_come_in_their_order() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_exception_handler, {"message": "of a callback"})
        try:
            await for_ever()
        finally:
            raise Own

    with pytest.raises(RuntimeError, match="of a callback") as raised:
        tasks.run(main())
    assert "also: " in notes(raised.value)
    assert "Own" in notes(raised.value)


def test_a_callback_that_fails_for_ever_is_kept_a_few_times() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            loop.call_soon(later)
        await for_ever()

    with pytest.raises(Other) as raised:
        tasks.run(main())
    assert notes(raised.value).count("Other") == tasks.CALLBACK_ERRORS_MAX - 1


def test_a_run_gives_what_its_coroutine_returned() -> None:
    async def main() -> int:
        return 7

    assert tasks.run(main()) == 7
