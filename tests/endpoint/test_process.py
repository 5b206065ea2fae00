"""A process and the log: what it says, how it ends, that nothing of it stays."""

import asyncio
import os
import select
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.endpoint import process as process_module
from testbed.endpoint.base import EndpointError
from testbed.endpoint.process import LINE_BYTES_MAX, LineSplitter, Process
from testbed.log import Log
from testbed.netns.namespace import Namespace


def facts(log, kind):
    return [dict(event.facts) for event in log.find(kind, "source")]


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def ends(pid):
    """True if that process, not ours to reap, is dead or about to be."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="ascii"), max_size=20)))
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    for step in (1, 3, 4096):
        said = []
        splitter = LineSplitter(said.append)
        for start in range(0, len(data), step):
            splitter.data_received(data[start : start + step])
        splitter.connection_lost(None)
        assert said == lines


@pytest.mark.parametrize("step", [1000, LINE_BYTES_MAX, 3 * LINE_BYTES_MAX])
def test_a_line_without_end_is_cut_and_not_kept(step) -> None:
    said = []
    splitter = LineSplitter(said.append)
    for _ in range(9):
        splitter.data_received(b"x" * step)
        assert len(splitter._rest) < LINE_BYTES_MAX
    splitter.connection_lost(None)
    assert "".join(said) == "x" * 9 * step
    assert max(map(len, said)) == LINE_BYTES_MAX


def test_carriage_returns_and_bad_utf8_do_no_harm() -> None:
    said = []
    LineSplitter(said.append).data_received(b"one\r\n\xff\n\n")
    assert said == ["one", "\N{REPLACEMENT CHARACTER}", ""]


async def test_output_and_status_are_logged() -> None:
    log = Log()
    argv = ["sh", "-c", "echo out; echo 'qemu-system-x86_64: bad' >&2; printf last; exit 3"]
    async with Process.start("source", argv, log=log) as process:
        assert await process.wait() == 3
    assert facts(log, "process-started") == [{"argv": argv, "pid": process.pid}]
    assert facts(log, "stderr") == [
        {"line": "out", "text": "out"},
        {"line": "qemu-system-x86_64: bad", "text": "bad"},
        {"line": "last", "text": "last"},
    ]
    assert process.stderr_tail == "out\nqemu-system-x86_64: bad\nlast"
    assert facts(log, "process-ended") == [{"status": 3, "asked": False}]


TRACED = """\
echo 'qemu_loadvm_state_section_startfull 3(timer) 0 2' >&2
printf 'qemu-system-x86_64: ' >&2
echo 'qemu_loadvm_state_section_partend 3' >&2
echo 'it broke' >&2
printf 'half' >&2
echo 'loadvm_process_command com=PING len=4' >&2
"""


async def test_what_is_loaded_is_told_and_is_no_stderr() -> None:
    log = Log()
    async with Process.start("source", ["sh", "-c", TRACED], log=log, traced=True) as process:
        assert await process.wait() == 0
    assert [each["section"] for each in facts(log, "section-loaded")] == ["timer", "timer"]
    assert facts(log, "command-loaded") == [{"command": "PING", "length": 4}]
    assert facts(log, "stderr") == [
        {"line": "qemu-system-x86_64: it broke", "text": "it broke"},
        {"line": "half", "text": "half"},
    ]
    assert process.stderr_tail == "qemu-system-x86_64: it broke\nhalf"
    assert process.loading.counts() == {"timer 0": 1}


async def test_of_who_is_not_traced_all_is_stderr() -> None:
    log = Log()
    async with Process.start("source", ["sh", "-c", TRACED], log=log) as process:
        assert await process.wait() == 0
    assert len(facts(log, "stderr")) == 4
    assert not facts(log, "section-loaded")


async def test_a_signal_is_logged_by_name() -> None:
    log = Log()
    async with Process.start("source", ["sleep", "60"], log=log) as process:
        os.kill(process.pid, signal.SIGSEGV)
        assert await process.wait() == -signal.SIGSEGV
    assert facts(log, "process-ended") == [{"signal": "SIGSEGV", "asked": False}]


async def test_leaving_the_block_ends_the_whole_group() -> None:
    before, log = descriptors(), Log()
    async with Process.start("source", ["sh", "-c", "sleep 61 & echo $!; wait"], log=log):
        said = await log.wait(lambda event: event.kind == "stderr", what="its pid", within_s=5)
        child = int(said.facts["line"])
        os.kill(child, 0)
    assert facts(log, "process-ended") == [{"signal": "SIGKILL", "asked": True}]
    assert ends(child)
    assert descriptors() == before


async def test_what_it_left_behind_ends_with_it() -> None:
    log = Log()
    async with Process.start("source", ["sh", "-c", "sleep 62 & echo $!"], log=log) as process:
        assert await process.wait() == 0
        assert ends(int(process.stderr_tail))


async def test_it_is_out_of_reach_of_the_terminals_interrupt() -> None:
    async with Process.start("source", ["sleep", "60"], log=Log()) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


async def test_cancelling_ends_it() -> None:
    before, log = descriptors(), Log()
    started = asyncio.Event()

    async def use() -> None:
        async with Process.start("source", ["sleep", "60"], log=log):
            started.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(use())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # and once more while it cleans up
    assert facts(log, "process-ended") == [{"signal": "SIGKILL", "asked": True}]
    assert descriptors() == before


async def test_the_serial_line_is_logged() -> None:
    ours, its = socket.socketpair()
    ours.setblocking(False)
    log = Log()
    with its:
        argv = ["bash", "-c", f"printf 'a\\r\\nb' >&{its.fileno()}"]
        async with Process.start(
            "source", argv, log=log, inherited=[its.fileno()], serial=ours
        ) as process:
            its.close()
            await process.wait()
    assert facts(log, "serial") == [{"line": "a"}, {"line": "b"}]


async def test_a_flood_of_lines_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(process_module, "LINES_MAX", 10)
    log = Log()
    async with Process.start("source", ["seq", "100"], log=log) as process:
        await process.wait()
    assert [entry["line"] for entry in facts(log, "stderr")] == [str(n) for n in range(1, 11)]
    assert facts(log, "stderr-cut") == [{"lines_max": 10}]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-qemu", "no-such-qemu is not there: No such file or directory"),
        ("/etc/passwd", "/etc/passwd cannot be executed: Permission denied"),
    ],
)
async def test_a_command_that_is_none(name, said) -> None:
    before = descriptors()
    with pytest.raises(EndpointError) as caught:
        async with Process.start("source", [name, "-M", "pc"], log=Log()):
            pass
    assert caught.value.message == said
    assert caught.value.command == f"{name} -M pc"
    assert caught.value.advice
    assert descriptors() == before


@pytest.mark.live
async def test_it_lives_in_the_namespace() -> None:
    async with Namespace.create("test") as namespace:
        log = Log()
        argv = ["readlink", "/proc/self/ns/net"]
        async with Process.start("source", argv, log=log, namespace=namespace) as process:
            await process.wait()
        inside = os.fstat(namespace.fd).st_ino
        assert facts(log, "stderr")[0]["line"] == f"net:[{inside}]"
        assert os.stat("/proc/thread-self/ns/net").st_ino != inside


async def test_what_it_leaves_behind_is_told_and_ended() -> None:
    log = Log()
    argv = ["sh", "-c", "sleep 60 & echo $!"]
    async with Process.start("source", argv, log=log) as process:
        await process.wait()
        pid = int(facts(log, "stderr")[0]["line"])
        (leaked,) = facts(log, "leaked")
        # It may be caught before it has become `sleep`.
        assert leaked["what"] in (f"a process: sleep ({pid})", f"a process: sh ({pid})")
