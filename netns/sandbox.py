"""A run's own namespaces: user (when not root), mount, PID, network, IPC and UTS.

Cleaning up is the kernel's work. The command forks a guard, the guard a PID 1; whoever of the
three ends, and however, takes the others along (PR_SET_PDEATHSIG, and a lifeline pipe for the
moment before that is set), and with PID 1 go all processes, namespaces, links, mounts, sockets and
files of the run. Nothing of it has a name in the host's lists.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from .namespace import CLONE_NEWNET, mount, unshare

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

FOLDER = Path("/dev/shm/testbed")  # noqa: S108 - on a tmpfs of the run's own
"""Where a run keeps files: on a tmpfs that only the run's mount namespace has."""

WORK_RAISED = 70
"""Exit status of a PID 1 whose work raised; the traceback went to standard error."""

KEEP = b"k"


class Inside:
    """What PID 1's work is given: where to write, and how to learn that it may stay."""

    def __init__(self, output_fd: int, lifeline_fd: int) -> None:
        self.output_fd = output_fd
        self.lifeline_fd = lifeline_fd

    def write(self, data: bytes) -> None:
        """Write all of it to the command, waiting while its pipe is full."""
        while data:
            data = data[os.write(self.output_fd, data) :]

    def wait_for_release(self) -> None:
        """Hold until the command lets go; returns never where it ends without saying so.

        After `Sandbox.detach` the run no longer ends with the command.
        """
        if os.read(self.lifeline_fd, 1) != KEEP:
            os._exit(0)
        _set_death_signal(0)
        self.write(KEEP + b"\n")
        os.close(self.output_fd)
        while True:
            signal.pause()


class Sandbox:
    """A running sandbox, seen from the command; a context manager that leaves nothing behind."""

    def __init__(self, guard_pid: int, output_fd: int, lifeline_fd: int) -> None:
        self._guard_pid = guard_pid
        self._lifeline_fd = lifeline_fd
        self._status: int | None = None
        self._detached = False
        self.output_fd = output_fd

    @classmethod
    def start(cls, work: Callable[[Inside], int]) -> Sandbox:
        """Fork into new namespaces and run `work` as their PID 1.

        Args:
            work: called with the inside of the pipe; what it returns is the exit status.

        Returns:
            The sandbox, at once: what the kernel refuses is seen as exit status `WORK_RAISED` and
            on standard error.
        """
        assert threading.active_count() == 1, "forking a process with threads is not safe"
        sys.stdout.flush()
        sys.stderr.flush()
        output_out, output_in = os.pipe()
        lifeline_out, lifeline_in = os.pipe()
        guard_pid = os.fork()
        if guard_pid == 0:
            os.close(output_out)
            os.close(lifeline_in)
            _guard(work, Inside(output_in, lifeline_out))
        os.close(output_in)
        os.close(lifeline_out)
        return cls(guard_pid, output_out, lifeline_in)

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
        os.close(self.output_fd)
        os.close(self._lifeline_fd)

    def kill(self) -> int:
        """End the sandbox with all that is in it, and reap it; return its exit status."""
        if self._status is None:
            os.kill(self._guard_pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; the exit status of the work, or minus the signal that ended it."""
        if self._status is None:
            _, status = os.waitpid(self._guard_pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def detach(self) -> int:
        """Let the run live on without the command; return its PID 1 as the host counts.

        The work must be in `Inside.wait_for_release`.
        """
        children = Path(f"/proc/{self._guard_pid}/task/{self._guard_pid}/children").read_text()
        os.write(self._lifeline_fd, KEEP)
        while os.read(self.output_fd, 4096):
            pass  # until PID 1 closed its end: it no longer dies with its parent
        self._detached = True
        os.kill(self._guard_pid, signal.SIGKILL)
        self.wait()
        return int(children.split()[0])


def enter_command(pid: int, namespace: str | None = None) -> str:
    """The shell command that enters a detached run, or one of its pinned network namespaces."""
    user = "" if os.geteuid() == 0 else " --user --preserve-credentials"
    command = f"nsenter --target {pid}{user} --mount --net --pid"
    if namespace is not None:
        command += f" nsenter --net={FOLDER / namespace}"
    return command


def _guard(work: Callable[[Inside], int], inside: Inside) -> NoReturn:
    """The process between: makes the namespaces, forks PID 1 into them, passes its status on."""
    try:
        os.setsid()  # the terminal's Ctrl-C is for the command alone
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _new_namespaces()
        _die_with_parent(inside.lifeline_fd)
        guard_out, guard_in = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(guard_in)
            _pid_1(work, inside, guard_out)
        os.close(guard_out)
        os.close(inside.output_fd)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(WORK_RAISED)


def _new_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    unshare(flags if user == 0 else flags | CLONE_NEWUSER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _pid_1(work: Callable[[Inside], int], inside: Inside, guard_fd: int) -> NoReturn:
    try:
        _die_with_parent(guard_fd)
        os.close(guard_fd)
        _private_mounts()
        status = work(inside)
        sys.stdout.flush()
        os._exit(status)
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(WORK_RAISED)


def _private_mounts() -> None:
    """Give the run its own /proc, /sys and /dev/shm; only the last is needed."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")  # noqa: S108
    FOLDER.mkdir()
    for kind in ("proc", "sysfs"):
        target = "/proc" if kind == "proc" else "/sys"
        try:
            mount(kind, target, kind, MS_NOSUID | MS_NODEV | MS_NOEXEC)
        except OSError:
            # A container that masks parts of them forbids it; they only serve people who look in.
            continue


def _die_with_parent(parent_fd: int) -> None:
    """End this process when its parent does; `parent_fd` is a pipe that only the parent writes.

    To be called after `unshare`: new credentials clear the death signal.
    """
    _set_death_signal(signal.SIGKILL)
    if select.select([parent_fd], [], [], 0)[0]:
        os._exit(0)  # the parent ended before the death signal was set


def _set_death_signal(number: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)
