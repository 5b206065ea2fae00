"""One direction of a connection: what one side sends, through the engine, to the other side.

Nothing here waits. A turn reads, has the engine answer, and carries its commands out in order,
until there is nothing to read or the way on is blocked; who watches the sockets gives the next
turn. What one side cannot take is not read from the other: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from testbed.fault.command import Command, HalfClose, Observed, Send
from testbed.fault.lanes.relay import Passing
from testbed.fault.plan import Side

from .outlet import Outlet
from .pipes import Pipe, PipePool
from .recording import Recorder
from .side import PIECES_MAX, SideSocket
from .windows import ROOM_BYTES, WINDOW_BYTES, Pair, WindowPool

READ_BYTES = 64 << 10
"""At once, of what comes slowly: more would be fresh memory from the kernel, each time."""
BUSY_BYTES = 16 << 10
"""A read of so much is one of a busy direction: QEMU writes 32 KiB at a time."""
BUSY_READS, BUSY_READS_MAX = 4, 8
"""So many of them, less those that were not, and it gets windows or a pipe, if there are any."""
TURN_BYTES = 4 << 20
"""Then others have their turn."""
TURN_S = 0.02
"""Or after so long: millions of elements fit into one turn, if a peer makes them small."""
FIRST_BYTES, LEAST_BYTES = 256 << 10, 16 << 10
"""Into a window at once; from the first on as much as the engine can answer for in a turn."""
SILENCE_S = 1.0
"""A side that says nothing for so long will say nothing: what waits for more is decided."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all pumps of a proxy share."""

    windows: WindowPool = field(default_factory=WindowPool)
    pipes: PipePool = field(default_factory=PipePool)
    recorder: Recorder | None = None


class Host(Protocol):
    """The connection that a pump is of."""

    number: int
    relay: Passing

    @property
    def outlets(self) -> Mapping[Side, Outlet]:
        """The ways toward both sides."""

    def act(self, command: Command) -> None:
        """Carry out a command that sends nothing."""

    def sender_ended(self, sender: Side, how: str) -> None:
        """That side has ended, by `FIN`, `RST` or an error such as `ETIMEDOUT`."""

    def turned(self) -> None:
        """A pump had its turn."""

    def guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        """The same, to be called by the event loop; an error in it ends the connection."""


class Pump:
    """Carries what `sender` sends, through `side`, its socket."""

    def __init__(self, host: Host, sender: Side, side: SideSocket, means: Means) -> None:
        self.received_bytes = 0
        self.ended = False  # the sender will send no more
        self.deaf = False  # a fault has it read no more
        self.blocked = False  # it waits for an outlet
        self._host = host
        self._relay = host.relay
        self._sender = sender
        self._side = side
        self._outlet = host.outlets[sender.other]
        self._means = means
        self._recorder = means.recorder
        self._pair: Pair | None = None
        self._pipe: Pipe | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Command] = deque()
        self._busy_reads = 0
        self._window_bytes = FIRST_BYTES
        self._busy = False
        self._is_drained = False  # a read got less than it had room for: there was no more
        self._reset = False
        self._waits_since: float | None = None  # for the sender
        self._timer: asyncio.TimerHandle | None = None
        self._turn_later = host.guarded(self.turn)
        self._silent_later = host.guarded(self._silent)

    @property
    def is_over(self) -> bool:
        """The sender has ended, and all that came of it is done with."""
        return self.ended and not self._queue

    def turn(self) -> None:
        """Go on, as far as it goes now."""
        if self._busy:
            return
        self._busy, self._is_drained, self._waits_since = True, False, None
        try:
            self._go_on()
        finally:
            self._busy = False
        self._host.turned()

    def reset(self) -> None:
        """The sender has reset the connection, seen while writing to it: pass it on, once.

        What it sent before that goes first: its last word may be why it did.
        """
        if self._reset:
            return
        while not (self._busy or self.deaf) and self._carry_out() and self._read():
            pass
        self._sender_ended()
        self.turn()

    def close(self) -> None:
        """It is over; give back what it used."""
        self.ended = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._pair is not None:
            self._means.windows.give_back(self._pair)
        if self._pipe is not None:
            self._means.pipes.give_back(self._pipe)
        self._pair = self._pipe = None

    def _go_on(self) -> None:
        budget, until_s = TURN_BYTES, self._loop.time() + TURN_S
        while self._carry_out():
            if self.ended:
                return
            if self._side.gone or self.deaf:
                self._stop()
                return
            count = None if self._is_drained else self._read()
            if count is None:
                self._wait()
                return
            if not count:
                self._sender_ended()
                continue
            budget -= count
            if budget <= 0 or self._loop.time() > until_s:
                self._loop.call_soon(self._turn_later)
                return

    def _stop(self) -> None:
        """A fault reads no more of it. The other side is not told of its end, but it does end."""
        if self._side.gone or self._side.end_seen:
            self.ended = True
            self._facts(self._relay.ended(self._sender))
            self._carry_out()

    # Reading

    def _read(self) -> int | None:
        """Read what came and have the engine answer; 0: no more will come; None: not yet."""
        if self._busy_reads < BUSY_READS:
            return self._read_little()
        if self._recorder is None and self._is_passing() and self._outlet.is_clear:
            self._pipe = self._pipe or self._means.pipes.take()
            if self._pipe is not None:
                return self._counted(self._pipe.fill(self._side))
        self._pair = self._pair or self._means.windows.take()
        return self._read_much(self._pair) if self._pair is not None else self._read_little()

    def _is_passing(self) -> bool:
        return self._relay.is_passing(self._sender)

    def _read_little(self) -> int | None:
        data = self._side.read(READ_BYTES)
        if not data:
            return self._counted(None if data is None else 0)
        sent = self._sent_ahead(data)
        self._answered(self._relay.received(self._sender, data), sent=sent)
        self._is_drained = len(data) < READ_BYTES and not self._side.end_seen
        return self._counted(len(data))

    def _read_much(self, pair: Pair) -> int | None:
        window = pair.current
        room = window.room[: self._window_bytes]
        count = self._side.read_into(room)
        if not count:
            return self._counted(count)
        began_s = self._loop.time()
        sent = self._sent_ahead(room[:count])
        start, end = ROOM_BYTES, ROOM_BYTES + count
        commands = self._relay.received_window(self._sender, window.buffer, start, end)
        self._answered(commands, sent=sent)
        pair.turn()
        self._fit(count, self._loop.time() - began_s)
        self._is_drained = count < len(room) and not self._side.end_seen
        return self._counted(count)

    def _fit(self, count: int, took_s: float) -> None:
        """Have the next read be one that the engine can answer for in a turn."""
        if took_s > TURN_S:
            self._window_bytes = max(int(count * TURN_S / took_s), LEAST_BYTES)
        else:
            self._window_bytes = min(self._window_bytes * 2, WINDOW_BYTES)

    def _sent_ahead(self, data: bytes | memoryview) -> bool:
        """Bytes came: true if they were sent on at once, since they go on as they are."""
        if self._recorder is not None:
            self._recorder.received(self._host.number, self._sender, data)
        if not self._relay.goes_at_once(self._sender, data):
            return False
        self._outlet.write([data])
        return True

    def _answered(self, commands: list[Command], *, sent: bool) -> None:
        """The engine has answered for what came, and maybe was sent already."""
        if sent:
            self._queue.extend(each for each in commands if not isinstance(each, Send))
        else:
            self._queue.extend(commands)

    def _counted(self, count: int | None) -> int | None:
        """Note how much came, and whether the direction is busy."""
        self.received_bytes += count or 0
        if count is not None and count >= BUSY_BYTES:
            self._busy_reads = min(self._busy_reads + 1, BUSY_READS_MAX)
        elif count is not None:
            self._busy_reads = max(self._busy_reads - 1, 0)
        return count

    def _sender_ended(self) -> None:
        self.ended = True
        if self._side.reset_seen:
            self._reset = True
            self._host.sender_ended(self._sender, self._side.how)
            self._end(self._relay.was_reset(self._sender))
        else:
            self._host.sender_ended(self._sender, "FIN")
            self._end(self._relay.ended(self._sender))

    def _end(self, commands: Iterable[Command]) -> None:
        if self._outlet.is_dark:
            self._facts(commands)  # what is dark hides the end
        else:
            self._queue.extend(commands)

    def _facts(self, commands: Iterable[Command]) -> None:
        self._queue.extend(each for each in commands if isinstance(each, Observed))

    # Carrying out

    def _carry_out(self) -> bool:
        """Carry out what the engine said; false if something of it must wait."""
        self.blocked = True
        if self._pipe is not None and self._pipe.held_bytes and not self._empty(self._pipe):
            return False
        while self._queue:
            command = self._queue[0]
            if isinstance(command, Send | HalfClose):
                outlet = self._host.outlets[command.toward]
                # What goes back to the sender must not wait for it to read: the way on is free.
                if outlet.is_blocked if outlet is self._outlet else outlet.is_full:
                    return False
                if isinstance(command, HalfClose):
                    self._queue.popleft()
                    outlet.finish()
                else:
                    self._send(outlet, command.toward)
            else:
                self._queue.popleft()
                self._host.act(command)
        self.blocked = self._outlet.is_blocked
        return not self.blocked

    def _send(self, outlet: Outlet, toward: Side) -> None:
        """Write at once what goes to the same side in a row."""
        parts: list[bytes | memoryview] = []
        is_onward = outlet is self._outlet
        while self._queue and len(parts) < PIECES_MAX:
            command = self._queue[0]
            if not isinstance(command, Send) or command.toward is not toward:
                break
            self._queue.popleft()
            # Only the sender's windows wait for this outlet: what goes back is kept by itself.
            parts.append(command.data if is_onward else bytes(command.data))
        if is_onward:
            outlet.write(parts)
        else:
            outlet.add(parts)

    def _empty(self, pipe: Pipe) -> bool:
        """Have the socket take what is in the pipe; false if it has not taken all."""
        if self._outlet.is_stalled:
            return False
        self._outlet.spliced(pipe.drain(self._outlet.side))
        return not pipe.held_bytes

    # Silence

    def _wait(self) -> None:
        """The sender has nothing now; its silence is told while something waits for more."""
        if self._relay.undecided(self._sender):
            self._waits_since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(SILENCE_S, self._silent_later)

    def _silent(self) -> None:
        """Time has passed; maybe without a byte."""
        self._timer = None
        if self._waits_since is None or self.ended:
            return
        left = self._waits_since + SILENCE_S - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._silent_later)
        else:
            self._waits_since = None
            self._queue.extend(self._relay.silence(self._sender))
            self._carry_out()
            self._host.turned()
