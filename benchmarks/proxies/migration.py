"""Parts with real QEMUs: precopy of a guest of random pages, and pages that a postcopy asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.endpoint.base import EndpointError, MachineSpec
from testbed.endpoint.qemu import Qemu
from testbed.guest import GuestSpec, boot_image
from testbed.log import Log, WaitExpired
from testbed.netns.topology import DESTINATION_ADDRESS

from .network import PORT, Network, Unmeasured
from .peers import Peer, started

PAGES_PER_S = 1000
FINAL = ("completed", "failed")
STAMPS_WITHIN_S = 120.0
WITHIN_S = 300.0
NO_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class Migration:
    """What the source said of a migration, and what the proxy used for it."""

    total_ms: int
    downtime_ms: int
    cpu_s: float
    size_bytes: int  # transferred, by the source's account


async def precopy(peer: Peer, net: Network, folder: Path, memory_bytes: int) -> Migration:
    """Migrate a running guest that has stamped all of its memory, through a peer of its own.

    Raises:
        Unmeasured: it did not complete, or a QEMU could not be started.
    """
    guest = GuestSpec(memory_bytes, pages_per_second=PAGES_PER_S)
    log = Log()
    sides: dict[str, Any] = {
        "log": log,
        "machine": MachineSpec(memory_bytes=memory_bytes, accelerator="tcg"),
        "boot_image": boot_image(guest),
        "parameters": {"max-bandwidth": NO_LIMIT},
    }
    try:
        async with (
            started(peer, net, folder) as way,
            Qemu.start("source", namespace=net.source, **sides) as source,
            Qemu.start(
                "destination", namespace=net.destination, incoming=True, **sides
            ) as destination,
        ):
            await log.wait(
                lambda event: event.kind == "serial" and "stamps" in event.facts["line"],
                what="the guest to have stamped its memory",
                within_s=STAMPS_WITHIN_S,
            )
            await destination.migrate_incoming(f"tcp:{DESTINATION_ADDRESS}:{PORT}")
            before = way.usage()
            await source.migrate(f"tcp:{peer.address}:{PORT}")
            for side in ("source", "destination"):
                await status(log, side)
            found = (await source.migration_status()).raw
            after = way.usage()
    except (EndpointError, WaitExpired) as error:
        raise Unmeasured(f"{peer.name}: {error}") from error
    if found["status"] != "completed":
        raise Unmeasured(f"{peer.name}: the migration is {found['status']}")
    return Migration(
        found["total-time"],
        found["downtime"],
        after.cpu_s - before.cpu_s,
        found["ram"]["transferred"],
    )


async def status(log: Log, side: str) -> None:
    """Wait until a side has completed or failed."""
    await log.wait(
        lambda event: (
            event.actor == side
            and event.kind == "migration-status"
            and event.facts["status"] in FINAL
        ),
        what=f"the {side} to complete",
        within_s=WITHIN_S,
    )
