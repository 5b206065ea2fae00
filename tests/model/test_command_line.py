"""The command line: what is taken, and what is refused in which words."""

import re
import subprocess
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_helpers import REAL

from testbed.endpoint.base import MachineSpec
from testbed.endpoint.command_line import Inherited, command_line
from testbed.model.process.command_line import (
    MEMORY_BYTES,
    SUFFIXES,
    CommandLine,
    Usage,
    listed,
    parse,
    size,
)
from testbed.model.process.main import NAME, main

MIB, GIB = 1 << 20, 1 << 30


def said(text):
    """Lines without the program's name."""
    return [re.sub(r"^qemu-[a-z0-9_-]+: ", "", line) for line in text.splitlines()]


def refusal(arguments, capsys):
    """What it says to those; it must end with status 1, and say nothing else."""
    status = main(arguments)
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith(f"{NAME}: ")
    return said(err)


# What is taken


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("-M q35", {"machine": "q35"}),
        ("-machine type=q35,suppress-vmdesc=on", {"machine": "q35"}),
        ("--machine q35", {"machine": "q35"}),
        ("-m 16M", {"memory_bytes": 16 * MIB}),
        ("-m 16", {"memory_bytes": 16 * MIB}),
        ("-m size=2G,slots=2,maxmem=4G", {"memory_bytes": 2 * GIB}),
        ("-m 1.5G", {"memory_bytes": 3 * GIB // 2}),
        ("-m 1b", {"memory_bytes": 8192}),
        ("-m 0", {"memory_bytes": MEMORY_BYTES}),
        ("-smp 2", {"cpus": 2}),
        ("-smp cpus=3,maxcpus=4", {"cpus": 3}),
        ("-name a", {"name": "a"}),
        ("-name guest=a,debug-threads=on", {"name": "a"}),
        ("-S -only-migratable", {"paused": True, "only_migratable": True}),
        ("-incoming tcp:[::]:1,ipv6=on", {"incoming": "tcp:[::]:1,ipv6=on"}),
        ("-loadvm a -pidfile b", {"loadvm": "a", "pidfile": "b"}),
        ("-profile 2.9", {"profile": "2.9"}),
        (
            "-uuid 00000000-0000-0000-0000-0000000000fF",
            {"uuid": UUID(int=0xFF)},
        ),
        (
            "-global migration.send-configuration=off",
            {"globals": {"migration.send-configuration": "off"}},
        ),
        ("-version -help", {"asks": "version"}),
        ("-M help", {"asks": "machines"}),
        ("-nodefaults -no-user-config -display none -accel tcg -vga none -cpu max", {}),
    ],
)
def test_an_option_is_taken_for_what_it_is(arguments, expected):
    found = parse(arguments.split())
    usual = CommandLine()
    for name in expected:
        assert getattr(found, name) == expected[name], name
    for name in ("memory_bytes", "cpus", "name", "incoming", "paused", "serial", "asks"):
        if name not in expected:
            assert getattr(found, name) == getattr(usual, name), name


def test_an_option_with_a_list_may_come_again_and_in_two_ways():
    found = parse(
        ["-chardev", "socket,id=a,path=x,,y,server", "-chardev", "backend=socket,id=b,fd=3"]
    )
    assert [each.first for each in found.chardevs] == ["socket", "socket"]
    assert found.chardevs[0].values == {"id": "a", "path": "x,y", "server": "on"}
    assert found.chardevs[1].values == {"id": "b", "fd": "3"}


def test_what_the_testbed_gives_a_qemu_is_all_taken():
    machine = MachineSpec(machine="q35", memory_bytes=16 * MIB, cpus=2, paused=True)
    inherited = Inherited(qmp=3, serial=4, boot=(5, 6), tap=7)
    given = command_line(["qemu"], machine, inherited, accelerator="kvm", incoming=True)
    found = parse(given[1:])
    assert (found.machine, found.memory_bytes, found.cpus) == ("q35", 16 * MIB, 2)
    assert (found.paused, found.incoming) == (True, "defer")
    assert [each.number("fd") for each in (*found.chardevs, *found.fds, *found.netdevs)] == [
        *(3, 4, 5, 6, 7)
    ]
    assert [each.first for each in found.devices] == ["ide-hd", "virtio-net-pci"]


@given(st.integers(0, (1 << 43) - 1), st.sampled_from([*SUFFIXES, *map(str.upper, SUFFIXES)]))
def test_a_size_is_a_number_and_what_it_counts(number, suffix):
    assert size(f"{number}{suffix}") == number * SUFFIXES[suffix.lower()]


@given(st.dictionaries(st.text("abc.-", min_size=1), st.text("ab,=\\ "), min_size=1))
def test_a_list_of_values_comes_back(values):
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    assert listed("", text).values == values


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_words_are_taken_or_refused(words):
    try:
        found = parse(words)
    except Usage as refused:
        found = refused
    assert isinstance(found, CommandLine) or all(found.texts)


# What is refused, by both

NOT_A_SIZE = (
    "Parameter 'size' expects a non-negative number below 2^64",
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
    "and exabytes, respectively.",
)
REFUSED_BY_BOTH = [
    ("-foo", "-foo: invalid option"),
    ("-m", "-m: requires an argument"),
    ("-M", "-M: requires an argument"),
    ("-M nope", "unsupported machine type", "Use -machine help to list supported machines"),
    ("-M pc,foo=on", "Property 'pc-i440fx-7.2-machine.foo' not found"),
    ("-M pc,usb=maybe", "Parameter 'usb' expects 'on' or 'off'"),
    ("-M q35,suppress-vmdesc=foo", "Parameter 'suppress-vmdesc' expects 'on' or 'off'"),
    (
        "-M pc,enforce-config-section=on",
        "Property 'pc-i440fx-7.2-machine.enforce-config-section' not found",
    ),
    ("-m foo", f"-m foo: {NOT_A_SIZE[0]}", *NOT_A_SIZE[1:]),
    ("-m -1", f"-m -1: {NOT_A_SIZE[0]}", *NOT_A_SIZE[1:]),
    ("--m size=", f"--m size=: {NOT_A_SIZE[0]}", *NOT_A_SIZE[1:]),
    ("-m 16M,foo=1", "-m 16M,foo=1: Invalid parameter 'foo'"),
    ("-m 5000000000G", "cannot set up guest memory 'pc.ram': Cannot allocate memory"),
    ("-smp foo", "Parameter 'smp.cpus' expects integer"),
    ("-smp foo=2", "Parameter 'smp.foo' is unexpected"),
    ("-uuid foo", "-uuid foo: failed to parse UUID string: wrong format"),
    (
        "-uuid 00000000000000000000000000000001",
        "-uuid 00000000000000000000000000000001: failed to parse UUID string: wrong format",
    ),
    ("-name guest=a,foo=b", "-name guest=a,foo=b: Invalid parameter 'foo'"),
    (
        "-name debug-threads=maybe",
        "-name debug-threads=maybe: Parameter 'debug-threads' expects 'on' or 'off'",
    ),
    (
        "-global migration.foo=on",
        "can't apply global migration.foo=on: Property 'migration.foo' not found",
    ),
    (
        "-global migration.send-configuration=maybe",
        "can't apply global migration.send-configuration=maybe: "
        "Parameter 'send-configuration' expects 'on' or 'off'",
    ),
    # Devices
    ("-device id=x", "-device id=x: Parameter 'driver' is missing"),
    ("-device nope", "-device nope: 'nope' is not a valid device model name"),
    (
        "-device virtio-net-pci,mac=foo",
        "-device virtio-net-pci,mac=foo: Property 'virtio-net-device.mac' doesn't take value 'foo'",
    ),
    (
        "-device virtio-net-pci,netdev=none",
        "-device virtio-net-pci,netdev=none: "
        "Property 'virtio-net-device.netdev' can't find value 'none'",
    ),
    (
        "-device virtio-net-pci,foo=1",
        "-device virtio-net-pci,foo=1: Property 'virtio-net-pci.foo' not found",
    ),
    ("-device nvme", "-device nvme: serial property not set"),
    (
        "-only-migratable -device nvme,serial=foo",
        "-device nvme,serial=foo: "
        "Device nvme is not migratable, but --only-migratable was specified",
    ),
    ("-device ide-hd", "-device ide-hd: No drive specified"),
    (
        "-device ide-hd,drive=foo",
        "-device ide-hd,drive=foo: Property 'ide-hd.drive' can't find value 'foo'",
    ),
    (
        "-drive if=none,id=a -device ide-hd,drive=a",
        "-device ide-hd,drive=a: Device needs media, but drive is empty",
    ),
    (
        "-drive if=none,id=a,file=/dev/null,format=raw -device ide-hd,drive=a,id=b "
        "-device ide-hd,drive=a",
        "-device ide-hd,drive=a: Drive 'a' is already in use by another device",
    ),
    (
        "-drive if=none,id=a,file=/dev/null,format=raw,readonly=on -device ide-hd,drive=a",
        "-device ide-hd,drive=a: Block node is read-only",
    ),
    # Drives
    (
        "-drive file=/nonexistent",
        "-drive file=/nonexistent: Could not open '/nonexistent': No such file or directory",
    ),
    (
        "-drive if=none,file=/,format=raw",
        "-drive if=none,file=/,format=raw: 'file' driver requires '/' to be a regular file",
    ),
    (
        "-drive if=none,file=/dev/null,format=nope",
        "-drive if=none,file=/dev/null,format=nope: Unknown driver 'nope'",
    ),
    (
        "-drive if=none,file=/dev/null,format=raw,foo=1",
        "-drive if=none,file=/dev/null,format=raw,foo=1: "
        "Block format 'raw' does not support the option 'foo'",
    ),
    ("-drive if=foo", "-drive if=foo: unsupported bus type 'foo'"),
    (
        "-drive if=none,id=a -drive if=none,id=a",
        "-drive if=none,id=a: Duplicate ID 'a' for drive",
    ),
    (
        "-drive if=none,readonly=maybe,file=/dev/null",
        "-drive if=none,readonly=maybe,file=/dev/null: Parameter 'read-only' expects 'on' or 'off'",
    ),
    # Networks
    ("-netdev foo", "-netdev foo: Parameter 'id' is missing"),
    ("-netdev id=a", "-netdev id=a: Parameter 'type' is missing"),
    ("-netdev foo,id=a", "-netdev foo,id=a: Parameter 'type' does not accept value 'foo'"),
    ("-netdev tap,id=a,foo=1", "-netdev tap,id=a,foo=1: Invalid parameter 'foo'"),
    ("-netdev tap,id=a,fd=foo", "-netdev tap,id=a,fd=foo: Invalid file descriptor number 'foo'"),
    (
        "-netdev tap,id=a,fd=999",
        "-netdev tap,id=a,fd=999: a: Can't use file descriptor 999: Bad file descriptor",
    ),
    (
        "-netdev tap,id=a,fd=999 -netdev tap,id=a,fd=999",
        "-netdev tap,id=a,fd=999: Duplicate ID 'a' for netdev",
    ),
    # Character devices and monitors
    ("-chardev id=a", '-chardev id=a: chardev: "a" missing backend'),
    ("-chardev foo,id=a", "-chardev foo,id=a: 'foo' is not a valid char driver name"),
    ("-chardev socket", "-chardev socket: chardev: no id specified"),
    ("-chardev socket,id=a", "-chardev socket,id=a: Unable to parse FD number "),
    ("-chardev socket,id=a,fd=foo", "-chardev socket,id=a,fd=foo: Unable to parse FD number foo"),
    (
        "-chardev socket,id=a,fd=999",
        "-chardev socket,id=a,fd=999: File descriptor '999' is not a socket",
    ),
    (
        "-chardev socket,id=a,host=127.0.0.1",
        "-chardev socket,id=a,host=127.0.0.1: chardev: socket: no port given",
    ),
    (
        "-chardev socket,id=a,host=127.0.0.1,port=1",
        "-chardev socket,id=a,host=127.0.0.1,port=1: "
        "Failed to connect to '127.0.0.1:1': Connection refused",
    ),
    (
        "-chardev socket,id=a,path=/nonexistent/x",
        "-chardev socket,id=a,path=/nonexistent/x: "
        "Failed to connect to '/nonexistent/x': No such file or directory",
    ),
    (
        "-chardev socket,id=a,path=/nonexistent/x,server=on,wait=off",
        "-chardev socket,id=a,path=/nonexistent/x,server=on,wait=off: "
        "Failed to bind socket to /nonexistent/x: No such file or directory",
    ),
    (
        "-chardev socket,id=a,path=a,host=b",
        "-chardev socket,id=a,path=a,host=b: "
        "None or one of 'path', 'fd' or 'host' option required.",
    ),
    (
        "-chardev socket,id=a,path=a,wait=on",
        "-chardev socket,id=a,path=a,wait=on: "
        "'wait' option is incompatible with socket in client connect mode",
    ),
    (
        "-chardev socket,id=a,path=a,server=maybe",
        "-chardev socket,id=a,path=a,server=maybe: Parameter 'server' expects 'on' or 'off'",
    ),
    (
        "-chardev socket,id=a,path=a,foo=1",
        "-chardev socket,id=a,path=a,foo=1: Invalid parameter 'foo'",
    ),
    ("-mon mode=control", "-mon mode=control: Parameter 'chardev' is missing"),
    ("-mon chardev=nope", '-mon chardev=nope: chardev "nope" not found'),
    (
        "-mon chardev=nope,mode=foo",
        "-mon chardev=nope,mode=foo: Parameter 'mode' does not accept value 'foo'",
    ),
    ("-qmp foo", "-qmp foo: 'foo' is not a valid char driver", "-qmp foo: parse error: foo"),
    ("-qmp tcp:foo", "-qmp tcp:foo: parse error: tcp:foo"),
    (
        "-qmp unix:a,foo=on",
        "-qmp unix:a,foo=on: Invalid parameter 'foo'",
        "-qmp unix:a,foo=on: parse error: unix:a,foo=on",
    ),
    (
        "-qmp tcp:127.0.0.1:foo,server=on,wait=off",
        "-qmp tcp:127.0.0.1:foo,server=on,wait=off: address resolution failed for "
        "127.0.0.1:foo: Servname not supported for ai_socktype",
    ),
    (
        "-qmp unix:/nonexistent/q",
        "-qmp unix:/nonexistent/q: "
        "Failed to connect to '/nonexistent/q': No such file or directory",
    ),
    (
        "-serial foo",
        "-serial foo: 'foo' is not a valid char driver",
        "-serial foo: could not connect serial device to character backend 'foo'",
    ),
    (
        "-serial chardev:nope",
        "-serial chardev:nope: could not connect serial device to character backend 'chardev:nope'",
    ),
    (
        "-serial file:/nonexistent/x",
        "-serial file:/nonexistent/x: Could not open '/nonexistent/x': No such file or directory",
        "-serial file:/nonexistent/x: "
        "could not connect serial device to character backend 'file:/nonexistent/x'",
    ),
    # What happens at once
    ("-incoming foo:bar", "-incoming foo:bar: unknown migration protocol: foo:bar"),
    ("-incoming tcp:foo", "-incoming tcp:foo: error parsing address 'foo'"),
    (
        "-incoming unix:/nonexistent/x",
        "-incoming unix:/nonexistent/x: "
        "Failed to bind socket to /nonexistent/x: No such file or directory",
    ),
    ("-loadvm x", "no block device can store vmstate for snapshot"),
    (
        "-pidfile /nonexistent/x",
        "cannot create PID file: Could not create '/nonexistent/x': No such file or directory",
    ),
    ("-pidfile /", "cannot create PID file: Could not create '/': Is a directory"),
    ("-add-fd set=1", "-add-fd set=1: fd option is required and must be non-negative"),
    ("-add-fd fd=-1,set=1", "-add-fd fd=-1,set=1: fd option is required and must be non-negative"),
    ("-add-fd fd=0,set=1", "-add-fd fd=0,set=1: fd cannot be a standard I/O stream"),
    ("-add-fd fd=foo,set=1", "-add-fd fd=foo,set=1: Parameter 'fd' expects a number"),
    ("-add-fd fd=999,set=1", "-add-fd fd=999,set=1: fd is not valid or already in use"),
    ("-add-fd fd=0,set=1,foo=1", "-add-fd fd=0,set=1,foo=1: Invalid parameter 'foo'"),
    (
        "-dump-vmstate /nonexistent/x",
        "-dump-vmstate /nonexistent/x: open /nonexistent/x: No such file or directory",
    ),
]
BY_BOTH = [pytest.param(case[0].split(), list(case[1:]), id=case[0]) for case in REFUSED_BY_BOTH]


@pytest.mark.parametrize(("arguments", "texts"), BY_BOTH)
def test_what_qemu_refuses_is_refused_in_its_words(arguments, texts, capsys):
    assert refusal(["-display", "none", "-nodefaults", "-S", *arguments], capsys) == texts


@pytest.mark.live
@pytest.mark.parametrize(("arguments", "texts"), BY_BOTH)
def test_those_are_the_words_of_a_real_one(arguments, texts):
    base = ["-display", "none", "-nodefaults", "-S", "-accel", "tcg"]
    real = subprocess.run(
        [*REAL, *base, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert real.returncode == 1
    assert said(real.stderr) == texts


# What is refused by the model alone: it has less


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("-profile 1.0", "-profile 1.0: there are 2.9, 7.2"),
        ("a.img", "a.img: the model boots no image that is named so; use -drive"),
        ("-vga std", "-vga std: the model has only `none`"),
        ("-smp 17", "Invalid SMP CPUs 17. The max CPUs supported by machine"
         " 'pc-i440fx-7.2' is 16"),
        ("-global a.b=c", "-global a.b=c: the model has migration.send-configuration, "
         "migration.send-section-footer, migration.store-global-state"),
        ("-serial null -serial null", "-serial null: the model has one serial line"),
        ("-drive if=virtio", "-drive if=virtio: the model has only if=none and if=ide"),
        (
            "-netdev user,id=a",
            "-netdev user,id=a: the model has only TAPs that it inherits: tap,id=ID,fd=N",
        ),
        (
            "-device nvme,serial=a -device virtio-net-pci",
            "-device nvme,serial=a: the model has it behind the NICs",
        ),
        ("-M none -device nvme,serial=a",
         "-device nvme,serial=a: machine `none` has no place for it: it becomes what comes in"),
    ],
)  # fmt: skip
def test_what_the_model_lacks_is_refused(arguments, text, capsys):
    assert refusal(arguments.split(), capsys) == [text]


def test_another_profile_has_another_newest_machine(capsys):
    said = refusal(["-profile", "2.9", "-M", "pc,foo=on"], capsys)
    assert said == ["Property 'pc-i440fx-2.9-machine.foo' not found"]
    refusal(["-profile", "2.9", "-M", "pc-q35-7.2"], capsys)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("-version", r"QEMU emulator version 7\.2\.22 \(model\)\n"),
        ("-profile 2.9 -version", r"QEMU emulator version 2\.9\.0 \(model\)\n"),
        ("-help", r"usage: qemu-model \[options\]\n(.*\n)+"),
        ("-M help", r"Supported machines are:\npc  (.*\n)+"),
    ],
)
def test_what_is_asked_is_told_and_nothing_else_done(arguments, pattern, capsys):
    assert main(arguments.split()) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(pattern, out)
    assert err == ""
