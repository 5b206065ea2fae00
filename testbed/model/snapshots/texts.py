"""What savevm, loadvm, delvm and `info snapshots` say, by version.

Sources: QEMU `migration/savevm.c` and `block/qapi.c` of early 2017, and `block/snapshot.c`,
`block/qapi.c`, `util/cutils.c` of 7.2, whose words were heard from the real one.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .images import Snapshot

NS = 1_000_000_000


class Shown(Enum):
    """By what QEMU says a line."""

    MONITOR = "monitor_printf"  # where there is no monitor, nobody hears it
    REPORT = "error_report"  # on the monitor that gave the command, and else on stderr
    ERROR = "Error"  # the caller's: the human monitor says `Error: ` before it, stderr does not


class SnapshotTexts(NamedTuple):
    """One version's texts and rules; the names in braces are filled in."""

    error_prefix: str
    """Of the human monitor, before `Shown.ERROR`."""
    save_refused: Shown
    """How savevm says that it cannot, where nothing failed."""
    info_refused: Shown
    """How `info snapshots` says it."""
    blocks_before_deleting: bool
    """savevm looks for non-migratable devices first; or when the old snapshot is gone."""
    finds_by_id: bool
    """A name is also looked for among the ids, and deletes the one with that id first."""
    delete_checks_devices: bool
    """delvm wants that all writable devices can have snapshots, as savevm does."""
    all_disks_are_writable_ones: bool
    """A writable device without snapshots keeps a snapshot from being on all disks."""
    cannot_snapshot: str
    no_device_to_save: str
    no_device_to_load: str
    no_device_to_list: str
    lacks: str
    disk_only: str
    deleting: str
    creating: str
    activating: str
    state_errno: int | None
    """Any failure to write the machine's state is this one; None: it is what it is."""
    heading: str
    row: str
    size: Callable[[int], str]

    def row_of(self, snapshot: Snapshot, shown_id: str) -> str:
        """A snapshot's line in a list."""
        seconds, rest_ns = divmod(snapshot.vm_clock_ns, NS)
        date = time.localtime(snapshot.date_ns // NS)
        row = self.row.format(
            id=shown_id,
            # printf pads to bytes, and not to characters.
            tag=snapshot.name.encode().decode("latin-1"),
            size=self.size(snapshot.vm_state_bytes),
            date=time.strftime("%Y-%m-%d %H:%M:%S", date),
            clock=(
                f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
                f".{rest_ns // 1_000_000:03}"
            ),
            icount="" if snapshot.icount is None else snapshot.icount,
        )
        return row.encode("latin-1").decode()


def size_2_9(size_bytes: int) -> str:
    """Digits and a letter: `999`, `1.0K`, `10K`; in T whatever is more."""
    if size_bytes < 1000:
        return str(size_bytes)
    for power, letter in enumerate("KMGT", 1):
        unit = 1 << (10 * power)
        if size_bytes < 10 * unit:
            return f"{size_bytes / unit:.1f}{letter}"
        if size_bytes < 1000 * unit or letter == "T":
            break
    return f"{(size_bytes + unit // 2) // unit}{letter}"


def size_7_2(size_bytes: int) -> str:
    """Three digits, however they come out, of the first unit with less than 1000: `1e+03 KiB`."""
    power = 0
    while size_bytes >= 1000 << (10 * power):
        power += 1
    unit = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")[power]
    return f"{size_bytes / (1 << (10 * power)):.3g} {unit}B"


TEXTS_2_9 = SnapshotTexts(
    error_prefix="",
    save_refused=Shown.MONITOR,
    info_refused=Shown.MONITOR,
    blocks_before_deleting=False,
    finds_by_id=True,
    delete_checks_devices=False,
    all_disks_are_writable_ones=False,
    cannot_snapshot="Device '{device}' is writable but does not support snapshots.",
    no_device_to_save="No block device can accept snapshots",
    no_device_to_load="No block device supports snapshots",
    no_device_to_list="No available block device supports snapshots",
    lacks="Device '{device}' does not have the requested snapshot '{name}'",
    disk_only="This is a disk-only snapshot. Revert to it offline using qemu-img.",
    deleting=(
        "Error while deleting snapshot on device '{device}': "
        "Failed to remove snapshot from snapshot list: {why}"
    ),
    creating="Error while creating snapshot on '{device}'",
    activating="Error {ret} while activating snapshot '{name}' on '{device}'",
    state_errno=None,
    heading="ID        TAG                 VM SIZE                DATE       VM CLOCK",
    row="{id:<10}{tag:<20}{size:>7}{date:>20}{clock:>15}",
    size=size_2_9,
)
TEXTS_7_2 = SnapshotTexts(
    error_prefix="Error: ",
    save_refused=Shown.ERROR,
    info_refused=Shown.REPORT,
    blocks_before_deleting=True,
    finds_by_id=False,
    delete_checks_devices=True,
    all_disks_are_writable_ones=True,
    cannot_snapshot="Device '{device}' is writable but does not support snapshots",
    no_device_to_save="no block device can store vmstate for snapshot",
    no_device_to_load="no block device can store vmstate for snapshot",
    no_device_to_list="no block device can store vmstate for snapshot",
    lacks="Snapshot '{name}' does not exist in one or more devices",
    disk_only="This is a disk-only snapshot. Revert to it  offline using qemu-img",
    deleting=(
        "Could not delete snapshot '{name}' on '{device}': "
        "Failed to remove snapshot from snapshot list: {why}"
    ),
    creating="Could not create snapshot '{name}' on '{device}'",
    activating="Could not load snapshot '{name}' on '{device}': Failed to load snapshot: {why}",
    state_errno=errno.EIO,
    heading="ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT",
    row="{id:<9} {tag:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}",
    size=size_7_2,
)

TEXTS = {"2.9": TEXTS_2_9, "7.2": TEXTS_7_2}
"""By the name of the profile."""
