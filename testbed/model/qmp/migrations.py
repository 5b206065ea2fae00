"""What the commands of migration ask for, and who carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .migration_info import MigrationInfo
from .settings import Settings


class Migrations(Protocol):
    """Carries migrations out, both directions. What it is asked for, was checked."""

    @property
    def settings(self) -> Settings:
        """Capabilities and parameters."""

    @property
    def is_deferred(self) -> bool:
        """It was started with `-incoming defer`."""

    @property
    def incoming_started(self) -> bool:
        """`incoming` went well once, for this or for the command line."""

    @property
    def is_yankable(self) -> bool:
        """There are connections of a migration that `yank` can break, or what waits for one."""

    def info(self) -> MigrationInfo:
        """How both directions stand."""

    def migrate(self, uri: str, *, resume: bool) -> None:
        """Begin a migration, or connect anew for the one that is paused.

        The first becomes SETUP at once, and forgets what was counted. What fails later is no error
        of this.

        Args:
            uri: of a protocol that there is.
            resume: the migration is POSTCOPY_PAUSED, and stays so if this fails, now or later.

        Raises:
            CommandError: the URI cannot be one; a first migration is FAILED, its `error_desc` that.
        """

    def fail_setup(self) -> None:
        """Become SETUP, and then FAILED, without `error_desc`: no such protocol."""

    def cancel(self) -> None:
        """Cancel the outgoing migration, if there is one that can be."""

    def incoming(self, uri: str) -> None:
        """Emit MIGRATION with `setup`, be it without `events`, and wait for a connection.

        Raises:
            CommandError: the URI is none to listen at. It can be tried again.
        """

    def recover(self, uri: str) -> None:
        """Emit MIGRATION with `setup`, and wait for the connection of a recovery.

        The destination is POSTCOPY_PAUSED. It waits no more where it waited before, and no more
        tells of that address.

        Raises:
            CommandError: the URI is none to listen at.
        """

    def pause(self) -> None:
        """Break the connection of the migration in postcopy, whichever side this is."""

    def start_postcopy(self) -> None:
        """Have the source switch to postcopy at the next occasion."""

    def parameters_changed(self, names: frozenset[str]) -> None:
        """Have a migration that is under way heed what `settings` has now of these parameters."""

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
        """Announce the guest's addresses, round after round.

        Args:
            initial_ms: between the first two rounds; all four may be any number.
            max_ms: the most between two.
            rounds: in all.
            step_ms: what is waited longer each time.
            interfaces: names of those that announce; None: all.
            timer_id: rounds that are under way under this name (None: without) are ended.
        """

    def yank(self) -> None:
        """Break the connections of the migration, whichever side this is."""

    def xen_save(self, filename: str, *, live: bool) -> None:
        """Stop the guest, save devices without RAM to a file, let it run if it ran.

        Raises:
            CommandError: the file or a device cannot be saved.
        """

    def xen_load(self, filename: str) -> None:
        """Load what `xen_save` saved; the guest is stopped.

        Raises:
            CommandError: the file cannot be opened, or loaded.
        """


def set_parameters(migrations: Migrations, changes: Mapping[str, Any]) -> None:
    """Set parameters, at any time.

    Raises:
        CommandError: a value cannot be.
    """
    migrations.parameters_changed(migrations.settings.set_parameters(changes))
