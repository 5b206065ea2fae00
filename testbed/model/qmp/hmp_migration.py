"""The human monitor's commands of migration, and of snapshots.

Source of the texts: `monitor/hmp-cmds.c` and `hmp-commands.hx` of 7.2, `hmp.c` of early 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.model.qmp.migration_info import as_text
from testbed.model.qmp.settings import Parameter, Settings, in_the_order_shown
from testbed.model.snapshots.snapshots import Outcome, Snapshots

from .error import CommandError
from .hmp import Hmp, HmpHandler
from .hmp_values import read_value
from .migration import STATUSES, MigrationCommands

MIGRATE_DOES = (
    "migrate to URI (using -d to not wait for completion)\n"
    "\t\t\t -b for migration without shared storage with full copy of disk\n"
    "\t\t\t -i for migration without shared storage with incremental copy of disk "
    "(base image shared between src and destination)"
)
RESUME_DOES = "\n\t\t\t -r to resume a paused migration"


def add_human_migration(hmp: Hmp, acts: MigrationCommands) -> None:
    """Add those that the profile has."""
    modern = acts.profile.pauses

    def migrate(arguments: dict[str, Any]) -> str:
        block = arguments.get("blk", False) or arguments.get("inc", False)
        acts.migrate(arguments["uri"], resume=arguments.get("resume", False), block=block)
        if arguments.get("detach", False):
            return ""
        return "terminal does not allow synchronous migration, continuing detached\n"

    resume = ",resume:-r" if modern else ""
    hmp.add(
        "migrate",
        migrate,
        f"detach:-d,blk:-b,inc:-i{resume},uri:s",
        params=f"[-d] [-b] [-i]{' [-r]' if modern else ''} uri",
        does=MIGRATE_DOES + (RESUME_DOES if modern else ""),
    )
    hmp.add(
        "migrate_cancel",
        _silent(lambda _: acts.migrations.cancel()),
        does="cancel the current VM migration",
    )
    hmp.add(
        "migrate_incoming",
        _silent(lambda arguments: acts.incoming(arguments["uri"])),
        "uri:s",
        params="uri",
        does="Continue an incoming migration from an -incoming defer",
    )
    hmp.add(
        "migrate_start_postcopy",
        _silent(lambda _: acts.start_postcopy()),
        does=(
            "Followup to a migration command to switch the migration to postcopy mode. "
            "The postcopy-ram capability must be set on both source and destination before the "
            "original migration command ."
        ),
    )
    if modern:
        _add_since_then(hmp, acts)
    _add_settings(hmp, acts)


def _add_since_then(hmp: Hmp, acts: MigrationCommands) -> None:
    def announce_self(arguments: dict[str, Any]) -> str:
        settings = acts.migrations.settings
        names = [name for name in arguments.get("interfaces", "").split(",") if name]
        acts.migrations.announce(
            initial_ms=settings["announce-initial"],
            max_ms=settings["announce-max"],
            rounds=settings["announce-rounds"],
            step_ms=settings["announce-step"],
            interfaces=names or None,
            timer_id=arguments.get("id"),
        )
        return ""

    def continue_(arguments: dict[str, Any]) -> None:
        acts.continue_(_one_of(STATUSES, arguments["state"]))

    hmp.add(
        "migrate_continue",
        _silent(continue_),
        "state:s",
        params="state",
        does="Continue migration from the given paused state",
    )
    hmp.add(
        "migrate_recover",
        _silent(lambda arguments: acts.recover(arguments["uri"])),
        "uri:s",
        params="uri",
        does="Continue a paused incoming postcopy migration",
    )
    hmp.add(
        "migrate_pause",
        _silent(lambda _: acts.pause()),
        does="Pause an ongoing migration (postcopy-only)",
    )
    hmp.add(
        "announce_self",
        announce_self,
        "interfaces:s?,id:s?",
        params="[interfaces] [id]",
        does="Trigger GARP/RARP announcements",
    )


def _add_settings(hmp: Hmp, acts: MigrationCommands) -> None:
    settings, modern = acts.migrations.settings, acts.profile.pauses

    def unknown(name: str) -> CommandError:
        how = "invalid parameter value: {}" if modern else "Invalid parameter '{}'"
        return CommandError(how.format(name))

    def set_capability(arguments: dict[str, Any]) -> None:
        name = arguments["capability"]
        if name not in settings.capabilities:
            raise unknown(name)
        acts.set_capabilities([(name, arguments["state"])])

    def set_parameter(arguments: dict[str, Any]) -> None:
        name = arguments["parameter"]
        for parameter in settings.parameters:
            if parameter.name == name:
                acts.set_parameters({name: read_value(parameter, arguments["value"])})
                return
        raise unknown(name)

    def info_migrate(_: dict[str, Any]) -> str:
        return as_text(acts.migrations.info(), acts.profile, _in_a_line(settings))

    def info_capabilities(_: dict[str, Any]) -> str:
        if not modern:
            return f"{_in_a_line(settings)}\n"
        switches = settings.capabilities.items()
        return "".join(f"{name}: {_switch(state)}\n" for name, state in switches)

    def info_parameters(_: dict[str, Any]) -> str:
        shown = [_shown(each, settings) for each in in_the_order_shown(settings.parameters)]
        if not modern:
            return f"parameters: {' '.join(shown)}\n"
        return "".join(f"{line}\n" for line in shown)

    hmp.add(
        "migrate_set_capability",
        _silent(set_capability),
        "capability:s,state:b",
        params="capability state",
        does="Enable/Disable the usage of a capability for migration",
    )
    hmp.add(
        "migrate_set_parameter",
        _silent(set_parameter),
        "parameter:s,value:s",
        params="parameter value",
        does="Set the parameter for migration",
    )
    hmp.add("info migrate", info_migrate, does="show migration status")
    hmp.add(
        "info migrate_capabilities",
        info_capabilities,
        does="show current migration capabilities",
    )
    hmp.add("info migrate_parameters", info_parameters, does="show current migration parameters")


def add_snapshots(hmp: Hmp, snapshots: Snapshots) -> None:
    """Add `savevm`, `loadvm`, `delvm` and `info snapshots`."""

    def shown(act: Callable[[dict[str, Any]], Outcome]) -> HmpHandler:
        return lambda arguments: act(arguments).on_monitor

    hmp.add(
        "savevm",
        shown(lambda arguments: snapshots.save(arguments.get("name"))),
        "name:s?",
        params="tag",
        does="save a VM snapshot. If no tag is provided, a new snapshot is created",
    )
    hmp.add(
        "loadvm",
        shown(lambda arguments: snapshots.load(arguments["name"])),
        "name:s",
        params="tag",
        does="restore a VM snapshot from its tag",
    )
    hmp.add(
        "delvm",
        shown(lambda arguments: snapshots.delete(arguments["name"])),
        "name:s",
        params="tag",
        does="delete a VM snapshot from its tag",
    )
    hmp.add(
        "info snapshots",
        shown(lambda _: snapshots.info()),
        does="show the currently saved VM snapshots",
    )


def _silent(act: Callable[[dict[str, Any]], None]) -> HmpHandler:
    def handler(arguments: dict[str, Any]) -> str:
        act(arguments)
        return ""

    return handler


def _one_of(words: tuple[str, ...], text: str) -> str:
    if text not in words:
        raise CommandError(f"invalid parameter value: {text}")
    return text


def _shown(parameter: Parameter, settings: Settings) -> str:
    value = settings[parameter.name]
    if isinstance(value, bool):
        value = _switch(value)
    elif parameter.name.startswith("tls-"):
        value = f"'{value}'"
    unit = f" {parameter.unit}" if parameter.unit else ""
    return f"{parameter.name}: {value}{unit}"


def _in_a_line(settings: Settings) -> str:
    switches = settings.capabilities.items()
    return "capabilities: " + "".join(f"{name}: {_switch(state)} " for name, state in switches)


def _switch(state: bool) -> str:
    return "on" if state else "off"
