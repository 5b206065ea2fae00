"""The same damaged streams to the model's destination and to the QEMU that is installed."""

import socket
import subprocess

import pytest
from model_helpers import (
    ADVISE,
    DISCARD,
    LISTEN,
    OPEN,
    RESUME,
    RUN,
    Bed,
    head,
    packaged,
    ping,
    timer,
)

from testbed.wire import build, build_command, build_section, encode

QEMU = "qemu-system-x86_64"
WITHIN_S = 20
SCRUBBED = "load of migration failed: "

pytestmark = pytest.mark.live

STREAMS = {
    "nothing": b"",
    "no stream": b"GET / HTTP/1.1\r\n\r\n",
    "cut in the version": b"QEVM\0\0",
    "version 2": b"QEVM\0\0\0\2",
    "version 4": b"QEVM\0\0\0\4",
    "no configuration": b"QEVM\0\0\0\3",
    "another section than configuration": b"QEVM\0\0\0\3\1",
    "cut in the name's length": b"QEVM\0\0\0\3\7\0\0",
    "cut in the name": head()[:-3],
    "another machine": head("pc-q35-7.2"),
    "a longer name": head("pc-i440fx-7.2x"),
    "a name with a NUL": head("pc\0"),
    "nothing behind the configuration": head(),
    "an unknown subsection": head() + bytes.fromhex("0511") + b"configuration/foo" + bytes(4),
    "an unknown type": head() + b"\x55",
    "a footer as a type": head() + b"\x7e\0\0\0\0",
    "a section without a name": head() + b"\1\0\0\0\2\0",
    "a section's name cut": head() + b"\1\0\0\0\2\3ra",
    "a section's ids cut": head() + b"\1\0\0\0\2\3ram\0\0\0\0\0",
    "PART before any START": head() + b"\2\0\0\0\0",
    "the timer cut in its second field": head() + timer()[:-15],
    "the timer, older": head() + timer(version_id=1),
    "the timer, too old": head() + timer(version_id=0),
    "the timer with another footer": head() + timer()[:-1] + b"\x63",
    "the timer without a footer": head() + timer()[:-5],
    "a footer cut": head() + timer()[:-2],
    "the timer twice": head() + timer() + timer(5),
    "a guest's UUID": head() + encode(build.guest_uuid(bytes(range(16)))),
    "a capability that nobody knows": head() + encode(build.capabilities(["no-such"])),
    "a capability that is not compared": head() + encode(build.capabilities(["xbzrle"])),
    "a capability that is off": head() + encode(build.capabilities(["x-ignore-shared"])),
    "other page bits": head() + encode(build.target_page_bits(14)),
    "the same page bits": head() + encode(build.target_page_bits(12)),
    "COLO": head() + build_command(8),
    "PART of nothing": head() + b"\2\0\0\0\x63",
    "END of nothing": head() + b"\3\xff\xff\xff\xff",
    "PART cut": head() + b"\2\0",
    "an unknown section": head() + build_section(4, 9, "nobody", 3, 1, b""),
    "an unknown instance": head() + build_section(4, 9, "timer", 0x80000000, 2, b""),
    "a newer version": head() + build_section(4, 9, "timer", 0, 3, b""),
    "a version below zero": head() + build_section(4, 9, "timer", 0, 0x80000001, b""),
    "an old version of RAM": head() + build_section(1, 9, "ram", 0, 3, b""),
    "command 0": head() + build_command(0, b"ab"),
    "command 11": head() + build_command(11),
    "command 65535": head() + build_command(65535),
    "a command cut": head() + b"\x08\0",
    "PING too short": head() + build_command(2, b"abc"),
    "PING without a way back": head() + ping(0x10),
    "the way back opened twice": head() + OPEN + OPEN,
    "OPEN too long": head() + build_command(1, b"x"),
    "ADVISE of 8 bytes": head() + build_command(3, bytes(8)),
    "ADVISE of nothing": head() + build_command(3),
    "ADVISE of other pages": head() + encode(build.advise(0x200000, 4096)),
    "ADVISE of other target pages": head() + encode(build.advise(4096, 1024)),
    "ADVISE twice": head() + ADVISE + ADVISE,
    "DISCARD unadvised": head() + DISCARD,
    "DISCARD too short": head() + ADVISE + build_command(6, bytes(19)),
    "DISCARD of another version": head() + ADVISE + build_command(6, b"\1" + bytes(19)),
    "DISCARD without a name": head() + ADVISE + build_command(6, bytes(20)),
    "DISCARD without a nil": head() + ADVISE + build_command(6, b"\0\1ax" + bytes(16)),
    "DISCARD of half a range": head() + ADVISE + build_command(6, b"\0\1a\0" + bytes(17)),
    "DISCARD of no block": head() + ADVISE + encode(build.discard("vga", [(0, 4096)])),
    "LISTEN unadvised": head() + LISTEN,
    "RUN without LISTEN": head() + RUN,
    "RESUME of nothing": head() + RESUME,
    "a package cut": head() + packaged(b"xyz")[:-1],
    "an empty package": head() + packaged(),
    "a package without RUN": head() + packaged(ping(3)[:0], OPEN),
    "a bad package": head() + packaged(b"\x55"),
    "a bitmap without a name": head() + build_command(10, b"\0"),
    "a bitmap of another length": head() + build_command(10, b"\1a\0"),
    "a bitmap of no block": head() + build_command(10, b"\1a"),
}


def refused_by_qemu(stream):
    """Exit status and stderr of the real one, without the program's name."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(QEMU, "-M", "pc-i440fx-7.2", "-m", "16M", "-accel", "tcg", "-nodefaults"),
        *("-display", "none", "-S", "-global", "migration.x-postcopy-ram=on"),
        *("-incoming", f"tcp:127.0.0.1:{port}"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connected(port, process) as connection:
                connection.sendall(stream)
                connection.shutdown(socket.SHUT_WR)
                _, said = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    prefix = f"{QEMU}: "
    return process.returncode, [line.removeprefix(prefix) for line in said.splitlines()]


def connected(port, process):
    """A connection, as soon as it listens; it has no other way to say so without QMP."""
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), WITHIN_S)
        except ConnectionRefusedError:
            continue
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("name", STREAMS)
def test_the_model_refuses_as_qemu_does(name):
    stream = STREAMS[name]
    status, said = refused_by_qemu(stream)
    bed = Bed().feed(stream, end=True)
    assert bed.said == said
    assert bed.exit_status == status == 1
