"""A machine of the model that can be migrated again and again, on a clock of its own.

To build two machines and to boot a guest takes longer than to migrate it: they are built once, and
their memory is put back before each migration.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from testbed.guest import GuestSpec, boot_image
from testbed.model.guest.guest import Guest
from testbed.model.machines.hardware import Hardware
from testbed.model.machines.machine import build
from testbed.model.migration.destination import Destination
from testbed.model.migration.source import Parameters, Source
from testbed.model.profile import PROFILES

from .simulate import Link, Simulation

BOOTS_S = 10.0
"""A guest that has not filled its pages by then never does."""


class Rehearsal:
    """Two machines, and the guest that is moved.

    Args:
        profile: by name.
        machine: its type, or an alias.
        guest: what it does, and in how much memory.

    Raises:
        MachineError: there is no such machine.
    """

    def __init__(self, profile: str, machine: str, guest: GuestSpec) -> None:
        self.profile, self.guest = PROFILES[profile], guest
        self.source, self.destination = (
            build(self.profile, machine, guest.memory_bytes) for _ in range(2)
        )
        booted = Guest(self.source.memory)
        booted.boot(boot_image(guest))
        self._run_until_filled(booted)
        # Behind the pages that it has filled the guest never writes.
        self._memory = bytes(self.source.main_block.data).rstrip(b"\0")

    def simulation(
        self, parameters: Parameters, link: Link, *, seed: int | None = None
    ) -> Simulation:
        """Another migration of the machine as it was, to an empty one: the last one is over.

        Args:
            parameters: of the migration; postcopy is for both sides.
            link: between them.
            seed: of how what is sent arrives; None: as it is sent.
        """
        self.source.main_block.data[: len(self._memory)] = self._memory
        for block in self.source.memory:
            block.written = bytearray(len(block.written))
        self.destination.ram.end()
        for block in self.destination.memory:
            block.drop(0, block.max_bytes)
        guests = Guest(self.source.memory), Guest(self.destination.memory)
        guests[0].loaded()
        self.source.outgoing.before_devices = lambda: _put_registers(self.source, guests[0])
        self.source.ram.sends_page_sizes = parameters.postcopy
        self.destination.incoming.postcopy_enabled = parameters.postcopy
        return Simulation(
            Source(self.source.outgoing, self.source.ram, self.profile, parameters),
            Destination(self.destination.incoming, self.profile),
            link,
            guests=guests,
            random=None if seed is None else Random(seed),  # noqa: S311 -- no secrets
        )

    def _run_until_filled(self, guest: Guest) -> None:
        guest.resume(0.0)
        for now_s in _times(guest):
            if now_s > BOOTS_S:
                raise AssertionError("the guest does not come up")
            guest.advance(now_s)
            found = guest.registers()
            if found is not None and found.pass_number > 0:
                guest.stop()


def _times(guest: Guest) -> Iterator[float]:
    """When the guest has something to do, until it has nothing more."""
    while guest.next_at_s is not None:
        yield guest.next_at_s


def _put_registers(hardware: Hardware, guest: Guest) -> None:
    found = guest.registers()
    if found is not None:
        hardware.put_registers(found.index, found.pass_number, found.ticks, found.owed)
