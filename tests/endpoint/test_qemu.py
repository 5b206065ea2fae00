"""A real QEMU as an endpoint: start, drive, migrate, look at, end; and all that is no QEMU."""

import asyncio
import os
import re
import signal
import socket
import stat
import sys
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.endpoint.base import EndpointError, MachineSpec, QmpRefused
from testbed.endpoint.identity import identify
from testbed.endpoint.kvm import choose_accelerator
from testbed.endpoint.qemu import Qemu
from testbed.log import Log, WaitExpired
from testbed.netns.links import tap, up
from testbed.netns.namespace import Namespace

MACHINE = MachineSpec(memory_bytes=32 << 20, accelerator="tcg")

# A boot sector that says "A" on the first serial line, then halts for ever:
# mov dx, 0x3f8; mov al, 'A'; out dx, al; mov al, '\n'; out dx, al; cli; hlt; jmp back to hlt
HELLO = (
    bytes.fromhex("baf803 b041 ee b00a ee fa f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
)  # fmt: skip


# In a script: the descriptor of QMP, which is on the command line.
QMP_NUMBER = r"$(echo $* | sed 's/.*id=qmp,fd=\([0-9]*\).*/\1/')"


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def script(tmp_path, text):
    path = tmp_path / "fake-qemu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path),)


async def has_status(log, side, *statuses):
    await log.wait(
        lambda event: (
            event.actor == side
            and event.kind == "migration-status"
            and event.facts["status"] in statuses
        ),
        what=f"{side} {statuses}",
        within_s=10,
    )


async def says(log, side, line):
    await log.wait(
        lambda event: (
            event.actor == side and event.kind == "serial" and event.facts["line"].endswith(line)
        ),
        what=f"serial {line!r}",
        within_s=20,
    )


def status_of(pid):
    """What the kernel says of a process."""
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.live
async def test_one_that_is_sandboxed_may_start_no_program():
    """The kernel says so, and the guest can be saved all the same."""
    async with Qemu.start("source", log=Log(), machine=MACHINE, sandboxed=True) as endpoint:
        status = status_of(endpoint.pid)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert (await saved_bytes(endpoint)).startswith(b"QEVM")


async def saved_bytes(endpoint):
    stream = b"".join([chunk async for chunk in endpoint.save_again()])
    assert stream[:4] == b"QEVM"
    return stream


async def fails_to_start(**arguments):
    """The error of a start that fails; nothing is left of it."""
    before, log = descriptors(), Log()
    with pytest.raises(EndpointError) as caught:
        async with Qemu.start("source", log=log, **({"machine": MACHINE} | arguments)):
            pytest.fail("it started")
    assert descriptors() == before
    started = log.first("process-started")
    assert (started is None) == (log.first("process-ended") is None)
    return caught.value, log


# The end of a connection


LAST_WORDS = r"""
import json, os, signal, sys
qmp = open(int(sys.argv[1]), "r+b", buffering=0)
version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
known = [{"capability": "events", "state": False}]
tell = lambda **message: qmp.write(json.dumps(message).encode() + b"\r\n")
def give_up(*_):
    tell(event="MIGRATION", data={"status": "failed"})
    os._exit(1)
signal.signal(signal.SIGUSR1, give_up)
tell(QMP={"version": version, "capabilities": []})
while True:
    command = json.loads(qmp.read(65536))  # the client sends one at a time, and no line end
    answer = known if "query" in command["execute"] else {}
    tell(**{"return": answer}, **{"id": command[each] for each in command if each == "id"})
"""


async def test_what_it_says_last_is_heard_although_it_is_asked_something_meanwhile(tmp_path):
    """A destination that gives up says `failed` and exits; whoever asks then must not lose it."""
    program = tmp_path / "gives_up.py"
    program.write_text(LAST_WORDS)
    command = script(tmp_path, f'exec {sys.executable} {program} "{QMP_NUMBER}"')
    log = Log()
    async with Qemu.start("destination", log=log, machine=MACHINE, command=command) as end:
        os.kill(end.pid, signal.SIGUSR1)
        # The event loop must not read anything until the process has ended.
        os.waitid(os.P_PID, end.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        with pytest.raises(EndpointError, match="with status 1 before it answered query-"):
            await end.command("query-status")
        assert log.first("migration-status", "destination", status="failed")


# What is no QEMU


async def test_a_missing_binary_is_named() -> None:
    error, _ = await fails_to_start(command=("no-such-qemu",))
    assert error.message.startswith("no-such-qemu is not there")
    assert error.command.startswith("no-such-qemu -nodefaults")
    assert "--source-qemu" in error.advice


async def test_a_command_that_ends_at_once_tells_its_status() -> None:
    error, log = await fails_to_start(command=("false",))
    assert error.message == "source: it ended with status 1 before it opened QMP"
    assert log.first("process-ended", "source", status=1, asked=False)


async def test_a_command_that_dies_tells_signal_and_last_words(tmp_path) -> None:
    error, _ = await fails_to_start(command=script(tmp_path, "echo so sorry >&2; kill -ABRT $$"))
    assert error.message == "source: it ended by signal 6 before it opened QMP"
    assert error.stderr == "so sorry"


async def test_a_command_that_never_opens_qmp_is_given_up(tmp_path) -> None:
    error, log = await fails_to_start(
        command=script(tmp_path, "echo thinking; sleep 60"), opens_within_s=0.3
    )
    assert error.message == "source: it did not open QMP within 0.3 s"
    assert error.stderr == "thinking"
    assert log.first("process-ended", "source", signal="SIGKILL", asked=True)


async def test_a_command_that_closes_qmp_and_stays_is_given_up(tmp_path) -> None:
    command = script(tmp_path, f'fd={QMP_NUMBER}; exec bash -c "exec $fd>&-; exec sleep 60"')
    error, _ = await fails_to_start(command=command)
    assert error.message == "source: it closed QMP before it opened QMP"


async def test_nonsense_instead_of_a_greeting_is_an_error(tmp_path, capsys) -> None:
    text = f'fd={QMP_NUMBER}; exec bash -c "echo nonsense >&$fd; exec sleep 60"'
    error, _ = await fails_to_start(command=script(tmp_path, text))
    assert error.message == "source: it closed QMP before it opened QMP"
    assert capsys.readouterr().err == ""


async def test_cancelling_a_start_leaves_nothing(tmp_path) -> None:
    before, log = descriptors(), Log()

    async def start() -> None:
        async with Qemu.start(
            "source", log=log, machine=MACHINE, command=script(tmp_path, "sleep 60")
        ):
            pass

    async with asyncio.TaskGroup() as group:
        task = group.create_task(start())
        await log.wait(lambda event: event.kind == "process-started", what="start", within_s=5)
        task.cancel()
    assert log.first("process-ended", "source", signal="SIGKILL")
    assert descriptors() == before


# A QEMU that refuses


@pytest.mark.live
async def test_an_argument_that_it_refuses_ends_it_with_its_words() -> None:
    machine = MachineSpec(machine="no-such-machine", accelerator="tcg")
    error, log = await fails_to_start(machine=machine)
    assert error.message.startswith("source: it does not know what it was started with: qemu-")
    assert "unsupported machine type" in error.message
    assert "-M no-such-machine" in error.command
    said = log.first("stderr", "source")
    assert said is not None
    assert said.facts["line"] == f"qemu-system-x86_64: {said.facts['text']}"


@pytest.mark.live
async def test_a_capability_that_it_lacks_is_named_with_those_it_has() -> None:
    error, _ = await fails_to_start(capabilities={"teleport": True})
    assert re.match(
        r"source: QEMU \d+\.\d+\.\d+ has no capability 'teleport'; it has: auto-converge, ",
        error.message,
    )
    assert "postcopy-ram" in error.message
    assert error.advice


@pytest.mark.live
@pytest.mark.parametrize(
    "settings",
    [
        {"parameters": {"no-such-parameter": 1}},
        {"parameters": {"multifd-channels": "many"}},
        {"parameters": {"multifd-channels": 0}},
        {"capabilities": {"postcopy-preempt": True}},
    ],
    ids=repr,
)
async def test_settings_that_it_refuses_are_an_error_with_its_words(settings) -> None:
    error, _ = await fails_to_start(**settings)
    assert " refused migrate-set-" in error.message


# A QEMU that works


@pytest.mark.live
async def test_an_endpoint_answers_and_ends_in_order(capsys) -> None:
    before, log = descriptors(), Log()
    async with Qemu.start("source", log=log, machine=MACHINE, boot_image=HELLO) as source:
        assert source.version >= (5, 2, 0)
        assert source.exit_status is None
        await says(log, "source", "A")
        assert await source.run_state() == "running"
        assert (await source.migration_status()).status is None
        on = await source.command("query-migrate-capabilities")
        assert {"capability": "events", "state": True} in on
    assert source.exit_status == 0
    assert log.first("process-ended", "source", status=0, asked=True)
    assert log.first("qmp-event", "source", event="SHUTDOWN")
    assert descriptors() == before
    assert capsys.readouterr().err == ""


@pytest.mark.live
async def test_a_refused_command_is_raised_and_logged() -> None:
    log = Log()
    async with Qemu.start("source", log=log, machine=MACHINE) as source:
        with pytest.raises(QmpRefused) as caught:
            await source.migrate("nonsense:")
        assert (caught.value.command, caught.value.error_class) == ("migrate", "GenericError")
        error = log.first("qmp-error", "source", command="migrate")
        assert error is not None
        assert error.facts["desc"] == caught.value.desc
        assert log.first("qmp-command", "source", command="migrate")
        with pytest.raises(QmpRefused):
            await source.pause()  # out of band, and there is nothing to pause


@pytest.mark.live
async def test_a_silent_qemu_is_an_error_and_ended() -> None:
    log = Log()
    async with Qemu.start("source", log=log, machine=MACHINE) as source:
        os.kill(source.pid, signal.SIGSTOP)
        with pytest.raises(
            EndpointError, match=r"QMP gave no answer to query-status within 0\.2 s"
        ):
            await source.command("query-status", within_s=0.2)
        assert log.first("qmp-silent", "source", command="query-status", within_s=0.2)
        with pytest.raises(WaitExpired):
            await source.wait_for_exit(0.1)
    assert log.first("process-ended", "source", signal="SIGKILL", asked=True)


@pytest.mark.live
async def test_an_answer_that_comes_too_late_harms_nothing(capsys) -> None:
    async with Qemu.start("source", log=Log(), machine=MACHINE) as source:
        os.kill(source.pid, signal.SIGSTOP)
        with pytest.raises(EndpointError):
            await source.command("query-status", within_s=0.1)
        os.kill(source.pid, signal.SIGCONT)
        assert await source.run_state() == "running"
    assert capsys.readouterr().err == ""


@pytest.mark.live
async def test_a_kill_from_outside_is_logged_as_a_signal() -> None:
    log = Log()
    async with Qemu.start("source", log=log, machine=MACHINE) as source:
        os.kill(source.pid, signal.SIGKILL)
        with pytest.raises(EndpointError, match="it ended by signal 9 before it answered"):
            await source.run_state()
        assert await source.wait_for_exit(5) == source.exit_status == -signal.SIGKILL
        with pytest.raises(EndpointError, match="it ended by signal 9 before it answered"):
            await source.run_state()
        with pytest.raises(EndpointError, match="it ended by signal 9"):
            await saved_bytes(source)
    assert log.first("process-ended", "source", signal="SIGKILL", asked=False)


@pytest.mark.live
async def test_an_error_in_the_block_ends_qemu_and_comes_out_as_it_is() -> None:
    before, log = descriptors(), Log()
    with pytest.raises(ZeroDivisionError):
        async with Qemu.start("source", log=log, machine=MACHINE):
            raise ZeroDivisionError
    assert log.first("process-ended", "source")
    assert descriptors() == before


@pytest.mark.live
async def test_its_nic_speaks_on_the_tap_in_its_namespace() -> None:
    async with Namespace.create("host") as namespace:
        with (
            tap(namespace, "tap0") as its_tap,
            namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035)) as capture,
        ):
            await up(namespace, "tap0")
            capture.bind(("tap0", 0x8035))  # RARP: how QEMU announces a guest
            capture.setblocking(False)
            async with Qemu.start(
                "source", log=Log(), machine=MACHINE, namespace=namespace, tap_fd=its_tap.fd
            ) as source:
                schedule = {"initial": 10, "max": 10, "rounds": 1, "step": 0}
                await source.command("announce-self", schedule)
                async with asyncio.timeout(5):
                    frame = await asyncio.get_running_loop().sock_recv(capture, 2048)
    assert frame[6:12].hex(":") == MACHINE.mac


# Migrating, and looking at what an endpoint holds


POSTCOPY = {"return-path": True, "postcopy-ram": True}
SLOW = {"max-bandwidth": 200_000}  # bytes per second: the firmware alone takes seconds


@asynccontextmanager
async def pair(capabilities=None, parameters=None, *, paused=False):
    """Source, destination and log; the source's guest runs."""
    log = Log()
    both = {"log": log, "boot_image": HELLO, "capabilities": capabilities}
    waiting = replace(MACHINE, paused=paused)
    async with (
        Qemu.start("source", machine=MACHINE, parameters=parameters, **both) as source,
        Qemu.start("destination", machine=waiting, incoming=True, **both) as destination,
    ):
        await says(log, "source", "A")
        yield source, destination, log


async def begin(source, destination):
    uri = f"tcp:127.0.0.1:{free_port()}"
    await destination.migrate_incoming(uri)
    await source.migrate(uri)


async def both_have(log, *statuses):
    for side in ("source", "destination"):
        await has_status(log, side, *statuses)


async def migrate_by_postcopy(source, destination, log):
    await begin(source, destination)
    await has_status(log, "source", "active")
    await source.start_postcopy()
    await has_status(log, "source", "postcopy-active")


def sections(loaded):
    return [each for each in loaded if each["kind"] == "start or full"]


@pytest.mark.live
async def test_a_migration_by_hand_moves_the_guest() -> None:
    async with pair({"return-path": True}) as (source, destination, log):
        assert await destination.run_state() == "inmigrate"
        await begin(source, destination)
        await both_have(log, "completed")
        assert await source.run_state() == "postmigrate"
        assert await destination.run_state() == "running"
        assert (await source.migration_status()).status == "completed"
        assert log.first("qmp-event", "destination", event="RESUME")
        loaded = [each.facts for each in log.find("section-loaded", "destination")]
        assert [each["section"] for each in sections(loaded)][:3] == [
            "ram",
            "timer",
            "cpu_common",
        ]
        assert loaded[-1]["section"] == "globalstate"
        assert destination.loading.counts() == {"ram 0": len(loaded) - len(sections(loaded))}
        assert not list(log.find("stderr"))


@pytest.mark.live
async def test_a_failed_migration_tells_why() -> None:
    async with pair() as (source, _, log):
        await source.migrate(f"tcp:127.0.0.1:{free_port()}")
        await has_status(log, "source", "failed")
        status = await source.migration_status()
        assert status.status == "failed"
        assert "Connection refused" in status.error_desc
        assert await source.run_state() == "running"
        assert len(await saved_bytes(source)) > 1 << 19  # and it can be looked at


@pytest.mark.live
async def test_a_paused_postcopy_recovers() -> None:
    slow = SLOW | {"max-postcopy-bandwidth": 200_000}
    async with pair(POSTCOPY, slow) as (source, destination, log):
        await migrate_by_postcopy(source, destination, log)
        # Not its `postcopy-active`, which it has before it has executed POSTCOPY_RUN: until then
        # a lost link ends it.
        await log.wait(
            lambda event: event.actor == "destination" and event.facts.get("event") == "RESUME",
            what="the destination's RESUME",
            within_s=10,
        )
        await source.pause()
        await both_have(log, "postcopy-paused")
        with pytest.raises(QmpRefused):
            await saved_bytes(source)
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.migrate_recover(uri)
        await source.command("migrate-set-parameters", {"max-postcopy-bandwidth": 1 << 30})
        await source.migrate(uri, resume=True)
        await both_have(log, "completed")


# Which machines can be saved again, and which cannot


@pytest.mark.live
async def test_a_running_machine_is_stopped_and_saved() -> None:
    before, log = descriptors(), Log()
    async with Qemu.start(
        "source",
        log=log,
        machine=MACHINE,
        capabilities={"return-path": True, "multifd": True},
        parameters=SLOW,
    ) as source:
        stream = await saved_bytes(source)
        assert b"pc.ram" in stream
        assert stream.rstrip(b"}").endswith(b"]") and b'"vmsd_name"' in stream  # noqa: PT018
        assert log.first("qmp-event", "source", event="STOP")
        assert log.first("saving-status", "source", status="completed")
        assert log.first("migration-status") is None
        with pytest.raises(QmpRefused, match="paused due to previous migration"):
            await saved_bytes(source)
    assert descriptors() == before


@pytest.mark.live
async def test_after_precopy_the_waiting_destination_can_be_saved_and_the_source_not() -> None:
    async with pair({"return-path": True}, paused=True) as (source, destination, log):
        await begin(source, destination)
        await both_have(log, "completed")
        assert await destination.run_state() == "paused"
        assert len(await saved_bytes(destination)) > 1 << 19
        with pytest.raises(QmpRefused, match="paused due to previous migration"):
            await saved_bytes(source)


@pytest.mark.live
async def test_after_postcopy_the_destination_can_be_saved() -> None:
    async with pair(POSTCOPY, SLOW) as (source, destination, log):
        await migrate_by_postcopy(source, destination, log)
        await both_have(log, "completed")
        assert len(await saved_bytes(destination)) > 1 << 19


@pytest.mark.live
async def test_a_destination_without_a_guest_cannot_be_saved() -> None:
    async with pair() as (_, destination, _log):
        with pytest.raises(QmpRefused, match="waiting for an incoming migration"):
            await saved_bytes(destination)


@pytest.mark.live
async def test_leaving_a_saved_stream_early_leaves_nothing() -> None:
    async with Qemu.start("source", log=Log(), machine=MACHINE) as source:
        before = descriptors()
        async with aclosing(source.save_again()) as chunks:
            async for _ in chunks:
                break
        await asyncio.sleep(0)  # the transport closes its pipe in the loop's next round
        assert descriptors() == before
        assert await source.run_state() in ("paused", "finish-migrate", "postmigrate")


# What a command is


@pytest.mark.live
async def test_a_qemu_is_known_by_its_version() -> None:
    found = await identify(["qemu-system-x86_64"])
    assert found.error is None
    assert found.version >= (5, 2, 0)
    assert found.banner.startswith("QEMU emulator version ")
    assert found.kvm == (await choose_accelerator(["qemu-system-x86_64"]) == "kvm")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("no-such-qemu",), "no-such-qemu is not there"),
        (("false",), "it ended with status 1"),
        (("echo", "hello"), "echo hello is no QEMU: it said 'hello --version'"),
        (("true", "then"), "true then is no QEMU: it said ''"),
    ],
    ids=repr,
)
async def test_what_is_no_qemu_is_a_finding(command, said) -> None:
    found = await identify(command)
    assert found.version is None
    assert found.error.startswith(said)


async def test_kvm_is_not_chosen_for_what_runs_no_guest() -> None:
    assert await choose_accelerator(["no-such-qemu"]) == "tcg"
    assert await choose_accelerator(["true"]) == "tcg"


@pytest.mark.live
async def test_a_migration_that_ended_is_waited_for_until_it_has_let_go() -> None:
    slow = {"max-bandwidth": 4096}
    async with Qemu.start("source", log=Log(), machine=MACHINE, parameters=slow) as source:
        with socket.create_server(("127.0.0.1", 0)) as nobody_reads:
            await source.migrate(f"tcp:127.0.0.1:{nobody_reads.getsockname()[1]}")
            waiting = asyncio.ensure_future(source.let_go())
            assert {"type": "migration"} in await source.command("query-yank")
            assert not waiting.done()
            await source.cancel()
            await waiting
            assert {"type": "migration"} not in await source.command("query-yank")
            await source.migrate("exec:cat > /dev/null")
