"""savevm, loadvm, delvm and `info snapshots` over several disk images.

Each check, in QEMU's order and words. Two things are better than there. A change is one
transaction over all images (`image_store`): whoever is killed in the middle of it leaves the old
snapshots in all of them, or the new ones in all; and one that fails leaves none in some of them.
But as there, savevm that fails has deleted the old snapshot of that name.

Source: QEMU `migration/savevm.c`, `save_vmstate` to `hmp_info_snapshots`, early 2017;
`save_snapshot`, `load_snapshot`, `delete_snapshot`, and `block/snapshot.c`, 7.2.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from testbed.model.profile import Profile
from testbed.vmstate import VmStateFailed

from .image_error import ImageError
from .images import Image, Snapshot
from .raw_image import RawImage
from .texts import NS, TEXTS, Shown


class Machine(Protocol):
    """What snapshots need of the machine."""

    @property
    def running(self) -> bool:
        """The guest runs."""

    @property
    def blocker(self) -> str | None:
        """Why it cannot be saved: `State blocked by non-migratable device ...`."""

    @property
    def vm_clock_ns(self) -> int:
        """`QEMU_CLOCK_VIRTUAL`."""

    def now_ns(self) -> int:
        """Wall time since the epoch."""

    def stop(self, run_state: str) -> None:
        """Stop the guest; `run_state` is `save-vm` or `restore-vm`, as QMP names it."""

    def cont(self) -> None:
        """Let it run."""

    def save_state(self) -> Iterator[bytes]:
        """`qemu_savevm_state`, in pieces of any size; raises `VmStateFailed`."""

    def reset(self) -> None:
        """`qemu_system_reset`."""

    def load_state(self, pieces: Iterator[bytes]) -> None:
        """`qemu_loadvm_state`; raises `VmStateFailed` with what there is to say."""


class Drive(NamedTuple):
    """A block device by its name, such as `ide0-hd0`; without an image it is empty."""

    name: str
    image: Image | RawImage | None

    @property
    def is_writable(self) -> bool:
        """Something is inserted, and can be written."""
        return self.image is not None and not self.image.read_only

    def snapshots(self) -> list[Snapshot]:
        """Those of the image, if it can have any; raises `ImageError`."""
        return self.image.snapshots() if isinstance(self.image, Image) else []


class Line(NamedTuple):
    """A line that QEMU says, without program name, prefix or newline."""

    text: str
    shown: Shown


class Outcome(NamedTuple):
    """What came of a command."""

    lines: tuple[Line, ...]
    done: bool
    error_prefix: str

    @property
    def on_monitor(self) -> str:
        """What the human monitor shows."""
        return "".join(
            f"{self.error_prefix if line.shown is Shown.ERROR else ''}{line.text}\n"
            for line in self.lines
        )

    @property
    def on_stderr(self) -> tuple[str, ...]:
        """What stderr shows, behind the program's name, where no monitor gave the command."""
        return tuple(line.text for line in self.lines if line.shown is not Shown.MONITOR)


class _Refused(Exception):
    """It goes no further; what was begun is rolled back."""

    def __init__(self, *lines: Line) -> None:
        super().__init__(lines)
        self.lines = lines


class Snapshots:
    """The commands. `drives` are in the order of their creation, which is that of the checks.

    A command holds the caller until it is done, as QEMU's hold its main loop.
    """

    def __init__(self, drives: Sequence[Drive], machine: Machine, profile: Profile) -> None:
        """Over `drives`, whose writable images are all of one `Images`."""
        self._drives = drives
        self._machine = machine
        self._texts = TEXTS[profile.name]
        stores = {id(image.store): image.store for _, image in self._images()}
        assert len(stores) <= 1, "one transaction is over one store"
        self._store = next(iter(stores.values()), None)

    def save(self, name: str | None) -> Outcome:
        """`savevm`. Without a name it is `vm-`, and the local time in seconds."""
        return self._outcome(lambda: self._save(name))

    def load(self, name: str) -> Outcome:
        """`loadvm` of the human monitor: the guest runs on if it ran, and if that went well."""
        ran = self._machine.running
        self._machine.stop("restore-vm")
        outcome = self.load_vmstate(name)
        if outcome.done and ran:
            self._machine.cont()
        return outcome

    def load_vmstate(self, name: str) -> Outcome:
        """`load_vmstate`, as `-loadvm` does it too: the guest stands still before and after."""
        return self._outcome(lambda: self._load(name))

    def delete(self, name: str) -> Outcome:
        """`delvm`. Images that lack the snapshot are passed over, be it all of them."""
        return self._outcome(lambda: self._delete(name))

    def info(self) -> Outcome:
        """`info snapshots`."""
        return self._outcome(self._info)

    def _outcome(self, command: Callable[[], Sequence[str] | None]) -> Outcome:
        try:
            said, done = command() or (), True
            lines = tuple(Line(text, Shown.MONITOR) for text in said)
        except _Refused as refused:
            lines, done = refused.lines, False
        return Outcome(lines, done, self._texts.error_prefix)

    def _save(self, name: str | None) -> None:
        texts, machine = self._texts, self._machine
        if texts.blocks_before_deleting:
            self._check_blocker()
        self._check_devices(texts.save_refused)
        images = self._images()
        if not images:
            raise _Refused(Line(texts.no_device_to_save, texts.save_refused))
        date_ns = machine.now_ns()
        tag = name
        if tag is None:
            tag = time.strftime("vm-%Y%m%d%H%M%S", time.localtime(date_ns // NS))
        ran = machine.running
        try:
            with self._transaction(lambda _: self._creating(images[0][0], tag)):
                if name is not None:
                    self._delete_everywhere(name)
                machine.stop("save-vm")
                self._check_blocker()
                self._save_stopped(images, tag, date_ns)
        except _Refused:
            if name is not None:
                with suppress(_Refused):
                    self._delete_in_transaction(name)
            raise
        finally:
            if ran and not machine.running:
                machine.cont()

    def _save_stopped(self, images: Sequence[tuple[Drive, Image]], tag: str, date_ns: int) -> None:
        machine = self._machine
        vm_clock_ns = machine.vm_clock_ns
        try:
            state = images[0][1].write_state(machine.save_state())
        except VmStateFailed as failed:
            raise _Refused(*_reports(failed), self._not_written(-failed.ret)) from failed
        except ImageError as error:
            raise _Refused(self._not_written(error.number)) from error
        for number, (drive, image) in enumerate(images):
            try:
                image.create_snapshot(
                    tag,
                    date_ns=date_ns,
                    vm_clock_ns=vm_clock_ns,
                    state=None if number else state,
                )
            except ImageError as error:
                raise self._creating(drive, tag) from error

    def _load(self, name: str) -> None:
        texts = self._texts
        self._check_devices(Shown.ERROR)
        lacking = self._lacks(name)
        if lacking is not None:
            text = texts.lacks.format(device=lacking.name, name=name)
            raise _Refused(Line(text, Shown.ERROR))
        images = self._images()
        if not images:
            raise _Refused(Line(texts.no_device_to_load, Shown.ERROR))
        found = self._find(images[0][0], name)
        assert found is not None, "no drive lacks it"
        if found.vm_state_bytes == 0:
            raise _Refused(Line(texts.disk_only, Shown.ERROR))
        with self._transaction(lambda why: self._activating(images[0][0], name, why)):
            active = [self._goto(drive, image, name) for drive, image in images]
        self._machine.reset()
        try:
            self._machine.load_state(images[0][1].read_state(active[0]))
        except VmStateFailed as failed:
            text = f"Error {failed.ret} while loading VM state"
            raise _Refused(*_reports(failed), Line(text, Shown.ERROR)) from failed
        except ImageError as error:
            text = f"Error {-error.number} while loading VM state"
            raise _Refused(Line(text, Shown.ERROR)) from error

    def _goto(self, drive: Drive, image: Image, name: str) -> Snapshot:
        """Go to the snapshot with that id, or else with that name, as qcow2 does.

        With 7.2 that need not be the one that was found and checked.
        """
        try:
            active = _by_id_or_name(image.snapshots(), name)
            assert active is not None, "it was found before"
            image.goto_snapshot(active)
        except ImageError as error:
            raise self._activating(drive, name, error) from error
        return active

    def _delete(self, name: str) -> None:
        if self._texts.delete_checks_devices:
            self._check_devices(Shown.ERROR)
        self._delete_in_transaction(name)

    def _delete_in_transaction(self, name: str) -> None:
        images = self._images()
        if images:
            with self._transaction(lambda why: self._deleting(images[0][0], name, why)):
                self._delete_everywhere(name)

    def _delete_everywhere(self, name: str) -> None:
        for drive, image in self._images():
            found = self._find(drive, name)
            try:
                if found is not None and self._texts.finds_by_id:
                    found = _by_id_or_name(image.snapshots(), name)
                if found is not None:
                    image.delete_snapshot(found)
            except ImageError as error:
                raise self._deleting(drive, name, error) from error

    def _info(self) -> list[str]:
        texts = self._texts
        images = self._images()
        if not images:
            raise _Refused(Line(texts.no_device_to_list, texts.info_refused))
        try:
            listed = {drive.name: image.snapshots() for drive, image in images}
        except ImageError as error:
            text = f"bdrv_snapshot_list: error {-error.number}"
            raise _Refused(Line(text, Shown.MONITOR)) from error
        if not any(listed.values()):
            return ["There is no snapshot available."]
        first = listed[images[0][0].name]
        common = [each for each in first if self._lacks(each.name, for_list=True) is None]
        lines = ["List of snapshots present on all disks:"]
        # The same snapshot may have another id in each image.
        rows = [texts.row_of(each, "--") for each in common]
        lines += [texts.heading, *rows] if rows else ["None"]
        names = {each.name for each in common}
        for device, snapshots in listed.items():
            rows = [texts.row_of(each, each.id) for each in snapshots if each.name not in names]
            if rows:
                title = f"List of partial (non-loadable) snapshots on '{device}':"
                lines += ["", title, texts.heading, *rows]
        return lines

    def _images(self) -> list[tuple[Drive, Image]]:
        """The drives that can have snapshots; the first of them holds the machine's state."""
        return [
            (drive, drive.image)
            for drive in self._drives
            if isinstance(drive.image, Image) and drive.image.can_snapshot
        ]

    def _find(self, drive: Drive, name: str) -> Snapshot | None:
        """`bdrv_snapshot_find`: a list that cannot be read has nothing in it."""
        by_id = self._texts.finds_by_id
        with suppress(ImageError):
            for snapshot in drive.snapshots():
                if snapshot.name == name or (by_id and snapshot.id == name):
                    return snapshot
        return None

    def _lacks(self, name: str, *, for_list: bool = False) -> Drive | None:
        """The first drive that ought to have the snapshot and has not."""
        drives = [drive for drive, _ in self._images()]
        if for_list and self._texts.all_disks_are_writable_ones:
            drives = [drive for drive in self._drives if drive.is_writable]
        return next((drive for drive in drives if self._find(drive, name) is None), None)

    def _check_devices(self, shown: Shown) -> None:
        """`bdrv_all_can_snapshot`."""
        for drive in self._drives:
            if drive.is_writable and not isinstance(drive.image, Image):
                text = self._texts.cannot_snapshot.format(device=drive.name)
                raise _Refused(Line(text, shown))

    def _check_blocker(self) -> None:
        if self._machine.blocker is not None:
            raise _Refused(Line(self._machine.blocker, Shown.ERROR))

    @contextmanager
    def _transaction(self, failed: Callable[[ImageError], _Refused]) -> Iterator[None]:
        """All images or none; `failed` has the words for a commit that cannot be written."""
        assert self._store is not None, "there is an image"
        try:
            with self._store.transaction():
                yield
        except ImageError as error:
            raise failed(error) from error

    def _not_written(self, number: int) -> Line:
        why = os.strerror(self._texts.state_errno or number)
        return Line(f"Error while writing VM state: {why}", Shown.ERROR)

    def _creating(self, drive: Drive, tag: str) -> _Refused:
        text = self._texts.creating.format(name=tag, device=drive.name)
        return _Refused(Line(text, self._texts.save_refused))

    def _deleting(self, drive: Drive, name: str, why: ImageError) -> _Refused:
        text = self._texts.deleting
        strerror = os.strerror(why.number)
        return _Refused(Line(text.format(name=name, device=drive.name, why=strerror), Shown.ERROR))

    def _activating(self, drive: Drive, name: str, why: ImageError) -> _Refused:
        text = self._texts.activating.format(
            ret=-why.number, name=name, device=drive.name, why=os.strerror(why.number)
        )
        return _Refused(Line(text, Shown.ERROR))


def _by_id_or_name(snapshots: Sequence[Snapshot], name: str) -> Snapshot | None:
    """The one with that id, and only else the first with that name."""
    by_id = (snapshot for snapshot in snapshots if snapshot.id == name)
    by_name = (snapshot for snapshot in snapshots if snapshot.name == name)
    return next(by_id, None) or next(by_name, None)


def _reports(failed: VmStateFailed) -> list[Line]:
    return [Line(text, Shown.REPORT) for text in failed.lines]
