"""The model as a process: QEMU's command line in, QMP, migrations, and an exit status out.

Everything is put together here, and nothing decided. Source of the texts: QEMU `softmmu/vl.c`,
`softmmu/runstate.c` (7.2).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from testbed.vmstate import dump, dump_text

from . import chardev, drives, machine
from .command_line import CommandLine, Option, Usage, parse
from .hardware import Hardware
from .images import Images
from .migrations import VmMigrations
from .network import NetworkStack, guest_address
from .nic import Nic
from .profile import PROFILES, Profile
from .qmp.basics import add_basics
from .qmp.commands import Commands, Version
from .qmp.descriptors import Descriptors
from .qmp.error import CommandError
from .qmp.fdsets import FdSets
from .qmp.hmp import Hmp
from .qmp.hmp_migration import add_human_migration, add_snapshots
from .qmp.migration import MigrationCommands, add_migration
from .qmp.server import Monitor
from .registry import RegistryError
from .snapshots import Drive, Snapshots
from .tap import TapRefused
from .vm import Vm

NAME = "qemu-model"
"""Before each line on stderr, as QEMU has its own."""
EXIT_FAILURE = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HELP = """\
usage: {name} [options]

A work-alike of QEMU for migration: it takes the options of qemu-system-x86_64 that are about it.

  -profile 2.9|7.2      as which QEMU it behaves (default 7.2)
  -machine|-M NAME      the machine; -machine help lists them
  -machine none -incoming URI|defer -S
                        a relay: becomes whatever machine comes in, and can be sent on
  -m SIZE -smp N        its memory and CPUs
  -drive/-device ide-hd its disks: raw files, or images of the model's own (testbed.model.img)
  -netdev tap,fd=N -device virtio-net-pci
                        its NICs
  -chardev socket -mon  monitors (QMP); or -qmp unix:PATH,server=on,wait=off
  -serial WHERE         its serial line: chardev:ID, file:PATH, stdio, null
  -incoming URI|defer   wait for a migration
  -S                    do not run before `cont`
  -loadvm NAME          begin with a snapshot
  -dump-vmstate FILE    write down how its devices are saved
"""


def say(line: str) -> None:
    """Write a line on stderr, behind the program's name."""
    with suppress(OSError):
        sys.stderr.write(f"{NAME}: {line}\n")
        sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Run the model; return its exit status.

    Args:
        arguments: without the program's name.
    """
    try:
        line = parse(arguments)
        profile = PROFILES.get(line.profile)
        if profile is None:
            raise Usage(f"-profile {line.profile}: there are {', '.join(PROFILES)}")
        if line.asks is not None:
            return _tell(line.asks, profile)
        return asyncio.run(_run(line, profile))
    except (Usage, machine.MachineError, RegistryError) as refused:
        say(str(refused))
    except KeyboardInterrupt:
        return 0
    return EXIT_FAILURE


def _tell(what: str, profile: Profile) -> int:
    version = ".".join(map(str, profile.version))
    match what:
        case "version":
            sys.stdout.write(f"QEMU emulator version {version} (model)\n")
        case "machines":
            sys.stdout.write(machine.machine_help(profile))
        case _:
            sys.stdout.write(HELP.format(name=NAME))
    return 0


async def _run(line: CommandLine, profile: Profile) -> int:
    with ExitStack() as stack:
        sets = _descriptor_sets(line.fds)
        disks = drives.opened(line.drives, stack.enter_context(Images()), sets)
        drives.check_plugged(line.devices, disks)
        hardware = _hardware(line, profile)
        if line.dump_vmstate is not None:
            return _dump(line.dump_vmstate, hardware)
        chardevs = {
            option.values.get("id", ""): chardev.opened(option, say) for option in line.chardevs
        }
        monitors: list[Monitor] = []

        def emit(name: str, data: dict[str, Any] | None) -> None:
            for monitor in monitors:
                monitor.emit(name, data)

        vm = Vm(
            hardware,
            profile,
            emit=emit,
            say=say,
            serial=chardev.serial(line.serial, chardevs),
            waits_for_migration=line.incoming is not None,
            autostart=not line.paused,
        )
        vm.plug(_nics(line))
        process = _Process(line, profile, vm, disks, sets)
        return await process.run(monitors, chardevs)


def _hardware(line: CommandLine, profile: Profile) -> Hardware:
    """The machine of the command line, powered off."""
    if line.machine == "none":
        for option in (*line.devices, *line.drives):
            raise option.refused("machine `none` has no place for it: it becomes what comes in")
        return machine.empty(profile)
    nics: list[machine.Nic] = []
    for device in _nic_devices(line):
        if device.first != machine.NIC_MODEL:
            raise device.refused(f"'{device.first}' is not a valid device model name")
        nics.append(machine.Nic(_mac(device, len(nics))))
    disk = len(nics) < len(line.devices) or any(
        each.values.get("if", "ide") == "ide" for each in line.drives
    )
    made = machine.build(profile, line.machine, line.memory_bytes, line.cpus, nics, disk=disk)
    options, globals_ = line.machine_options, line.globals
    made.incoming.sends_vmdesc = made.outgoing.sends_vmdesc = (
        options.get("suppress-vmdesc", "off") == "off"
    )
    sends = globals_.get("migration.send-configuration", "on") == "on"
    made.outgoing.has_configuration = sends
    made.incoming.has_configuration = sends or options.get("enforce-config-section") == "on"
    footers = globals_.get("migration.send-section-footer", "on") == "on"
    made.incoming.has_footers = made.outgoing.has_footers = footers
    made.incoming.configuration_state.guest_uuid = line.uuid
    return made


def _nic_devices(line: CommandLine) -> list[Option]:
    """All that is no disk."""
    return [device for device in line.devices if device.first != "ide-hd"]


def _mac(device: Option, count: int) -> str:
    """The address that a NIC is given, or QEMU's usual one."""
    return device.values.get("mac", f"52:54:00:12:34:{0x56 + count:02x}")


class _Process:
    """The parts of one process, and what runs beside each other in it."""

    def __init__(
        self, line: CommandLine, profile: Profile, vm: Vm, disks: list[Drive], sets: FdSets
    ) -> None:
        self._line, self._profile, self._vm, self._disks = line, profile, vm, disks
        self._descriptors = Descriptors()
        self._descriptors.sets = sets
        self._version = Version(*profile.version)

    async def run(self, monitors: list[Monitor], chardevs: dict[str, chardev.Chardev]) -> int:
        """Run until the end; returns the exit status."""
        vm, line = self._vm, self._line
        status = 0
        async with asyncio.TaskGroup() as tasks:
            migrations = VmMigrations(
                vm, self._profile, self._descriptors, tasks, deferred=line.incoming == "defer"
            )
            served = [
                tasks.create_task(_serve(self._monitor(migrations, monitors), each))
                for each in self._monitored(chardevs)
            ]
            _end_by_signals(vm)
            try:
                self._begin(migrations)
                status = await vm.ended
            finally:
                for monitor in monitors:
                    monitor.end()
                migrations.close()
                for task in served:
                    task.cancel()
        return status

    def _monitored(self, chardevs: dict[str, chardev.Chardev]) -> list[chardev.Chardev]:
        found = [chardev.opened(chardev.compat(option), say) for option in self._line.qmp]
        for option in self._line.monitors:
            name = option.values.get("chardev", option.first)
            if name not in chardevs:
                raise option.refused(f'chardev "{name}" not found')
            if option.values.get("mode") != "control":
                raise option.refused("the model has only mode=control")
            found.append(chardevs[name])
        return found

    def _monitor(self, migrations: VmMigrations, monitors: list[Monitor]) -> Monitor:
        """Another monitor, with all commands."""
        vm, line = self._vm, self._line
        commands, hmp = Commands(), Hmp(self._profile.snapshots.error_prefix)
        monitor = Monitor(
            commands,
            self._version,
            is_running=lambda: vm.running,
            descriptors=self._descriptors,
        )
        add_basics(commands, hmp, vm, version=self._version, name=line.name, cpu_count=line.cpus)
        acts = MigrationCommands(migrations, vm, self._profile)
        add_migration(
            commands, acts, chardevs=[each.values.get("id", "") for each in line.chardevs]
        )
        add_human_migration(hmp, acts)
        add_snapshots(hmp, Snapshots(self._disks, vm, self._profile))
        monitors.append(monitor)
        return monitor

    def _begin(self, migrations: VmMigrations) -> None:
        """Power on, and what else the command line has happen at once."""
        vm, line = self._vm, self._line
        if line.pidfile is not None:
            _write_pidfile(line.pidfile)
        if line.loadvm is not None:
            outcome = Snapshots(self._disks, vm, self._profile).load_vmstate(line.loadvm)
            if not outcome.done:
                for text in outcome.on_stderr:
                    say(text)
                vm.end(EXIT_FAILURE)
                return
        vm.boot(drives.boot_image(self._disks, line.devices))
        if line.incoming not in (None, "defer"):
            assert line.incoming is not None
            try:
                migrations.incoming(line.incoming)
            except CommandError as error:
                say(f"-incoming {line.incoming}: {error.desc}")
                vm.end(EXIT_FAILURE)


async def _serve(monitor: Monitor, device: chardev.Chardev) -> None:
    """Serve whoever connects; one that was connected from the beginning is the only one."""
    if device.first is not None:
        await monitor.serve(device.first)
    if device.listens:
        await monitor.listen(device.sock)
    await monitor.serve(device.sock)


def _end_by_signals(vm: Vm) -> None:
    def end(number: signal.Signals) -> None:
        say(f"terminating on signal {number.value}")
        vm.emit("SHUTDOWN", {"guest": False, "reason": "host-signal"})
        vm.end(0)

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, end, number)


def _write_pidfile(name: str) -> None:
    try:
        Path(name).write_text(f"{os.getpid()}\n")
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Usage(f"cannot create PID file: Cannot open pid file: {why}") from error


def _descriptor_sets(options: Sequence[Option]) -> FdSets:
    sets = FdSets()
    for option in options:
        fd, number = option.number("fd"), option.number("set")
        if fd is None:
            raise option.refused("fd option is required and must be non-negative")
        if number is None:
            raise option.refused("set option is required and must be non-negative")
        try:
            sets.add(os.dup(fd), number, option.values.get("opaque"))
        except OSError as error:
            raise option.refused("fd is not valid or already in use") from error
    return sets


def _nics(line: CommandLine) -> list[Nic]:
    """The NICs of the command line, each on its TAP."""
    taps = {option.values.get("id", ""): option for option in line.netdevs}
    found = []
    for count, device in enumerate(_nic_devices(line)):
        mac = bytes.fromhex(_mac(device, count).replace(":", ""))
        name = device.values.get("id", f"{device.first}.{count}")
        nic = Nic(name, mac, NetworkStack(mac, guest_address(count)))
        if "netdev" in device.values:
            option = taps.get(device.values["netdev"])
            if option is None:
                why = f"can't find value '{device.values['netdev']}'"
                raise device.refused(f"Property 'virtio-net-device.netdev' {why}")
            _attach(nic, option)
        found.append(nic)
    return found


def _attach(nic: Nic, option: Option) -> None:
    """Have a NIC on the TAP of a netdev."""
    fd = option.number("fd")
    if option.first != "tap" or fd is None:
        raise option.refused("the model has only TAPs that it inherits: tap,id=ID,fd=N")
    try:
        nic.attach(fd, netdev=option.values.get("id", ""))
    except TapRefused as error:
        raise option.refused(str(error.strerror)) from error


def _dump(option: Option, hardware: Hardware) -> int:
    """`-dump-vmstate`: `-` is standard output."""
    declared = {
        entry.vmstate.name: entry.vmstate
        for entry in hardware.registry
        if entry.vmstate is not None
    }
    text = dump_text(dump(hardware.name, declared))
    if option.first == "-":
        sys.stdout.write(text)
        return 0
    try:
        Path(option.first).write_text(text)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise option.refused(f"open {option.first}: {why}") from error
    return 0
