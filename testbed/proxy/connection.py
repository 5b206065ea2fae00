"""One proxied connection: two pumps with the fault engine's relay between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from testbed.fault.command import Command, End, GoDark, HalfClose, Observed, Send, Wait
from testbed.fault.engine import Relay
from testbed.fault.plan import Side
from testbed.log import Log

from .side import SideSocket

SILENCE_S = 1.0
"""Without a byte from either side for so long, what waits for more is decided."""


class Connection:
    """Both sides of a connection, until both have ended or a fault has ended them.

    `identify` is told the first bytes of the source (none if it ends without any) and gives the
    relay that parses the channel, or None: nobody does.
    """

    def __init__(
        self,
        number: int,
        sides: dict[Side, SideSocket],
        identify: Callable[[bytes], Relay | None],
        log: Log,
    ) -> None:
        self.number = number
        self._sides = sides
        self._identify = identify
        self._relay: Relay | None = None
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._resume_at = {Side.SOURCE: 0.0, Side.DESTINATION: 0.0}
        self._dark: dict[Side, bool] = {}  # toward which side; and whether to swallow
        self._moved = False
        self._busy = 0  # pumps that are sending: what came before must go before
        self._ended_by: tuple[str, str] | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._done = asyncio.Event()

    async def run(self, first: bytes = b"") -> None:
        """Pump until the connection is over; `first` came from the source already."""
        try:
            async with asyncio.TaskGroup() as group:
                self._pumps = [
                    group.create_task(self._pump(Side.SOURCE, first)),
                    group.create_task(self._pump(Side.DESTINATION)),
                ]
                watch = group.create_task(self._watch_silence())
                await asyncio.wait(self._pumps)
                watch.cancel()
        finally:
            for side in self._sides.values():
                side.close()
            ended_by, how = self._ended_by or ("proxy", "closed")
            source, destination = (self._sides[side] for side in (Side.SOURCE, Side.DESTINATION))
            self._log.write(
                "proxy",
                "connection-ended",
                connection=self.number,
                ended_by=ended_by,
                how=how,
                bytes_forward=destination.bytes_out,
                bytes_back=source.bytes_out,
            )

    def abort(self) -> None:
        """End both sides by RST and stop pumping."""
        for side in self._sides.values():
            side.reset()
        for pump in self._pumps:
            pump.cancel()

    def observed(self, side: Side, event: str, status: str | None) -> None:
        """Tell the relay what QMP reported; the commands it gives need no waiting."""
        if self._relay is not None:
            for command in self._relay.observed(side, event, status):
                self._act(command)

    async def _pump(self, sender: Side, first: bytes = b"") -> None:
        """Carry what `sender` sends to the other side until it ends."""
        source = self._sides[sender]
        toward = Side.DESTINATION if sender is Side.SOURCE else Side.SOURCE
        data = first or await source.read()
        if sender is Side.SOURCE and not source.gone:
            self._relay = self._identify(data)
        while data:
            self._moved = True
            commands = self._relay.received(sender, data) if self._relay else [Send(toward, data)]
            await self._carry_out(commands)
            if self._dark.get(toward) is False:
                await self._done.wait()  # nobody reads any more: the sender's buffers fill
            data = await source.read()
        if not source.gone:
            self._ended_by = self._ended_by or (sender.value, "RST" if source.reset_seen else "FIN")
            if toward in self._dark:
                await self._done.wait()  # the other side must not learn of it
            elif source.reset_seen:
                self._sides[toward].reset()
        await self._carry_out(self._relay.ended(sender) if self._relay else [HalfClose(toward)])

    async def _carry_out(self, commands: Iterable[Command]) -> None:
        self._busy += 1
        try:
            for command in commands:
                if isinstance(command, Send):
                    await self._send(command)
                else:
                    self._act(command)
        finally:
            self._busy -= 1

    async def _send(self, command: Send) -> None:
        if (wait := self._resume_at[command.toward] - self._loop.time()) > 0:
            await asyncio.sleep(wait)
        if command.toward not in self._dark:
            await self._sides[command.toward].write(command.data)

    def _act(self, command: Command) -> None:
        """Carry out a command that needs no waiting."""
        match command:
            case HalfClose(toward=toward):
                if toward not in self._dark:
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
                self._resume_at[toward] = self._loop.time() + for_s
            case Observed(kind=kind, facts=facts):
                self._log.write("proxy", kind, **{"connection": self.number, **facts})
            case Send():
                raise AssertionError("bytes are sent by the pump that they came through")

    async def _watch_silence(self) -> None:
        while True:
            self._moved = False
            await asyncio.sleep(SILENCE_S)
            if self._relay is not None and not self._moved and not self._busy:
                await self._carry_out(self._relay.silence())
