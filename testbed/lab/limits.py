"""What the system limits a run by: open files, processes and threads; each told as what it is.

A limit that is too low is found before anything begins. Found in the middle, it would look as if an
endpoint had failed.
"""

from __future__ import annotations

import _thread
import errno
import os
import resource
from pathlib import Path

from testbed.netns.require import Feature

FILES_MIN = 64
"""Open files that a run without further connections needs. Its worker, which has most, was seen to
have 47 at once."""
FILES_USUAL = 1024
"""The soft limit of most systems (systemd's DefaultLimitNOFILE). One below it is raised to it, as
far as the hard limit allows."""
FILES_EACH = 4
"""Of a connection through the proxy: both of its sockets, and two pipes to splice it with."""
TASKS_MIN = 6
"""Processes and threads of a run beside its endpoints: guard, init, worker, its threads."""
TASKS_MODEL = 1
TASKS_QEMU = 8
"""Threads of a QEMU 7.2 with one CPU in a postcopy, and one to spare."""


def refused(error: OSError) -> str:
    """Say what the system refused, and if a limit was why, which and how to raise it."""
    match error.errno:
        case errno.EMFILE:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            why = f"the limit of open files is {soft} ({_raised(soft, hard, 'n', FILES_USUAL)})"
        case errno.ENFILE:
            why = "the whole system may have no more of them: sysctl fs.file-max"
        case errno.EAGAIN:
            why = f"the limit of processes and threads {_tasks_limit()}"
        case _:
            why = ""
    what = error.strerror or str(error)
    name = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    return f"the system refused: {what}{name}{'; ' if why else ''}{why}"


def too_low(*, connections: int = 1, models: int = 0, qemus: int = 0) -> str | None:
    """Say which limit is too low for a run, or None if none is.

    A soft limit of open files below the usual one is raised. Must be called while the process has
    one thread: processes and threads are tried out in a fork.

    Args:
        connections: that the run has through the proxy at most.
        models: how many of its endpoints are models.
        qemus: how many are QEMUs.
    """
    files = FILES_MIN + FILES_EACH * (connections - 1)
    tasks = TASKS_MIN + TASKS_MODEL * models + (TASKS_QEMU + connections) * qemus
    soft, hard = raise_files(max(FILES_USUAL, files))
    if soft != resource.RLIM_INFINITY and soft < files:
        return (
            f"a run needs {files} open files, and the limit is {soft} "
            f"({_raised(soft, hard, 'n', FILES_USUAL)})"
        )
    if _is_limited() and not _may_start(tasks):
        return (
            f"a run starts up to {tasks} processes and threads, and the system refused one of "
            f"them: the limit {_tasks_limit()}"
        )
    return None


def limit_features() -> list[Feature]:
    """What `testbed doctor` says of the limits: for a run of two QEMUs."""
    what = too_low(qemus=2)
    return [Feature("limits", what is None, what or "of open files and processes: enough", "")]


def _raised(soft: int, hard: int, letter: str, number: int) -> str:
    """How a limit is raised."""
    if soft < hard or hard == resource.RLIM_INFINITY:
        return f"raise it: `ulimit -S{letter} {number}`"
    return f"raise it as root, the hard limit is the same: `ulimit -{letter} {number}`"


def raise_files(wanted: int) -> tuple[int, int]:
    """Raise the soft limit of open files to `wanted` or the hard limit; return both limits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        return raised, hard
    return soft, hard


def _tasks_limit() -> str:
    """What limits processes and threads here, and how to raise it."""
    said = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        how = _raised(soft, hard, "u", 4096)
        said.append(f"of this user is {soft} in all (RLIMIT_NPROC; {how})")
    said += [f"of the cgroup is {most} ({path})" for path, most in _cgroup_limits()]
    return ", ".join(said) or "of the whole system is reached: sysctl kernel.threads-max"


def _is_limited() -> bool:
    """True if a limit of processes and threads applies at all: root has only that of a cgroup."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return (os.geteuid() != 0 and soft != resource.RLIM_INFINITY) or bool(_cgroup_limits())


def _cgroup_limits() -> list[tuple[Path, int]]:
    """The `pids.max` of this process's cgroup, and of those above it (`--pids-limit`, TasksMax)."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(errors="surrogateescape").split("\n")[:-1]
    except OSError:  # no cgroups, or no /proc: then there is no such limit to be found
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "pids"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        folder = root / name.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(root):
                break
            try:
                text = (each / "pids.max").read_text().strip()
            except OSError:  # a container sees its own cgroups only
                continue
            if text.isdigit():
                found.append((each / "pids.max", int(text)))
    return found


def _may_start(count: int) -> bool:
    """Try it: a process with so many threads, the first one included, that ends at once."""
    try:
        pid = os.fork()
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        raise
    if pid == 0:
        status = 1
        try:
            _thread.stack_size(1 << 16)
            closed = _thread.allocate_lock()
            closed.acquire()
            for _ in range(count - 1):
                _thread.start_new_thread(closed.acquire, ())
            status = 0
        finally:
            os._exit(status)  # never back into the caller's code
    _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended) == 0
