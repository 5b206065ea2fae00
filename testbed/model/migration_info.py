"""What `query-migrate` and `info migrate` tell, from a record of how a migration stands.

Source: QEMU `migration/migration.c`, `fill_source_migration_info`,
`fill_destination_migration_info`; `monitor/hmp-cmds.c`; early 2017 and 7.2, which was asked itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from .effects import Status


@dataclass(frozen=True, slots=True)
class RamInfo:
    """`MigrationStats` of RAM, as far as the model counts it."""

    transferred_bytes: int = 0
    remaining_bytes: int = 0
    total_bytes: int = 0  # of all migratable blocks
    duplicate: int = 0  # pages of zeros
    normal: int = 0  # pages sent whole
    page_bytes: int = 4096  # of a target page
    mbps: float = 0.0
    dirty_pages_rate: int = 0  # per second
    dirty_sync_count: int = 0
    postcopy_requests: int = 0
    pages_per_second: int = 0
    precopy_bytes: int = 0
    downtime_bytes: int = 0
    postcopy_bytes: int = 0


@dataclass(frozen=True, slots=True)
class XbzrleInfo:
    """`XBZRLECacheStats`."""

    cache_bytes: int = 0
    transferred_bytes: int = 0
    pages: int = 0
    cache_miss: int = 0  # pages
    cache_miss_rate: float = 0.0
    encoding_rate: float = 0.0
    overflow: int = 0  # pages


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where a destination listens: `inet` with host and port, or `unix` with a path."""

    host: str | None = None
    port: str | None = None  # QAPI has it as a string
    path: str | None = None


@dataclass(frozen=True, slots=True)
class MigrationInfo:
    """How the outgoing migration stands, and the incoming one. What is not told is ignored."""

    status: Status = Status.NONE  # of the outgoing one
    incoming_status: Status = Status.NONE
    error_desc: str | None = None
    total_time_ms: int = 0  # so far, or in all once it is completed
    setup_time_ms: int = 0
    expected_downtime_ms: int = 0
    downtime_ms: int = 0
    ram: RamInfo = RamInfo()
    xbzrle: XbzrleInfo | None = None  # without the capability there is none
    socket_addresses: tuple[SocketAddress, ...] = ()  # of a destination that listened
    unmigratable: tuple[str, ...] = ()  # idstr of devices, in the order of the registry
