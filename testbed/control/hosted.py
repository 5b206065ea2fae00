"""A context manager held open by a task of its own, and left when somebody says so.

Requests start and stop proxies, each in a task of its own; what has tasks inside must be left in
the task that entered it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

T = TypeVar("T")


class Hosted(Generic[T]):
    """Made by `enter`."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        manager: AbstractAsyncContextManager[T],
        broke: Callable[[Exception], None],
    ) -> None:
        self._broke = broke
        self._leave = asyncio.Event()
        self._entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._task = group.create_task(self._hold(manager))

    @classmethod
    async def enter(
        cls,
        group: asyncio.TaskGroup,
        manager: AbstractAsyncContextManager[T],
        broke: Callable[[Exception], None],
    ) -> tuple[Hosted[T], T]:
        """Enter it.

        Args:
            group: owns the task that holds it, and is not ended by an error of it.
            manager: to be entered.
            broke: is told the error, if it fails once it was entered.

        Raises:
            Exception: entering failed with it.
        """
        hosted = cls(group, manager, broke)
        try:
            return hosted, await asyncio.shield(hosted._entered)
        except BaseException:
            await hosted.leave()
            raise

    async def leave(self) -> None:
        """Leave it, and wait until it is left."""
        self._leave.set()
        await asyncio.wait([self._task])

    async def _hold(self, manager: AbstractAsyncContextManager[T]) -> None:
        try:
            async with manager as value:
                self._entered.set_result(value)
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others in the group go on
            if self._entered.done():
                self._broke(error)
            else:
                self._entered.set_exception(error)
