"""The machine as it runs: run states, the guest's turns, its network, its serial line, its end.

Everything is done in the loop's one thread: who saves the machine finds it as it is, and nothing
moves meanwhile. Source: QEMU `softmmu/cpus.c`, `softmmu/runstate.c`, `migration/global_state.c`
(7.2).
"""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from testbed.model.guest.announce import Announcements, AnnounceParameters
from testbed.model.guest.guest import Guest
from testbed.model.machines.hardware import Hardware
from testbed.model.machines.pacing import pace
from testbed.model.migration.effects import Say, Trace
from testbed.model.migration.incoming import MigrationIncoming
from testbed.model.migration.loadvm import load_machine
from testbed.model.migration.memory import Missing
from testbed.model.profile import Profile
from testbed.model.qmp.error import CommandError
from testbed.vmstate import DeviceCrash, Incoming, VmStateFailed

from .chardev import Serial
from .nic import Nic

PIECE_BYTES = 1 << 20
"""Of a machine that is saved into a file."""
TO_BE_SAVED = ("finish-migrate", "save-vm", "restore-vm")
"""Run states that a machine is in for a moment, and loses what it was before."""
Emit = Callable[[str, dict[str, Any] | None], None]


class Vm:
    """A machine that runs or not.

    Args:
        hardware: its memory, devices and how they are saved.
        profile: as which QEMU it behaves.
        emit: tells a QMP event.
        say: writes a line on stderr.
        trace: writes an event and its arguments on stderr.
        serial: its serial line.
        waits_for_migration: it was started with `-incoming`.
        autostart: it runs once it can; `-S` says that it does not.
    """

    def __init__(
        self,
        hardware: Hardware,
        profile: Profile,
        *,
        emit: Emit,
        say: Callable[[str], None],
        trace: Callable[[str, str], None],
        serial: Serial,
        waits_for_migration: bool = False,
        autostart: bool = True,
    ) -> None:
        self.hardware, self.profile, self.emit, self.say = hardware, profile, emit, say
        self.trace = trace
        self.status = "inmigrate" if waits_for_migration else "prelaunch"
        self.autostart = autostart
        self.guest = Guest(hardware.memory)
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit status, once it is to end."""
        self.asks_for: Callable[[Missing], None] = lambda _: None
        """Called with a page that the guest waits for."""
        self._loop = asyncio.get_running_loop()
        hardware.outgoing.before_devices = self._store
        self._serial = serial
        self._run_state = self.status  # before it was stopped to be saved
        self._image = b""
        self._turn: asyncio.TimerHandle | None = None
        self._nics: dict[str, Nic] = {}
        self._announcements = Announcements({})
        self._announces: asyncio.TimerHandle | None = None
        self._clock_ns = 0
        self._started_at_s = 0.0

    def plug(self, nics: Sequence[Nic]) -> None:
        """Have the machine's NICs on the network."""
        self._nics = {nic.name: nic for nic in nics}
        self._announcements = Announcements({nic.name: nic.mac for nic in nics})

    # Run states

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status == "running"

    def power_on(self, image: bytes) -> None:
        """Be a machine with what the boot disk has, that does not run yet."""
        self._image = image
        self.hardware.put_firmware(ran=False)
        if self.status != "inmigrate":
            self.guest.boot(image)
            self.guest.place()

    def begin(self) -> None:
        """Run, unless it is to wait."""
        if self.autostart and self.status != "inmigrate":
            self.start()

    def start(self) -> None:
        """`vm_start`: emits `RESUME` if the guest did not run."""
        if self.running:
            return
        first = self.status == "prelaunch" and not self.guest.ran
        self.status = "running"
        self.emit("RESUME", None)
        self._started_at_s = self._loop.time()
        self.guest.resume(self._started_at_s)
        for nic in self._nics.values():
            nic.listen()
            if first:
                nic.introduce()
        self._schedule()

    def halt(self, run_state: str) -> None:
        """`vm_stop_force_state`: emits `STOP` if the guest ran."""
        was_running = self.running
        self._run_state, self.status = self.status, run_state
        if was_running:
            self.guest.stop()
            for nic in self._nics.values():
                nic.deafen()
            self._clock_ns += int((self._loop.time() - self._started_at_s) * 1e9)
            self._schedule()
            self.emit("STOP", None)

    def stop(self, run_state: str = "paused") -> None:
        """`stop`: a machine that does not run stays what it is."""
        if self.status == "inmigrate":
            self.autostart = False
        elif self.running:
            self.halt(run_state)

    def cont(self) -> None:
        """`cont`: a machine that waits for a migration will run once it is loaded."""
        if self.status == "finish-migrate":
            raise CommandError("Migration is not finalized yet")
        if self.status == "inmigrate":
            self.autostart = True
        else:
            self.start()

    def quit(self) -> None:
        """`quit`: emits `SHUTDOWN`, and the process ends."""
        self.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.end(0)

    def end(self, status: int) -> None:
        """Have the process end with that status."""
        if not self.ended.done():
            self.ended.set_result(status)

    # The guest's turns

    def _schedule(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self.running and self.guest.next_at_s is not None:
            self._turn = self._loop.call_at(self.guest.next_at_s, self.run_guest)

    def run_guest(self) -> None:
        """Give the guest its turn, if it runs: its time has come, or pages have."""
        if self.running:
            turn = self.guest.advance(self._loop.time())
            self._serial.say(turn.serial)
            if turn.resets:
                self.emit("RESET", {"guest": True, "reason": "guest-reset"})
                self.reset()
            if turn.missing is not None:
                self.asks_for(turn.missing)
        self._schedule()

    # Announcements

    def announce(
        self,
        parameters: AnnounceParameters,
        *,
        interfaces: Collection[str] | None = None,
        timer: str | None = None,
    ) -> None:
        """Announce the guest's addresses; see `Announcements.begin`, also for what it raises."""
        now_s = self._loop.time()
        self._announcements.begin(now_s, parameters, interfaces=interfaces, timer=timer)
        self._announce()

    def _announce(self) -> None:
        """Send the rounds that are due, and come back for the next."""
        if self._announces is not None:
            self._announces.cancel()
            self._announces = None
        for name, frame in self._announcements.advance(self._loop.time()):
            self._nics[name].send(frame)
        if self._announcements.next_at_s is not None:
            at_s = self._announcements.next_at_s
            self._announces = self._loop.call_at(at_s, self._announce)

    # The machine's state, for those who save and load it

    def _store(self) -> None:
        """Have the devices hold what the guest and the machine are, just before they are saved."""
        if self.guest.ran:
            self.hardware.put_firmware(ran=True)
        guest, hardware = self.guest, self.hardware
        at_rest = guest.registers() if guest.ran else None
        if at_rest is not None:
            hardware.put_registers(at_rest.index, at_rest.pass_number, at_rest.ticks, at_rest.owed)
        elif guest.begins:
            hardware.put_start()
        elif guest.ran:
            hardware.put_halted()
        stopped_for_it = self.status in TO_BE_SAVED
        hardware.run_state = self._run_state if stopped_for_it else self.status

    def loaded(self, *, heeds_run_state: bool = True) -> None:
        """What a migration brought is there: run, if it ran there and is to run here."""
        self.guest.loaded(pace(self.hardware))
        came = self.hardware.run_state if heeds_run_state else None
        if came is not None and came != "running":
            self.status = came
        elif self.autostart:
            self.start()
        else:
            self.status = "paused"

    # For snapshots

    @property
    def blocker(self) -> str | None:
        """Why it cannot be saved."""
        return self.hardware.registry.blocked()

    @property
    def vm_clock_ns(self) -> int:
        """`QEMU_CLOCK_VIRTUAL`: it stands still with the guest."""
        since_s = self._loop.time() - self._started_at_s if self.running else 0.0
        return self._clock_ns + int(since_s * 1e9)

    def now_ns(self) -> int:
        """Wall time since the epoch."""
        return time.time_ns()

    def save_state(self) -> Iterator[bytes]:
        """`qemu_savevm_state`, in pieces."""
        return self.hardware.outgoing.whole(PIECE_BYTES)

    def save_devices(self) -> Iterator[bytes]:
        """`qemu_save_device_state`, in pieces."""
        return self.hardware.outgoing.device_state()

    def reset(self) -> None:
        """`qemu_system_reset`: the guest begins anew, unless memory is loaded next."""
        self.hardware.put_firmware(ran=False)
        self.guest.boot(self._image)

    def load_state(self, pieces: Iterator[bytes]) -> None:
        """`qemu_loadvm_state`.

        Raises:
            VmStateFailed: it may not be loaded; with what there is to say.
        """
        file = Incoming()
        mis = MigrationIncoming(self.hardware.incoming, self.profile, file)
        story, ret = load_machine(mis), 0
        try:
            next(story)
            for piece in pieces:
                file.feed(piece)
                next(story)
            file.end()
            next(story)
            raise AssertionError("a file that has ended leaves nothing to wait for")
        except StopIteration as done:
            ret = done.value
        except DeviceCrash as crash:
            self.end(-signal.SIGSEGV)
            raise VmStateFailed(-errno.EIO) from crash
        for effect in mis.effects:
            if isinstance(effect, Trace):
                self.trace(effect.event, effect.arguments)
        if ret < 0:
            lines = [effect.line for effect in mis.effects if isinstance(effect, Say)]
            raise VmStateFailed(ret, *lines)
        self.guest.loaded(pace(self.hardware))
