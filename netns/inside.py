"""The inside of a sandbox: the guard, the init and the worker, each a fork of the command.

`guard` never returns, whatever happens in it or in what it forks: a forked process must not go on
in its parent's code. `sandbox.py` says what the processes are for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Never, NoReturn

from .kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    set_death_signal,
    unshare,
)

FOLDER = Path("/dev/shm/testbed")  # noqa: S108 - on a tmpfs of the run's own
"""Where a run keeps files: on a tmpfs that only the run's mount namespace has."""

WORK_RAISED = 70
"""Exit status of work that raised."""

KILLED = 128 + signal.SIGKILL
"""Exit status of an init that ended because the command or the guard did."""

FAILURE_BYTES_MAX = 32_768
"""Of a traceback, its end; less than a socket's buffer, so that writing it never waits."""

REFUSED = "refused "
"""What the command is told begins so, with errno and text, if the kernel refused something."""

WRITE_BYTES_MAX = 65_536
"""Given to the pipe at once; it holds as much (pipe(7))."""

MOUNT_ESCAPE = re.compile(rb"\\([0-7]{3})")
"""How /proc/self/mountinfo has a blank, a backslash and the like in a path (proc(5))."""

KEEP, KEPT = b"k", b"kept\n"
"""On the control socket: the command asks to be left, the init says that it was."""


class SandboxSide:
    """What the work inside is given: a way to write to the command, and a way to stay."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._left = bytearray()  # of what was written; its bound is that of whoever writes
        self._blocks = True
        self._loop: asyncio.AbstractEventLoop | None = None  # that waits for room in the pipe

    def write(self, data: bytes) -> None:
        """Write all of it to the command, in order.

        An event loop does not wait for the command to read: what the pipe has no room for goes
        there later. Without a running event loop this returns when all is in the pipe.

        After `Sandbox.detach` nobody reads, and what is written is lost.
        """
        self._left += data
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if self._loop is not loop:
            self._set_blocking(False)
            if not self._write_some():
                self._loop = loop
                loop.add_writer(self.fd, self._room)

    def flush(self) -> None:
        """Wait until all is in the pipe. To be called while no event loop runs."""
        self._loop = None
        self._set_blocking(True)
        self._write_some()

    def _set_blocking(self, blocks: bool) -> None:
        if blocks is not self._blocks:
            os.set_blocking(self.fd, blocks)
            self._blocks = blocks

    def _room(self) -> None:
        if self._write_some():
            assert self._loop is not None
            self._loop.remove_writer(self.fd)
            self._loop = None

    def _write_some(self) -> bool:
        """Write what the pipe takes; true if nothing is left."""
        try:
            while self._left:
                del self._left[: os.write(self.fd, self._left[:WRITE_BYTES_MAX])]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self._left.clear()
        return True

    async def stay(self) -> Never:
        """Keep everything up until the command lets go of it, and for good if it detaches."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody resolves that future")


def guard(
    work: Callable[[SandboxSide], int],
    side: SandboxSide,
    control: socket.socket,
    keep: Collection[int] = (),
) -> NoReturn:
    """Make the namespaces, fork the init into them, pass its status on.

    Called with SIGINT blocked. What the command gets on `control`: the init's PID as the host
    counts, with its pidfd, once all is set up; or `REFUSED` with errno and text; or the traceback
    of an error of ours. Later: `KEPT`, or the traceback of the work.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _guard(work, side, control, keep)
    except OSError as error:
        control.send(f"{REFUSED}{error.errno} {error.strerror}".encode())
    except BaseException:  # noqa: BLE001 - of the guard or the init, which must not return either
        control.send(traceback.format_exc().encode(errors="replace")[-FAILURE_BYTES_MAX:])
    finally:
        os._exit(WORK_RAISED)


def _guard(
    work: Callable[[SandboxSide], int],
    side: SandboxSide,
    control: socket.socket,
    keep: Collection[int],
) -> NoReturn:
    _keep_only((side.fd, control.fileno(), *keep))
    os.setsid()
    guard_fd = os.pidfd_open(os.getpid())
    _new_namespaces()
    set_death_signal(signal.SIGKILL)
    child = os.fork()
    if child == 0:
        _init(work, side, control, guard_fd)
    control.close()
    os.close(side.fd)
    _, status = os.waitpid(child, 0)
    os._exit(_exit_code(status))


def _keep_only(kept: Collection[int]) -> None:
    """Point all descriptors but `kept`, standard output and error at /dev/null.

    They are not closed: an object of the command's that still counts on its number would close
    whatever has the number by then. Only one above the limit of open files (`ulimit -n`), which
    was inherited, takes no other descriptor (EBADF), and has no object either.
    """
    empty = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, *(int(name) for name in os.listdir("/proc/self/fd"))):
        if fd not in (1, 2, empty, *kept):
            _point_at(empty, fd)
    for fd in (1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(empty, fd)


def _point_at(empty: int, fd: int) -> None:
    try:
        os.dup2(empty, fd, inheritable=fd == 0)
    except OSError as error:
        if error.errno != errno.EBADF or fd == 0:
            raise
        # `os.listdir` had a descriptor of its own, which is gone by now.
        with suppress(OSError):
            os.close(fd)


def _new_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    unshare(flags if user == 0 else flags | CLONE_NEWUSER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# The init: PID 1 of the run


def _init(
    work: Callable[[SandboxSide], int],
    side: SandboxSide,
    control: socket.socket,
    guard_fd: int,
) -> NoReturn:
    set_death_signal(signal.SIGKILL)
    pid = os.readlink("/proc/self")  # the old /proc: as the host counts
    _private_mounts()
    init_fd = os.pidfd_open(os.getpid())
    worker = os.fork()
    if worker == 0:
        os.close(guard_fd)
        _work(work, side, control, (pid, init_fd))
    os.close(side.fd)
    _reap_until_the_end(worker, control, guard_fd)


def _private_mounts() -> None:
    """Give the run its own /proc, /sys and /dev/shm; only the last is needed."""
    for point in _mount_points():
        mount("none", point, "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")  # noqa: S108
    FOLDER.mkdir()
    for kind in ("proc", "sysfs"):
        target = "/proc" if kind == "proc" else "/sys"
        try:
            mount(kind, target, kind, MS_NOSUID | MS_NODEV | MS_NOEXEC)
        except OSError:
            # A container that masks parts of them forbids it; they only serve people who look in.
            continue


def _mount_points() -> list[bytes]:
    """The outermost mounts: `/`, or in a chroot, where that is none, those that are seen below.

    As bytes: the name of a mount point need not be text.
    """
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    points = [
        MOUNT_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), line.split(b" ")[4])
        for line in lines
        if line
    ]
    return [b"/"] if b"/" in points else points


def _reap_until_the_end(worker: int, control: socket.socket, guard_fd: int) -> NoReturn:
    """Reap whatever ends; exit with the worker, the command or the guard, unless told to stay."""
    wakeup, child_ended = socket.socketpair()
    wakeup.setblocking(False)
    child_ended.setblocking(False)
    signal.set_wakeup_fd(child_ended.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(KILLED))
    watched = [wakeup.fileno(), control.fileno(), guard_fd]
    while True:
        _reap(worker)
        readable, _, _ = select.select(watched, [], [])
        if wakeup.fileno() in readable:
            wakeup.recv(4096)
        if control.fileno() in readable and control.recv(1) == KEEP:
            set_death_signal(0)
            watched = [wakeup.fileno()]
            _let_go_of_output()
            os.kill(worker, signal.SIGUSR1)
        elif len(readable) > readable.count(wakeup.fileno()):
            os._exit(KILLED)


def _reap(worker: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == worker:
            os._exit(_exit_code(status))


def _let_go_of_output() -> None:
    """Leave the terminal or pipe of a command that is about to end to itself."""
    empty = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (1, 2):
        os.dup2(empty, fd)
    os.close(empty)


def _work(
    work: Callable[[SandboxSide], int],
    side: SandboxSide,
    control: socket.socket,
    init: tuple[str, int],
) -> NoReturn:
    def kept(_number: int, _frame: object) -> None:
        _let_go_of_output()
        control.send(KEPT)

    status = WORK_RAISED
    try:
        signal.signal(signal.SIGUSR1, kept)
        pid, init_fd = init
        socket.send_fds(control, [pid.encode()], [init_fd])
        os.close(init_fd)
        status = work(side)
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        control.send(traceback.format_exc().encode(errors="replace")[-FAILURE_BYTES_MAX:])
    finally:
        try:
            side.flush()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
