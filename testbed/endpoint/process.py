"""A process whose output, end and signal go into the log, and which never outlives its block.

It leads a session of its own, so that Ctrl-C in the terminal is ours alone, and all that it
started can be ended with it.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shlex
import signal
import socket
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.log import Log

from .base import EndpointError
from .trace import Loading

if TYPE_CHECKING:
    from testbed.netns.namespace import Namespace

LINE_BYTES_MAX = 4096
"""A longer line is cut into pieces of this size; QEMU's own are below 1 KiB."""

LINES_MAX = 20_000
"""Lines of one output that go into the log: a guest in a loop must not push out the rest."""

TAIL_LINES_MAX = 40
"""Lines of stderr kept for error messages; the log has them all."""

DRAIN_WITHIN_S = 1.0
"""After the end, for output still in the pipe. Only a stranger that holds it takes that long."""

INSTALL_OR_CHOOSE = (
    "Install it (Debian: qemu-system-x86), name another with --source-qemu or "
    "--destination-qemu, or run on models: --endpoint model."
)

PROGRAM_PREFIX = re.compile(r"^\S*qemu[\w.-]*: ")
"""What QEMU puts before its messages: its own name, as it was called (`util/error-report.c`)."""


class LineSplitter(asyncio.Protocol):
    """Calls `on_line` with each line that comes, decoded, without its end."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        whole = len(self._rest) - len(self._rest) % LINE_BYTES_MAX
        if whole:
            self._say(self._rest[:whole])
            self._rest = self._rest[whole:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Say what came after the last line end."""
        if self._rest:
            self._say(self._rest)
        self.ended.set()

    def _say(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES_MAX):
            piece = line[start : start + LINE_BYTES_MAX]
            self._on_line(piece.decode(errors="replace").rstrip("\r"))


class Process:
    """A running command; made by `Process.start`, ended with its whole group when that block is."""

    def __init__(
        self, side: str, popen: subprocess.Popen[bytes], log: Log, *, traced: bool = False
    ) -> None:
        self._side = side
        self._popen = popen
        self._log = log
        self._traced = traced
        self._tail: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        self._line_counts = {"stderr": 0, "serial": 0}
        self._loading = Loading()
        self._begun = ""  # of a message that a line of the trace came into
        self._outputs: list[tuple[asyncio.BaseTransport, LineSplitter]] = []
        self._exited = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)
        self.asked_to_end = False

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        side: str,
        argv: Sequence[str],
        *,
        log: Log,
        namespace: Namespace | None = None,
        inherited: Sequence[int] = (),
        serial: socket.socket | None = None,
        traced: bool = False,
        advice: str = INSTALL_OR_CHOOSE,
    ) -> AsyncIterator[Process]:
        """Start `argv` in a session of its own, and log what becomes of it.

        Writes `process-started` (argv, pid); `stderr` (line as it came, text without the name of
        the program; standard output comes here too); `serial` (line); `section-loaded` and
        `command-loaded` (what `trace.py` reads; such a line is no `stderr`); `process-ended`
        (status, or signal by name; asked: the testbed ended it); `leaked` (what), for each process
        of its session that is left when it ends by itself.

        Args:
            side: the actor in the log.
            argv: command and arguments.
            log: the run's.
            namespace: the network namespace that the process lives in; None: ours.
            inherited: descriptors that it gets, under the same numbers.
            serial: our end of its serial line; closed when the block ends.
            traced: it was given `TRACE_ARGUMENTS`, and what it loads is read from its stderr.
            advice: what to do if the command is not there.

        Raises:
            EndpointError: the command is not there or cannot be executed.
        """
        with ExitStack() as stack:
            if serial is not None:
                stack.enter_context(serial)
            read_end, write_end = os.pipe()
            output = stack.enter_context(io.FileIO(read_end, "r"))
            try:
                popen = _spawn(argv, write_end, inherited, namespace, advice)
                process = cls(side, popen, log, traced=traced)
            finally:
                os.close(write_end)
            try:
                log.write(side, "process-started", argv=list(argv), pid=process.pid)
                await process._read(output, serial)
                yield process
            finally:
                await process._end()

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group and session."""
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""
        status: int | None = self._popen.returncode
        return status

    @property
    def stderr_tail(self) -> str:
        """The last lines that it wrote to stderr and standard output."""
        return "\n".join(self._tail)

    @property
    def loading(self) -> Loading:
        """What it was seen to load; of a process that is not traced nothing is seen."""
        return self._loading

    async def wait(self) -> int:
        """Wait until it has ended and all that it wrote is in the log; return its exit status."""
        await self._exited.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_WITHIN_S):
                for _, output in self._outputs:
                    await output.ended.wait()
        status: int = self._popen.returncode
        return status

    def kill(self) -> None:
        """Send SIGKILL to it and to all of its group."""
        if self._popen.returncode is None:
            self.asked_to_end = True
            self._kill_group()

    def _kill_group(self) -> None:
        # Until it is reaped its id, and so the group's, cannot be another's.
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Take note of its end, once. Waits if it has not ended yet: call `kill` before."""
        if self._exited.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        left = [] if self.asked_to_end else left_behind(self._popen.pid)
        self._kill_group()  # what it may have left behind
        status = self._popen.wait()
        how: dict[str, Any] = (
            {"status": status} if status >= 0 else {"signal": signal_name(-status)}
        )
        self._log.write(self._side, "process-ended", **how, asked=self.asked_to_end)
        for each in left:
            self._log.write(self._side, "leaked", what=f"a process: {each}")
        self._exited.set()

    async def _end(self) -> None:
        self.kill()
        try:
            await self.wait()
        finally:
            self._reap()
            for transport, _ in self._outputs:
                transport.close()
        for _, output in self._outputs:
            await output.ended.wait()
        self._say_begun()

    async def _read(self, output: io.FileIO, serial: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        self._outputs.append(
            await loop.connect_read_pipe(lambda: LineSplitter(self._stderr_line), output)
        )
        if serial is not None:
            self._outputs.append(
                await loop.create_unix_connection(
                    lambda: LineSplitter(self._serial_line), sock=serial
                )
            )

    def _stderr_line(self, line: str) -> None:
        traced = self._loading.read(line) if self._traced else None
        if traced is not None:
            before, events = traced
            self._begun += before
            for kind, facts in events:
                self._log.write(self._side, kind, **facts)
            if len(self._begun) > LINE_BYTES_MAX:
                self._say_begun()
            return
        self._stderr_text(self._begun + line)

    def _say_begun(self) -> None:
        """Say the beginning of a message whose rest did not come."""
        if self._begun:
            self._stderr_text(self._begun)

    def _stderr_text(self, line: str) -> None:
        self._begun = ""
        self._tail.append(line)
        self._write_line("stderr", line=line, text=PROGRAM_PREFIX.sub("", line))

    def _serial_line(self, line: str) -> None:
        self._write_line("serial", line=line)

    def _write_line(self, kind: str, **facts: Any) -> None:
        self._line_counts[kind] += 1
        if self._line_counts[kind] <= LINES_MAX:
            self._log.write(self._side, kind, **facts)
        elif self._line_counts[kind] == LINES_MAX + 1:
            self._log.write(self._side, f"{kind}-cut", lines_max=LINES_MAX)


def _spawn(
    argv: Sequence[str],
    output: int,
    inherited: Sequence[int],
    namespace: Namespace | None,
    advice: str,
) -> subprocess.Popen[bytes]:
    """Start the process: a child is born in the network namespace of the thread that makes it."""
    try:
        with namespace.entered() if namespace is not None else nullcontext():
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherited,
                start_new_session=True,
            )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise EndpointError(
            f"{argv[0]} {'is not there' if missing else 'cannot be executed'}: {error.strerror}",
            command=shlex.join(argv),
            advice=advice,
        ) from error


LEFT_MAX = 8
"""Processes that a side left behind and that are named; more say nothing new."""


def left_behind(session: int) -> list[str]:
    """Return the processes of a session but for its leader, as `NAME (PID)`; see `proc(5)`.

    Args:
        session: the process id of its leader, which may have ended but is not reaped yet.
    """
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == session:
            continue
        with suppress(OSError):  # it ended meanwhile
            # The name stands in brackets and may hold anything; the session id is the fourth
            # field behind it.
            name, _, rest = Path(entry.path, "stat").read_text().rpartition(")")
            if int(rest.split()[3]) == session:
                found.append(f"{name.partition('(')[2]} ({entry.name})")
    return found[:LEFT_MAX]


def signal_name(number: int) -> str:
    """`SIGKILL` of 9; a real-time signal has a number."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
