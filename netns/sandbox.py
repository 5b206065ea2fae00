"""A run's own namespaces: user (when not root), mount, PID, network, IPC and UTS.

Cleaning up is the kernel's work. There are four processes::

    command -- guard -- init -- worker -- ...
                        PID 1   runs the work, starts the rest

The guard makes the namespaces; the init is PID 1 in them, reaps, and ends when the command or the
guard does, however that happens: it watches both, and where it cannot watch (stopped, or just
born), the kernel kills it with its parent (PR_SET_PDEATHSIG). With PID 1 go all processes,
namespaces, links, mounts, sockets and files of the run. Nothing of it has a name in the host's
lists.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType

from .inside import FAILURE_BYTES_MAX, FOLDER, KEEP, KEPT, REFUSED, SandboxSide, guard


class SandboxRefused(OSError):
    """The kernel refused a namespace or mount that a sandbox needs; the text says which."""


class SandboxBroke(Exception):
    """An error of our own, or somebody's signal, ended a sandbox while it was set up.

    The text is a traceback, or says how it ended.
    """


class Sandbox:
    """A running sandbox, seen from the command; a context manager that leaves nothing behind.

    `fd` is what the work writes, to its end: read it before `wait`, for the work waits while the
    pipe is full. `pid` is the init's, as the host counts. `failure` is the traceback of work that
    raised, once `wait` has returned.
    """

    def __init__(
        self, guard_pid: int, pid: int, init_fd: int, control: socket.socket, fd: int
    ) -> None:
        self._guard_pid = guard_pid
        self._init_fd = init_fd
        self._control = control
        self._status: int | None = None
        self._detached = False
        self.pid = pid
        self.fd = fd
        self.failure = ""

    @classmethod
    def start(cls, work: Callable[[SandboxSide], int], *, keep: Collection[int] = ()) -> Sandbox:
        """Fork into new namespaces and run `work` there.

        Standard output and error are the command's, standard input is empty. All other
        descriptors but `keep` lead to /dev/null inside. SIGINT is ignored and the session is a
        new one, so that a terminal's Ctrl-C is the command's alone.

        Args:
            work: runs in a fork of this process; what it returns is the exit status.
            keep: descriptors that the work has inside, too.

        Returns:
            The sandbox, when its namespaces and mounts are there.

        Raises:
            SandboxRefused: the kernel refused one of them; nothing is left.
            SandboxBroke: it ended in another way before they were there; nothing is left.
        """
        assert threading.active_count() == 1, "forking a process with threads is not safe"
        sys.stdout.flush()
        sys.stderr.flush()
        output_out, output_in = (_above_standard(fd) for fd in os.pipe())
        control, inside = (
            socket.socket(fileno=_above_standard(end.detach())) for end in socket.socketpair()
        )
        side = SandboxSide(output_in)
        # Until the guard ignores it, a Ctrl-C would be raised in the child as in its parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            guard_pid = os.fork()
            if guard_pid == 0:
                guard(work, side, inside, keep)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(output_in)
        inside.close()
        message, fds, _, _ = socket.recv_fds(control, FAILURE_BYTES_MAX, 1)
        if fds:
            return cls(guard_pid, int(message), fds[0], control, output_out)
        control.close()
        os.close(output_out)
        _, status = os.waitpid(guard_pid, 0)
        said = message.decode(errors="replace")
        if said.startswith(REFUSED):
            number, _, text = said.removeprefix(REFUSED).partition(" ")
            raise SandboxRefused(int(number), text)
        ended = os.waitstatus_to_exitcode(status)
        raise SandboxBroke(said or f"the sandbox ended with {ended} while it was set up")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._detached:
            self.kill()
        os.close(self.fd)
        os.close(self._init_fd)
        self._control.close()

    def kill(self) -> int:
        """End the sandbox with all that is in it, and return its exit status once it is gone."""
        if self._status is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait until all of it is gone.

        Returns:
            The exit status of the work; 128 + n if signal n ended it; -n if one ended the guard.
        """
        if self._status is None:
            _, status = os.waitpid(self._guard_pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
            # A guard that was killed leaves the init some moments behind it.
            select.select([self._init_fd], [], [])
            while piece := self._control.recv(FAILURE_BYTES_MAX):
                self.failure += piece.decode(errors="replace")
        return self._status

    def detach(self) -> int:
        """Let the run live on without the command; return the PID of its init.

        It ends when somebody ends that process (`kill PID`). It lets go of the command's standard
        output and error; what the work started must have its own.

        Raises:
            ProcessLookupError: the run has ended already.
        """
        try:
            self._control.send(KEEP)
            kept = self._control.recv(len(KEPT)) == KEPT
        except (BrokenPipeError, ConnectionResetError):
            kept = False
        if not kept:
            raise ProcessLookupError("the run has ended, there is nothing to keep")
        self._detached = True
        os.kill(self._guard_pid, signal.SIGKILL)
        os.waitpid(self._guard_pid, 0)
        return self.pid


def enter_command(pid: int, namespace: str | None = None) -> str:
    """The shell command that enters a detached run, or one of its pinned network namespaces.

    Args:
        pid: of the run's init, as the host counts.
        namespace: a label of `Topology.pin`; None: the run's own network namespace, an empty one.
    """
    user = "" if os.geteuid() == 0 else " --user --preserve-credentials"
    command = f"nsenter --target {pid}{user} --mount --net --pid"
    if namespace is not None:
        command += f" nsenter --net={FOLDER / namespace}"
    return command


def _above_standard(fd: int) -> int:
    """Move a descriptor above 0 to 2, where it is if the command was started with one closed."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
