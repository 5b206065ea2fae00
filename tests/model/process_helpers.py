"""Processes of the model, or of a real QEMU, each with its monitor, its serial line, its stderr."""

import asyncio
import json
import os
import re
import socket
import sys
from contextlib import ExitStack, asynccontextmanager, suppress

from testbed.endpoint.command_line import boot_arguments, boot_disk
from testbed.guest import GuestSpec, boot_image, check_memory, stamps_said
from testbed.lab.saved import read_saved
from testbed.tasks import beside, hosting

MODEL = (sys.executable, "-m", "testbed.model")
REAL = ("qemu-system-x86_64",)
WITHIN_S = 30
MEMORY_BYTES = 16 << 20
SPEC = GuestSpec(MEMORY_BYTES, 2 << 20, pages_per_second=2000, seed=7)
BOOT = boot_image(SPEC)
BASE = ("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-m", "16M")
PIECE_BYTES = 1 << 18
RETURN_PATHS = ("postcopy-ram", "return-path")
"""Capabilities that a file cannot do with."""
PROGRAM = re.compile(r"^qemu-[a-z0-9_-]+: ")


class Refused(Exception):
    """A command that was answered with an error."""


class Process:
    """One of them. What it tells of is kept in `events`, `said` and `serial`."""

    def __init__(self, process, monitor, streams):
        self.process, self._socket, self._monitor = process, monitor, streams
        self.events, self.said, self.serial = [], [], []
        self.greeting = None
        self._answers = asyncio.Queue()
        self._news = asyncio.Condition()
        self._gone = False

    @property
    def pid(self):
        return self.process.pid

    # What it is told

    async def execute(self, command, **arguments):
        """A QMP command; underscores of arguments are dashes."""
        line = {"execute": command}
        if arguments:
            line["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._monitor[1].write(json.dumps(line).encode() + b"\n")
        answer = await within(self._answers.get())
        if "error" in answer:
            raise Refused(answer["error"]["desc"])
        return answer["return"]

    async def hmp(self, line):
        return await self.execute("human-monitor-command", command_line=line)

    def give(self, command, name):
        """Begin a line of the human monitor, for whose answer nobody waits."""
        arguments = {"command-line": f"{command} {name}"}
        line = {"execute": "human-monitor-command", "arguments": arguments}
        self._monitor[1].write(json.dumps(line).encode())

    async def refuses(self, command, **arguments):
        """The text with which it refuses a command."""
        try:
            answer = await self.execute(command, **arguments)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"{command} was not refused: {answer}")

    async def enable(self, *capabilities):
        states = [{"capability": name, "state": True} for name in capabilities]
        await self.execute("migrate-set-capabilities", capabilities=states)

    async def pass_fd(self, fd, name):
        """`getfd`: it gets a copy of the descriptor."""
        line = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode()
        socket.send_fds(self._socket, [line], [fd])  # nothing else waits to be sent
        answer = await within(self._answers.get())
        assert answer == {"return": {}}

    # What it tells

    async def until(self, predicate, what="that"):
        """Wait until it is so; it is looked at whenever something comes."""
        try:
            async with asyncio.timeout(WITHIN_S), self._news:
                await self._news.wait_for(lambda: predicate() or self._gone)
        except TimeoutError:
            raise AssertionError(f"no {what}: {self.events}, {self.said}") from None
        assert predicate(), f"it ended without {what}: {self.events}, {self.said}"

    def names(self):
        """Of its events, in order; of those of migration, the status."""
        return [
            each["data"]["status"] if each["event"] == "MIGRATION" else each["event"]
            for each in self.events
        ]

    async def has(self, *names):
        """Wait for one of these events or statuses; returns which."""
        await self.until(lambda: not set(names).isdisjoint(self.names()), " or ".join(names))
        return next(name for name in self.names() if name in names)

    def forget(self):
        """Of what it told, keep nothing."""
        for each in (self.events, self.said):
            each.clear()

    @property
    def stamps(self):
        """How many the guest said last that it has written."""
        return max((stamps_said(line) or 0 for line in self.serial), default=0)

    async def stamps_on(self):
        """Wait until the guest has said twice more how many there are: it runs."""
        for _ in range(2):
            last = self.stamps
            await self.until(lambda last=last: self.stamps > last, "more stamps")

    async def run_state(self):
        return (await self.execute("query-status"))["status"]

    async def exit_status(self):
        """Wait for its end, and for the last that it says."""
        status = await within(self.process.wait())
        await self.until(lambda: self._gone)
        return status

    async def quit(self):
        await self.execute("quit")
        return await self.exit_status()

    # Its readers

    async def read_monitor(self):
        reader, writer = self._monitor
        while line := await _line(reader):
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
                await self._tell()
            elif "QMP" in message:
                self.greeting = message["QMP"]
                await self._tell()
            else:
                await self._answers.put(message)
        writer.close()
        await self._answers.put({"error": {"desc": "it has ended"}})

    async def read_stderr(self):
        while line := await self.process.stderr.readline():
            self.said.append(PROGRAM.sub("", line.decode().rstrip("\n")))
            await self._tell()
        self._gone = True
        await self._tell()

    async def read_serial(self, reader):
        while line := await _line(reader):
            self.serial.append(line.decode("latin-1").strip())
            await self._tell()

    async def _tell(self):
        async with self._news:
            self._news.notify_all()


async def _line(reader):
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


@asynccontextmanager
async def started(
    *arguments, program=MODEL, boot=None, capabilities=("events",), serial_line=True, stdout=None
):
    """Start one that has given its greeting; leaving the block ends it.

    Args:
        arguments: behind `BASE`, a monitor and a serial line.
        program: its command line up to the options.
        boot: what the disk to boot from begins with.
        capabilities: of migration, to be enabled at once.
        serial_line: whether it has the one; else it may have another.
        stdout: where that leads.
    """
    monitor, monitor_there = socket.socketpair()
    serial, serial_there = socket.socketpair()
    with monitor_there, serial_there, ExitStack() as stack:
        boot_fds = () if boot is None else stack.enter_context(boot_disk(boot))
        process = await asyncio.create_subprocess_exec(
            *(*program, *BASE, *arguments),
            *(boot_arguments(boot_fds) if boot_fds else ()),
            *("-chardev", f"socket,id=qmp,fd={monitor_there.fileno()}"),
            *("-mon", "chardev=qmp,mode=control"),
            *("-chardev", f"socket,id=serial,fd={serial_there.fileno()}"),
            *(("-serial", "chardev:serial") if serial_line else ()),
            pass_fds=(monitor_there.fileno(), serial_there.fileno(), *boot_fds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        streams = await asyncio.open_unix_connection(sock=monitor, limit=1 << 26)
        from_serial, to_serial = await asyncio.open_unix_connection(sock=serial)
        found = Process(process, monitor, streams)
        readers = found.read_stderr(), found.read_monitor(), found.read_serial(from_serial)
        async with beside(*readers):
            try:
                await found.until(lambda: found.greeting is not None, "greeting")
                await found.execute("qmp_capabilities")
                if capabilities:
                    await found.enable(*capabilities)
                yield found
            finally:
                await _end(process)
                for writer in (streams[1], to_serial):
                    writer.close()
    finally:
        await _end(process)


async def _end(process):
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()


@asynccontextmanager
async def pair(*both, boot, source=(), destination=(), **given):
    """A source whose guest stamps its pages, and a destination that waits for `migrate-incoming`.

    Both are started at once. With `source` and `destination` come further arguments.
    """
    async with asyncio.timeout(4 * WITHIN_S), hosting() as host:
        one = host(started(*both, *source, boot=boot, **given))
        other = host(started(*both, *destination, "-incoming", "defer", boot=boot, **given))
        yield await one.entered(), await other.entered()


async def runs(arguments, *, program=MODEL, stdin=b"", **given):
    """Run one to its end; returns exit status, stdout, and the lines of stderr."""
    process = await asyncio.create_subprocess_exec(
        *(*program, *arguments),
        **{
            "stdin": asyncio.subprocess.PIPE,
            "stdout": asyncio.subprocess.PIPE,
            "stderr": asyncio.subprocess.PIPE,
            **given,
        },
    )
    try:
        out, err = await within(process.communicate(stdin or None))
    finally:
        await _end(process)
    lines = (err or b"").decode().splitlines()
    return process.returncode, (out or b"").decode(), lines


async def within(awaitable, seconds=WITHIN_S):
    async with asyncio.timeout(seconds):
        return await awaitable


async def holds(process, path):
    """Have it save itself into a file, which is read; what it holds."""
    await process.execute("stop")
    found = await process.execute("query-migrate-capabilities")
    off = [{**each, "state": False} for each in found if each["capability"] in RETURN_PATHS]
    await process.execute("migrate-set-capabilities", capabilities=off)
    process.forget()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        await process.pass_fd(fd, "file")
    finally:
        os.close(fd)
    await process.execute("migrate", uri="fd:file")
    assert await process.has("completed", "failed") == "completed", process.said
    return await read(path)


async def read(path):
    """The machine that a file has."""

    async def chunks():
        with path.open("rb") as file:
            while chunk := file.read(PIECE_BYTES):
                yield chunk

    return await read_saved(chunks())


def memory_report(held, spec=SPEC):
    return check_memory(held.guest_ram()[1], spec)


def children(process):
    """Its processes, by number."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return file.read().split()


def resident_bytes(process):
    """Its memory, as the system counts it."""
    with open(f"/proc/{process.pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    raise AssertionError("it has no memory")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
