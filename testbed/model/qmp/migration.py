"""The QMP commands of migration: their checks, in QEMU's order and words.

What executes them is a `Migrations`. Source: `qapi/migration.json`, `qapi/yank.json`,
`migration/migration.c`, `migration/savevm.c`; early 2017 and 7.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.model.migration.effects import Status
from testbed.model.profile import Profile
from testbed.model.qmp.migration_info import UNDER_WAY, MigrationInfo, as_json

from .basics import RunStateHolder
from .commands import Commands
from .error import CommandError
from .migration_2_9 import add_migration_2_9
from .migrations import Migrations, set_parameters
from .schema import BOOL, INT, STR, Array, Enum, Struct, Type

PROTOCOLS = ("tcp:", "unix:", "fd:", "exec:")
"""What a URI of an outgoing migration begins with."""

STATUSES = (
    *("none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused"),
    *("postcopy-recover", "completed", "failed", "colo", "pre-switchover", "device"),
    "wait-unplug",
)
"""`MigrationStatus`, in QAPI's order; the model cannot be in all of them."""


class MigrationCommands:
    """What QMP and the human monitor have in common: every check, and then the act.

    Each method raises `CommandError` for what cannot be.
    """

    def __init__(self, migrations: Migrations, machine: RunStateHolder, profile: Profile) -> None:
        self.migrations, self.machine, self.profile = migrations, machine, profile

    def set_capabilities(self, changes: Iterable[tuple[str, bool]]) -> None:
        """`migrate-set-capabilities`; an incoming migration that is under way does not matter."""
        if self.migrations.info().status in UNDER_WAY:
            raise _in_progress()
        self.migrations.settings.set_capabilities(changes)

    def set_parameters(self, changes: Mapping[str, Any]) -> None:
        """`migrate-set-parameters`, at any time."""
        set_parameters(self.migrations, changes)

    def migrate(self, uri: str, *, resume: bool = False, block: bool = False) -> None:
        """`migrate`; `block` stands for `blk` and `inc`."""
        info = self.migrations.info()
        if resume and info.status is not Status.POSTCOPY_PAUSED:
            raise CommandError("Cannot resume if there is no paused migration")
        if not resume:
            self._check_may_begin(info, block=block)
        if not uri.startswith(PROTOCOLS):
            if not resume:
                self.migrations.fail_setup()
            raise CommandError("Parameter 'uri' expects a valid migration protocol")
        self.migrations.migrate(uri, resume=resume)

    def _check_may_begin(self, info: MigrationInfo, *, block: bool) -> None:
        """`migrate_prepare`."""
        if info.status in UNDER_WAY:
            raise _in_progress()
        if self.machine.status == "inmigrate":
            raise CommandError("Guest is waiting for an incoming migration")
        if self.machine.status == "postmigrate" and self.profile.pauses:
            raise CommandError("Can't migrate the vm that was paused due to previous migration")
        if info.unmigratable:
            text = f"State blocked by non-migratable device '{info.unmigratable[0]}'"
            raise CommandError(text)
        if block:
            raise CommandError("block is not supported by this model")
        if self.profile.pauses and self.migrations.is_yankable:  # postcopy comes in
            raise CommandError("duplicate yank instance")

    def incoming(self, uri: str) -> None:
        """`migrate-incoming`: once, and if it was told to wait for that."""
        migrations = self.migrations
        if not self.profile.pauses and not migrations.is_deferred:
            raise CommandError("For use with '-incoming defer'")
        if migrations.incoming_started:
            raise CommandError("The incoming migration has already been started")
        if self.machine.status != "inmigrate":
            raise CommandError("'-incoming' was not specified on the command line")
        migrations.incoming(uri)

    def recover(self, uri: str) -> None:
        """`migrate-recover`: for the destination."""
        if self.migrations.info().incoming_status is not Status.POSTCOPY_PAUSED:
            raise CommandError("Migrate recover can only be run when postcopy is paused.")
        self.migrations.recover(uri)

    def pause(self) -> None:
        """`migrate-pause`: on either side."""
        info = self.migrations.info()
        if Status.POSTCOPY_ACTIVE not in (info.status, info.incoming_status):
            raise CommandError(
                "migrate-pause is currently only supported during postcopy-active state"
            )
        self.migrations.pause()

    def start_postcopy(self) -> None:
        """`migrate-start-postcopy`: once the migration was started, even if it is over."""
        if not self.migrations.settings.has("postcopy-ram"):
            raise CommandError(
                "Enable postcopy with migrate_set_capability before the start of migration"
            )
        if self.migrations.info().status is Status.NONE:
            raise CommandError("Postcopy must be started after migration has been started")
        self.migrations.start_postcopy()

    def continue_(self, state: str) -> None:
        """`migrate-continue`: without pause-before-switchover there is nothing that waits."""
        status = self.migrations.info().status
        if status != state:
            raise CommandError(f"Migration not in expected state: {status}")

    def xen_load(self, filename: str) -> None:
        """`xen-load-devices-state`."""
        if self.machine.running:
            raise CommandError("Cannot update device state while vm is running")
        self.migrations.xen_load(filename)


def _in_progress() -> CommandError:
    return CommandError("There's a migration process in progress")


@dataclass(frozen=True, slots=True)
class _YankInstance:
    """`YankInstance`: what a member `type` asks for is in it too."""

    kinds: Mapping[str, Mapping[str, Type]]

    def check(self, value: Any, path: str, name: str) -> Any:
        """Return `value` itself."""
        kind: dict[str, Type] = {"type": Enum(tuple(self.kinds))}
        if isinstance(value, dict):
            named = {key: value[key] for key in value if key == "type"}
            Struct(kind).check(named, path, name)
            return Struct({**kind, **self.kinds[value["type"]]}).check(value, path, name)
        return Struct(kind).check(value, path, name)


YANK_INSTANCE = _YankInstance(
    {"block-node": {"node-name": STR}, "chardev": {"id": STR}, "migration": {}}
)


def add_migration(
    commands: Commands, acts: MigrationCommands, *, chardevs: Sequence[str] = ()
) -> None:
    """Add those that the profile has.

    Args:
        commands: of the monitor.
        acts: what they do.
        chardevs: ids of character devices on sockets, which `query-yank` tells too.
    """
    migrations, settings, modern = acts.migrations, acts.migrations.settings, acts.profile.pauses

    def query_capabilities(_: dict[str, Any]) -> Any:
        return [
            {"capability": name, "state": state} for name, state in settings.capabilities.items()
        ]

    def set_capabilities(arguments: dict[str, Any]) -> None:
        acts.set_capabilities(
            (change["capability"], change["state"]) for change in arguments["capabilities"]
        )

    def migrate(arguments: dict[str, Any]) -> None:
        block = arguments.get("blk", False) or arguments.get("inc", False)
        acts.migrate(arguments["uri"], resume=arguments.get("resume", False), block=block)

    def xen_save(arguments: dict[str, Any]) -> None:
        migrations.xen_save(arguments["filename"], live=arguments.get("live", True))

    if modern:
        _add_announce(commands, migrations)
    commands.add("query-migrate", lambda _: as_json(migrations.info(), acts.profile))
    capability = Struct({"capability": Enum(tuple(settings.capabilities)), "state": BOOL})
    commands.add("migrate-set-capabilities", set_capabilities, {"capabilities": Array(capability)})
    commands.add("query-migrate-capabilities", query_capabilities)
    parameters = {f"*{each.name}": each.type for each in settings.parameters}
    commands.add("migrate-set-parameters", acts.set_parameters, parameters)
    commands.add("query-migrate-parameters", lambda _: settings.all_parameters())
    commands.add("migrate-start-postcopy", lambda _: acts.start_postcopy())
    commands.add("migrate_cancel", lambda _: migrations.cancel())
    if modern:
        commands.add(
            "migrate-continue",
            lambda arguments: acts.continue_(arguments["state"]),
            {"state": Enum(STATUSES)},
        )
    resume = {"*resume": BOOL} if modern else {}
    commands.add(
        "migrate", migrate, {"uri": STR, "*blk": BOOL, "*inc": BOOL, "*detach": BOOL, **resume}
    )
    commands.add(
        "migrate-incoming", lambda arguments: acts.incoming(arguments["uri"]), {"uri": STR}
    )
    live = {"*live": BOOL} if modern else {}
    commands.add("xen-save-devices-state", xen_save, {"filename": STR, **live})
    commands.add(
        "xen-load-devices-state",
        lambda arguments: acts.xen_load(arguments["filename"]),
        {"filename": STR},
    )
    if modern:
        commands.add(
            "migrate-recover",
            lambda arguments: acts.recover(arguments["uri"]),
            {"uri": STR},
            allow_oob=True,
        )
        commands.add("migrate-pause", lambda _: acts.pause(), allow_oob=True)
        _add_yank(commands, migrations, chardevs)
    else:
        add_migration_2_9(commands, migrations)


def _add_announce(commands: Commands, migrations: Migrations) -> None:
    def announce_self(arguments: dict[str, Any]) -> None:
        migrations.announce(
            initial_ms=arguments["initial"],
            max_ms=arguments["max"],
            rounds=arguments["rounds"],
            step_ms=arguments["step"],
            interfaces=arguments.get("interfaces") or None,
            timer_id=arguments.get("id"),
        )

    commands.add(
        "announce-self",
        announce_self,
        {
            **dict.fromkeys(("initial", "max", "rounds", "step"), INT),
            "*interfaces": Array(STR),
            "*id": STR,
        },
    )


def _add_yank(commands: Commands, migrations: Migrations, chardevs: Sequence[str]) -> None:
    def query_yank(_: dict[str, Any]) -> Any:
        told: list[dict[str, Any]] = [{"type": "chardev", "id": each} for each in chardevs]
        return told + ([{"type": "migration"}] if migrations.is_yankable else [])

    def yank(arguments: dict[str, Any]) -> None:
        there = query_yank({})
        for instance in arguments["instances"]:
            if instance not in there:
                raise CommandError("Instance not found", "DeviceNotFound")
        if any(instance["type"] == "chardev" for instance in arguments["instances"]):
            raise CommandError("yank of a chardev is not supported by this model")
        if arguments["instances"]:
            migrations.yank()

    commands.add("yank", yank, {"instances": Array(YANK_INSTANCE)}, allow_oob=True)
    commands.add("query-yank", query_yank, allow_oob=True)
