"""The command line: what is on it, and that nothing on it is a path of ours."""

import os
from itertools import pairwise

import pytest

from testbed.endpoint.base import EndpointError, MachineSpec
from testbed.endpoint.command_line import (
    DISK_BYTES_MIN,
    Inherited,
    boot_disk,
    command_line,
    given_command_line,
)

CHROOT = ("chroot", "/srv/other", "qemu-system-x86_64")


def pairs(argv):
    return list(pairwise(argv))


def line(machine=None, inherited=None, *, incoming=False):
    return command_line(
        CHROOT,
        machine or MachineSpec(),
        inherited or Inherited(qmp=5, serial=6),
        accelerator="tcg",
        incoming=incoming,
    )


def test_what_may_start_no_program_is_told_so() -> None:
    argv = command_line(
        CHROOT, MachineSpec(), Inherited(5, 6), accelerator="tcg", incoming=False, sandboxed=True
    )
    (how,) = [value for option, value in pairs(argv) if option == "-sandbox"]
    assert {"on", "spawn=deny", "elevateprivileges=deny"} < set(how.split(","))


def test_a_command_with_arguments_comes_first() -> None:
    assert line()[:3] == list(CHROOT)


def test_the_least_machine_has_only_qmp_and_a_serial_line() -> None:
    assert line()[3:] == (
        "-nodefaults -no-user-config -display none -accel tcg "
        "-M pc -m size=67108864B -smp 1 "
        "-chardev socket,id=qmp,fd=5 -mon chardev=qmp,mode=control "
        "-chardev socket,id=serial,fd=6 -serial chardev:serial"
    ).split(" ")


@pytest.mark.parametrize(
    ("machine", "inherited", "incoming", "wanted"),
    [
        pytest.param(MachineSpec(paused=True), None, False, [("-S",)], id="paused"),
        pytest.param(
            None,
            None,
            True,
            [
                ("-trace", "qemu_loadvm_state_section_*"),
                ("-trace", "loadvm_process_command*"),
                ("-incoming", "defer"),
            ],
            id="incoming",
        ),
        pytest.param(
            MachineSpec(machine="q35", memory_bytes=16 << 20, cpus=2),
            None,
            False,
            [("-M", "q35"), ("-m", "size=16777216B"), ("-smp", "2")],
            id="machine",
        ),
        pytest.param(
            MachineSpec(devices=("virtio-rng-pci",), arguments=("-cpu", "max")),
            None,
            False,
            [("-device", "virtio-rng-pci"), ("-cpu", "max")],
            id="further",
        ),
        pytest.param(
            MachineSpec(mac="52:54:00:00:00:01", nic="e1000"),
            Inherited(5, 6, tap=7),
            False,
            [
                ("-netdev", "tap,id=net0,fd=7"),
                ("-device", "e1000,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile="),
            ],
            id="nic",
        ),
        pytest.param(
            None,
            Inherited(5, 6, boot=(8, 9)),
            False,
            [("-add-fd", "set=1,fd=8"), ("-add-fd", "set=1,fd=9")],
            id="disk",
        ),
    ],
)
def test_each_wish_becomes_its_arguments(machine, inherited, incoming, wanted) -> None:
    argv = line(machine, inherited, incoming=incoming)
    for arguments in wanted:
        assert arguments in pairs(argv) or arguments[0] == argv[-1]


def test_all_that_is_there_is_inherited() -> None:
    assert Inherited(5, 6).all == (5, 6)
    assert Inherited(5, 6, (8, 9), 7).all == (5, 6, 8, 9, 7)


def test_the_disk_holds_the_image_and_is_gone_with_its_block() -> None:
    with boot_disk(b"image") as (read_only, both):
        assert os.pread(read_only, 6, 0) == b"image\0"
        assert os.fstat(both).st_size == DISK_BYTES_MIN
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(read_only, b"x", 0)
    for fd in (read_only, both):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_an_error_says_what_happened_with_what_and_what_to_do() -> None:
    error = EndpointError("it ended", command="qemu -x", stderr="one\ntwo", advice="Do this.")
    assert str(error).splitlines() == [
        "it ended",
        "  command: qemu -x",
        "  it said: one",
        "  it said: two",
        "  Do this.",
    ]


def test_a_given_command_gets_what_it_takes_to_drive_it_and_nothing_else() -> None:
    assert given_command_line(["q", "-M", "pc"], 7) == [
        *("q", "-M", "pc", "-chardev", "socket,id=testbed-qmp,fd=7"),
        *("-mon", "chardev=testbed-qmp,mode=control", "-S", "-incoming", "defer"),
        *("-display", "none"),
    ]


@pytest.mark.parametrize("screen", ["-nographic", "-vnc", "--display"])
def test_a_given_command_keeps_the_screen_that_it_names(screen) -> None:
    assert given_command_line(["q", screen], 7)[-2:] == ["-incoming", "defer"]
