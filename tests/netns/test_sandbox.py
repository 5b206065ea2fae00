"""A sandbox is gone, with all that was in it, whoever of its processes is killed, and when."""

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.netns import inside
from testbed.netns.inside import FOLDER, WORK_RAISED
from testbed.netns.sandbox import Sandbox, SandboxBroke, enter_command
from testbed.netns.topology import Topology

pytestmark = pytest.mark.live

GONE_WITHIN_S = 5.0
ROUNDS = range(20 if os.environ.get("ALL_EXAMPLES") == "1" else 6)
"""This file is a script, too, and finds no helpers: so it looks into the environment itself."""
KINDS = ("net", "mnt", "pid", "ipc", "uts", "user")


def host_state() -> tuple[object, ...]:
    """What a run must leave as it was; others may be at work on this machine at the same time."""
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] in ("/proc", "/sys", "/dev/shm") or "testbed" in line
    ]
    files = [name for folder in ("/dev/shm", "/tmp") for name in os.listdir(folder)]
    links = os.listdir("/sys/class/net")
    return mounts, [name for name in files if "testbed" in name], sorted(links)


def own_namespaces(pid: int) -> set[str]:
    """Those of a process that are not ours."""
    mine = {os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS} - mine


def wait_until(true, within_s=GONE_WITHIN_S):
    """Poll something that only /proc can tell, and no descriptor."""
    deadline = time.monotonic() + within_s
    while not (answer := true()):
        assert time.monotonic() < deadline, "did not come true"
        select.select([], [], [], 0.01)
    return answer


def read_all(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 65536), b""))


def topology_that_stays(side) -> int:
    async def main() -> None:
        async with Topology.create() as net:
            assert len(list(net.pin(FOLDER))) == 5
            await asyncio.create_subprocess_exec(
                "sleep",
                "1000",
                preexec_fn=net.source.enter_in_child,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            side.write(b"all is up")
            await side.stay()

    asyncio.run(main())
    return 0


def test_work_is_pid_2_with_its_own_everything():
    def work(side) -> int:
        side.write(f"{os.getpid()} {os.getppid()} {os.getuid()} {os.getsid(0)}\n".encode())
        side.write(" ".join(sorted(os.listdir("/sys/class/net"))).encode() + b"\n")
        side.write(" ".join(os.listdir("/dev/shm")).encode() + b"\n")
        side.write(" ".join(p for p in os.listdir("/proc") if p.isdigit()).encode() + b"\n")
        side.write(repr(os.read(0, 1)).encode() + b"\n")
        side.write(str(signal.getsignal(signal.SIGINT) is signal.SIG_IGN).encode())
        return 7

    with Sandbox.start(work) as sandbox:
        lines = read_all(sandbox.fd).decode().splitlines()
        assert sandbox.wait() == 7
    assert lines == ["2 1 0 0", "lo", "testbed", "1 2", "b''", "True"]


def test_an_exception_comes_back_as_a_traceback():
    def work(_side) -> int:
        raise LookupError("no such thing")

    with Sandbox.start(work) as sandbox:
        assert sandbox.wait() == WORK_RAISED
    assert "LookupError: no such thing" in sandbox.failure
    assert "in work" in sandbox.failure


def test_a_signal_is_told_apart_from_a_status():
    def work(_side) -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    with Sandbox.start(work) as sandbox:
        assert sandbox.wait() == 128 + signal.SIGSEGV
    assert sandbox.failure == ""


def test_much_output_passes_through_the_pipe():
    with Sandbox.start(lambda side: side.write(bytes(3_000_000)) or 0) as sandbox:
        assert len(read_all(sandbox.fd)) == 3_000_000
        assert sandbox.wait() == 0


def test_work_goes_on_while_nobody_reads_what_it_writes():
    went_on, says_so = os.pipe()
    pieces = [bytes([number]) * 10_000 for number in range(200)]

    def work(side) -> int:
        async def main() -> None:
            for piece in pieces:
                side.write(piece)
                await asyncio.sleep(0)
            os.write(says_so, b"it did")

        asyncio.run(main())
        side.write(b"the end")
        return 0

    with Sandbox.start(work, keep=(says_so,)) as sandbox:
        assert select.select([went_on], [], [], GONE_WITHIN_S)[0], "it waits to be read"
        assert read_all(sandbox.fd) == b"".join(pieces) + b"the end"
        assert sandbox.wait() == 0
    os.close(went_on)
    os.close(says_so)


def fails(*_arguments: object) -> None:
    raise ValueError("of ours")


@contextmanager
def noted(path: Path):
    """Write down who leaves the block."""
    try:
        yield
    finally:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.parametrize(
    "where", ["_keep_only", "_new_namespaces", "_private_mounts", "_mount_points", "_work"]
)
def test_no_fork_returns_whatever_fails_in_it(where, monkeypatch, tmp_path):
    monkeypatch.setattr(inside, where, fails)
    returned = tmp_path / "returned"
    with pytest.raises(SandboxBroke, match="ValueError: of ours"), noted(returned):
        Sandbox.start(lambda _side: 0)
    assert returned.read_text() == f"{os.getpid()}\n"


def test_no_fork_returns_from_what_fails_when_its_child_has_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(inside, "_exit_code", fails)  # of the init, and then of the guard
    returned = tmp_path / "returned"
    with noted(returned):
        sandbox = Sandbox.start(lambda _side: 0)
    with sandbox:
        assert sandbox.wait() == WORK_RAISED
    assert "ValueError: of ours" in sandbox.failure
    assert returned.read_text() == f"{os.getpid()}\n"


def test_a_sandbox_that_somebody_ends_while_it_is_set_up_says_so(monkeypatch):
    monkeypatch.setattr(inside, "_keep_only", lambda _kept: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SandboxBroke, match="ended with -9 while it was set up"):
        Sandbox.start(lambda _side: 0)


ODD_NAME = b"/mnt/a b\\c\nd\xff\xc3\xa9"
ODD_MOUNTS = """
import os, subprocess, sys
from testbed.netns import inside
from testbed.netns.kernel import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount, unshare
from testbed.netns.sandbox import Sandbox

name = bytes.fromhex(sys.argv[1])
unshare(CLONE_NEWNS)
mount("none", "/", "", MS_REC | MS_PRIVATE)
mount("tmpfs", "/mnt", "tmpfs")
os.mkdir(name)
if sys.argv[2] == "chroot":
    mount("/", name, "", MS_BIND | MS_REC)
    os.chroot(name)
    os.chdir("/")
else:
    mount("tmpfs", name, "tmpfs")
with Sandbox.start(lambda side: side.write(b"inside") or 0) as sandbox:
    print(os.read(sandbox.fd, 100).decode(), sandbox.wait())
"""


@pytest.mark.parametrize("how", ["a mount", "chroot"])
def test_a_mount_may_have_any_name(how):
    argv = [sys.executable, "-c", ODD_MOUNTS, ODD_NAME.hex(), how]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("inside 0\n", "")


def test_names_of_mounts_are_read_as_the_kernel_writes_them(monkeypatch, tmp_path):
    table = tmp_path / "mountinfo"
    escaped = rb"/mnt/a\040b\134c\012d" + b"\xff\xc3\xa9"
    table.write_bytes(b"1 2 0:3 / " + escaped + b" rw - tmpfs none rw\n4 1 0:5 / /b rw - x x x\n")
    monkeypatch.setattr(inside, "Path", lambda _path: table)
    assert inside._mount_points() == [ODD_NAME, b"/b"]


def test_the_command_s_descriptors_lead_nowhere_inside():
    reader, writer = os.pipe()

    def work(side) -> int:
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue  # of the listing itself
            side.write(f"{name} {target}\n".encode())
        return 0

    with Sandbox.start(lambda _side: 0) as another, Sandbox.start(work) as sandbox:
        table = dict(line.split(" ", 1) for line in read_all(sandbox.fd).decode().splitlines())
        assert another.wait() == 0
    os.close(reader)
    os.close(writer)
    assert table[str(reader)] == table[str(writer)] == table["0"] == "/dev/null"
    others = {name for name, target in table.items() if target != "/dev/null"} - {"1", "2"}
    assert len(others) == 2, table  # the output pipe and the control socket


def test_orphans_are_reaped_and_no_zombie_stays():
    def work(_side) -> int:
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()
        wait_until(lambda: [p for p in os.listdir("/proc") if p.isdigit()] == ["1", "2"])
        return 0

    with Sandbox.start(work) as sandbox:
        status = sandbox.wait()
        assert (status, sandbox.failure) == (0, "")


def test_leaving_the_block_ends_all_of_it():
    before = host_state()
    with Sandbox.start(topology_that_stays) as sandbox:
        os.read(sandbox.fd, 100)
        made = own_namespaces(sandbox.pid)
        assert len(members(made)) == 4  # guard, init, worker, and what that started
        assert host_state() == before
    assert not members(made)
    assert host_state() == before


def test_a_stopped_init_is_ended_too():
    with Sandbox.start(topology_that_stays) as sandbox:
        os.read(sandbox.fd, 100)
        os.kill(sandbox.pid, signal.SIGSTOP)
        assert sandbox.kill() == 128 + signal.SIGKILL


def test_two_at_once_do_not_touch_each_other():
    with Sandbox.start(topology_that_stays) as one, Sandbox.start(topology_that_stays) as other:
        os.read(one.fd, 100)
        os.read(other.fd, 100)
        assert not own_namespaces(one.pid) & own_namespaces(other.pid)
        one.kill()
        assert own_namespaces(other.pid)


COMMAND = """
import os, sys
sys.path[:0] = {path!r}
from testbed.netns.sandbox import Sandbox
from test_sandbox import topology_that_stays, read_all
with Sandbox.start(topology_that_stays) as sandbox:
    print(sandbox._guard_pid, sandbox.pid, flush=True)
    if sys.argv[1] == "keep":
        os.read(sandbox.fd, 200)
        print(sandbox.detach(), flush=True)
    else:
        read_all(sandbox.fd)
        sys.exit(sandbox.wait())
"""


def command(how: str, **options) -> subprocess.Popen:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    mark = f"SANDBOX_MARK={time.monotonic_ns()}"
    outer = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(path=paths), how],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, **dict([mark.split("=")])),
        **options,
    )
    outer.mark = mark.encode()
    return outer


def marked(mark: bytes) -> set[int]:
    """The processes that came from that command: its environment is theirs."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
        except OSError:
            continue
    return found


def members(of: set[str]) -> set[int]:
    """The processes that are in one of those namespaces."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if of & {os.readlink(process / "ns" / kind) for kind in KINDS}:
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("round_number", ROUNDS)
def test_whoever_is_killed_everything_is_gone(round_number):
    chance = random.Random(round_number)
    victim = ("command", "guard", "init")[round_number % 3]
    before = host_state()
    with command("run") as outer:
        guard_pid, init_pid = map(int, outer.stdout.readline().split())
        made = own_namespaces(init_pid)
        assert len(made) >= 5
        select.select([], [], [], chance.uniform(0, 0.08))  # the moment is the point here
        os.kill({"command": outer.pid, "guard": guard_pid, "init": init_pid}[victim], 9)
        outer.wait(GONE_WITHIN_S)
    wait_until(lambda: not members(made) and not marked(outer.mark))
    assert host_state() == before


@pytest.mark.parametrize("round_number", ROUNDS)
def test_killed_while_it_is_being_set_up(round_number):
    chance = random.Random(100 + round_number)
    before = host_state()
    with command("run") as outer:
        select.select([], [], [], chance.uniform(0.05, 0.35))  # importing, forking, mounting
        outer.kill()
        outer.wait(GONE_WITHIN_S)
    wait_until(lambda: not marked(outer.mark))
    assert host_state() == before


def test_a_kept_run_stays_and_can_be_entered_until_it_is_ended():
    with command("keep", stdin=subprocess.DEVNULL) as outer:
        lines = outer.stdout.read().split()  # its end: the kept run holds nothing of the command's
        assert outer.wait(GONE_WITHIN_S) == 0
    pid = int(lines[-1])
    made = own_namespaces(pid)
    try:
        inside = subprocess.run(
            f"{enter_command(pid, 'switch')} cat /proc/net/dev",
            shell=True,
            capture_output=True,
            text=True,
        )
        names = {line.split(":")[0].strip() for line in inside.stdout.splitlines() if ":" in line}
        assert names == {"client", "destination", "guests", "lo", "source"}
        ping = f"{enter_command(pid, 'source')} ping -c1 -W2 10.77.0.2"
        assert subprocess.run(ping, shell=True, capture_output=True).returncode == 0
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not members(made))


def test_it_starts_with_standard_input_closed():
    with command("keep", preexec_fn=lambda: os.close(0)) as outer:
        pid = int(outer.stdout.read().split()[-1])
        assert outer.wait(GONE_WITHIN_S) == 0
    os.kill(pid, signal.SIGKILL)


def test_detaching_what_has_ended_says_so():
    with Sandbox.start(lambda _side: 0) as sandbox:
        read_all(sandbox.fd)
        wait_until(lambda: not Path(f"/proc/{sandbox.pid}").exists())
        with pytest.raises(ProcessLookupError):
            sandbox.detach()
