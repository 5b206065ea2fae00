"""All that a machine does of migration, for those who give the commands: a `Migrations`.

Source: QEMU `migration/migration.c`, `migration/savevm.c`, `qmp_xen_save_devices_state`,
`qmp_xen_load_devices_state`; `net/announce.c` (7.2).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from testbed.model.guest.announce import AnnounceParameters
from testbed.model.machines.adopting import Adopting
from testbed.model.machines.learning import Learning
from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Status
from testbed.model.migration.source import Parameters, Source
from testbed.model.profile import Profile
from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.migration_info import MigrationInfo, RamInfo, XbzrleInfo
from testbed.model.qmp.settings import Settings
from testbed.vmstate import VmStateFailed

from .inbound import Inbound
from .outbound import Outbound
from .vm import Vm

IO_ERROR = "An IO error has occurred"
READ_BYTES = 1 << 18


class VmMigrations:
    """The migrations of one machine.

    Args:
        vm: the machine.
        profile: as which QEMU it behaves.
        descriptors: that clients have passed.
        tasks: whose migrations run beside everything else.
        deferred: it was started with `-incoming defer`.
    """

    def __init__(
        self,
        vm: Vm,
        profile: Profile,
        descriptors: Descriptors,
        tasks: asyncio.TaskGroup,
        *,
        deferred: bool = False,
    ) -> None:
        self.settings = Settings(profile, target_page_bytes=vm.hardware.memory.target_page_bytes)
        self.is_deferred = deferred
        self._vm, self._profile, self._descriptors, self._tasks = vm, profile, descriptors, tasks
        self._outbound: Outbound | None = None
        self._inbound = Inbound(
            vm, self._destination, self._became, self._awaited, self._announce_loaded
        )
        self._passes = 0  # of which MIGRATION_PASS was told

    # What is asked

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self._vm.running

    @property
    def run_state(self) -> str:
        """A `RunState`."""
        return self._vm.status

    @property
    def incoming_started(self) -> bool:
        """It listens, or did."""
        return self._inbound.began

    @property
    def is_yankable(self) -> bool:
        """There is a migration whose connections can be broken."""
        outgoing = self._outbound is not None and not self._outbound.is_over
        return outgoing or (self._inbound.began and self._inbound.status is not Status.COMPLETED)

    def info(self) -> MigrationInfo:
        """How both directions stand."""
        found = MigrationInfo(
            incoming_status=self._inbound.status,
            socket_addresses=self._inbound.addresses,
            unmigratable=tuple(self._vm.hardware.registry.unmigratable()),
        )
        out = self._outbound
        if out is None:
            return found
        now_s = out.ended_at_s if out.is_over else asyncio.get_running_loop().time()
        downtime_s = now_s - out.stopped_at_s if out.stopped_at_s else 0.0
        return replace(
            found,
            status=out.status,
            error_desc=out.error_desc,
            total_time_ms=int((now_s - out.began_at_s) * 1000),
            setup_time_ms=int(max(0.0, out.active_at_s - out.began_at_s) * 1000),
            expected_downtime_ms=self.settings["downtime-limit"],
            downtime_ms=int(downtime_s * 1000),
            ram=self._ram_info(out, now_s - out.began_at_s),
            xbzrle=self._xbzrle_info(),
        )

    def _ram_info(self, out: Outbound, passed_s: float) -> RamInfo:
        ram = self._vm.hardware.ram
        counters, page_bytes = ram.counters, ram.target_page_bytes
        sent = out.bytes_out
        pages = counters.normal + counters.duplicate
        return RamInfo(
            transferred_bytes=sent,
            remaining_bytes=0 if out.is_over else ram.pending_bytes(),
            total_bytes=sum(block.used_bytes for block in self._vm.hardware.memory.migratable),
            duplicate=counters.duplicate,
            normal=counters.normal,
            page_bytes=page_bytes,
            mbps=sent * 8 / passed_s / 1e6 if passed_s > 0 else 0.0,
            dirty_sync_count=counters.dirty_sync_count,
            postcopy_requests=counters.postcopy_requests,
            pages_per_second=int(pages / passed_s) if passed_s > 0 else 0,
            precopy_bytes=out.sent["precopy"],
            downtime_bytes=out.sent["downtime"],
            postcopy_bytes=out.sent["postcopy"],
        )

    def _xbzrle_info(self) -> XbzrleInfo | None:
        if not self.settings.has("xbzrle"):
            return None
        counters = self._vm.hardware.ram.counters
        return XbzrleInfo(
            cache_bytes=self.settings.xbzrle_cache_bytes,
            transferred_bytes=counters.xbzrle_bytes,
            pages=counters.xbzrle_pages,
            cache_miss=counters.xbzrle_cache_miss,
            overflow=counters.xbzrle_overflow,
        )

    # Outgoing

    def migrate(self, uri: str, *, resume: bool) -> None:
        """Begin a migration, or connect anew for the one that is paused."""
        if resume:
            assert self._outbound is not None
            self._outbound.resume(uri, self._descriptors, self._tasks)
            return
        self._outbound = self._new_outbound()
        self._outbound.begin(uri, self._descriptors, self._tasks)

    def fail_setup(self) -> None:
        """Become SETUP, and then FAILED: no such protocol."""
        self._outbound = self._new_outbound()
        self._became(Status.SETUP)
        self._outbound.fail(None)

    def _new_outbound(self) -> Outbound:
        self._configure()
        self._passes = 0
        hardware = self._vm.hardware
        source = Source(hardware.outgoing, hardware.ram, self._profile, self._parameters())
        return Outbound(self._vm, source, self._became, self._turned)

    def cancel(self) -> None:
        """Cancel the outgoing migration, if there is one that can be."""
        if self._outbound is not None and not self._outbound.is_over:
            self._outbound.cancel()

    def start_postcopy(self) -> None:
        """Have the source switch to postcopy at the next occasion."""
        if self._outbound is not None:
            self._outbound.source.start_postcopy_at_once = True

    def parameters_changed(self, names: frozenset[str]) -> None:
        """Have a migration that is under way heed them."""
        del names
        self._configure()
        if self._outbound is not None:
            self._outbound.source.parameters = self._parameters()

    def _parameters(self) -> Parameters:
        settings = self.settings
        return Parameters(
            max_bandwidth_bytes=settings["max-bandwidth"],
            max_postcopy_bandwidth_bytes=settings.get("max-postcopy-bandwidth", 0),
            downtime_limit_s=settings["downtime-limit"] / 1000,
            return_path=settings.has("return-path"),
            postcopy=settings.has("postcopy-ram"),
        )

    def _configure(self) -> None:
        """Have the machine's parts know what is set."""
        hardware, settings = self._vm.hardware, self.settings
        hardware.incoming.postcopy_enabled = settings.has("postcopy-ram")
        hardware.ram.sends_page_sizes = settings.has("postcopy-ram")
        hardware.ram.xbzrle_cache_bytes = (
            settings.xbzrle_cache_bytes if settings.has("xbzrle") else 0
        )
        on = frozenset(name for name, state in settings.capabilities.items() if state)
        hardware.incoming.configuration_state.capabilities_on = on
        hardware.incoming.configuration_state.sends_uuid = settings.has("validate-uuid")

    def _turned(self) -> None:
        """Tell of another pass over memory, as QEMU does where it begins."""
        count = self._vm.hardware.ram.counters.dirty_sync_count
        if count != self._passes and self.settings.has("events"):
            self._vm.emit("MIGRATION_PASS", {"pass": count})
        self._passes = count

    # Incoming

    def incoming(self, uri: str) -> None:
        """Wait for a migration."""
        self._inbound.listen(uri, self._descriptors)

    def recover(self, uri: str) -> None:
        """Wait for the connection of a recovery."""
        self._inbound.recover(uri, self._descriptors)

    def _destination(self) -> Destination:
        self._configure()
        hardware = self._vm.hardware
        if isinstance(hardware.registry, Learning):
            return Adopting(hardware)
        return Destination(hardware.incoming, self._profile)

    def _announce_loaded(self) -> None:
        """Announce the guest that was loaded, by the parameters."""
        names = {"initial_ms": "initial", "max_ms": "max", "rounds": "rounds", "step_ms": "step"}
        usual = AnnounceParameters()
        given = {
            name: self.settings.get(f"announce-{ours}", getattr(usual, name))
            for name, ours in names.items()
        }
        self._vm.announce(AnnounceParameters(**given))

    # Both

    def pause(self) -> None:
        """Break the connection of the migration in postcopy, whichever side this is."""
        if self._inbound.status is Status.POSTCOPY_ACTIVE:
            self._inbound.break_connection()
        elif self._outbound is not None:
            self._outbound.pause()

    def yank(self) -> None:
        """Break the connections of the migration, whichever side this is."""
        if self._outbound is not None and not self._outbound.is_over:
            self._outbound.break_connection()
        else:
            self._inbound.break_connection()

    def close(self) -> None:
        """The process ends: nobody is waited for any more."""
        if self._outbound is not None:
            self._outbound.close()
        self._inbound.close()

    def announce(
        self,
        *,
        initial_ms: int,
        max_ms: int,
        rounds: int,
        step_ms: int,
        interfaces: Sequence[str] | None,
        timer_id: str | None,
    ) -> None:
        """Announce the guest's addresses, round after round."""
        parameters = AnnounceParameters(initial_ms, max_ms, rounds, step_ms)
        try:
            self._vm.announce(parameters, interfaces=interfaces, timer=timer_id)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def _awaited(self) -> None:
        """Told with the capability `events` and without it."""
        self._vm.emit("MIGRATION", {"status": str(Status.SETUP)})

    def _became(self, status: Status) -> None:
        if self.settings.has("events"):
            self._vm.emit("MIGRATION", {"status": str(status)})

    # Device state alone, as Xen has it

    def xen_save(self, filename: str, *, live: bool) -> None:
        """Stop the guest, save devices without RAM to a file, let it run if it ran."""
        del live  # what it asks for is about disks: none is activated or not here
        vm = self._vm
        was_running = vm.running
        vm.stop("save-vm")
        try:
            with _opened(filename, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                try:
                    for piece in vm.save_devices():
                        file.write(piece)
                except OSError as error:
                    raise CommandError(IO_ERROR) from error
        finally:
            if was_running:
                vm.start()

    def xen_load(self, filename: str) -> None:
        """Load what `xen_save` saved; the guest is stopped."""
        vm = self._vm
        if vm.running:
            raise CommandError("Cannot update device state while vm is running")
        vm.stop("restore-vm")
        with _opened(filename, os.O_RDONLY) as file:
            try:
                vm.load_state(iter(lambda: file.read(READ_BYTES), b""))
            except VmStateFailed as failed:
                for line in failed.lines:
                    vm.say(line)
                raise CommandError(IO_ERROR) from failed
            except OSError as error:
                raise CommandError(IO_ERROR) from error


def _opened(filename: str, flags: int) -> BinaryIO:
    try:
        fd = os.open(filename, flags | os.O_CLOEXEC, 0o660)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise CommandError(f"Unable to open {filename}: {why}") from error
    return os.fdopen(fd, "wb" if flags & os.O_WRONLY else "rb")
