"""One proxied connection: two sockets, two pumps, the fault engine's relay between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from testbed.fault import plan
from testbed.fault.command import (
    Command,
    End,
    Everywhere,
    GoDark,
    HalfClose,
    HoldBack,
    Observed,
    Send,
    Shape,
    Signalled,
    StopListening,
    Tarpit,
    Wait,
)
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import Side
from testbed.log import Log
from testbed.wire import ChannelKind

from .outlet import Outlet
from .poller import READABLE, WRITABLE
from .pump import Means, Pump
from .shaping import Bandwidth, Latency, Line, Slicer, Stage
from .side import SideSocket

FAULTS = "faults"
"""Who set the stages of a line that a fault asked for."""
ENDS = (Side.SOURCE, Side.DESTINATION)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a connection has of its proxy.

    `held_max` says how many bytes a line may hold; `elsewhere` carries out what is not the
    connection's own.
    """

    log: Log
    means: Means
    held_max: Callable[[], int]
    elsewhere: Callable[[Command], None]
    seed: int


class Connection:
    """Both sides of a connection, until both have ended or a fault has ended them.

    `number` counts the proxy's connections, `nth` those of the attempt; `lines` are what goes
    toward each side; `channel` is None until it has been told, and if it is nothing that we know.
    """

    def __init__(
        self, number: int, nth: int, attempt: int, source: SideSocket, around: Surroundings
    ) -> None:
        self.number, self.nth, self.attempt = number, nth, attempt
        self.channel: ChannelKind | None = None
        self.relay = Passing()
        self.lines = {
            side: Line(rng=random.Random(f"{around.seed} {number} {side}"))  # noqa: S311
            for side in ENDS
        }
        self._outlets: dict[Side, Outlet] = {}
        self.source = source
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._sides = {Side.SOURCE: source}
        self._pumps: dict[Side, Pump] = {}
        self._shapes: dict[Side, dict[type, Stage]] = {side: {} for side in ENDS}
        self._over: asyncio.Future[None] = self._loop.create_future()
        self.ended_by: tuple[str, str] | None = None
        self._settling = False
        self._early: list[Command] = []  # of faults, before it had both sides
        self.goes_onward = False  # or has gone
        self.news = asyncio.Event()
        """Something has changed at a side; until `run`."""
        source.heard = self._woken

    # What others look at, and set

    @property
    def received_bytes(self) -> dict[Side, int]:
        """What came from each side so far."""
        pumps = self._pumps
        return {side: pumps[side].received_bytes if side in pumps else 0 for side in ENDS}

    @property
    def sent_bytes(self) -> dict[Side, int]:
        """What went to each side so far."""
        outlets = self._outlets
        return {side: outlets[side].sent_bytes if side in outlets else 0 for side in ENDS}

    @property
    def outlets(self) -> Mapping[Side, Outlet]:
        """The ways toward both sides, once it runs."""
        return self._outlets

    def set_stages(self, toward: Side, stages: Sequence[Stage], *, owner: str = "") -> None:
        """Have what goes toward that side pass these stages, in place of those of this owner."""
        if toward in self._outlets:
            self._outlets[toward].set_stages(stages, owner)
            self._settle()
        else:
            self.lines[toward].set(stages, self._loop.time(), owner=owner)

    # Its life

    def join(self, destination: SideSocket) -> None:
        """It has gone onward: that is its other side."""
        self._sides[Side.DESTINATION] = destination
        destination.heard = self._woken
        self.news.set()

    def first_bytes(self, count: int) -> bytes | None:
        """What the source said first, and all it has said if it has ended; None: wait for more."""
        first = self.source.peek(count)
        if first and len(first) < count and not self.source.end_seen:
            return None
        return first

    async def until(self, condition: Callable[[], bool], within_s: float | None = None) -> bool:
        """Wait, before it runs, until something is the case; false if not within that time."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, relay: Passing) -> None:
        """Pump until the connection is over; both sides are there.

        Left by an error or a cancellation, both sides are reset.
        """
        self.relay = relay
        for side in ENDS:
            self._outlets[side] = Outlet(
                self._sides[side],
                self.lines[side],
                held_max=self._around.held_max,
                moved=self._settle,
                over=self._line_is_over,
                guarded=self.guarded,
            )
        for side in ENDS:
            self._pumps[side] = Pump(self, side, self._sides[side], self._around.means)
        for side in ENDS:
            self._sides[side].heard = self._listener(side)
            self._outlets[side].move()
        try:
            self.carry_out([*self._early, *relay.opening])
            await self._over
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """End both sides by RST; the pumps end by themselves."""
        self.ended_by = self.ended_by or ("proxy", "RST")
        for side in self._sides.values():
            side.reset()
        self._settle()

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Carry out commands at once, or when it runs; they send no bytes."""
        for command in commands:
            if self._pumps or not isinstance(command, HalfClose | GoDark | Wait):
                self.act(command)
            else:
                self._early.append(command)
        self._settle()

    def close(self) -> None:
        """It is over: give all back, and say how it ended."""
        for pump in self._pumps.values():
            pump.close()
        for outlet in self._outlets.values():
            outlet.close()
        for side in self._sides.values():
            side.close()
        ended_by, how = self.ended_by or ("proxy", "RST")
        if self._around.means.recorder is not None:
            self._around.means.recorder.ended(self.number, how)
        self._around.log.write(
            "proxy",
            "connection-ended",
            connection=self.number,
            ended_by=ended_by,
            how=how,
            bytes_forward=self.sent_bytes[Side.DESTINATION],
            bytes_back=self.sent_bytes[Side.SOURCE],
        )

    # What happens to it

    def _woken(self, _events: int) -> None:
        self.news.set()

    def _listener(self, side: Side) -> Callable[[int], None]:
        """What is called when something has changed at the socket of that side."""
        pump, outlet, back = self._pumps[side], self._outlets[side], self._pumps[side.other]

        def heard(events: int) -> None:
            if self._over.done():
                return
            try:
                if events & WRITABLE and (back.blocked or pump.blocked or outlet.keeps):
                    outlet.move()
                    back.turn()
                    if pump.blocked:  # by what it sends back
                        pump.turn()
                if events & READABLE:
                    pump.turn()
            except Exception as error:  # noqa: BLE001 it is raised where the connection is run
                self._fail(error)

        return heard

    def guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        """The same, to be called by the event loop; an error in it ends the connection."""

        def run() -> None:
            if self._over.done():
                return
            try:
                action()
            except Exception as error:  # noqa: BLE001 it is raised where the connection is run
                self._fail(error)

        return run

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def sender_ended(self, sender: Side, how: str) -> None:
        """That side has ended, by `FIN`, `RST` or an error such as `ETIMEDOUT`."""
        self.ended_by = self.ended_by or (sender.value, how)

    def turned(self) -> None:
        """A pump had its turn: see what came of it."""
        over = 0
        for side, pump in self._pumps.items():
            if self._sides[side].reset_seen:
                pump.reset()
            over += pump.is_over
        if over < len(self._pumps) or self._over.done():
            return
        if all(outlet.is_idle for outlet in self._outlets.values()):
            self._over.set_result(None)

    def _settle(self) -> None:
        """Give both pumps a turn, soon: what was changed may concern either."""
        self.news.set()
        if self._pumps and not self._settling:
            self._settling = True
            self._loop.call_soon(self.guarded(self._settled))

    def _settled(self) -> None:
        self._settling = False
        for pump in self._pumps.values():
            pump.turn()

    def _line_is_over(self, reset: bool) -> None:
        """A line ends the connection, on both sides."""
        self.ended_by = self.ended_by or ("proxy", "RST" if reset else "FIN")
        for side in self._sides.values():
            if reset:
                side.reset()
            else:
                side.close_in_order()
        self._settle()

    # Commands

    def act(self, command: Command) -> None:
        """Carry out a command that sends nothing."""
        match command:
            case Observed(kind=kind, facts=facts):
                self._around.log.write("proxy", kind, **{"connection": self.number, **facts})
            case HalfClose(toward=toward):
                self._outlets[toward].finish()
            case End(side=side, reset=reset):
                self._end(side, reset=reset)
            case GoDark(toward=toward, swallow=swallow):
                self._outlets[toward].darken()
                self._pumps[toward.other].deaf |= not swallow
            case Wait(toward=toward, for_s=for_s):
                self._outlets[toward].stall(for_s)
            case Shape(toward=toward, shape=shape):
                self._shape(toward, shape)
            case Signalled(struck=Observed(kind=kind, facts=facts)):
                here = Observed(kind, {"connection": self.number, **facts})
                self._around.elsewhere(replace(command, struck=here))
            case Signalled() | Everywhere() | StopListening():
                self._around.elsewhere(command)
            case Send() | HoldBack() | Tarpit():
                raise AssertionError(f"{command} is not for a connection under way")
            case _:
                assert_never(command)

    def _end(self, side: Side, *, reset: bool) -> None:
        if side not in self._sides:
            return  # it has not gone onward
        self.ended_by = self.ended_by or ("fault", "RST" if reset else "FIN")
        outlet = self._outlets.get(side)
        if reset:
            self._sides[side].reset()
        elif outlet is None or outlet.is_dark:
            self._sides[side].finish()
        else:
            outlet.finish()
        self._settle()

    def _shape(
        self, toward: Side, shape: plan.Latency | plan.Bandwidth | plan.Slice | None
    ) -> None:
        shapes = self._shapes[toward]
        match shape:
            case None:
                shapes.clear()
            case plan.Latency(delay_s=delay_s, jitter_s=jitter_s):
                shapes[plan.Latency] = Latency(delay_s, jitter_s)
            case plan.Bandwidth(bytes_per_s=bytes_per_s):
                shapes[plan.Bandwidth] = Bandwidth(bytes_per_s)
            case plan.Slice(average_bytes=average, variation_bytes=variation, delay_s=delay_s):
                shapes[plan.Slice] = Slicer(average, variation, delay_s)
            case _:
                assert_never(shape)
        self.set_stages(toward, tuple(shapes.values()), owner=FAULTS)
