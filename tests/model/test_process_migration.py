"""Two processes of the model, and a migration between them: what both say, and where it ends."""

import asyncio
import os
import re
import socket
from contextlib import contextmanager

import pytest
from process_helpers import (
    BOOT,
    children,
    free_port,
    holds,
    memory_report,
    pair,
    started,
)

SLOW_BYTES = 2 << 20
"""A second: slow enough for something to be done meanwhile."""

CARRIED_BYTES = 1 << 14
INTO_A_PAGE_BYTES = 1000
PAUSED = "Detected IO failure for postcopy. Migration paused."


async def listens(destination, uri="tcp:127.0.0.1:0"):
    """Have it wait for a migration; where."""
    await destination.execute("migrate-incoming", uri=uri)
    (address,) = (await destination.execute("query-migrate"))["socket-address"]
    if address["type"] == "unix":
        return f"unix:{address['path']}"
    return f"tcp:{address['host']}:{address['port']}"


async def slow(source, **more):
    """Have its migrations take long."""
    await source.execute("migrate-set-parameters", max_bandwidth=SLOW_BYTES, **more)


async def fast(source):
    await source.execute("migrate-set-parameters", max_bandwidth=1 << 30)


async def moved(source, destination):
    """Wait until a migration is complete at both ends, and the guest runs there."""
    assert await source.has("completed", "failed") == "completed", (source.said, destination.said)
    await destination.has("completed")
    assert await source.run_state() == "postmigrate"
    assert await destination.run_state() == "running"
    await destination.stamps_on()


async def runs_on(source):
    """The guest runs here as if nothing had been."""
    assert await source.run_state() == "running"
    await source.stamps_on()


def names(process):
    """Of events, without those that come more or less often."""
    return [name for name in process.names() if name != "MIGRATION_PASS"]


async def intact(process, path):
    """Stop it, and look at all of its memory; what it holds."""
    held = await holds(process, path)
    report = memory_report(held)
    assert report.intact, report
    return held


async def in_postcopy(source, destination, uri):
    """Begin a migration, and let the guest move early."""
    for each in (source, destination):
        await each.enable("postcopy-ram")
    await slow(source)
    await source.execute("migrate", uri=uri)
    await source.has("active")
    await source.execute("migrate-start-postcopy")
    await source.has("postcopy-active")
    await destination.has("postcopy-active")


# It works


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
@pytest.mark.parametrize("way", ["tcp", "unix", "fd"])
async def test_a_guest_moves_and_runs_on(tmp_path, way, profile):
    async with pair("-profile", profile, boot=BOOT) as (source, destination):
        await source.stamps_on()
        uri = "fd:mig"
        if way == "fd":
            one, other = socket.socketpair()
            with one, other:
                await source.pass_fd(one.fileno(), "mig")
                await destination.pass_fd(other.fileno(), "mig")
        elif way == "unix":
            uri = f"unix:{tmp_path / 'socket'}"
        else:
            uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        sent = source.stamps
        await source.execute("migrate", uri=uri)
        await moved(source, destination)
        assert destination.stamps > sent
        assert names(source) == ["setup", "active", "STOP", "completed"]
        assert names(destination) == ["setup", "active", "RESUME", "completed"]
        assert source.said == destination.said == []
        held = await intact(destination, tmp_path / "held")
        assert held.devices["globalstate", 0].payload[4:10] == b"paused"
        assert await source.quit() == await destination.quit() == 0


async def test_a_guest_moves_through_two_commands_that_are_reaped(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with pair(boot=BOOT) as (source, destination):
        await destination.execute("migrate-incoming", uri=f"exec:cat {fifo}")
        await source.execute("migrate", uri=f"exec:cat > {fifo}")
        await moved(source, destination)
        for each in (source, destination):
            async with asyncio.timeout(10):
                while children(each):
                    await each.execute("query-status")
        await intact(destination, tmp_path / "held")


async def test_where_it_listens_is_told():
    async with started("-incoming", "defer") as destination:
        host, port = (await listens(destination)).removeprefix("tcp:").split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port))).close()
        assert await destination.exit_status() == 1
        assert destination.said == [
            "Not a migration stream",
            "load of migration failed: Invalid argument",
        ]


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
async def test_in_postcopy_the_guest_moves_before_its_memory(tmp_path, profile):
    async with pair("-profile", profile, boot=BOOT) as (source, destination):
        await source.stamps_on()
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        await in_postcopy(source, destination, uri)
        await fast(source)
        await moved(source, destination)
        assert names(source) == ["setup", "active", "postcopy-active", "STOP", "completed"]
        assert names(destination) == ["setup", "active", "postcopy-active", "RESUME", "completed"]
        assert source.said == destination.said == []
        await intact(destination, tmp_path / "held")


async def test_a_paused_postcopy_is_recovered_and_memory_is_whole(tmp_path):
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=SLOW_BYTES)
        await in_postcopy(source, destination, await listens(destination))
        await source.execute("migrate-pause")
        for each in (source, destination):
            await each.has("postcopy-paused")
            await each.until(lambda each=each: PAUSED in each.said)
            each.forget()
        assert await source.run_state() == "finish-migrate"
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-recover", uri=uri)
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=0)
        await source.execute("migrate", uri=uri, resume=True)
        await moved(source, destination)
        assert names(source) == ["postcopy-recover", "postcopy-active", "completed"]
        assert names(destination) == ["setup", "postcopy-recover", "postcopy-active", "completed"]
        await intact(destination, tmp_path / "held")


async def test_a_destination_becomes_a_source(tmp_path):
    async with pair(boot=BOOT) as (first, second), started("-incoming", "defer") as third:
        await first.stamps_on()
        await first.execute("migrate", uri=await listens(second))
        await moved(first, second)
        second.forget()
        await second.execute("migrate", uri=await listens(third))
        await moved(second, third)
        assert names(second) == ["setup", "active", "STOP", "completed"]
        await intact(third, tmp_path / "held")


async def test_postcopy_follows_upon_postcopy(tmp_path):
    async with pair(boot=BOOT) as (first, second), started("-incoming", "defer") as third:
        await first.stamps_on()
        await in_postcopy(first, second, await listens(second))
        await fast(first)
        await moved(first, second)
        second.forget()
        await in_postcopy(second, third, await listens(third))
        await fast(second)
        await moved(second, third)
        await intact(third, tmp_path / "held")


# The guest's state


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
async def test_a_guest_that_was_paused_is_so_there(profile):
    async with pair("-profile", profile, boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("stop")
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        await source.execute("migrate", uri=uri)
        await destination.has("completed")
        await source.has("completed")
        assert await destination.run_state() == "paused"
        assert await source.run_state() == "postmigrate"
        assert "RESUME" not in destination.names()
        await destination.execute("cont")
        await destination.stamps_on()


async def test_a_destination_that_is_not_to_run_waits_for_cont():
    async with pair(boot=BOOT, destination=("-S",)) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("completed")
        assert await destination.run_state() == "paused"
        await destination.execute("cont")
        await destination.stamps_on()


async def test_a_guest_that_never_ran_goes_over_and_begins_there():
    async with pair(boot=BOOT, source=("-S",)) as (source, destination):
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("completed")
        assert await destination.run_state() == "prelaunch"
        await destination.execute("cont")
        await destination.stamps_on()


# What can be changed and looked at meanwhile


async def test_each_pass_is_told_of():
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate", uri=await listens(destination))
        await moved(source, destination)
        passes = [each["data"]["pass"] for each in source.events if "pass" in each.get("data", {})]
        assert passes == list(range(1, len(passes) + 1))
        ram = (await source.execute("query-migrate"))["ram"]
        assert ram["dirty-sync-count"] == len(passes) >= 2


async def test_without_the_capability_nothing_is_told_of():
    async with pair(boot=BOOT, capabilities=()) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate", uri=await listens(destination))
        await source.has("STOP")
        await destination.has("RESUME")
        assert source.names() == ["STOP"]
        assert destination.names() == ["setup", "RESUME"]  # that it waits is told always


async def test_a_bandwidth_is_heeded_at_once():
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate-set-parameters", max_bandwidth=4096)
        await source.execute("migrate", uri=await listens(destination))
        await source.has("active")
        await source.stamps_on()
        assert (await source.execute("query-migrate"))["status"] == "active"
        await fast(source)
        await moved(source, destination)


# It ends otherwise


async def test_cancelled_while_it_is_active_the_guest_runs_on():
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await slow(source)
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("active")
        await source.has("active")
        await source.execute("migrate_cancel")
        await source.has("cancelled")
        assert await destination.exit_status() == 1
        assert destination.said[-1].startswith("load of migration failed: ")
        assert names(source) == ["setup", "active", "cancelling", "cancelled"]
        await runs_on(source)


async def test_cancelled_in_postcopy_the_guest_runs_nowhere_but_there():
    async with pair(boot=BOOT) as (source, destination):
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=SLOW_BYTES)
        await source.stamps_on()
        await in_postcopy(source, destination, await listens(destination))
        await source.execute("migrate_cancel")
        await source.has("cancelled")
        await destination.has("postcopy-paused")
        assert await source.run_state() == "postmigrate"


async def test_cancelled_while_it_is_paused_it_waits_for_good():
    async with pair(boot=BOOT) as (source, destination):
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=SLOW_BYTES)
        await source.stamps_on()
        await in_postcopy(source, destination, await listens(destination))
        await source.execute("migrate-pause")
        await source.has("postcopy-paused")
        await source.execute("migrate_cancel")
        await source.has("cancelling")
        assert (await source.execute("query-migrate"))["status"] == "cancelling"
        assert await source.quit() == 0


async def test_cancelled_while_it_connects_the_guest_runs_on():
    async with started(boot=BOOT) as source:
        await source.stamps_on()
        with full_listener() as (port, listener):
            await source.execute("migrate", uri=f"tcp:127.0.0.1:{port}")
            await source.stamps_on()
            assert (await source.execute("query-migrate"))["status"] == "setup"
            await source.execute("migrate_cancel")
            assert (await source.execute("query-migrate"))["status"] == "cancelling"
            refused = await source.refuses("migrate", uri="tcp:127.0.0.1:1")
            assert refused == "There's a migration process in progress"
            await runs_on(source)
            listener.close()
            await source.has("cancelled")
        assert names(source) == ["setup", "cancelling", "cancelled"]
        await runs_on(source)


@contextmanager
def full_listener():
    """A port whose connections stay half open; and what fills it."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        yield listener.getsockname()[1], listener


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("tcp:127.0.0.1:1", "Failed to connect to '127.0.0.1:1': Connection refused"),
        ("unix:/nonexistent/s", "Failed to connect to '/nonexistent/s': No such file or directory"),
    ],
)
async def test_nobody_is_there_and_another_time_somebody_is(uri, why, profile):
    async with pair("-profile", profile, boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate", uri=uri)
        await source.has("failed")
        assert names(source) == ["setup", "failed"]
        assert (await source.execute("query-migrate"))["error-desc"] == why
        await runs_on(source)
        source.forget()
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        await source.execute("migrate", uri=uri)
        await moved(source, destination)


async def test_a_port_in_use_is_refused_and_another_one_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with started("-incoming", "defer") as destination:
            uri = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
            why = await destination.refuses("migrate-incoming", uri=uri)
            assert why == "Failed to find an available port: Address already in use"
            await listens(destination)


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            ("-M", "q35"),
            {
                "2.9": ["Machine type received is 'pc-i440fx-2.9' and local is 'pc-q35-2.9'"],
                "7.2": ["Machine type received is 'pc-i440fx-7.2' and local is 'pc-q35-7.2'"],
            },
        ),
        (
            ("-m", "32M"),
            {
                "2.9": [
                    "Length mismatch: pc.ram: 0x1000000 in != 0x2000000: Invalid argument",
                    "error while loading state for instance 0x0 of device 'ram'",
                ],
                "7.2": [
                    "Size mismatch: pc.ram: 0x1000000 != 0x2000000: Invalid argument",
                    "error while loading state for instance 0x0 of device 'ram'",
                ],
            },
        ),
    ],
)
async def test_a_destination_of_another_kind_refuses_and_the_guest_runs_on(theirs, said, profile):
    async with pair("-profile", profile, boot=BOOT, destination=theirs) as (source, destination):
        await source.stamps_on()
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        await slow(source)
        await source.execute("migrate", uri=uri)
        assert await destination.exit_status() == 1
        assert destination.said == [*said[profile], "load of migration failed: Invalid argument"]
        await source.has("failed")
        assert names(source) == ["setup", "active", "failed"]
        await runs_on(source)
        async with started("-profile", profile, "-incoming", "defer") as another:
            uri = f"tcp:127.0.0.1:{free_port()}"
            await another.execute("migrate-incoming", uri=uri)
            await fast(source)
            source.forget()
            await source.execute("migrate", uri=uri)
            await moved(source, another)


async def test_a_destination_that_dies_leaves_the_guest_where_it_is():
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await slow(source)
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("active")
        destination.process.kill()
        await source.has("failed")
        await runs_on(source)


async def test_a_source_that_dies_ends_the_destination():
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await slow(source)
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("active")
        source.process.kill()
        assert await destination.exit_status() == 1


@pytest.mark.parametrize("lost_by", ["source", "destination"])
async def test_in_2_9_a_link_that_is_lost_in_postcopy_is_the_end(lost_by):
    async with pair("-profile", "2.9", boot=BOOT) as (source, destination):
        await source.stamps_on()
        with held_connection() as (at_source, near, far, at_destination):
            await source.pass_fd(at_source.fileno(), "mig")
            await destination.pass_fd(at_destination.fileno(), "mig")
            at_source.close()
            at_destination.close()
            await destination.execute("migrate-incoming", uri="fd:mig")
            for each in (source, destination):
                await each.enable("postcopy-ram")
            # Next to nothing goes before the guest: enough is left to be carried.
            await source.execute("migrate-set-parameters", max_bandwidth=4096)
            await source.execute("migrate", uri="fd:mig")
            await source.execute("migrate-start-postcopy")
            await carry_until_postcopy(near, far, destination)
            await source.has("postcopy-active")
            (near if lost_by == "source" else far).close()
            if lost_by == "source":
                await source.has("failed")
                assert await source.run_state() == "postmigrate"
            else:
                assert await destination.exit_status() == 1
                assert names(destination)[-1] == "failed"
                assert "postcopy_ram_listen_thread: loadvm failed: -5" in destination.said


@contextmanager
def held_connection():
    """Two connections that a test carries bytes between: the first of each is for a process."""
    at_source, near = socket.socketpair()
    far, at_destination = socket.socketpair()
    with at_source, near, far, at_destination:
        near.setblocking(False)
        far.setblocking(False)
        yield at_source, near, far, at_destination


async def carry_until_postcopy(near, far, destination):
    """Carry bytes forward until the guest runs at the destination, and into a page.

    Between two sections a connection that ends is taken for the end of the stream by 2.9.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while "RESUME" not in destination.names():
            await loop.sock_sendall(far, await loop.sock_recv(near, CARRIED_BYTES))
            await destination.execute("query-status")
        await loop.sock_sendall(far, await loop.sock_recv(near, INTO_A_PAGE_BYTES))


# Others that break it


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_yank_breaks_the_connection(side):
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await slow(source)
        await source.execute("migrate", uri=await listens(destination))
        await destination.has("active")
        await source.has("active")  # until then there is no connection of its that it could break
        yanked = source if side == "source" else destination
        assert {"type": "migration"} in await yanked.execute("query-yank")
        await yanked.execute("yank", instances=[{"type": "migration"}])
        await source.has("failed")
        assert await destination.exit_status() == 1
        await runs_on(source)
        assert {"type": "migration"} not in await source.execute("query-yank")


async def test_a_yank_in_postcopy_pauses_it(tmp_path):
    async with pair(boot=BOOT) as (source, destination):
        await source.stamps_on()
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=SLOW_BYTES)
        await in_postcopy(source, destination, await listens(destination))
        await destination.execute("yank", instances=[{"type": "migration"}])
        for each in (source, destination):
            await each.has("postcopy-paused")
            each.forget()
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-recover", uri=uri)
        await source.execute("migrate-set-parameters", max_postcopy_bandwidth=0)
        await source.execute("migrate", uri=uri, resume=True)
        await moved(source, destination)
        await intact(destination, tmp_path / "held")


# Devices alone


async def test_devices_alone_are_saved_and_loaded(tmp_path):
    path = tmp_path / "devices"
    async with started(boot=BOOT) as one:
        await one.stamps_on()
        await one.execute("xen-save-devices-state", filename=str(path), live=True)
        assert one.names() == ["STOP", "RESUME"]
        await runs_on(one)
        loaded = await one.refuses("xen-load-devices-state", filename=str(path))
        assert loaded == "Cannot update device state while vm is running"
    without = ("-global", "migration.send-configuration=off", "-S")
    async with started(*without, boot=BOOT) as other:
        await other.execute("xen-load-devices-state", filename=str(path))
        assert other.said == []
        path.write_bytes(path.read_bytes()[:-100])
        refused = await other.refuses("xen-load-devices-state", filename=str(path))
        assert refused == "An IO error has occurred"
    async with started("-S", boot=BOOT) as expects_configuration:
        refused = await expects_configuration.refuses("xen-load-devices-state", filename=str(path))
        assert refused == "An IO error has occurred"
        assert await expects_configuration.run_state() in ("prelaunch", "restore-vm")


async def test_an_announcement_is_made_when_it_is_asked_for():
    async with started(boot=BOOT) as one:
        rounds = {"initial": 1, "max": 10, "rounds": 3, "step": 1}
        await one.execute("announce-self", **rounds)


EVENTS = ("-trace", "qemu_loadvm_state_section_*", "-trace", "loadvm_process_command*")


async def test_what_is_loaded_is_traced_if_it_is_asked_for():
    async with pair("-profile", "2.9", boot=BOOT, destination=EVENTS) as (source, destination):
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.execute("migrate-incoming", uri=uri)
        await source.execute("migrate", uri=uri)
        await moved(source, destination)
        said = destination.said
    begins = re.compile(rf"{destination.pid}@\d+\.\d{{6}}:qemu_loadvm_state_section_")
    assert all(begins.match(line) for line in said)
    assert begins.sub("", said[0]) == "startfull 2(ram) 0 4"
    assert begins.sub("", said[-1]).endswith("(globalstate) 0 1")


async def test_an_event_that_there_is_not_is_warned_of_and_a_pattern_is_not():
    async with started("-trace", "nonsense", "-trace", "nonsense*") as process:
        await process.quit()
    assert process.said == ["-trace nonsense: warning: trace event 'nonsense' does not exist"]
