"""The proxy: takes the source's connections, finds out what each is, connects it onward."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

from testbed.fault.command import (
    Command,
    Everywhere,
    HoldBack,
    Observed,
    Signalled,
    StopListening,
    Tarpit,
)
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Side
from testbed.log import Log
from testbed.tasks import beside
from testbed.wire import ChannelKind, channel_of

from .address import HERE, Address, OpensSockets, Sockaddr, peer_of, resolve
from .admission import Admission
from .connection import Connection, Surroundings
from .entrance import FIRST_BYTES, SPEAKS_WITHIN_S, is_let_in, tell_stray
from .listener import Listener, error_text
from .onward import connected, in_time
from .poller import Poller
from .pump import SILENCE_S, Means
from .recording import Recorder
from .side import SideSocket, set_to_reset
from .stray import FIRST, LATER, NOTHING_AT_ALL

CONNECTIONS_MAX = 256
"""Open at one time; a source opens three and as many as it has multifd channels. For one more the
eldest that has said nothing makes room."""
MAIN_CHANNELS = frozenset({ChannelKind.MAIN, ChannelKind.RECOVERY, ChannelKind.TLS})
SURPLUS_EVERY_S = 1.0
"""Connections beyond that are told no more often."""
HELD_BYTES_MAX = 48 << 20
"""Of all lines together; each may hold its share."""


class Proxy:
    """Every migration connection of a run passes here; made by `Proxy.start`.

    `upstream` is where the destination listens, and `on_connection` is given each connection before
    a byte of it passes; both may be changed, for connections to come.
    """

    def __init__(
        self,
        namespace: OpensSockets,
        upstream: Address,
        engine: FaultEngine,
        log: Log,
        poller: Poller,
        *,
        recorder: Recorder | None,
        on_signal: Callable[[Side, str], str | None] | None,
        on_connection: Callable[[Connection], None] | None,
        finds_attempts: bool,
        peeks: bool,
        silent_after_s: float | None,
        connect: Callable[[], Awaitable[socket.socket]] | None,
        isolates: bool,
        may_take: Callable[[], bool],
    ) -> None:
        self.upstream = upstream
        self.engine = engine
        self._namespace = namespace
        self._log = log
        self._poller = poller
        self._means = Means(recorder=recorder)
        self._on_signal = on_signal
        self.on_connection = on_connection
        self._finds_attempts = finds_attempts
        self._peeks = peeks
        self._silent_after_s = silent_after_s
        self._open = connect
        self._isolates = isolates
        self._may_take = may_take
        self._is_shut = False  # whatever faults say
        self._around = Surroundings(
            log=log,
            means=self._means,
            held_max=self._held_max,
            elsewhere=self._elsewhere,
            seed=engine.seed,
        )
        self._opened = 0
        self._live: dict[int, Connection] = {}  # by number, in order
        self._surplus = self._evicted = 0
        self._surplus_told_at = -SURPLUS_EVERY_S
        self._group: asyncio.TaskGroup
        self._serving = asyncio.Event()
        self._listener: Listener
        self._begin_attempt()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        namespace: OpensSockets | None = None,
        listen: Address | socket.socket,
        upstream: Address,
        engine: FaultEngine,
        log: Log,
        connect: Callable[[], Awaitable[socket.socket]] | None = None,
        recorder: Recorder | None = None,
        on_signal: Callable[[Side, str], str | None] | None = None,
        on_connection: Callable[[Connection], None] | None = None,
        finds_attempts: bool = False,
        peeks: bool = True,
        silent_after_s: float | None = None,
        isolates: bool = False,
        may_take: Callable[[], bool] = lambda: True,
    ) -> AsyncIterator[Proxy]:
        """Listen until the block ends; what is still open then is reset.

        Args:
            namespace: opens the sockets of both sides; None: this process's own.
            listen: for the source; or a socket that listens already, which no fault can refuse on.
            upstream: where the destination listens; resolved for each connection.
            connect: opens a connection onward; None: to `upstream`.
            engine: says what happens to what passes.
            log: where connections and faults go.
            recorder: is told all that comes, before any fault.
            on_signal: sends a signal, by name without SIG, to the endpoint of that side; says why,
                if that would change nothing.
            on_connection: is given each connection before a byte of it passes.
            finds_attempts: a file header after the attempt's own begins the next attempt; else
                only `next_attempt` does.
            peeks: False for connections that are no migration's: each goes onward at once, as
                nobody tells what it is, because its server may speak first (NBD).
            silent_after_s: a connection that has said nothing for so long goes onward all the same,
                as its server may speak first; None: it is reset in the end.
            isolates: an error of ours on one connection resets that one, and is told
                (`connection-broke`); else it ends the proxy, and whoever started it.
            may_take: asked before each connection is taken: false if there are too many already,
                here and elsewhere in the process.

        Raises:
            OSError: the address cannot be listened on.
        """
        namespace = namespace or HERE
        at: tuple[int, Sockaddr] | socket.socket
        if isinstance(listen, socket.socket):
            at = listen
        else:
            at, *_ = await resolve(listen, listen=True)
        with Poller.open() as poller:
            proxy = cls(
                namespace,
                upstream,
                engine,
                log,
                poller,
                recorder=recorder,
                on_signal=on_signal,
                on_connection=on_connection,
                finds_attempts=finds_attempts,
                peeks=peeks,
                silent_after_s=silent_after_s,
                connect=connect,
                isolates=isolates,
                may_take=may_take,
            )
            with closing(proxy._means.pipes):
                async with beside(proxy._serve()):
                    await proxy._serving.wait()
                    try:
                        with Listener.open(namespace, at, proxy._accepted, log) as proxy._listener:
                            proxy._await_next(anew=True)
                            yield proxy
                    finally:
                        proxy.abort()

    @property
    def address(self) -> Address:
        """Where it listens, with the port that it really has."""
        return self._listener.address

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are open, in the order in which they came."""
        return tuple(self._live.values())

    def next_attempt(self) -> None:
        """What comes now is another migration; what is left of the last one is reset."""
        self.abort()
        self.engine.next_attempt()
        self._begin_attempt()
        self._await_next(anew=True)

    def attempt_over(self) -> None:
        """The migration is over, what comes now is another one; nothing is reset."""
        self.engine.next_attempt()
        self._begin_attempt()
        self._await_next(anew=True)

    def rearm(self, engine: FaultEngine) -> None:
        """Have other faults; what comes now is the first attempt of theirs; nothing is reset."""
        self.engine = engine
        self._begin_attempt()
        self._await_next(anew=True)

    def retire(self) -> None:
        """Take no more connections, until `reopen`; those that are open go on."""
        self._is_shut = True
        self._listener.refuse(None)

    def reopen(self) -> None:
        """Take connections again."""
        self._is_shut = False
        self._listener.listen()

    def observed(self, side: Side, event: str, status: str | None = None) -> None:
        """Tell the engine what QMP reported; what it answers happens at once."""
        for nth, commands in self.engine.observed(side, event, status):
            connection = self._of_attempt.get(nth)
            if connection is not None and connection.number in self._live:
                connection.carry_out(commands)
            else:
                for command in commands:
                    self._elsewhere(command)

    def abort(self) -> None:
        """Reset all connections."""
        for connection in self.connections:
            connection.abort()

    # Connections come

    def _begin_attempt(self) -> None:
        self._admission = Admission()
        self._of_attempt: dict[int, Connection] = {}  # live ones, by their number in it
        self._came = 0
        self._had_main = False

    def _await_next(self, *, anew: bool = False) -> None:
        """Listen for the next connection of the attempt, unless a fault is against it."""
        stopped = False
        for command in self.engine.awaiting(self._came + 1):
            stopped |= isinstance(command, StopListening)
            self._elsewhere(command)
        if anew and not (stopped or self._is_shut):
            self._listener.listen()

    async def _serve(self) -> None:
        """Own the tasks of all connections."""
        async with asyncio.TaskGroup() as self._group:
            self._serving.set()
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    def _accepted(self, opened: socket.socket) -> None:
        is_full = len(self._live) >= CONNECTIONS_MAX or not self._may_take()
        if is_full and not self._has_evicted():
            self._reset_surplus(opened)
            return
        self._opened += 1
        self._came += 1
        connection = Connection(
            self._opened,
            self._came,
            self.engine.attempt,
            SideSocket(opened, self._poller),
            self._around,
        )
        self._live[connection.number] = self._of_attempt[connection.nth] = connection
        self._admission.came(connection.number)
        self._group.create_task(self._connection(connection, self._admission, peer_of(opened)))
        self._await_next()

    def _has_evicted(self) -> bool:
        """Reset the eldest connection that has not said what it is, to make room; false: none is.

        First one that waits to go onward. One that has gone may be a migration's channel that has
        no work yet (preempt), so it must not go while a main channel is there.
        """
        live = [each for each in self._live.values() if not each.source.gone]
        waiting = (each for each in live if not each.goes_onward)
        found = next(filter(_is_silent, waiting), None)
        if found is None and not any(each.channel in MAIN_CHANNELS for each in live):
            found = next(filter(_is_silent, live), None)
        if found is None:
            return False
        found.abort()
        self._evicted += 1
        self._tell_surplus()
        return True

    def _reset_surplus(self, opened: socket.socket) -> None:
        """There are too many: reset it, and tell so now and then."""
        set_to_reset(opened)
        opened.close()
        self._surplus += 1
        self._tell_surplus()

    def _tell_surplus(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._surplus_told_at >= SURPLUS_EVERY_S:
            self._surplus_told_at = now
            facts = {"open": len(self._live), "reset": self._surplus, "evicted": self._evicted}
            self._log.write("proxy", "connections-surplus", **facts)
            self._surplus = self._evicted = 0

    async def _connection(
        self, connection: Connection, admission: Admission, peer: str | None
    ) -> None:
        """One connection from accept to end."""
        number = connection.number
        facts = {"connection": number, "attempt": connection.attempt}
        self._log.write("proxy", "connection-opened", **facts, peer=peer)
        try:
            if self._means.recorder is not None:
                self._means.recorder.opened(number)
            if self.on_connection is not None:
                self.on_connection(connection)
            if await self._is_past_faults(connection) and await self._is_let_in(
                connection, admission
            ):
                await self._relay(connection, admission)
        except Exception as error:
            if not self._isolates:
                raise
            connection.abort()
            self._log.write(
                "proxy",
                "connection-broke",
                connection=number,
                error=repr(error),
                traceback=traceback.format_exc(),
            )
        finally:
            connection.close()
            del self._live[number]
            if self._of_attempt.get(connection.nth) is connection:
                del self._of_attempt[connection.nth]
            admission.ended(number)
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        """What one did may be what another one waits for."""
        for connection in self._live.values():
            connection.news.set()

    # One of them, until it goes onward

    async def _is_let_in(self, connection: Connection, admission: Admission) -> bool:
        return not self._peeks or await is_let_in(
            connection,
            admission,
            self._log,
            paused=lambda: self.engine.awaits_recovery,
            silent_after_s=self._silent_after_s,
        )

    async def _is_past_faults(self, connection: Connection) -> bool:
        """Do with one that just came what faults ask for; false if they have ended it."""
        source = connection.source
        for command in self.engine.came(connection.nth):
            match command:
                case HoldBack(for_s=for_s):
                    await connection.until(lambda: source.gone, for_s)
                case Tarpit():
                    await connection.until(lambda: source.gone or source.is_broken)
                    source.learn_how()
                    connection.sender_ended(Side.SOURCE, source.how)
                case _:
                    connection.carry_out([command])
        return not (source.gone or source.is_broken)

    async def _relay(self, connection: Connection, admission: Admission) -> None:
        """Connect it onward, find out what it is, and pump until it is over."""
        admission.goes(connection.number)
        connection.goes_onward = True
        destination = None
        if (opened := await self._connect(connection.number)) is not None:
            destination = SideSocket(opened, self._poller)
        if destination is None or connection.source.gone:
            connection.abort()
            if destination is not None:
                destination.reset()
            return
        connection.join(destination)
        recovers = self.engine.awaits_recovery and not admission.is_open
        admission.went(connection.number)
        self._tell_waiting()
        if not self._peeks:
            await connection.run(self.engine.connection(connection.nth, None))
            return
        speaks = await connection.until(
            lambda: connection.first_bytes(FIRST_BYTES) is not None or destination.was_heard,
            SPEAKS_WITHIN_S if recovers else SILENCE_S,
        )
        if recovers and not speaks:
            tell_stray(self._log, connection, b"", NOTHING_AT_ALL)
            connection.abort()
        if connection.source.gone:
            return
        self._identify(connection)
        await connection.run(self.engine.connection(connection.nth, connection.channel))

    async def _connect(self, number: int) -> socket.socket | None:
        """Connect to the destination; None, and a word in the log, if that cannot be done."""
        upstream = self.upstream
        try:
            connecting = self._open() if self._open else connected(self._namespace, upstream)
            return await in_time(connecting)
        except OSError as error:
            self._log.write(
                "proxy",
                "upstream-refused",
                connection=number,
                address=str(upstream),
                error=error_text(error),
            )
            return None

    def _identify(self, connection: Connection) -> None:
        """Find out what it carries, by its first bytes from the source."""
        first = connection.source.peek(FIRST_BYTES) or b""
        kind = channel_of(first) if first else ChannelKind.PREEMPT  # one that had no work
        if kind is ChannelKind.RETURN_PATH or (kind is ChannelKind.PREEMPT and not self._had_main):
            kind = None
        if kind is ChannelKind.MAIN:
            if self._had_main and self._finds_attempts:
                self.engine.next_attempt()
                self._came, self._of_attempt = 0, {}
            self._had_main = True
        if connection.attempt != self.engine.attempt:
            self._move(connection)
        connection.channel = kind
        number, channel = connection.number, kind or "unknown"
        self._log.write("proxy", "connection-identified", connection=number, channel=channel)
        if kind is None:
            tell_stray(self._log, connection, first, FIRST if connection.nth == 1 else LATER)

    def _move(self, connection: Connection) -> None:
        """That connection came before it was known that it is of another attempt."""
        self._came += 1
        connection.nth, connection.attempt = self._came, self.engine.attempt
        self._of_attempt[connection.nth] = connection

    # Commands that are not one connection's

    def _elsewhere(self, command: Command) -> None:
        match command:
            case Everywhere(command=everywhere):
                for connection in tuple(self._of_attempt.values()):
                    connection.carry_out([everywhere])
            case Signalled():
                self._signal(command)
            case StopListening(for_s=for_s):
                self._listener.refuse(None if self._is_shut else for_s)
            case Observed(kind=kind, facts=facts):
                self._log.write("proxy", kind, **facts)
            case _:
                raise AssertionError(f"{command} is for one connection")

    def _signal(self, command: Signalled) -> None:
        """Have a signal sent, and tell the fault that did it, if it changed something."""
        side, signal, struck = command.side, command.signal, command.struck
        why: str | None = "the endpoints' processes are not ours"
        if self._on_signal is not None:
            why = self._on_signal(side, signal)
        if why is None:
            if struck is not None:
                self._log.write("proxy", struck.kind, **struck.facts)
            self._log.write("proxy", "signal-sent", side=side, signal=signal)
            return
        self._log.write("proxy", "signal-unsent", side=side, signal=signal, why=why)
        if struck is not None:
            self.engine.changed_nothing(struck, why)

    def _held_max(self) -> int:
        """How much a line may hold: its share."""
        return HELD_BYTES_MAX // (2 * max(1, len(self._live)))


def _is_silent(connection: Connection) -> bool:
    """True if its source has not yet said enough to be told by, nor ended."""
    received = connection.received_bytes[Side.SOURCE]
    return not received and connection.first_bytes(FIRST_BYTES) is None
