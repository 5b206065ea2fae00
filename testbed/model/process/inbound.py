"""The incoming migration of a machine: the shell around `Destination` and its connection.

Source: QEMU `migration/migration.c`, `qmp_migrate_incoming`, `process_incoming_migration_bh`;
`migration/savevm.c`, `loadvm_postcopy_handle_run_bh` (7.2).
"""

from __future__ import annotations

from collections.abc import Callable

from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import (
    Became,
    Effect,
    Exit,
    GuestMayRun,
    HangUp,
    ResumeGuest,
    Say,
    Send,
    Status,
    StopGuest,
    Trace,
)
from testbed.model.migration.incoming import PostcopyState
from testbed.model.migration.memory import Missing
from testbed.model.qmp.descriptors import Descriptors
from testbed.model.qmp.migration_info import SocketAddress

from .channel import Channel
from .uri import Listener, listen
from .vm import Vm


class Inbound:
    """What comes in for a machine that was started with `-incoming`.

    Args:
        vm: the machine.
        make: makes the core, once there is a connection.
        became: told of each status.
        awaited: told that it waits for a connection now.
        announce: announces the guest's addresses.
    """

    def __init__(
        self,
        vm: Vm,
        make: Callable[[], Destination],
        became: Callable[[Status], None],
        awaited: Callable[[], None],
        announce: Callable[[], None],
    ) -> None:
        self.status = Status.NONE
        self.addresses: tuple[SocketAddress, ...] = ()
        """Where it listens, or did; none once it is over."""
        self.began = False
        """It listens, or did."""
        self._vm, self._make, self._announce = vm, make, announce
        self._became, self._awaited = became, awaited
        self._destination: Destination | None = None
        self._channel: Channel | None = None
        self._listener: Listener | None = None
        vm.asks_for = self._wanted

    def listen(self, uri: str, descriptors: Descriptors) -> None:
        """Wait for a connection. Until it has come there is no status, and none is told of.

        Raises:
            CommandError: the URI is none to listen at.
        """
        self._awaited()
        self._listen(uri, descriptors, self._arrived)
        self.began = True

    def recover(self, uri: str, descriptors: Descriptors) -> None:
        """Wait for the connection of a recovery, and no more where it waited before.

        Raises:
            CommandError: the URI is none to listen at.
        """
        self._stop_listening()
        self._awaited()
        self._listen(uri, descriptors, self._arrived_again)

    def break_connection(self) -> None:
        """As if the link were lost."""
        if self._channel is not None:
            self._channel.close()
            self._ended()

    def close(self) -> None:
        """Neither wait nor be connected any more."""
        self._stop_listening()
        self._hang_up()

    # Inside

    def _listen(
        self, uri: str, descriptors: Descriptors, arrived: Callable[[Channel], None]
    ) -> None:
        self._listener = listen(uri, descriptors, arrived)
        if self._listener is not None:
            self.addresses = (self._listener.address,)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.addresses = ()

    def _arrived(self, channel: Channel) -> None:
        self._channel, self._destination = channel, self._make()
        self._do(self._destination.begin())
        self._read(channel)

    def _arrived_again(self, channel: Channel) -> None:
        assert self._destination is not None
        self._channel = channel
        self._do(self._destination.recover())
        self._read(channel)

    def _read(self, channel: Channel) -> None:
        if channel is self._channel:  # or what came before was the end of it
            channel.read(self._came, self._ended)

    def _came(self, data: bytes) -> None:
        assert self._destination is not None
        waited = self.status is Status.POSTCOPY_ACTIVE
        self._do(self._destination.feed(data))
        if waited:
            self._vm.run_guest()  # if it waits for a page, that may have come

    def _ended(self) -> None:
        if self._destination is not None:
            self._do(self._destination.end())

    def _wanted(self, missing: Missing) -> None:
        if self._destination is not None:
            self._do(self._destination.want(missing))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(data):
                if self._channel is not None:
                    self._channel.write(data)
            case Say(line):
                self._vm.say(line)
            case Trace(event, arguments):
                self._vm.trace(event, arguments)
            case Became(status):
                self._become(status)
            case GuestMayRun():
                assert self._destination is not None
                self._announce()
                precopy = self._destination.postcopy is not PostcopyState.RUNNING
                self._vm.loaded(heeds_run_state=precopy)
            case HangUp():
                self._hang_up()
            case Exit(status):
                self._vm.end(status)
            case StopGuest() | ResumeGuest():
                raise AssertionError(f"{effect} is of a source")

    def _hang_up(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.finish()

    def _become(self, status: Status) -> None:
        self.status = status
        if status is Status.COMPLETED:
            self.addresses = ()
        self._became(status)
