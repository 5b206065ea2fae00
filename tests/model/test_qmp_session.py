"""Clients of a QMP monitor, one after the other: order, bounds, descriptors, misbehaviour."""

import asyncio
import json
import os
import resource
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qmp_helpers import VERSION, Machine, answers, connected, listening, within

from testbed.model.qmp.commands import Commands
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.fdsets import FdSets
from testbed.model.qmp.server import OUTPUT_BYTES_HIGH
from testbed.model.qmp.session import QUEUE_MAX, Session

NEGOTIATE = b'{"execute": "qmp_capabilities"}'
NEGOTIATE_OOB = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
RETURNED = b'{"return": {}}\r\n'


def execute(name, **members):
    return json.dumps({"execute": name, **members}).encode()


def some_commands():
    commands = Commands()
    commands.add("slow", lambda _: None)
    commands.add("quick", lambda _: None, allow_oob=True)
    return commands


def drain(session, calls=None):
    """Answer all that can be executed; note the calls."""
    while call := session.next_call():
        if calls is not None:
            calls.append(call)
        session.answer(call, None)


def conversation(data, chunk_bytes):
    """All that a session says when `data` comes in chunks and every command is answered at once."""
    session = Session(some_commands(), VERSION)
    for start in range(0, len(data), chunk_bytes):
        session.receive(data[start : start + chunk_bytes])
        drain(session)
    return bytes(session.output)


PIECES = st.sampled_from(
    (
        *(NEGOTIATE, NEGOTIATE_OOB, b'{"exec-oob": "quick", "id": 1}', b"{'execute': 'slow'}"),
        *(b"{'execute': 'slow', 'arguments': 1}", b"{", b"}", b"[", b"]", b"'", b":", b"\n", b"@"),
        b"\xff",
    )
)


@given(st.lists(PIECES | st.binary(max_size=5), max_size=12).map(b"".join), st.integers(1, 40))
def test_any_bytes_have_the_same_answers_at_any_chunk_size(data, chunk_bytes):
    whole = conversation(data, len(data) or 1)
    # What is out of band overtakes what came in the same chunk.
    assert sorted(conversation(data, chunk_bytes).splitlines()) == sorted(whole.splitlines())
    if b"exec-oob" not in data:
        assert conversation(data, chunk_bytes) == whole
    for line in whole.splitlines():
        json.loads(line)


INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
"""Those that QEMU has as integers; what is beyond them it has as a double."""


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cn")))
"""QEMU has no surrogates by themselves, and no noncharacters: text with one is no JSON to it."""


@given(st.recursive(st.none() | TEXTS | INTEGERS, st.lists), TEXTS)
def test_the_id_comes_back_with_any_answer(value, name):
    session = Session(some_commands(), VERSION)
    for command in ("qmp_capabilities", name, "slow"):
        session.receive(execute(command, id=value))
        drain(session)
    lines = [json.loads(line) for line in session.output.splitlines()[1:]]
    assert [line["id"] for line in lines] == [value] * 3


def waiting(negotiation):
    """A session whose first command is being executed, and which has more than it takes."""
    session = Session(some_commands(), VERSION)
    session.receive(negotiation)
    assert session.next_call() is None
    session.receive(b"".join(execute("slow", id=i) for i in range(20)))
    call = session.next_call()
    assert call.echo == {"id": 0}
    assert session.next_call() is None
    return session, call


def test_without_oob_nothing_is_read_while_a_command_is_executed():
    session, call = waiting(NEGOTIATE)
    assert not session.wants_input
    session.answer(call, None)
    assert session.next_call().echo == {"id": 1}


def test_with_oob_eight_commands_wait_and_the_rest_is_not_read():
    session, call = waiting(NEGOTIATE_OOB)
    assert not session.wants_input
    session.receive(b'{"exec-oob": "quick"}')
    assert session.next_call() is None  # it stands behind twelve others
    for i in range(1, 20 - QUEUE_MAX + 1):
        session.answer(call, None)
        call = session.next_call()
        assert call.echo == {"id": i}
    assert session.next_call().command.name == "quick"


def test_out_of_band_overtakes_what_waits():
    session = Session(some_commands(), VERSION)
    session.receive(NEGOTIATE_OOB + execute("slow", id=1) + execute("slow", id=2))
    first = session.next_call()
    session.receive(b'{"exec-oob": "quick", "id": 3}{"exec-oob": "slow", "id": 4}')
    quick = session.next_call()
    assert (quick.oob, quick.echo) == (True, {"id": 3})
    session.answer(quick, None)
    assert session.next_call() is None
    session.answer(first, None)
    drain(session)
    ids = [json.loads(line)["id"] for line in session.output.splitlines()[2:]]
    assert ids == [3, 4, 1, 2]


def test_an_error_takes_its_place_among_the_answers():
    session = Session(some_commands(), VERSION)
    session.receive(NEGOTIATE + execute("slow", id=1) + b"nul " + execute("slow", id=2))
    call = session.next_call()
    assert b"keyword" not in session.output
    session.answer(call, CommandError("No such thing", "DeviceNotFound"))
    drain(session)
    assert [json.loads(line) for line in session.output.splitlines()[2:]] == [
        {"error": {"class": "DeviceNotFound", "desc": "No such thing"}, "id": 1},
        {"error": {"class": "GenericError", "desc": "JSON parse error, invalid keyword 'nul'"}},
        {"return": {}, "id": 2},
    ]


def test_events_begin_after_the_negotiation():
    session = Session(some_commands(), VERSION)
    session.event("STOP", None, 1)
    session.receive(NEGOTIATE)
    drain(session)
    session.event("MIGRATION", {"status": "setup"}, 1_234_567_000_089)
    assert session.output.splitlines()[1:] == [
        b'{"return": {}}',
        b'{"timestamp": {"seconds": 1234567, "microseconds": 89}, "event": "MIGRATION", '
        b'"data": {"status": "setup"}}',
    ]


def test_before_there_is_a_machine_only_some_commands_are_permitted():
    commands = Commands(machine_ready=lambda: False)
    commands.add("stop", lambda _: None)
    session = Session(commands, VERSION)
    session.receive(NEGOTIATE + execute("stop") + execute("query-commands"))
    assert session.next_call().command.name == "query-commands"
    assert b"The command 'stop' is permitted only after machine init" in session.output


def test_commands_are_listed_last_one_first():
    command = some_commands().find("query-commands", oob=False)
    names = [entry["name"] for entry in command.handler({})]
    assert names == ["quick", "slow", "query-commands", "qmp_capabilities"]


# On sockets


@pytest.fixture
def path(tmp_path):
    return tmp_path / "qmp"


async def ask(reader, writer, data):
    writer.write(data)
    return await within(reader.readline())


async def test_the_second_client_waits_for_the_first_to_go(path):
    async with listening(path), connected(path) as first, asyncio.TaskGroup() as tasks:
        reader, writer = await asyncio.open_unix_connection(str(path))
        greeting = tasks.create_task(within(reader.readline()))
        for _ in range(10):
            assert await ask(*first, execute("query-name")) == RETURNED
        assert not greeting.done()
        first[1].close()
        assert b"QMP" in await greeting
        writer.close()


@pytest.mark.parametrize("rest", [b"", b'{"execute": "query-na', b"[[[[", b"'", b"@"])
async def test_a_client_that_goes_with_half_a_line_leaves_nothing_behind(path, rest):
    async with listening(path):
        async with connected(path) as (_, writer):
            writer.write(rest)
        assert await answers(path, execute("query-name")) == [RETURNED]


async def test_all_that_came_before_the_end_of_the_input_is_executed(path):
    async with listening(path) as machine, connected(path, negotiation=b"") as (reader, writer):
        writer.write(NEGOTIATE + execute("query-name", id=1) + execute("stop"))
        writer.write_eof()
        rest = await within(reader.read())
        assert rest.startswith(RETURNED + b'{"return": {}, "id": 1}')
        assert not machine.running


async def test_what_a_gone_client_asked_for_is_done_before_the_next_ones_commands(path):
    machine = Machine()
    begun, finish = asyncio.Event(), asyncio.Event()
    done = []

    async def slow(_):
        begun.set()
        await finish.wait()
        done.append("slow")

    machine.commands.add("slow", slow)
    machine.commands.add("next", lambda _: done.append("next"))
    async with listening(path, machine.assemble()):
        async with connected(path, negotiation=NEGOTIATE_OOB) as (_, writer):
            writer.write(execute("slow"))
            await begun.wait()
        async with connected(path, negotiation=b"") as (reader, writer):
            writer.write(NEGOTIATE + execute("next"))
            finish.set()
            assert [await within(reader.readline()) for _ in range(2)] == [RETURNED] * 2
    assert done == ["slow", "next"]


async def test_a_slow_command_that_is_refused_says_so(path):
    machine = Machine()

    async def slow(_):
        await asyncio.sleep(0)
        raise CommandError("No")

    machine.commands.add("slow", slow)
    machine.hmp.add("slow", slow, does="nothing")
    async with listening(path, machine.assemble()):
        human = execute("human-monitor-command", arguments={"command-line": "slow"})
        assert await answers(path, execute("slow") + human) == [
            b'{"error": {"class": "GenericError", "desc": "No"}}\r\n',
            b'{"return": "Error: No\\r\\n"}\r\n',
        ]


async def test_a_mistake_in_a_handler_ends_the_monitor():
    machine = Machine()
    machine.commands.add("broken", lambda _: 1 // 0)
    ours, its = socket.socketpair()
    with ours:
        ours.sendall(NEGOTIATE + execute("broken"))
        with pytest.raises(ExceptionGroup) as raised:
            await within(machine.assemble().monitor.serve(its))
    assert raised.value.subgroup(ZeroDivisionError)


async def test_it_serves_tcp_and_events_come_unasked():
    machine = Machine().assemble()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(machine.monitor.listen(listener))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await within(reader.readline())
            assert await ask(reader, writer, NEGOTIATE) == RETURNED
            machine.monitor.emit("RESUME")
            assert b'"event": "RESUME"' in await within(reader.readline())
            writer.close()
            serving.cancel()


async def test_a_client_that_does_not_read_is_not_read_from(path):
    async with listening(path) as machine:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            loop = asyncio.get_running_loop()
            sent = 0

            async def send():
                nonlocal sent
                while True:
                    await loop.sock_sendall(client, b"}" * 1024)
                    sent += 1024

            with pytest.raises(TimeoutError):
                await within(send(), 0.5)
            session = machine.monitor._client.session
            assert len(session.output) < 2 * OUTPUT_BYTES_HIGH
            assert sent < OUTPUT_BYTES_HIGH
            received = 0
            while received < 80 * sent:  # each brace is answered by more than that
                received += len(await within(loop.sock_recv(client, 1 << 20)))


async def test_a_hundred_megabytes_of_garbage_have_one_answer(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with listening(path), connected(path) as (reader, writer):
        for _ in range(100):
            writer.write(b"x" * (1 << 20))
            await within(writer.drain())
        assert b"JSON token size limit exceeded" in await within(reader.readline())
        # What is left of it is a keyword, quoted in full.
        writer.write(b"\n" + execute("query-name", id="end"))
        assert b"JSON parse error, invalid keyword 'xxx" in await within(reader.readuntil(b"\n"))
        assert await within(reader.readline()) == b'{"return": {}, "id": "end"}\r\n'
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


# Descriptors


def pass_along(client, data, *contents):
    """Send `data` with pipes to read `contents` from."""
    ends = []
    for content in contents:
        read_end, write_end = os.pipe()
        os.write(write_end, content)
        os.close(write_end)
        ends.append(read_end)
    socket.send_fds(client, [data], ends)
    for end in ends:
        os.close(end)


async def test_descriptors_get_names(path):
    async with listening(path) as machine:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(NEGOTIATE)
            for name, content in (("a", b"first"), ("1", b"x"), ("b", b"second"), ("a", b"third")):
                pass_along(client, execute("getfd", arguments={"fdname": name}), content, b"unused")
            client.sendall(execute("closefd", arguments={"fdname": "b"}))
            client.sendall(execute("getfd", arguments={"fdname": "c"}))
            client.sendall(execute("closefd", arguments={"fdname": "b"}))
            client.setblocking(False)
            lines = await lines_of(client, 9)
        assert [line for line in lines[2:] if line != RETURNED.strip()] == [
            refusal("Parameter 'fdname' expects a name not starting with a digit"),
            refusal("No file descriptor supplied via SCM_RIGHTS"),
            refusal("File descriptor named 'b' not found"),
        ]
        fd = machine.monitor.descriptors.take("a")
        assert os.read(fd, 100) == b"third"
        os.close(fd)
        for name in ("a", "b", "c", "1"):
            with pytest.raises(CommandError, match=f"named '{name}' has not been found"):
                machine.monitor.descriptors.take(name)


def refusal(desc):
    error = {"error": {"class": "GenericError", "desc": desc}}
    return json.dumps(error).encode()


async def lines_of(client, count):
    data = b""
    while data.count(b"\n") < count:
        data += await within(asyncio.get_running_loop().sock_recv(client, 65536))
    return data.splitlines()


async def test_a_descriptor_that_nobody_took_is_closed(path):
    def open_count():
        return len(os.listdir("/proc/self/fd"))

    async with listening(path):
        async with connected(path):
            before = open_count()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            pass_along(client, NEGOTIATE, b"1", b"2")
            pass_along(client, b"\n", b"3")
            client.setblocking(False)
            await lines_of(client, 2)
        async with connected(path):
            assert open_count() == before


def test_a_set_is_opened_by_its_path_for_the_access_it_has(tmp_path):
    sets = FdSets()
    file = tmp_path / "file"
    file.write_bytes(b"content")
    number = sets.add(os.open(file, os.O_RDONLY))
    sets.add(os.open(file, os.O_WRONLY), number)
    copy = sets.open(f"/dev/fdset/{number}", os.O_WRONLY)
    sets.close()
    os.pwrite(copy, b"C", 0)
    os.close(copy)
    assert file.read_bytes() == b"Content"


@pytest.mark.parametrize(
    ("path", "error"), [("/dev/fdset/0", PermissionError), ("/dev/fdset/1", FileNotFoundError)]
)
def test_what_no_set_has_is_not_opened(path, error):
    sets = FdSets()
    sets.add(os.open("/dev/null", os.O_RDONLY))
    with pytest.raises(error):
        sets.open(path, os.O_RDWR)
    assert sets.open("/dev/null", os.O_RDWR) is None
    sets.close()


# QEMU's own shell


async def test_qmp_shell_works_on_it(path):
    lines = "query-status\nstop\nquery-status\nmigrate uri=x:y\nnope\n"
    async with listening(path) as machine:
        shell = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from qemu.qmp.qmp_shell import main; main()", str(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await within(shell.communicate(lines.encode()))
    text = output.decode()
    assert "Connected to QEMU 7.2.22" in text
    assert not machine.running
    assert text.index('"running": true') < text.index('"running": false')
    assert "expects a valid migration protocol" in text
    assert "The command nope has not been found" in text
