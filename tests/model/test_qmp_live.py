"""The same bytes to the monitor of a real QEMU 7.2 and to ours: the same bytes come back."""

import asyncio
import json
import re
import socket
from contextlib import suppress

import pytest
import pytest_asyncio
from qmp_helpers import END, TIMES, Machine, Version, answers, connected, listening, within

pytestmark = [
    pytest.mark.live,
    pytest.mark.asyncio(loop_scope="module"),
]


def execute(name, arguments=""):
    tail = b", 'arguments': " + arguments.encode() if arguments else b""
    return b"{'execute': '" + name.encode() + b"'" + tail + b"}"


def hmp(line):
    return json.dumps(
        {"execute": "human-monitor-command", "arguments": {"command-line": line}}
    ).encode()


def identified(value):
    return b"{'execute': 'query-name', 'id': " + value + b"}"


SYNTAX = [
    *(b"", b" ", b"null ", b"nul ", b"1 ", b"'a'", b"[]", b"{}", b"[1,2", b"}", b"]", b"{]", b"[}"),
    *(b"{'a' 1}", b"{1:2}", b"{'a':1 'b':2}", b"[1 2]", b"{'a':1,'a':2}", b"{'a':1,}", b"[,]"),
    *(b"01 ", b"-a ", b"1.x ", b"1e+ ", b"0e5 ", b"%p ", b"/* */{}", b"TRUE ", b"abc1 ", b"a-b "),
    *(b"\0", b"\1\2", b"\x7f", b"\x80\x81", b"\xff", b"@@ 5\t{}", b"@\n@", b"[[@]]", b"{'execute"),
    *(b"[" + b"a" * 2000 + b"]", b"'" + b"a" * 2000 + b"\n"),  # one of the texts is cut
    *(rb"'\q'", rb"'\u12'", rb"'\ud800'", rb"'\udbff\udfff'", rb"'\uFFFE'", b"'a\nb'", b"'\xfe'"),
    *(b"'\xc3('", b"'\xed\xa0\x80'", b"'\xef\xbf\xbf'", b"[" * 1024 + b"]" * 1024, b"[" * 1025),
    *(bytes([byte]) * 3 + b"{}" for byte in range(0, 256, 5)),
]

IDS = [
    *(b"1", b"-0", b"-0.0", b"1.5", b"0.1", b"1e400", b"18446744073709551616", b"null", b"[{}]"),
    *(
        b"{'b': 1, 'a': 2, 'status': 3, 'running': 4}",
        rb"'\u0000\u00e9\ud83d\ude00\b\/\''",
        b"'\x7f'",
    ),
    b"[" * 1022 + b"]" * 1022,
]

COMMANDS = [
    *(b"{'execute': 1}", b"{'execute': 'nope'}", b"{'execute': 'n\xc3\xa9'}", b"{'arguments': {}}"),
    *(b"{'exec-oob': 'query-name', 'id': 3}", b"{'exec-oob': 'x', 'execute': 'y'}", b"{'id': [1]}"),
    *(execute("query-name", "1"), execute("query-name", "{'a': 1}"), execute("qmp_capabilities")),
    b"{'execute': 'query-name', 'foo': 1, 'bar': 1, 'id': 7}",
    b"{'arguments': [], 'foo': 1, 'execute': []}",
    *(execute("getfd"), execute("getfd", "{'fdname': 1}"), execute("getfd", "{'fdname': '1'}")),
    *(execute("closefd", "{'fdname': 'x'}"), execute("getfd", "{'fdname': 'x', 'y': 1}")),
    *map(
        execute, ("query-version", "query-status", "stop", "stop", "query-status", "cont", "cont")
    ),
    execute("stop") + execute("query-status") + execute("cont") + execute("query-status"),
    execute("migrate", "{'uri': 'x:y', 'blk': 1}"),
    execute("migrate", "{'uri': 'x:y'}"),
    execute("migrate-recover"),
    *(
        execute("migrate-set-capabilities", "{'capabilities': " + value + "}")
        for value in (
            *("1", "[1]", "[{}]", "[{'capability': 'x', 'state': true}]", "{}"),
            "[{'capability': 'events'}]",
            "[{'capability': 'events', 'state': 1}]",
            "[{'capability': 'events', 'state': true, 'z': 1}]",
        )
    ),
    *(
        execute("migrate-set-parameters", "{" + value + "}")
        for value in (
            *("'max-bandwidth': 'x'", "'max-bandwidth': 1e3", "'max-bandwidth': -1"),
            *("'multifd-channels': 300", "'multifd-channels': -1", "'multifd-channels': 1.5"),
            *("'multifd-compression': 'x'", "'multifd-compression': 1", "'tls-creds': 1"),
        )
    ),
    *(
        execute("announce-self", value)
        for value in ("{}", "{'initial': 'a'}", "{'initial': 1.5}", "{'initial': 1, 'max': null}")
    ),
    execute("announce-self", "{'initial': 1, 'max': 2, 'rounds': 3, 'step': 4, 'interfaces': [1]}"),
]

HUMAN = [
    *("", "  ", "nope", "nope x", " nope", "info nope", " info  nope x", "INFO", "/x", "\0stop"),
    *("stop", " s ", "cont", "c", "stop 1", "q x", "info status", "info  status", "info\tstatus"),
    *("info name", "info name x", "info version", "savevm", "savevm a b", "loadvm", "loadvm a b"),
    *('loadvm "a b"', 'loadvm "a', r'loadvm "\"\\\n"', r'loadvm "\q"', "loadvm 'a b'", "savevm -x"),
    *("migrate", "migrate -d", "migrate -x foo:1", "migrate -d -d foo:1", "stop;cont", "infox"),
]

BEFORE_NEGOTIATION = [
    *(b"", b"}", b"{'execute': 1}", b"{'execute': 'x', 'id': 1}", b"{'exec-oob': 'x', 'id': 3}"),
    *(execute("quit"), b"{'exec-oob': 'qmp_capabilities'}"),
    *(
        execute("qmp_capabilities", "{" + value + "}")
        for value in ("'enable': ['oo']", "'enable': 1", "'enable': [1]", "'x': ['oob']")
    ),
    execute("qmp_capabilities", "{'enable': []}") + b"{'exec-oob': 'migrate-recover'}",
    execute("qmp_capabilities", "{'enable': ['oob', 'oob']}")
    + b"{'exec-oob': 'query-name'}{'exec-oob': 'migrate-recover'}{'exec-oob': 'x', 'id': 1}",
    # What is executed out of band overtakes the rest, or does not: another thread of QEMU's.
    execute("qmp_capabilities", "{'enable': ['oob']}")
    + b"{'exec-oob': 'y', 'execute': 'x'}{'execute': 'migrate-recover'}",
    execute("qmp_capabilities", "{'enable': ['oob']}") + b"{'exec-oob': 1}{'exec-oob': {}}",
]

INPUTS = [
    *((data, {}) for data in SYNTAX),
    *((identified(value), {}) for value in IDS),
    *((data, {}) for data in COMMANDS),
    *((hmp(text), {}) for text in HUMAN),
    *((data, {"negotiation": b""}) for data in BEFORE_NEGOTIATION),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory):
    """The path of the monitor of a real QEMU without a machine worth the name."""
    path = tmp_path_factory.mktemp("real") / "qmp"
    qemu = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"),
        *("-qmp", f"unix:{path},server=on,wait=off"),
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while not await is_listening(path):
                assert qemu.returncode is None
        if (await version(path)).minor != 2:
            pytest.skip("the texts are those of QEMU 7.2")
        yield path
    finally:
        with suppress(ProcessLookupError):  # told to quit
            qemu.kill()
        await qemu.wait()


async def is_listening(path):
    await asyncio.sleep(0.01)  # between tries: a socket file that appears tells nobody
    try:
        async with connected(path, negotiation=b""):
            return True
    except OSError:
        return False


async def version(path):
    async with connected(path) as (reader, writer):
        writer.write(execute("query-version"))
        answer = json.loads(await within(reader.readline()))["return"]
    return Version(**answer["qemu"], package=answer["package"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ours(tmp_path_factory, real):
    machine = Machine()
    machine.version = await version(real)
    path = tmp_path_factory.mktemp("ours") / "qmp"
    async with listening(path, machine.assemble()):
        yield path


@pytest.mark.parametrize("inputs", [INPUTS[start::8] for start in range(8)])
async def test_the_same_input_has_the_same_answers(real, ours, inputs):
    different = []
    for data, options in inputs:
        expected, found = await answers(real, data, **options), await answers(ours, data, **options)
        if found != expected:
            different.append((data[:200], expected, found))
    assert not different


def getfd(name, count=1):
    return execute("getfd", "{'fdname': '" + name + "'}"), count


def add_fd(arguments):
    return execute("add-fd", "{" + arguments + "}"), 1


def remove_fd(arguments):
    return execute("remove-fd", "{" + arguments + "}"), 0


QUERY_FDSETS = (execute("query-fdsets"), 0)

PASSED_ALONG = [
    # conversations of messages, each with so many descriptors
    [
        *(
            getfd("a"),
            getfd("1", 2),
            getfd("b"),
            getfd("a"),
            getfd("c", 0),
            getfd(""),
            getfd("b", 0),
        ),
        *((execute("closefd", "{'fdname': '" + name + "'}"), 0) for name in ("b", "b", "a", "")),
        *((b"\n", 2), (b"\n", 0), getfd("later", 0), getfd("y", 0)),
        (getfd("p")[0] + getfd("q")[0], 1),
    ],
    [
        *(add_fd(""), add_fd("'opaque': 'x'"), add_fd("'fdset-id': 7"), add_fd("'fdset-id': -1")),
        *(add_fd("'fdset-id': 7, 'opaque': 'o'"), QUERY_FDSETS, (execute("add-fd"), 0)),
        *(remove_fd("'fdset-id': 0"), remove_fd("'fdset-id': 7, 'fd': 1000"), QUERY_FDSETS),
        *(
            remove_fd("'fdset-id': 9"),
            remove_fd("'fdset-id': 9, 'fd': 1"),
            add_fd(""),
            QUERY_FDSETS,
        ),
    ],
    [QUERY_FDSETS],
    [(execute("stop"), 0), add_fd(""), QUERY_FDSETS],
    [QUERY_FDSETS, (execute("cont"), 0)],
    [QUERY_FDSETS],
]


async def test_descriptors_are_taken_and_lost_alike(real, ours):
    for messages in PASSED_ALONG:
        assert await conversation(ours, messages) == await conversation(real, messages)


async def conversation(path, messages):
    """All lines that come in answer to `messages`; numbers of descriptors are left out."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client, open("/dev/null") as null:  # noqa: ASYNC230
        client.connect(str(path))
        client.sendall(execute("qmp_capabilities"))
        for data, count in messages:
            socket.send_fds(client, [data], [null.fileno()] * count)
        client.sendall(END)
        client.setblocking(False)
        received = b""
        while b'"id": "end"' not in received:
            data = await within(loop.sock_recv(client, 1 << 16))
            assert data, received
            received += data
    lines = TIMES.sub(b"...", re.sub(rb'"fd": \d+', b'"fd": ...', received)).splitlines()
    return lines[2:-1]


async def test_greeting_and_quit_are_the_same(tmp_path, real):
    machine = Machine()
    machine.version = await version(real)
    path = tmp_path / "qmp"
    seen = []
    async with listening(path, machine.assemble()):
        for each in (path, real):
            reader, writer = await asyncio.open_unix_connection(str(each))
            writer.write(execute("qmp_capabilities") + execute("quit") + execute("stop"))
            lines = [await within(reader.readline()) for _ in range(4)]
            seen.append([TIMES.sub(b"...", line) for line in lines])
            writer.close()
    assert seen[0] == seen[1]
    assert b"SHUTDOWN" in seen[0][2]
