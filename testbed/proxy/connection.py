"""One proxied connection: two pumps with the fault engine's relay between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import assert_never

from testbed.fault.command import Command, End, GoDark, HalfClose, Observed, Send, Wait
from testbed.fault.plan import Side
from testbed.fault.relay import Passing
from testbed.log import Log

from .side import SideSocket

FIRST_BYTES = 4
"""Of the source: enough to tell every channel, and to satisfy a destination that peeks."""
SILENCE_S = 1.0
"""A side that says nothing for so long will say nothing: what waits for more is decided."""


class Connection:
    """Both sides of a connection, until both have ended or a fault has ended them.

    `identify` is told the first bytes of the source (none if it ends without any) and gives the
    relay; until then, bytes of the destination just pass.
    """

    def __init__(
        self,
        number: int,
        sides: dict[Side, SideSocket],
        identify: Callable[[bytes], Passing],
        log: Log,
    ) -> None:
        self.number = number
        self.relay = Passing()
        self._sides = sides
        self._identify = identify
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._resume_at = {Side.SOURCE: 0.0, Side.DESTINATION: 0.0}
        self._dark: dict[Side, bool] = {}  # toward which side; and whether to swallow
        self._resets_told: set[Side] = set()
        self._ended_by: tuple[str, str] | None = None

    async def run(self, first: bytes = b"") -> None:
        """Pump until the connection is over; `first` came from the source already.

        Left by an error or a cancellation, both sides are reset.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._from_source(first))
                group.create_task(self._pump(Side.DESTINATION))
        except BaseException:
            self.abort()
            raise
        finally:
            for side in self._sides.values():
                side.close()
            ended_by, how = self._ended_by or ("proxy", "RST")
            self._log.write(
                "proxy",
                "connection-ended",
                connection=self.number,
                ended_by=ended_by,
                how=how,
                bytes_forward=self._sides[Side.DESTINATION].bytes_out,
                bytes_back=self._sides[Side.SOURCE].bytes_out,
            )

    def abort(self) -> None:
        """End both sides by RST; the pumps end by themselves."""
        for side in self._sides.values():
            side.reset()

    def act(self, commands: Iterable[Command]) -> None:
        """Carry out commands at once; they send no bytes."""
        for command in commands:
            assert not isinstance(command, Send), "bytes are sent by the pump they came through"
            self._act(command)

    async def _from_source(self, first: bytes) -> None:
        source = self._sides[Side.SOURCE]
        first = first or await source.read_first(FIRST_BYTES)
        if not source.gone:
            self.relay = self._identify(first)
            self.act(self.relay.opening)
        await self._pump(Side.SOURCE, first)

    async def _pump(self, sender: Side, data: bytes = b"") -> None:
        """Carry what `sender` sends to the other side until it ends."""
        side, toward = self._sides[sender], _other(sender)
        data = data or await self._read(sender)
        while data:
            await self._carry_out(self.relay.received(sender, data))
            if self._sides[toward].reset_seen:
                await self._pass_reset(toward)
            if self._dark.get(toward) is False:
                await side.until_gone()  # nobody reads any more: the sender's buffers fill
            data = await self._read(sender)
        if side.gone:
            self.act(command for command in self.relay.ended(sender) if _is_fact(command))
        elif side.reset_seen:
            await self._pass_reset(sender)
        else:
            self._ended_by = self._ended_by or (sender.value, "FIN")
            await self._carry_out(self.relay.ended(sender))

    async def _pass_reset(self, sender: Side) -> None:
        """That side has reset the connection, seen while reading or writing: pass it on, once."""
        if sender not in self._resets_told:
            self._resets_told.add(sender)
            self._ended_by = self._ended_by or (sender.value, "RST")
            await self._carry_out(self.relay.was_reset(sender))

    async def _read(self, sender: Side) -> bytes:
        """What the side sends next; its silence is told while something waits for more."""
        side = self._sides[sender]
        if self.relay.undecided(sender):
            try:
                async with asyncio.timeout(SILENCE_S):
                    return await side.read()
            except TimeoutError:
                await self._carry_out(self.relay.silence(sender))
        return await side.read()

    async def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Send(toward=toward, data=data):
                    await self._stalled(toward)
                    await self._sides[toward].write(data)
                case HalfClose(toward=toward):
                    await self._stalled(toward)
                    self._act(command)
                case _:
                    self._act(command)

    async def _stalled(self, toward: Side) -> None:
        """Wait until the way is free; at once if the side that it leads to is gone."""
        while (wait := self._resume_at[toward] - self._loop.time()) > 0:
            try:
                async with asyncio.timeout(wait):
                    await self._sides[toward].until_gone()
                    return
            except TimeoutError:
                continue

    def _act(self, command: Command) -> None:
        """Carry out a command that needs no waiting."""
        match command:
            case HalfClose(toward=toward):
                self._sides[toward].finish()
            case End(side=side, reset=reset):
                self._ended_by = self._ended_by or ("fault", "RST" if reset else "FIN")
                if reset:
                    self._sides[side].reset()
                else:
                    self._sides[side].finish()
            case GoDark(toward=toward, swallow=swallow):
                self._dark[toward] = swallow
            case Wait(toward=toward, for_s=for_s):
                resume_at = self._loop.time() + for_s
                self._resume_at[toward] = max(self._resume_at[toward], resume_at)
            case Observed(kind=kind, facts=facts):
                self._log.write("proxy", kind, **{"connection": self.number, **facts})
            case Send():
                raise AssertionError("bytes are sent by the pump that they came through")
            case _:
                assert_never(command)


def _other(side: Side) -> Side:
    return Side.DESTINATION if side is Side.SOURCE else Side.SOURCE


def _is_fact(command: Command) -> bool:
    return isinstance(command, Observed)
