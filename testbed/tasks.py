"""Tasks with an owner: coroutines that run beside a block and end with it.

Wherever several things can fail at once, one error is raised, and it carries the others as notes.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ALSO = "also: "
"""What a note begins with, in a line: the error itself is on the line before the notes."""
CALLBACK_ERRORS_MAX = 8
"""How many errors of callbacks `run` keeps: a broken callback may be called without end."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, but let an error in a callback end it.

    asyncio prints an error that no task can receive (of a reader, a timer, a protocol, a task that
    nobody awaits) to stderr and goes on. Here it cancels `main` and is raised.

    Returns:
        What `main` returned, if nothing failed.

    Raises:
        Exception: the first error, of a callback or of `main`; later ones are its notes.
    """
    errors: list[BaseException] = []

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def failed(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
            if len(errors) < CALLBACK_ERRORS_MAX:
                errors.append(callback_error(context))
            if not loop.is_closed():
                # The garbage collector may report a forgotten task from any thread.
                loop.call_soon_threadsafe(task.cancel)

        loop.set_exception_handler(failed)
        try:
            return await main
        except Exception as error:
            errors.append(error)
            raise

    try:
        result = asyncio.run(watched())
    except (Exception, asyncio.CancelledError):
        if not errors:
            raise
    if errors:
        raise _one_of(errors)
    return result


def callback_error(context: Mapping[str, Any]) -> BaseException:
    """Return the error that an event loop's exception handler was called for.

    Args:
        context: as `asyncio.loop.call_exception_handler` describes it.

    Returns:
        The exception, with asyncio's message as a note; a RuntimeError if there was only a message.
    """
    error: BaseException | None = context.get("exception")
    message = str(context.get("message", "an event-loop callback failed"))
    if error is None:
        return RuntimeError(message)
    error.add_note(f"{ALSO}asyncio says: {message}")
    return error


async def together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run coroutines side by side and return what each returned, in order.

    Unlike `asyncio.gather`, the first error cancels those that still run, and waits for them.

    Raises:
        Exception: the first error; the others are its notes.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        error = one_error(errors)
    else:
        return [task.result() for task in tasks]
    raise error


@asynccontextmanager
async def owner() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose error is no group, so that callers can catch `EndpointError`.

    Raises:
        Exception: the block's own error if it has one, else the first of a task; the others are
            its notes.
    """
    own: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            try:
                yield group
            except Exception as error:
                own = error
                raise
    except BaseExceptionGroup as errors:
        failed = one_error(errors, own)
    else:
        return
    raise failed


@asynccontextmanager
async def beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines beside a block; whichever still runs when it ends is cancelled.

    An error in one of them cancels the block; which is raised `owner` says.
    """
    async with owner() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()


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

    Yields the function that hosts one more. An error in one of them cancels the block; which is
    raised `owner` says.
    """
    hosted: list[Hosted[Any]] = []

    async with owner() as group:

        def host(manager: AbstractAsyncContextManager[Any]) -> Hosted[Any]:
            hosted.append(Hosted(group, manager))
            return hosted[-1]

        own: Exception | None = None
        try:
            yield host
        except Exception as error:
            own = error
            raise
        finally:
            try:
                async with asyncio.TaskGroup() as leaving:
                    for each in hosted:
                        leaving.create_task(each.leave())
            except asyncio.CancelledError:
                # One that fails while it is left cancels this, in place of the block's own error.
                if own is None:
                    raise
                raise own from own.__cause__


def one_error(group: BaseExceptionGroup[Any], own: BaseException | None = None) -> BaseException:
    """Return the error of a group that is to be raised in its place; the others become its notes.

    To be raised outside of the `except` block, so that its own cause and context stay.

    Args:
        group: as a TaskGroup raises it.
        own: the error of the block that the tasks ran beside, which comes before theirs.
    """
    # A task that fails while the block is left cancels the block, and so hides its error.
    first = [] if own is None else [own]
    return _one_of([*first, *(each for each in _leaves(group, own) if each is not own)])


def _leaves(error: BaseException, own: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup) and error is not own:
        for each in error.exceptions:
            yield from _leaves(each, own)
    else:
        yield error


def _one_of(errors: Iterable[BaseException]) -> BaseException:
    """The first error, with a note for each of the others."""
    first, *others = errors
    for other in others:
        said = "".join(traceback.format_exception_only(other)).splitlines()
        first.add_note(f"{ALSO}{said[0]}")
    return first
