"""A QEMU as an endpoint: started in a namespace, driven over QMP, all that it says logged.

Works with QEMU 5.2 to 11.x, and with the models of 2.9 and 7.2, which differ in how their command
begins (`program.py`). Ends with its block: by QMP `quit`, and by SIGKILL if that takes long.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from testbed.log import Log, WaitExpired

from .base import Endpoint, EndpointError, MachineSpec, QmpRefused, ScenarioRefused
from .command_line import Inherited, boot_disk, command_line, given_command_line
from .kvm import choose_accelerator
from .process import Process
from .program import DEFAULT_QEMU
from .qmp import QmpEnded, QmpSession, QmpSilent, QmpSocket
from .saving import save
from .trace import Loading

if TYPE_CHECKING:
    from testbed.netns.namespace import Namespace

QMP_OPENS_WITHIN_S = 20.0
QMP_ANSWERS_WITHIN_S = 10.0

INSTALL = "Install it (Debian: qemu-system-x86), or name another command."

NO_SANDBOX = (
    "--untrusted needs a QEMU that was built with seccomp, and a kernel that has it: take another "
    "QEMU, or run only scenarios that you trust, without --untrusted."
)

UNKNOWN_ARGUMENT = re.compile(
    r"is not a valid device model name|unsupported machine type|Property '[^']*' not found"
    r"|invalid option|Invalid parameter '"
)
"""What QEMU says of an argument that it does not know, and ends with status 1: `qdev-monitor.c`,
`softmmu/vl.c`, `qom/object.c` (7.2; the same from 5.2 to 11.1)."""
UNEXPECTED = "is unexpected"
"""What QMP says of an argument that a command does not have (`qapi/qobject-input-visitor.c`)."""

QUIT_WITHIN_S = 0.5
"""Then SIGKILL: nothing that a QEMU of ours holds is worth more of the user's time."""


class Qemu(Endpoint):
    """One QEMU process; made by `Qemu.start`. See `Endpoint` for what it promises."""

    def __init__(self, side: str, argv: Sequence[str], process: Process, qmp: QmpSession) -> None:
        self.side = side
        self.version = (0, 0, 0)
        self._argv = argv
        self._process = process
        self._qmp = qmp

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        side: str,
        *,
        log: Log,
        machine: MachineSpec,
        command: Sequence[str] = DEFAULT_QEMU,
        boot_image: bytes | None = None,
        namespace: Namespace | None = None,
        tap_fd: int | None = None,
        incoming: bool = False,
        sandboxed: bool = False,
        capabilities: Mapping[str, bool] | None = None,
        parameters: Mapping[str, Any] | None = None,
        opens_within_s: float = QMP_OPENS_WITHIN_S,
    ) -> AsyncIterator[Qemu]:
        """Start a QEMU and have it ready for `migrate` or `migrate-incoming`.

        Args:
            side: `source` or `destination`, its actor in the log.
            log: where all that it says goes; see `Process.start` and `QmpSession`.
            machine: what it emulates. Give both sides the same accelerator if it is not to be
                found out for each by itself (`choose_accelerator`).
            command: the binary, or a command that ends in it, such as a chroot; or a model's.
            boot_image: contents of its disk, from the boot sector on; None: no disk.
            namespace: network namespace that it lives in; None: this process's.
            tap_fd: of its NIC's TAP; None: no NIC.
            incoming: it waits for `migrate-incoming`.
            sandboxed: it may not start programs (`-sandbox`).
            capabilities: migration capabilities to set; see `configure`.
            parameters: migration parameters to set.
            opens_within_s: bound on the time until QMP answers.

        Raises:
            EndpointError: it is not there, ended at once, never opened QMP, lacks something.
        """
        accelerator = machine.accelerator
        if accelerator == "auto":
            accelerator = await choose_accelerator(command)
        qmp = QmpSession(side, log)
        with ExitStack() as ours, ExitStack() as theirs:
            sockets, inherited = _connect(ours, theirs, boot_image, tap_fd)
            argv = command_line(
                command,
                machine,
                inherited,
                accelerator=accelerator,
                incoming=incoming,
                sandboxed=sandboxed,
            )
            async with Process.start(
                side,
                argv,
                log=log,
                namespace=namespace,
                inherited=inherited.all,
                serial=sockets[1],
                traced=incoming,
            ) as process:
                # Once the only copies are its own, its end is the end of each connection.
                theirs.close()
                endpoint = cls(side, argv, process, qmp)
                async with endpoint._driven(sockets[0], opens_within_s):
                    await endpoint.configure(capabilities or {}, parameters or {})
                    yield endpoint

    @classmethod
    @asynccontextmanager
    async def start_given(
        cls,
        side: str,
        command: Sequence[str],
        *,
        log: Log,
        opens_within_s: float = QMP_OPENS_WITHIN_S,
    ) -> AsyncIterator[Qemu]:
        """Start a QEMU whose machine its command line gives; it waits for `migrate-incoming`.

        Only what it takes to drive it is added: a QMP socket of its own, `-incoming defer`, `-S`,
        and no window unless one is asked for. Its guest runs when it is told to (`cont`).

        Args:
            side: its actor in the log.
            command: the binary with all of its arguments.
            log: where all that it says goes.
            opens_within_s: bound on the time until QMP answers.

        Raises:
            EndpointError: it is not there, ended at once, or never opened QMP.
        """
        qmp = QmpSession(side, log)
        with ExitStack() as ours, ExitStack() as theirs:
            our_qmp, its_qmp = _qmp_pair(ours, theirs)
            argv = given_command_line(command, its_qmp.fileno())
            async with Process.start(
                side, argv, log=log, inherited=(its_qmp.fileno(),), advice=INSTALL
            ) as process:
                theirs.close()
                endpoint = cls(side, argv, process, qmp)
                async with endpoint._driven(our_qmp, opens_within_s):
                    yield endpoint

    @asynccontextmanager
    async def _driven(self, qmp: QmpSocket, opens_within_s: float) -> AsyncIterator[None]:
        """Greet it, and see to its end."""
        try:
            await self._greet(qmp, opens_within_s)
            yield
        finally:
            await self._end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""
        return self._process.exit_status

    @property
    def loading(self) -> Loading:
        """What it was seen to load: see `trace.py`."""
        return self._process.loading

    async def command(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        within_s: float = QMP_ANSWERS_WITHIN_S,
    ) -> Any:
        """Execute a QMP command; see `Endpoint.command`."""
        try:
            return await self._qmp.execute(name, arguments, oob=oob, within_s=within_s)
        except QmpSilent as error:
            raise self._error(f"QMP gave no answer to {name} within {within_s:g} s") from error
        except QmpEnded as error:
            raise await self._ended(f"before it answered {name}") from error

    async def wait_for_exit(self, within_s: float) -> int:
        """Return `exit_status` once it has ended; see `Endpoint.wait_for_exit`."""
        try:
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        except TimeoutError as error:
            raise WaitExpired(f"the {self.side}'s process to end", within_s) from error

    async def configure(
        self, capabilities: Mapping[str, bool], parameters: Mapping[str, Any]
    ) -> None:
        """Set migration capabilities, by QEMU's names, and parameters; `events` is always on.

        A capability that it does not have is off.

        Raises:
            ScenarioRefused: it does not know a capability that is to be on, or a parameter.
            EndpointError: it refused a value.
        """
        answer = await self.command("query-migrate-capabilities")
        known = {entry["capability"] for entry in answer}
        wanted = {"events": True, **capabilities}
        lacking = sorted(name for name, on in wanted.items() if on and name not in known)
        if lacking:
            raise ScenarioRefused(
                f"{self.side}: {self._name} has no capability {', '.join(map(repr, lacking))}; "
                f"it has: {', '.join(sorted(known))}",
                advice="Do without it, or take another QEMU; `requires: {capabilities: [..]}` in "
                "the scenario leaves it out where there is none.",
                capabilities=lacking,
            )
        states = [
            {"capability": name, "state": state} for name, state in wanted.items() if name in known
        ]
        try:
            await self.command("migrate-set-capabilities", {"capabilities": states})
            if parameters:
                await self.command("migrate-set-parameters", parameters)
        except QmpRefused as error:
            if error.desc.endswith(UNEXPECTED):
                raise ScenarioRefused(f"{self.side}: {self._name} refused {error}") from error
            raise self._error(f"{self._name} refused {error}") from error

    def save_again(self) -> AsyncIterator[bytes]:
        """Stop the guest and save the machine anew; see `Endpoint.save_again`.

        If the iterator may be left early, close it (`contextlib.aclosing`).
        """
        return save(self, self._qmp)

    async def _greet(self, qmp: QmpSocket, within_s: float) -> None:
        try:
            self.version = await self._qmp.connect(qmp, within_s)
        except QmpSilent as error:
            raise self._error(
                f"it did not open QMP within {within_s:g} s",
                advice="Is the command a QEMU, and passes it on all its arguments?",
            ) from error
        except QmpEnded as error:
            raise await self._ended("before it opened QMP") from error

    async def _end(self) -> None:
        """End the process, politely first."""
        try:
            if self.exit_status is None:
                self._process.asked_to_end = True
                with suppress(QmpRefused, QmpSilent, QmpEnded, TimeoutError):
                    async with asyncio.timeout(QUIT_WITHIN_S):
                        await self._qmp.execute("quit", None, oob=False, within_s=QUIT_WITHIN_S)
                        await self._process.wait()
        finally:
            self._process.kill()
            await self._qmp.disconnect()

    @property
    def _name(self) -> str:
        return f"QEMU {'.'.join(map(str, self.version))}"

    async def _ended(self, when: str) -> EndpointError:
        """The error of a process that closed QMP; waits for its end, which tells more."""
        try:
            status = await self.wait_for_exit(QUIT_WITHIN_S)
        except WaitExpired:
            return self._error(f"it closed QMP {when}")
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        # What it says: "-sandbox support is not enabled in this QEMU binary", "-sandbox on: seccomp
        # support is disabled", "failed to install seccomp syscall filter in the kernel".
        said = self._process.stderr_tail
        lacks = "-sandbox" in self._argv and ("sandbox" in said or "seccomp" in said)
        error = self._error(f"it ended {how} {when}", advice=NO_SANDBOX if lacks else "")
        unknown = [line for line in said.splitlines() if UNKNOWN_ARGUMENT.search(line)]
        if status == 1 and unknown:
            return ScenarioRefused(
                f"{self.side}: it does not know what it was started with: {unknown[-1]}",
                command=error.command,
            )
        return error

    def _error(self, what: str, advice: str = "") -> EndpointError:
        return EndpointError(
            f"{self.side}: {what}",
            command=shlex.join(self._argv),
            stderr=self._process.stderr_tail,
            advice=advice,
        )


def _connect(
    ours: ExitStack, theirs: ExitStack, boot_image: bytes | None, tap_fd: int | None
) -> tuple[tuple[QmpSocket, socket.socket], Inherited]:
    """Make what is between us and it: our ends of QMP and serial line, and what it inherits."""
    our_qmp, its_qmp = _qmp_pair(ours, theirs)
    our_serial, its_serial = _socket_pair(ours, theirs)
    disk = None if boot_image is None else theirs.enter_context(boot_disk(boot_image))
    inherited = Inherited(its_qmp.fileno(), its_serial.fileno(), disk, tap_fd)
    return (our_qmp, our_serial), inherited


def _qmp_pair(ours: ExitStack, theirs: ExitStack) -> tuple[QmpSocket, socket.socket]:
    our_end, its_end = _socket_pair(ours, theirs)
    return ours.enter_context(QmpSocket(fileno=our_end.detach())), its_end


def _socket_pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end of a connection, which does not block, and its end."""
    our_end, its_end = socket.socketpair()
    our_end.setblocking(False)
    return ours.enter_context(our_end), theirs.enter_context(its_end)
