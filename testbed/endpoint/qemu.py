"""A real QEMU as an endpoint: started in a namespace, driven over QMP, everything it says logged.

Works with QEMU 5.2 to 11.x. Ends with its block: by QMP `quit`, and by SIGKILL if that takes long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, Protocol

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
)

from netns.namespace import setns
from testbed.log import Log, WaitExpired
from testbed.tasks import beside

from .base import EndpointError, MachineSpec, MigrationStatus, QmpRefused
from .command_line import Inherited, boot_disk, command_line, socket_pair

QMP_OPENS_S = 20.0
QMP_ANSWERS_S = 10.0
QUIT_S = 1.0
DRAIN_S = 1.0
SAVE_S = 60.0
LINE_BYTES_MAX = 4096
"""Of stderr and serial lines; what is longer is cut, and the rest is the next line."""
SAVE_CHUNK_BYTES = 1 << 18
CONNECTION_CAPABILITIES = (
    "return-path",
    "postcopy-ram",
    "postcopy-preempt",
    "multifd",
    "validate-uuid",
    "switchover-ack",
    "release-ram",
)
"""Switched off before a machine saves itself: they need a peer that answers."""

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class HasDescriptor(Protocol):
    """A network namespace: anything that holds one by a descriptor."""

    fd: int


class Qemu:
    """One QEMU process; made by `Qemu.start`. See `Endpoint` for what it promises."""

    def __init__(
        self, side: str, log: Log, argv: list[str], process: asyncio.subprocess.Process
    ) -> None:
        self.side = side
        self.argv = argv
        self.version = (0, 0, 0)
        self.exit_status: int | None = None
        self._log = log
        self._process = process
        self._qmp = QMPClient(side)
        self._events = EventListener()
        self._qmp.register_listener(self._events)
        self._stderr: list[str] = []
        self._stopping = False
        self._saving = False  # its migrations are its own from now on, no attempt of the run
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        side: str,
        *,
        log: Log,
        machine: MachineSpec,
        command: tuple[str, ...] = ("qemu-system-x86_64",),
        boot_image: bytes | None = None,
        namespace: HasDescriptor | None = None,
        tap_fd: int | None = None,
        incoming: bool = False,
        capabilities: Mapping[str, bool] | None = None,
        parameters: Mapping[str, Any] | None = None,
        opens_within_s: float = QMP_OPENS_S,
    ) -> AsyncIterator[Qemu]:
        """Start a QEMU and have it ready for `migrate` or `migrate-incoming`.

        Args:
            side: `source` or `destination`, its actor in the log.
            log: where all that it says goes.
            machine: what it emulates.
            command: the binary, or a command that ends in it.
            boot_image: of its disk; None: no disk.
            namespace: network namespace that it lives in; None: this process's.
            tap_fd: of its NIC's TAP; None: no NIC.
            incoming: it waits for `migrate-incoming`.
            capabilities: migration capabilities to set, by QEMU's names.
            parameters: migration parameters to set.
            opens_within_s: bound on the time until QMP answers.

        Raises:
            EndpointError: it is not there, ended at once, never opened QMP, or lacks something.
        """
        endpoint, qmp, serial = await cls._spawn(
            side, log, machine, command, boot_image, namespace, tap_fd, incoming
        )
        readers = endpoint._read_stderr(), endpoint._read_serial(serial), endpoint._wait()
        async with beside(*readers, endpoint._read_events()) as tasks:
            try:
                await endpoint._greet(qmp, opens_within_s)
                await endpoint._configure(capabilities or {}, parameters or {})
                yield endpoint
            finally:
                await endpoint._end()
                qmp.close()
                # What it said last is still in the pipes.
                await asyncio.wait(tasks[: len(readers)], timeout=DRAIN_S)

    @classmethod
    async def _spawn(
        cls,
        side: str,
        log: Log,
        machine: MachineSpec,
        command: tuple[str, ...],
        boot_image: bytes | None,
        namespace: HasDescriptor | None,
        tap_fd: int | None,
        incoming: bool,
    ) -> tuple[Qemu, socket.socket, socket.socket]:
        with (
            socket_pair() as (qmp, qemus_qmp),
            socket_pair() as (serial, qemus_serial),
            nullcontext() if boot_image is None else boot_disk(boot_image) as disk,
        ):
            inherited = Inherited(qemus_qmp.fileno(), qemus_serial.fileno(), disk, tap_fd)
            argv = command_line(command, machine, inherited, incoming=incoming)
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES_MAX * 16,
                    pass_fds=inherited.all,
                    start_new_session=True,
                    preexec_fn=None if namespace is None else lambda: setns(namespace.fd),
                )
            except OSError as error:
                qmp.close()
                serial.close()
                raise EndpointError(
                    f"{side}: cannot run {command[0]!r}: {error.strerror}; install it "
                    f"(Debian: qemu-system-x86) or name another with --{side}-qemu",
                    command=shlex.join(command),
                ) from error
        log.write(side, "process-started", argv=argv, pid=process.pid)
        return cls(side, log, argv, process), qmp, serial

    # Driving it

    async def command(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        within_s: float = QMP_ANSWERS_S,
    ) -> Any:
        """Execute a QMP command; see `Endpoint.command`."""
        self._log.write(self.side, "qmp-command", command=name, arguments=dict(arguments or {}))
        try:
            async with asyncio.timeout(within_s):
                return await self._qmp.execute(name, arguments, oob=oob)
        except ExecuteError as error:
            refusal = error.error.error
            self._log.write(self.side, "qmp-error", command=name, desc=refusal.desc)
            raise QmpRefused(name, refusal.class_, refusal.desc) from error
        except TimeoutError as error:
            self._log.write(self.side, "qmp-silent", command=name, within_s=within_s)
            raise self._failed(f"QMP gave no answer to {name} within {within_s:g} s") from error
        except (ExecInterruptedError, EOFError, OSError) as error:
            raise self._failed(f"it ended before it answered QMP {name}") from error

    async def migration_status(self) -> MigrationStatus:
        """`query-migrate`; see `Endpoint`."""
        answer = await self.command("query-migrate")
        return MigrationStatus(answer.get("status"), answer.get("error-desc"), answer)

    async def run_state(self) -> str:
        """`query-status`; see `Endpoint`."""
        return str((await self.command("query-status"))["status"])

    async def save_again(self) -> AsyncIterator[bytes]:
        """Stop the guest and save the machine anew; the stream that it writes, in chunks.

        Raises:
            EndpointError: it could not, or did not finish within `SAVE_S`.
            QmpRefused: its state does not allow it.
        """
        self._saving = True
        await self.command("stop")
        await self._off(CONNECTION_CAPABILITIES)
        await self.command("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                self._qmp.send_fd_scm(theirs.fileno())
                await self.command("getfd", {"fdname": "saved"})
            await self.command("migrate", {"uri": "fd:saved"})
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(SAVE_S):
                while chunk := await loop.sock_recv(ours, SAVE_CHUNK_BYTES):
                    yield chunk
        status = await self.migration_status()
        if status.status not in ("completed", "device", "active"):
            raise self._failed(f"saving its state ended in {status.status}: {status.error_desc}")

    async def _capabilities(self) -> set[str]:
        answer = await self.command("query-migrate-capabilities")
        return {entry["capability"] for entry in answer}

    async def _off(self, names: tuple[str, ...]) -> None:
        known = await self._capabilities()
        await self.command(
            "migrate-set-capabilities",
            {
                "capabilities": [
                    {"capability": name, "state": False} for name in names if name in known
                ]
            },
        )

    async def wait_for_exit(self, within_s: float) -> int:
        """Its exit status, once it has ended; negative: the signal that ended it.

        Raises:
            WaitExpired: it still runs after `within_s` seconds.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError as error:
            raise WaitExpired(f"the {self.side}'s process to end", within_s) from error
        assert self.exit_status is not None
        return self.exit_status

    # Starting it

    async def _greet(self, qmp: socket.socket, within_s: float) -> None:
        """Connect QMP and learn the version."""
        try:
            async with asyncio.timeout(within_s):
                await self._qmp.connect(qmp)
        except TimeoutError as error:
            raise self._failed(f"it did not open QMP within {within_s:g} s") from error
        except ConnectError as error:
            await asyncio.wait_for(self._ended.wait(), within_s)
            raise self._failed("it ended before it opened QMP") from error
        assert self._qmp.greeting is not None
        version: Any = self._qmp.greeting.QMP.version["qemu"]
        self.version = (version["major"], version["minor"], version["micro"])
        self._log.write(self.side, "greeted", version=list(self.version))

    async def _configure(
        self, capabilities: Mapping[str, bool], parameters: Mapping[str, Any]
    ) -> None:
        known = await self._capabilities()
        lacking = sorted(set(capabilities) - known)
        if lacking:
            raise self._failed(
                f"QEMU {'.'.join(map(str, self.version))} has no migration capability "
                f"{', '.join(map(repr, lacking))}; it has: {', '.join(sorted(known))}"
            )
        wanted = {"events": True, **capabilities}
        try:
            await self.command(
                "migrate-set-capabilities",
                {
                    "capabilities": [
                        {"capability": name, "state": state} for name, state in wanted.items()
                    ]
                },
            )
            if parameters:
                await self.command("migrate-set-parameters", parameters)
        except QmpRefused as error:
            raise self._failed(f"it refused its migration settings: {error}") from error

    # Listening to it

    async def _read_events(self) -> None:
        async for event in self._events:
            data: Any = event.get("data", {})
            if event["event"] == "MIGRATION":
                kind = "saving-status" if self._saving else "migration-status"
                self._log.write(self.side, kind, **data)
            else:
                self._log.write(self.side, "qmp-event", event=event["event"], data=data)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        prefix = f"{os.path.basename(self.argv[0])}: "
        buffer = b""
        while chunk := await self._process.stderr.read(LINE_BYTES_MAX):
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > LINE_BYTES_MAX:
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                self._said(line, prefix)
        if buffer:
            self._said(buffer, prefix)

    def _said(self, raw: bytes, prefix: str) -> None:
        line = raw.decode("utf-8", "replace")
        program, colon, text = line.partition(": ")
        own = colon and (f"{program}: " == prefix or "qemu" in program)
        self._stderr = [*self._stderr[-49:], line]
        self._log.write(self.side, "stderr", line=line, text=text if own else line)

    async def _read_serial(self, serial: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        serial.setblocking(False)
        buffer = b""
        with serial:
            while chunk := await _received(loop, serial):
                *lines, buffer = (buffer + chunk).split(b"\n")
                if len(buffer) > LINE_BYTES_MAX:
                    lines, buffer = [*lines, buffer], b""
                for line in lines:
                    text = line.decode("ascii", "replace").rstrip("\r")
                    self._log.write(self.side, "serial", line=text)

    async def _wait(self) -> None:
        self.exit_status = await self._process.wait()
        facts: dict[str, Any] = {"status": self.exit_status, "asked": self._stopping}
        if self.exit_status < 0:
            facts["signal"] = signal.Signals(-self.exit_status).name
        self._log.write(self.side, "process-ended", **facts)
        self._ended.set()

    # Ending it

    async def _end(self) -> None:
        """End the process, politely first; safe to call again."""
        self._stopping = True
        if not self._ended.is_set():
            with suppress(Exception):
                async with asyncio.timeout(QUIT_S):
                    await self._qmp.execute("quit")
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        with suppress(Exception):
            await self._qmp.disconnect()

    def _failed(self, what: str) -> EndpointError:
        stderr = "\n".join(self._stderr)
        return EndpointError(f"{self.side}: {what}", command=shlex.join(self.argv), stderr=stderr)


async def _received(loop: asyncio.AbstractEventLoop, serial: socket.socket) -> bytes:
    """What came next on the serial line; nothing if QEMU was killed, which resets it."""
    try:
        return await loop.sock_recv(serial, LINE_BYTES_MAX)
    except ConnectionError:
        return b""
