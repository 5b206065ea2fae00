"""A replay: a recorded stream, whole or damaged on the way, sent to a destination that is watched.

With faults the connections go through the proxy, as those of a run do; without, straight to the
destination, so that what it took is known to the byte.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault
from testbed.log import Log, WaitExpired
from testbed.proxy import Proxy
from testbed.proxy.address import Address, TcpAddress, resolve
from testbed.proxy.listener import error_text
from testbed.tasks import beside, one_error
from testbed.wire import ChannelKind

from .destination import LOOPBACK, Destination, Waiting, started
from .recording import Replayable, ReplayConnection, ReplayError, longest_pause_s
from .source import Sender, Source
from .survey import Survey, machine_arguments, place_of, survey
from .verdict import Carried, Pages, Reaction

CONNECT_WITHIN_S = 10.0
PAUSE_S_MAX = 3600.0
"""Of a recording whose times are kept. A source that pauses for an hour has another problem."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command line of a destination to be started: `program`, then `arguments`.

    `of_recording`: between them, machine type and memory as the recording has them.
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    of_recording: bool = False

    def argv(self, surveys: Mapping[int, Survey]) -> tuple[str, ...]:
        """All of it."""
        machine = machine_arguments(surveys) if self.of_recording else ()
        return *self.program, *machine, *self.arguments


class NobodyThere(Exception):
    """Nobody takes the connection: a sentence for people."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is asked for.

    `to` is an address where a destination waits, or the command of one to be started. With
    `paused` a started one's guest never runs. `within_s` is how long nothing may move.
    """

    to: Address | Command
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    as_recorded: bool = False
    paused: bool = False
    within_s: float = 10.0
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


async def replay(recording: Replayable, plan: ReplayPlan, log: Log) -> Reaction:
    """Replay once, and say how the destination reacted; nothing of it is left afterwards.

    Raises:
        ReplayError: the recording cannot be read any further, or pauses for longer than an hour.
        NobodyThere: nobody takes the connection.
        EndpointError: the destination cannot be started, or lacks what the recording needs.
    """
    if plan.as_recorded and (pause_s := longest_pause_s(recording.connections)) > PAUSE_S_MAX:
        raise ReplayError(
            f"{recording.name}: for {pause_s:.6g} s nothing came in the recording, and no replay "
            f"waits for more than {PAUSE_S_MAX:g} s: --speed fast"
        )
    surveys = await asyncio.to_thread(survey, recording)
    try:
        async with _destination(recording, surveys, plan, log) as destination:
            return await _Replay(recording, surveys, plan, log, destination).run()
    except BaseExceptionGroup as errors:
        error = one_error(errors)
    raise error


@asynccontextmanager
async def _destination(
    recording: Replayable, surveys: Mapping[int, Survey], plan: ReplayPlan, log: Log
) -> AsyncIterator[Destination]:
    if not isinstance(plan.to, Command):
        yield Waiting(plan.to)
        return
    capabilities, parameters = needs(recording, surveys)
    async with (
        started(
            plan.to.argv(surveys),
            log,
            capabilities={**capabilities, **plan.capabilities},
            parameters={**parameters, **plan.parameters},
            within_s=plan.within_s,
            paused=plan.paused,
        ) as destination,
        beside(destination.run_guest()),
    ):
        yield destination


def needs(
    recording: Replayable, surveys: Mapping[int, Survey]
) -> tuple[dict[str, bool], dict[str, Any]]:
    """The capabilities and parameters that a destination must have for these connections."""
    kinds = [each.kind for each in recording.connections]
    capabilities: dict[str, bool] = {}
    parameters: dict[str, Any] = {}
    if ChannelKind.RECOVERY in kinds or any(each.advised for each in surveys.values()):
        capabilities["postcopy-ram"] = True
        silent = any(not each.size_bytes for each in recording.connections)
        if ChannelKind.PREEMPT in kinds or silent:  # one that had no work carries no byte
            capabilities["postcopy-preempt"] = True
    if channels := kinds.count(ChannelKind.MULTIFD):
        capabilities["multifd"] = True
        parameters["multifd-channels"] = channels
    return capabilities, parameters


class _Replay:
    def __init__(
        self,
        recording: Replayable,
        surveys: dict[int, Survey],
        plan: ReplayPlan,
        log: Log,
        destination: Destination,
    ) -> None:
        self._recording, self._surveys, self._plan = recording, surveys, plan
        self._log, self._destination = log, destination
        self._loop = asyncio.get_running_loop()
        self._engine = FaultEngine(plan.faults, seed=plan.seed) if plan.faults else None
        self._proxy: Proxy | None = None
        self._changed = asyncio.Event()
        self._spoke_at = self._loop.time()
        self._hung: str | None = None
        self._notes = list(recording.notes)

    async def run(self) -> Reaction:
        source = Source(
            self._recording,
            self._surveys,
            self._log,
            connect=self._connect,
            guest_runs=self._destination.guest_runs,
            as_recorded=self._plan.as_recorded,
        )
        stop = self._log.listen(self._heard)
        try:
            async with self._on_the_way(), beside(self._play(source)) as (playing,):
                await self._until_settled(source, playing)
                process = await self._destination.account()
                self._log.write("recording", "replay-over")  # what follows is our doing
        finally:
            stop()
        self._check_upstream()
        carried = [await self._carried(sender) for sender in source.senders]
        return Reaction(
            carried,
            self._hung,
            process,
            self._pages(source),
            self._engine.unfired() if self._engine is not None else (),
            tuple(self._notes),
        )

    @asynccontextmanager
    async def _on_the_way(self) -> AsyncIterator[None]:
        """The proxy, if there are faults to be injected."""
        if self._engine is None:
            yield
            return
        async with Proxy.start(
            listen=TcpAddress(LOOPBACK, 0),
            upstream=self._destination.address,
            engine=self._engine,
            log=self._log,
        ) as self._proxy:
            yield

    async def _play(self, source: Source) -> None:
        with suppress(WaitExpired):  # it was not ready for a recovery: its status tells
            await source.play()

    async def _connect(self, connection: ReplayConnection) -> socket.socket:
        if connection.kind is ChannelKind.RECOVERY:
            await self._destination.recovers()
        address = self._destination.address
        if self._proxy is not None:
            self._proxy.upstream, address = address, self._proxy.address
        return await _connected(address)

    def _heard(self, _event: object) -> None:
        self._spoke_at = self._loop.time()
        self._changed.set()

    async def _until_settled(self, source: Source, playing: asyncio.Task[None]) -> None:
        """Wait until the destination has reacted, or nothing has moved for too long."""
        playing.add_done_callback(lambda _: self._changed.set())
        while not self._is_settled(source, playing):
            self._changed.clear()
            quiet_since = max(source.moved_at, self._spoke_at)
            left = quiet_since + self._plan.within_s - self._loop.time()
            if self._plan.as_recorded:
                left = max(left, 0.0) + source.pause_s()
            if left <= 0:
                self._hung = f"nothing moved for {self._plan.within_s:g} s"
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _is_settled(self, source: Source, playing: asyncio.Task[None]) -> bool:
        recoveries = [
            sender
            for sender in source.senders
            if sender.connection.kind is ChannelKind.RECOVERY and not sender.over.is_set()
        ]
        more_comes = bool(recoveries) and not playing.done()
        if self._destination.is_settled(more_comes=more_comes):
            return True
        return playing.done() and isinstance(self._destination, Waiting)

    def _pages(self, source: Source) -> Pages:
        orders = [sender.order for sender in source.senders]
        urgent = {page for each in self._surveys.values() for page in each.urgent}
        lacking = {
            page
            for at, order in enumerate(orders)
            for page in order.lacking - urgent
            if not any(later.has(page) for later in orders[at + 1 :])
        }
        return Pages(
            sum(len(order.requested) for order in orders),
            sum(order.sent_ahead for order in orders),
            sum(order.left_out for order in orders),
            len(lacking),
        )

    def _check_upstream(self) -> None:
        refused = self._log.first("upstream-refused", "proxy")
        if refused is not None and isinstance(self._destination, Waiting):
            raise NobodyThere(
                f"{self._destination.address}: nobody takes the connection: "
                f"{refused.facts['error']}"
            )

    async def _carried(self, sender: Sender) -> Carried:
        connection = sender.connection
        sent, taken = sender.sent, sender.sent - sender.unacknowledged
        place, ended_by = None, ""
        if self._engine is not None:
            ended = self._log.first("connection-ended", "proxy", connection=sender.opened_as)
            ended_by = ended.facts["ended_by"] if ended is not None else ""
            sent = taken = ended.facts["bytes_forward"] if ended is not None else 0
        elif not sender.sent_all and taken < connection.size_bytes:
            place = await asyncio.to_thread(place_of, connection, taken)
        return Carried(
            connection.number,
            connection.channel,
            connection.size_bytes,
            sent,
            taken,
            sender.sent_all,
            sender.ended,
            sender.shut,
            ended_by == "fault",
            place,
        )


async def _connected(address: Address) -> socket.socket:
    """A connection to the first place of an address that takes one.

    Raises:
        NobodyThere: nobody does.
    """
    why: OSError = OSError("nothing to connect to")
    loop = asyncio.get_running_loop()
    try:
        places = await resolve(address)
    except OSError as error:
        raise NobodyThere(f"{address}: {error.strerror or error}") from error
    for family, place in places:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await loop.sock_connect(opened, place)
        except OSError as error:
            opened.close()
            why = error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    said = error_text(why) if why.errno else "no answer"
    raise NobodyThere(f"{address}: nobody takes the connection: {said}")
