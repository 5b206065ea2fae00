"""The outgoing migration of a machine: the shell around `Source`, its connection and its clock.

Source: QEMU `migration/migration.c`, `qmp_migrate`, `migrate_fd_connect`, `migration_thread`,
`migration_iteration_finish` (7.2).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby

from testbed.model.migration.effects import (
    Became,
    Effect,
    Exit,
    GuestMayRun,
    HangUp,
    ResumeGuest,
    Say,
    Send,
    Status,
    StopGuest,
    Trace,
)
from testbed.model.migration.source import Source
from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.error import CommandError

from .channel import Channel
from .uri import NotConnected, channel_at_hand, connect
from .vm import Vm

OVER = (Status.NONE, Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Outbound:
    """One outgoing migration, from `migrate` to its end.

    Args:
        vm: the machine.
        source: the core.
        became: told of each status.
        turned: called after each turn of the migration.
    """

    def __init__(
        self,
        vm: Vm,
        source: Source,
        became: Callable[[Status], None],
        turned: Callable[[], None],
    ) -> None:
        self.source, self.status = source, Status.NONE
        self.error_desc: str | None = None
        self.began_at_s = self._now()
        self.active_at_s = self.stopped_at_s = self.ended_at_s = 0.0
        self.sent = {"precopy": 0, "downtime": 0, "postcopy": 0}
        """Bytes, by what the guest did meanwhile."""
        self._vm, self._became, self._turned = vm, became, turned
        self._channel: Channel | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._task_of_recovery: asyncio.Task[None] | None = None
        self._run_state_before = vm.status

    @property
    def is_over(self) -> bool:
        """It came to its end, whichever, or never began."""
        return self.status in OVER

    @property
    def bytes_out(self) -> int:
        """All of them."""
        return sum(self.sent.values())

    def begin(self, uri: str, descriptors: Descriptors, tasks: asyncio.TaskGroup) -> None:
        """Become SETUP, connect, and migrate.

        Raises:
            CommandError: the URI cannot be one; the migration is FAILED.
        """
        self._become(Status.SETUP)
        try:
            channel = channel_at_hand(uri, descriptors)
        except CommandError as error:
            self.fail(error.desc)
            raise
        self._task = tasks.create_task(self._migrate(uri, channel))

    def resume(self, uri: str, descriptors: Descriptors, tasks: asyncio.TaskGroup) -> None:
        """Connect anew for a migration that is POSTCOPY_PAUSED, and go on with it.

        Raises:
            CommandError: the URI cannot be one; it is paused still.
        """
        channel = channel_at_hand(uri, descriptors)
        self._task_of_recovery = tasks.create_task(self._resume(uri, channel))

    def fail(self, error_desc: str | None) -> None:
        """It ends before it was connected."""
        self.error_desc = error_desc
        cancelled = self.status is Status.CANCELLING
        self._become(Status.CANCELLED if cancelled else Status.FAILED)

    def cancel(self) -> None:
        """`migrate_cancel`: what connects goes on with that, and is over once it is done."""
        if self.status is Status.SETUP:
            self._become(Status.CANCELLING)
        elif self.status is not Status.CANCELLING:
            self._do(self.source.cancel())

    def pause(self) -> None:
        """`migrate-pause`: as if the link were lost."""
        self._do(self.source.pause())

    def break_connection(self) -> None:
        """`yank`: what is written fails, and so does what is read."""
        if self._channel is not None:
            self._channel.close()
            self._do(self.source.back_ended())

    def close(self) -> None:
        """The process ends."""
        for task in (self._task, self._task_of_recovery):
            if task is not None:
                task.cancel()

    # Inside

    async def _migrate(self, uri: str, channel: Channel | None) -> None:
        """The migration thread."""
        if channel is None:
            try:
                channel = await connect(uri)
            except NotConnected as error:
                self._vm.say(str(error))
                self.fail(str(error))
                return
        if self.status is Status.CANCELLING:
            channel.close()
            self._become(Status.CANCELLED)
            return
        try:
            self._attach(channel)
            self._do(self.source.begin(self._now()))
            while not self.is_over:
                await self._turn()
        finally:
            self._hang_up()

    async def _turn(self) -> None:
        await self._flush()
        await self._next()
        if not self.is_over:
            self._do(self.source.advance(self._now()))
            self._wake.clear()  # that was no news

    async def _flush(self) -> None:
        """Have the system take what was written; until then nothing more is made."""
        channel = self._channel
        if channel is None:
            return
        try:
            await channel.flush()
        except OSError as error:
            if channel is self._channel:  # or somebody has hung up, for a reason of its own
                said = os.strerror(error.errno or errno.EIO)
                error_number = -(error.errno or errno.EIO)
                self._do(self.source.write_failed(error_number, said, channel=channel.name))

    async def _next(self) -> None:
        """Wait until there is something to do: in time, or because something came."""
        source = self.source
        waits = source.waits or self._channel is None
        delay_s = source.next_at_s - self._now()
        if self.is_over:
            return
        await asyncio.sleep(0)  # others have their turn, too
        if not waits and delay_s <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(None if waits else delay_s):
                await self._wake.wait()
        self._wake.clear()

    async def _resume(self, uri: str, channel: Channel | None) -> None:
        if channel is None:
            try:
                channel = await connect(uri)
            except NotConnected as error:  # another `migrate` may come
                self._vm.say(str(error))
                return
        if self.status is not Status.POSTCOPY_PAUSED or self._channel is not None:
            channel.close()
            return
        self._attach(channel)
        self._do(self.source.recover())

    def _attach(self, channel: Channel) -> None:
        self._channel = channel
        if self.source.has_return_path:
            channel.read(self._back, self._back_ended)

    def _back(self, data: bytes) -> None:
        self._do(self.source.back(data))

    def _back_ended(self) -> None:
        self._do(self.source.back_ended())

    def _do(self, effects: list[Effect]) -> None:
        self._turned()
        for sends, together in groupby(effects, lambda effect: isinstance(effect, Send)):
            if sends:
                self._write([each.data for each in together if isinstance(each, Send)])
            else:
                for effect in together:
                    self._perform(effect)
        self._wake.set()

    def _write(self, pieces: list[bytes]) -> None:
        """Send these in as few calls as can be."""
        if self._channel is not None:
            self._channel.write(*pieces)
            self.sent[self._phase] += sum(map(len, pieces))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                raise AssertionError("what is sent is written together")
            case Say(line):
                self._vm.say(line)
            case Became(status):
                self._become(status)
            case HangUp():
                self._hang_up()
            case StopGuest():
                self.stopped_at_s = self._now()
                self._run_state_before = self._vm.status
                self._vm.halt("finish-migrate")
            case ResumeGuest():
                self._go_on()
            case GuestMayRun() | Exit() | Trace():
                raise AssertionError(f"{effect} is of a destination")

    @property
    def _phase(self) -> str:
        if self._vm.running:
            return "precopy"
        return "postcopy" if self.status is Status.POSTCOPY_ACTIVE else "downtime"

    def _go_on(self) -> None:
        """The guest stays here: it is what it was."""
        if self._run_state_before == "running":
            self._vm.start()
        else:
            self._vm.status = self._run_state_before

    def _hang_up(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.close()

    def _become(self, status: Status) -> None:
        if status is self.status:
            return
        self.status = status
        if status is Status.ACTIVE:
            self.active_at_s = self._now()
        if self.is_over:
            self.ended_at_s = self._now()
            self.error_desc = self.error_desc or self.source.error_desc
            if self._vm.status == "finish-migrate":  # unless it is resumed
                self._vm.status = "postmigrate"
        self._became(status)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
