"""The model as a process: QEMU's command line in, QMP, migrations, and an exit status out.

Everything is put together here, and nothing decided. Source of the texts: QEMU `softmmu/vl.c`,
`softmmu/runstate.c` (7.2).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from testbed.model.machines import machine
from testbed.model.machines.hardware import Hardware
from testbed.model.migration.memory import BLOCK_BYTES_MAX
from testbed.model.migration.registry import RegistryError
from testbed.model.profile import PROFILES, Profile
from testbed.model.qmp.basics import add_basics
from testbed.model.qmp.commands import Commands, Version
from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.fdsets import FdSets
from testbed.model.qmp.hmp import Hmp
from testbed.model.qmp.hmp_migration import add_human_migration, add_snapshots
from testbed.model.qmp.migration import MigrationCommands, add_migration
from testbed.model.qmp.server import Monitor
from testbed.model.snapshots.images import Images
from testbed.model.snapshots.snapshots import Drive, Snapshots
from testbed.model.snapshots.texts import TEXTS
from testbed.tasks import run

from . import chardev, devices, drives, nic
from .command_line import CommandLine, Option, Usage, check_machine, parse
from .dumped import dumped
from .migrations import VmMigrations
from .pidfile import pidfile
from .tracing import traced, tracer
from .vm import Vm

NAME = "qemu-model"
"""Before each line on stderr, as QEMU has its own."""
EXIT_FAILURE = 1
STDERR = 2
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
  -device nvme,serial=S a device that cannot be migrated
  -chardev socket -mon  monitors (QMP); or -qmp unix:PATH,server=on,wait=off
  -serial WHERE         its serial line: chardev:ID, file:PATH, stdio, null
  -incoming URI|defer   wait for a migration
  -S                    do not run before `cont`
  -trace EVENT          tell on stderr what is loaded: qemu_loadvm_state_section_*,
                        loadvm_process_command*
  -loadvm NAME          begin with a snapshot
  -dump-vmstate [FILE]  write down how its devices are saved
"""


def say(line: str) -> None:
    """Write a line on stderr, behind the program's name."""
    with suppress(OSError):
        sys.stderr.write(f"{NAME}: {line}\n")
        sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Run the model; return its exit status, or end by the signal that it is to end by.

    An error of its own, in a callback too, ends it by SIGABRT, as a failed assertion ends QEMU.

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
        status = run(_run(line, profile))
        return status if status >= 0 else _die(signal.Signals(-status))
    except Usage as refused:
        for text in refused.texts:
            say(text)
    except (machine.MachineError, RegistryError) as refused:
        say(str(refused))
    except KeyboardInterrupt:
        return 0
    except Exception:  # noqa: BLE001 - an error of the model must look like no migration's failure
        traceback.print_exc()
        _die(signal.SIGABRT)
    return EXIT_FAILURE


def _die(number: signal.Signals) -> NoReturn:
    """End as a process that crashed, which leaves no core file of Python behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)  # whatever Python would do first
    signal.raise_signal(number)
    raise AssertionError(f"{number.name} ends a process")


def _tell(what: str, profile: Profile) -> int:
    version = ".".join(map(str, profile.version))
    match what:
        case "version":
            return _write(f"QEMU emulator version {version} (model)\n")
        case "machines":
            return _write(machine.machine_help(profile))
        case _:
            return _write(HELP.format(name=NAME))


def _write(text: str) -> int:
    """Write on standard output; returns the exit status, which is 0 as QEMU's whatever happens."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in its buffer would be tried again at the end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whose reader has seen enough
            say(f"standard output: {os.strerror(error.errno or 0)}")
    return 0


async def _run(line: CommandLine, profile: Profile) -> int:
    with ExitStack() as stack:
        line.devices = devices.by_driver(line.devices)
        devices.check(line.devices, only_migratable=line.only_migratable)
        sets = _descriptor_sets(line.fds)
        disks = drives.opened(line.drives, stack.enter_context(Images()), sets)
        devices.check_plugged(line.devices, disks)
        hardware = _hardware(line, profile)
        hardware.incoming.traced = traced(line.traces, profile, say)
        if line.dump_vmstate is not None:
            return _dump(line.dump_vmstate, hardware)
        nics = nic.plugged(devices.nics(line.devices), line.netdevs)
        chardevs = chardev.all_opened(line.chardevs, say)
        serial, of_serial = chardev.serial(line.serial, chardevs, say)
        monitored = chardev.monitored(line.monitors, chardevs, serial=line.serial)
        of_qmp = [chardev.opened(chardev.compat(option), say) for option in line.qmp]
        stack.enter_context(pidfile(line.pidfile))
        monitors: list[Monitor] = []

        def emit(name: str, data: dict[str, Any] | None) -> None:
            for monitor in monitors:
                monitor.emit(name, data)

        vm = Vm(
            hardware,
            profile,
            emit=emit,
            say=say,
            trace=tracer(profile),
            serial=serial,
            waits_for_migration=line.incoming is not None,
            autostart=not line.paused,
        )
        vm.plug(nics)
        process = _Process(line, profile, vm, disks, sets)
        status = await process.run(monitors, [*monitored, *of_qmp])
        if not status:  # who fails leaves them, as QEMU does
            for each in (*chardevs.values(), *of_qmp, *of_serial):
                each.close()
        return status


def _hardware(line: CommandLine, profile: Profile) -> Hardware:
    """The machine of the command line, powered off."""
    if line.machine == "none":
        for option in (*line.devices, *line.drives):
            raise option.refused("machine `none` has no place for it: it becomes what comes in")
        return machine.empty(profile)
    name = machine.resolve(profile, line.machine)
    check_machine(line, name)
    nics = [
        machine.Nic(devices.mac(device, count), rom=device.values.get("romfile") != "")
        for count, device in enumerate(devices.nics(line.devices))
    ]
    disk = bool(devices.disks(line.devices)) or any(
        each.values.get("if", "ide") == "ide" for each in line.drives
    )
    waits = line.incoming is not None
    made = _built(line, profile, name, nics, disk=disk, waits=waits)
    devices.plug_unmigratable(line.devices, made.registry, name)
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


def _built(
    line: CommandLine,
    profile: Profile,
    name: str,
    nics: list[machine.Nic],
    *,
    disk: bool,
    waits: bool,
) -> Hardware:
    size = line.memory_bytes
    try:
        if size <= BLOCK_BYTES_MAX:
            return machine.build(profile, name, size, line.cpus, nics, disk=disk, waits=waits)
    except (OSError, MemoryError):
        pass
    raise Usage("cannot set up guest memory 'pc.ram': Cannot allocate memory")


class _Process:
    """The parts of one process, and what runs beside each other in it."""

    def __init__(
        self, line: CommandLine, profile: Profile, vm: Vm, disks: list[Drive], sets: FdSets
    ) -> None:
        self._line, self._profile, self._vm, self._disks = line, profile, vm, disks
        self._descriptors = Descriptors()
        self._descriptors.sets = sets
        self._version = Version(*profile.version)

    async def run(self, monitors: list[Monitor], monitored: list[chardev.Chardev]) -> int:
        """Run until the end; returns the exit status.

        Args:
            monitors: that there are, for events; those on `monitored` are added.
            monitored: what they are on.
        """
        vm, line = self._vm, self._line
        status = 0
        async with asyncio.TaskGroup() as tasks:
            migrations = VmMigrations(
                vm, self._profile, self._descriptors, tasks, deferred=line.incoming == "defer"
            )
            served = [
                tasks.create_task(_serve(self._monitor(migrations, monitors), each))
                for each in monitored
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

    def _monitor(self, migrations: VmMigrations, monitors: list[Monitor]) -> Monitor:
        """Another monitor, with all commands."""
        vm, line = self._vm, self._line
        commands, hmp = Commands(), Hmp(TEXTS[self._profile.name].error_prefix)
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
        vm.power_on(drives.boot_image(self._disks, line.devices))
        if line.loadvm is not None:
            outcome = Snapshots(self._disks, vm, self._profile).load_vmstate(line.loadvm)
            if not outcome.done:
                for text in outcome.on_stderr:
                    say(text)
                vm.end(EXIT_FAILURE)
                return
        vm.begin()
        if line.incoming not in (None, "defer"):
            assert line.incoming is not None
            try:
                migrations.incoming(line.incoming)
            except CommandError as error:
                say(f"-incoming {line.incoming}: {error.desc}")
                vm.end(EXIT_FAILURE)


async def _serve(monitor: Monitor, device: chardev.Chardev) -> None:
    """Serve whoever connects, or the only one that is connected."""
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


def _descriptor_sets(options: Sequence[Option]) -> FdSets:
    sets = FdSets()
    for option in options:
        if option.values.get("fd", "").startswith("-"):
            raise option.refused("fd option is required and must be non-negative")
        fd, number = option.number("fd"), option.number("set")
        if fd is None:
            raise option.refused("fd option is required and must be non-negative")
        if fd <= STDERR:
            raise option.refused("fd cannot be a standard I/O stream")
        if number is None:
            raise option.refused("set option is required and must be non-negative")
        try:
            sets.add(os.dup(fd), number, option.values.get("opaque"))
        except OSError as error:
            raise option.refused("fd is not valid or already in use") from error
    return sets


def _dump(option: Option, hardware: Hardware) -> int:
    """`-dump-vmstate`: `-` is standard output."""
    text = dumped(hardware)
    if option.first == "-":
        return _write(text)
    try:
        Path(option.first).write_text(text)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise option.refused(f"open {option.first}: {why}") from error
    return 0
