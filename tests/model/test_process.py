"""The model as a process: how it begins, whom it talks to, and what its end leaves behind."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from process_helpers import (
    BASE,
    BOOT,
    MODEL,
    REAL,
    Refused,
    holds,
    memory_report,
    resident_bytes,
    runs,
    started,
    within,
)

GROWTH_BYTES_MAX = 16 << 20


def full_disk():
    """What nothing can be written to."""
    return Path("/dev/full").open("wb")


def test_an_error_of_the_model_s_own_ends_it_as_no_migration_does(tmp_path):
    code = (
        "import sys\n"
        "from testbed.model.process import main, vm\n"
        "def fails(_vm): raise KeyError('of the model')\n"
        "vm.Vm.run_guest = fails\n"  # which a timer calls
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    boot = tmp_path / "boot.img"
    boot.write_bytes(BOOT)
    argv = [sys.executable, "-c", code, *BASE, "-drive", f"file={boot},format=raw,if=ide"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "KeyError: 'of the model'" in done.stderr


def server(path):
    return ("-qmp", f"unix:{path},server=on,wait=off")


@asynccontextmanager
async def client(path):
    """Of a monitor that listens: it has read the greeting; reader and writer."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 26)
    try:
        greeting = json.loads(await within(reader.readline()))
        assert greeting["QMP"]["version"]["qemu"]["major"] == 7
        yield reader, writer
    finally:
        writer.close()


async def asked(streams, command, **arguments):
    """What it answers, events left out."""
    reader, writer = streams
    writer.write(json.dumps({"execute": command, "arguments": arguments}).encode())
    while True:
        answer = json.loads(await within(reader.readline()))
        if "event" not in answer:
            return answer


# It begins


SLOW_TO_IMPORT = ("numpy", "scapy", "pydantic", "msgspec", "click", "yaml", "pyroute2", "sqlite3")


async def test_it_imports_nothing_that_takes_long():
    asks = "import sys, testbed.model.process.main; print(*sys.modules)"
    status, out, _ = await runs(["-c", asks], program=(sys.executable,))
    assert status == 0
    assert set(SLOW_TO_IMPORT).isdisjoint(out.split())


@pytest.mark.parametrize(("profile", "version"), [("2.9", (2, 9, 0)), ("7.2", (7, 2, 22))])
async def test_it_greets_as_the_version_that_it_is(profile, version):
    async with started("-profile", profile) as one:
        qemu = one.greeting["version"]["qemu"]
        assert (qemu["major"], qemu["minor"], qemu["micro"]) == version
        assert await one.run_state() == "running"
        assert await one.quit() == 0
        assert one.said == []


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ((), "running"),
        (("-S",), "prelaunch"),
        (("-incoming", "defer"), "inmigrate"),
        (("-incoming", "tcp:127.0.0.1:0", "-S"), "inmigrate"),
    ],
)
async def test_its_state_is_what_it_was_started_for(arguments, state):
    async with started(*arguments, boot=BOOT) as one:
        assert await one.run_state() == state


async def test_the_guest_runs_and_stops_and_runs_on():
    async with started(boot=BOOT) as one:
        await one.until(lambda: "guest started" in one.serial, "guest")
        await one.stamps_on()
        await one.execute("stop")
        assert await one.run_state() == "paused"
        stood = one.stamps
        for _ in range(20):
            await one.execute("query-status")
        await one.execute("cont")
        await one.stamps_on()
        assert stood > 0
        assert one.names() == ["STOP", "RESUME"]


async def test_a_guest_that_is_to_wait_says_nothing_until_it_may():
    async with started("-S", boot=BOOT) as one:
        await one.execute("query-status")
        assert one.serial == []
        await one.execute("cont")
        await one.stamps_on()
        assert one.serial[0] == "guest started"


async def test_the_human_monitor_answers():
    async with started("-name", "guest=a", "-M", "q35") as one:
        assert await one.hmp("info status") == "VM status: running\r\n"
        assert await one.hmp("info name") == "a\r\n"
        assert await one.hmp("info version") == "7.2.22\r\n"
        assert "unknown command" in await one.hmp("nope")


# Monitors


async def test_qmp_shell_works_on_it(tmp_path):
    path = tmp_path / "qmp"
    async with started(*server(path), boot=BOOT):
        status, out, err = await runs(
            [str(path)],
            program=(sys.executable, "-c", "from qemu.qmp.qmp_shell import main; main()"),
            stdin=b"query-status\nstop\nquery-status\nmigrate uri=x:y\nnope\n",
        )
    assert status == 0, err
    assert "Connected to QEMU 7.2.22" in out
    assert out.index('"running": true') < out.index('"running": false')
    assert "expects a valid migration protocol" in out
    assert "The command nope has not been found" in out


async def test_two_monitors_tell_the_same_and_answer_apart(tmp_path):
    paths = tmp_path / "a", tmp_path / "b"
    async with started(*server(paths[0]), *server(paths[1])) as one:
        async with client(paths[0]) as a, client(paths[1]) as b:
            for each in (a, b):
                assert await asked(each, "qmp_capabilities") == {"return": {}}
            await one.execute("stop")
            for reader, _ in (a, b):
                assert json.loads(await within(reader.readline()))["event"] == "STOP"
            # An error of one is no matter of the other.
            assert "error" in await asked(a, "nope")
            assert (await asked(b, "query-status"))["return"]["status"] == "paused"
        assert await one.run_state() == "paused"


async def test_a_second_client_waits_until_the_first_has_gone(tmp_path):
    path = tmp_path / "qmp"
    async with started(*server(path)):
        async with client(path) as first:
            reader, writer = await asyncio.open_unix_connection(str(path))
            second = asyncio.ensure_future(reader.readline())
            assert await asked(first, "qmp_capabilities") == {"return": {}}
            assert (await asked(first, "query-status"))["return"]["running"]
            assert not second.done()
        assert "QMP" in json.loads(await within(second))
        writer.close()


@pytest.mark.parametrize("data", [b"", b'{"execute": "qmp_cap', b'{"execute": "quit"', b"\xff["])
async def test_a_client_that_goes_in_the_middle_leaves_it_as_it_was(tmp_path, data):
    path = tmp_path / "qmp"
    async with started(*server(path)) as one:
        async with client(path) as (_, writer):
            writer.write(data)
        async with client(path) as again:
            assert await asked(again, "qmp_capabilities") == {"return": {}}
            assert (await asked(again, "query-status"))["return"]["running"]
        assert one.said == []


@pytest.mark.parametrize(
    ("what", "times"),
    [  # each NUL is answered with ninety bytes
        (b'"' + b"a" * 4095, 8192),
        (b"[" * 4096, 64),
        (b"{'a':" * 800, 64),
        (b"\0" * 4096, 16),
    ],
    ids=["string", "lists", "objects", "nul"],
)
async def test_garbage_without_end_takes_no_memory(tmp_path, what, times):
    path = tmp_path / "qmp"
    async with started(*server(path)) as one:
        before = resident_bytes(one)
        async with client(path) as (reader, writer):
            reading = asyncio.ensure_future(drained(reader))
            for _ in range(times):
                writer.write(what)
                await within(writer.drain())
            most = resident_bytes(one)
            reading.cancel()
        assert await one.run_state() == "running"
        assert most - before < GROWTH_BYTES_MAX


async def drained(reader):
    while await reader.read(1 << 16):
        pass


async def test_a_client_that_never_reads_is_not_served_without_end(tmp_path):
    path = tmp_path / "qmp"
    async with started(*server(path)) as one:
        before = resident_bytes(one)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(path))
            deaf.setblocking(False)
            sent = 0
            while sent < 32 << 20:
                try:
                    sent += deaf.send(b'{"execute": "query-status"}' * 100)
                except BlockingIOError:
                    break  # it reads no more, either
                await one.execute("query-status")
            assert sent < 32 << 20
            assert await one.run_state() == "running"
            assert resident_bytes(one) - before < GROWTH_BYTES_MAX


# Its serial line


async def test_a_serial_line_that_listens_talks_to_whoever_is_there(tmp_path):
    path = tmp_path / "serial"
    where = f"socket,id=s,path={path},server=on,wait=off"
    line = ("-chardev", where, "-serial", "chardev:s")
    async with started(*line, boot=BOOT, serial_line=False) as one:
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(str(path))
            while b"guest stamps" not in await within(reader.readline()):
                pass
            writer.close()
        assert await one.quit() == 0
    assert not path.exists()


@pytest.mark.parametrize("where", ["file:/dev/full", "stdio", "null"])
async def test_a_serial_line_may_lead_nowhere(tmp_path, where):
    with full_disk() as full:
        line = ("-serial", where)
        async with started(*line, boot=BOOT, serial_line=False, stdout=full) as one:
            stamps = 0
            async with asyncio.timeout(20):
                while not stamps:  # once there are, it has had something to say
                    for _ in range(300):
                        await one.execute("query-status")
                    stamps = memory_report(await holds(one, tmp_path / "held")).stamps
                    await one.execute("cont")
            assert await one.quit() == 0
            assert one.said == []


async def test_a_serial_line_may_lead_to_a_file(tmp_path):
    path = tmp_path / "log"
    async with started("-serial", f"file:{path}", boot=BOOT, serial_line=False) as one:
        async with asyncio.timeout(20):
            while "guest stamps" not in path.read_text():
                await one.execute("query-status")


async def test_what_is_asked_of_it_cannot_always_be_written():
    with full_disk() as full:
        status, _, err = await runs(["-version"], stdout=full)
    assert status == 0  # QEMU 7.2 ends so, and without a word
    assert err == ["qemu-model: standard output: No space left on device"]


async def test_nobody_to_tell_of_a_mistake_changes_nothing():
    with full_disk() as full:
        status, out, _ = await runs(["-nope"], stderr=full)
    assert (status, out) == (1, "")


# Its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_in_order(tmp_path, number):
    path, pid = tmp_path / "qmp", tmp_path / "pid"
    async with started(*server(path), "-pidfile", str(pid)) as one:
        assert pid.read_text() == f"{one.pid}\n"
        one.process.send_signal(number)
        assert await one.exit_status() == 0
        assert one.said[0].startswith(f"terminating on signal {number.value}")
        data = {"guest": False, "reason": "host-signal"}
        assert [each["data"] for each in one.events if each["event"] == "SHUTDOWN"] == [data]
    assert list(tmp_path.iterdir()) == []


async def test_quit_is_answered_and_ends_it_in_order(tmp_path):
    path, pid = tmp_path / "qmp", tmp_path / "pid"
    async with started(*server(path), "-pidfile", str(pid)) as one:
        assert await one.quit() == 0
        data = {"guest": False, "reason": "host-qmp-quit"}
        assert [each["data"] for each in one.events] == [data]
        assert one.said == []
    assert list(tmp_path.iterdir()) == []


async def test_a_pid_file_is_one_process_s(tmp_path):
    pid = tmp_path / "pid"
    async with started("-pidfile", str(pid)) as one:
        status, _, err = await runs(["-pidfile", str(pid), *BASE])
        assert status == 1
        why = "cannot create PID file: Cannot lock pid file: Resource temporarily unavailable"
        assert err == [f"qemu-model: {why}"]
        assert pid.read_text() == f"{one.pid}\n"
        assert pid.stat().st_mode & 0o777 == 0o600


async def test_a_destination_that_fails_leaves_what_qemu_leaves(tmp_path):
    """The socket of a monitor stays after status 1, that of a migration always."""
    path, incoming = tmp_path / "qmp", tmp_path / "incoming"
    async with started(*server(path), "-incoming", f"unix:{incoming}") as one:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(incoming))
            peer.sendall(b"no stream")
        assert await one.exit_status() == 1
        assert one.said == ["Not a migration stream", "load of migration failed: Invalid argument"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["incoming", "qmp"]


async def test_a_monitor_that_was_left_behind_is_taken_over(tmp_path):
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with started(*server(path)), client(path) as streams:
        assert await asked(streams, "qmp_capabilities") == {"return": {}}


async def test_it_waits_for_its_client_where_it_is_to(tmp_path):
    path = tmp_path / "qmp"
    process = await asyncio.create_subprocess_exec(
        *(*MODEL, *BASE, "-qmp", f"unix:{path},server=on"), stderr=asyncio.subprocess.PIPE
    )
    try:
        line = (await within(process.stderr.readline())).decode()
        where = f"unix:{path},server=on"
        assert line == (
            f"qemu-model: -qmp {where}: info: QEMU waiting for connection on: "
            f"disconnected:{where}\n"
        )
        for _ in range(2):
            async with client(path) as streams:
                assert await asked(streams, "qmp_capabilities") == {"return": {}}
        async with client(path) as streams:
            await asked(streams, "qmp_capabilities")
            await asked(streams, "quit")
        assert await within(process.wait()) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# Beside a real one


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_real_one_ends_so_too(tmp_path, number):
    path, pid = tmp_path / "qmp", tmp_path / "pid"
    async with started(*server(path), "-pidfile", str(pid), program=REAL) as one:
        one.process.send_signal(number)
        assert await one.exit_status() == 0
        assert re.match(f"terminating on signal {number.value}", one.said[0])
        assert one.names() == ["SHUTDOWN"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.live
async def test_a_real_destination_leaves_the_same(tmp_path):
    path, incoming = tmp_path / "qmp", tmp_path / "incoming"
    async with started(*server(path), "-incoming", f"unix:{incoming}", program=REAL) as one:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(incoming))
            peer.sendall(b"no stream")
        assert await one.exit_status() == 1
        assert one.said == ["Not a migration stream", "load of migration failed: Invalid argument"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["incoming", "qmp"]


# A device that cannot be migrated


BLOCKED = "State blocked by non-migratable device '0000:00:02.0/nvme'"


@pytest.mark.parametrize("program", [MODEL, pytest.param(REAL, marks=pytest.mark.live)])
async def test_a_device_that_cannot_be_migrated_says_so(tmp_path, program):
    async with started("-device", "nvme,serial=a", program=program) as one:
        assert await one.refuses("migrate", uri=f"exec:cat > {tmp_path / 'file'}") == BLOCKED
        reasons = (await one.execute("query-migrate"))["blocked-reasons"]
        assert reasons == ["non-migratable device: 0000:00:02.0/nvme"]
        assert await one.hmp("savevm a") == f"Error: {BLOCKED}\r\n"
        told = await one.hmp("info migrate")
        assert "Outgoing migration blocked:\r\n  non-migratable device: 0000:00:02.0/nvme" in told
        assert await one.run_state() == "running"
    assert list(tmp_path.iterdir()) == []


async def test_it_stands_behind_the_nics_and_one_behind_another():
    nvme = ("-device", "nvme,serial=a")
    async with started("-M", "q35", "-device", "virtio-net-pci", *nvme, *nvme) as one:
        reasons = (await one.execute("query-migrate"))["blocked-reasons"]
        assert reasons == [f"non-migratable device: 0000:00:0{slot}.0/nvme" for slot in (3, 2)]
        with pytest.raises(Refused, match=re.escape("0000:00:02.0/nvme")):
            await one.execute("migrate", uri="tcp:127.0.0.1:1")
