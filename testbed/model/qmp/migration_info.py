"""What `query-migrate` and `info migrate` tell, from a record of how a migration stands.

Source: QEMU `migration/migration.c`, `fill_source_migration_info`,
`fill_destination_migration_info`; `monitor/hmp-cmds.c`; early 2017 and 7.2, which was asked itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from testbed.model.migration.effects import Status
from testbed.model.profile import Profile

UNDER_WAY = frozenset(
    (
        *(Status.SETUP, Status.ACTIVE, Status.CANCELLING, Status.POSTCOPY_ACTIVE),
        *(Status.POSTCOPY_PAUSED, Status.POSTCOPY_RECOVER),
    )
)
"""`migration_is_running`: another migration cannot begin, and capabilities cannot change."""
MEASURED = UNDER_WAY - {Status.SETUP} | {Status.COMPLETED}
"""Of these times and RAM are told."""

GLOBALS = (
    *("store-global-state: on", "only-migratable: off", "send-configuration: on"),
    *("send-section-footer: on", "decompress-error-check: on", "clear-bitmap-shift: 18"),
)
"""What `info migrate` of 7.2 begins with: properties of the object `migration`."""


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


class XbzrleInfo(NamedTuple):
    """`XBZRLECacheStats`."""

    cache_bytes: int = 0
    transferred_bytes: int = 0
    pages: int = 0
    cache_miss: int = 0  # pages
    cache_miss_rate: float = 0.0
    encoding_rate: float = 0.0
    overflow: int = 0  # pages


class SocketAddress(NamedTuple):
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


def as_json(info: MigrationInfo, profile: Profile) -> dict[str, Any]:
    """What `query-migrate` answers."""
    modern = profile.pauses
    told: dict[str, Any] = {}
    if modern and info.socket_addresses:
        told["socket-address"] = [_address(each) for each in info.socket_addresses]
    if modern and info.unmigratable:
        # Each is put before those that were found earlier.
        reasons = [f"non-migratable device: {idstr}" for idstr in reversed(info.unmigratable)]
        told["blocked-reasons"] = reasons
    if modern and info.incoming_status is not Status.NONE:
        told["status"] = str(info.incoming_status)
    if info.status is not Status.NONE:
        told |= _outgoing(info, modern=modern)
    return told


def _address(address: SocketAddress) -> dict[str, Any]:
    if address.path is not None:
        return {"type": "unix", "path": address.path}
    host, port = address.host, address.port
    assert host is not None
    family = "ipv6" if ":" in host else "ipv4"
    return {"type": "inet", "host": host, "port": port, family: True}


def _outgoing(info: MigrationInfo, *, modern: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"status": str(info.status)}
    if info.status is Status.FAILED and info.error_desc is not None:
        told["error-desc"] = info.error_desc
    if info.status in MEASURED:
        told["total-time"] = info.total_time_ms
        told["setup-time"] = info.setup_time_ms
        if info.status is Status.COMPLETED:
            told["downtime"] = info.downtime_ms
        else:
            told["expected-downtime"] = info.expected_downtime_ms
        told["ram"] = _ram(info, modern=modern)
        if info.xbzrle is not None:
            told["xbzrle-cache"] = _xbzrle(info.xbzrle, modern=modern)
    return told


def _ram(info: MigrationInfo, *, modern: bool) -> dict[str, Any]:
    ram = info.ram
    completed = info.status is Status.COMPLETED
    told: dict[str, Any] = {
        "transferred": ram.transferred_bytes,
        "remaining": 0 if completed else ram.remaining_bytes,
        "total": ram.total_bytes,
        "duplicate": ram.duplicate,
        "skipped": 0,
        "normal": ram.normal,
        "normal-bytes": ram.normal * ram.page_bytes,
        "dirty-pages-rate": 0 if completed else ram.dirty_pages_rate,
        "mbps": ram.mbps,
        "dirty-sync-count": ram.dirty_sync_count,
        "postcopy-requests": ram.postcopy_requests,
    }
    if modern:
        told |= {
            "page-size": ram.page_bytes,
            "multifd-bytes": 0,
            "pages-per-second": ram.pages_per_second,
            "precopy-bytes": ram.precopy_bytes,
            "downtime-bytes": ram.downtime_bytes,
            "postcopy-bytes": ram.postcopy_bytes,
            "dirty-sync-missed-zero-copy": 0,
        }
    return told


def _xbzrle(cache: XbzrleInfo, *, modern: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "cache-size": cache.cache_bytes,
        "bytes": cache.transferred_bytes,
        "pages": cache.pages,
        "cache-miss": cache.cache_miss,
        "cache-miss-rate": cache.cache_miss_rate,
        "overflow": cache.overflow,
    }
    return told | {"encoding-rate": cache.encoding_rate} if modern else told


def as_text(info: MigrationInfo, profile: Profile, capabilities: str) -> str:
    """What `info migrate` shows; lines end with a newline.

    Args:
        info: of both directions.
        profile: whose words.
        capabilities: a line of them; 2.9 shows it here, once there was a migration.
    """
    told = as_json(info, profile)
    lines = _text_7_2(told) if profile.pauses else _text_2_9(told, capabilities)
    return "".join(f"{line}\n" for line in lines)


def _text_7_2(told: dict[str, Any]) -> Iterator[str]:
    yield "globals:"
    yield from GLOBALS
    if "blocked-reasons" in told:
        yield "Outgoing migration blocked:"
        yield from (f"  {reason}" for reason in told["blocked-reasons"])
    yield from _times(told, "ms")
    if "ram" in told:
        ram = told["ram"]
        yield from _counters(ram)
        yield f"page size: {ram['page-size'] >> 10} kbytes"
        yield f"multifd bytes: {ram['multifd-bytes'] >> 10} kbytes"
        yield f"pages-per-second: {ram['pages-per-second']}"
        yield from _rates(ram)
        for kind in ("precopy", "downtime", "postcopy"):
            if ram[f"{kind}-bytes"]:
                yield f"{kind} ram: {ram[f'{kind}-bytes'] >> 10} kbytes"
    if "xbzrle-cache" in told:
        cache = told["xbzrle-cache"]
        yield from _cache(cache)
        yield f"xbzrle encoding rate: {cache['encoding-rate']:.2f}"
        yield f"xbzrle overflow: {cache['overflow']}"
    if "socket-address" in told:
        yield "socket address: ["
        yield from (f"\t{_uri(address)}" for address in told["socket-address"])
        yield "]"


def _text_2_9(told: dict[str, Any], capabilities: str) -> Iterator[str]:
    if "status" in told:
        yield capabilities
    yield from _times(told, "milliseconds")
    if "ram" in told:
        yield from _counters(told["ram"])
        yield from _rates(told["ram"])
    if "xbzrle-cache" in told:
        cache = told["xbzrle-cache"]
        yield from _cache(cache)
        yield f"xbzrle overflow : {cache['overflow']}"


def _times(told: dict[str, Any], unit: str) -> Iterator[str]:
    if "status" not in told:
        return
    why = f" ({told['error-desc']})" if "error-desc" in told else ""
    yield f"Migration status: {told['status']}{why}"
    yield f"total time: {told.get('total-time', 0)} {unit}"
    names = {
        "expected-downtime": "expected downtime",
        "downtime": "downtime",
        "setup-time": "setup",
    }
    for member, name in names.items():
        if member in told:
            yield f"{name}: {told[member]} {unit}"


def _counters(ram: dict[str, Any]) -> Iterator[str]:
    yield f"transferred ram: {ram['transferred'] >> 10} kbytes"
    yield f"throughput: {ram['mbps']:.2f} mbps"
    yield f"remaining ram: {ram['remaining'] >> 10} kbytes"
    yield f"total ram: {ram['total'] >> 10} kbytes"
    yield f"duplicate: {ram['duplicate']} pages"
    yield f"skipped: {ram['skipped']} pages"
    yield f"normal: {ram['normal']} pages"
    yield f"normal bytes: {ram['normal-bytes'] >> 10} kbytes"
    yield f"dirty sync count: {ram['dirty-sync-count']}"


def _rates(ram: dict[str, Any]) -> Iterator[str]:
    if ram["dirty-pages-rate"]:
        yield f"dirty pages rate: {ram['dirty-pages-rate']} pages"
    if ram["postcopy-requests"]:
        yield f"postcopy request count: {ram['postcopy-requests']}"


def _cache(cache: dict[str, Any]) -> Iterator[str]:
    yield f"cache size: {cache['cache-size']} bytes"
    yield f"xbzrle transferred: {cache['bytes'] >> 10} kbytes"
    yield f"xbzrle pages: {cache['pages']} pages"
    yield f"xbzrle cache miss: {cache['cache-miss']} pages"
    yield f"xbzrle cache miss rate: {cache['cache-miss-rate']:.2f}"


def _uri(address: dict[str, Any]) -> str:
    if "path" in address:
        return f"unix:{address['path']}"
    host = f"[{address['host']}]" if ":" in address["host"] else address["host"]
    return f"tcp:{host}:{address['port']}"
