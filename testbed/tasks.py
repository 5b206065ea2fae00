"""Tasks with an owner: coroutines that run beside a block and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines beside a block; whichever still runs when it ends is cancelled.

    An error in one of them ends the block with that error; an error of the block is raised as it
    is, not in a group: who starts an endpoint wants its `EndpointError`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
            try:
                yield tasks
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Hosted(Generic[T]):
    """A context manager held open by a task of its own, beside others; see `hosting`."""

    def __init__(self, group: asyncio.TaskGroup, manager: AbstractAsyncContextManager[T]) -> None:
        self._entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = group.create_task(self._hold(manager))

    async def _hold(self, manager: AbstractAsyncContextManager[T]) -> None:
        async with manager as value:
            self._entered.set_result(value)
            await self._leave.wait()

    async def entered(self) -> T:
        """Wait until it is entered; what it gave. An error on the way ends the hosting block."""
        return await self._entered

    async def leave(self) -> None:
        """Leave it, and wait until it is left."""
        self._leave.set()
        await asyncio.wait([self._task])


@asynccontextmanager
async def hosting() -> AsyncIterator[Callable[[AbstractAsyncContextManager[Any]], Hosted[Any]]]:
    """Host context managers side by side: they enter, and at the end leave, at the same time.

    Yields the function that hosts one more. An error in one of them ends the block with it.
    """
    hosted: list[Hosted[Any]] = []

    try:
        async with asyncio.TaskGroup() as group:

            def host(manager: AbstractAsyncContextManager[Any]) -> Hosted[Any]:
                hosted.append(Hosted(group, manager))
                return hosted[-1]

            try:
                yield host
            finally:
                async with asyncio.TaskGroup() as leaving:
                    for each in hosted:
                        leaving.create_task(each.leave())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
