"""The commands of migration that 2.9 has and 7.2 no more: what became parameters since.

Source: `migration/migration.c`, `qapi-schema.json`, early 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .commands import Commands
from .error import CommandError
from .migrations import Migrations, set_parameters
from .schema import INT


@dataclass(frozen=True, slots=True)
class _Number:
    """A number, with or without a point."""

    def check(self, value: Any, path: str, name: str) -> float:  # noqa: ARG002
        """Return `value` itself."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CommandError(f"Invalid parameter type for '{path}', expected: number")
        return value


def add_migration_2_9(commands: Commands, migrations: Migrations) -> None:
    """Add `migrate_set_speed`, `migrate_set_downtime` and those of the cache of XBZRLE."""
    settings = migrations.settings

    def set_speed(arguments: dict[str, Any]) -> None:
        # Below zero it is none, as it was before there was a parameter.
        set_parameters(migrations, {"max-bandwidth": max(0, arguments["value"])})

    def set_downtime(arguments: dict[str, Any]) -> None:
        seconds: float = arguments["value"]
        if not 0 <= seconds <= 2000:
            raise CommandError(
                "Parameter 'downtime_limit' expects an integer in the range of 0 to 2000 seconds"
            )
        set_parameters(migrations, {"downtime-limit": int(seconds * 1000)})

    def set_cache_size(arguments: dict[str, Any]) -> None:
        size: int = arguments["value"]
        if size < 0 or size > migrations.info().ram.total_bytes:
            why = "exceeding address space" if size < 0 else "exceeds guest ram size "
            raise CommandError(f"Parameter 'cache size' expects {why}")
        if size < settings.target_page_bytes:
            raise CommandError("Parameter 'cache size' expects is smaller than page size")
        settings.xbzrle_cache_bytes_2_9 = 1 << size.bit_length() - 1
        migrations.parameters_changed(frozenset(("xbzrle-cache-size",)))

    commands.add("migrate_set_downtime", set_downtime, {"value": _Number()})
    commands.add("migrate_set_speed", set_speed, {"value": INT})
    commands.add("migrate-set-cache-size", set_cache_size, {"value": INT})
    commands.add("query-migrate-cache-size", lambda _: settings.xbzrle_cache_bytes)
