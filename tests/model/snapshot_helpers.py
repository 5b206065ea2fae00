"""A machine of a few bytes, with disks, to take snapshots of."""

import errno
from collections.abc import Iterator
from pathlib import Path

from testbed.model.profile import PROFILES
from testbed.model.snapshots.image_error import ImageError
from testbed.model.snapshots.images import Image, Images, create
from testbed.model.snapshots.raw_image import RawImage
from testbed.model.snapshots.snapshots import Drive, Outcome, Snapshots
from testbed.vmstate import VmStateFailed

DISK_BYTES = 1 << 17
DATE_NS = 1_487_165_025_000_000_000  # 2017-02-15 13:23:45 UTC


class FakeMachine:
    """Its state is `state`; what is done to it is in `log`."""

    def __init__(self) -> None:
        self.running = True
        self.blocker: str | None = None
        self.vm_clock_ns = 3_723_004_999_999
        self.date_ns = DATE_NS
        self.state = b"state"
        self.saving_fails: VmStateFailed | ImageError | None = None
        self.loading_fails: VmStateFailed | None = None
        self.log: list[str] = []

    def now_ns(self) -> int:
        return self.date_ns

    def stop(self, run_state: str) -> None:
        self.running = False
        self.log.append(f"stop {run_state}")

    def cont(self) -> None:
        self.running = True
        self.log.append("cont")

    def reset(self) -> None:
        self.log.append("reset")

    def save_state(self) -> Iterator[bytes]:
        yield self.state
        if self.saving_fails is not None:
            raise self.saving_fails

    def load_state(self, pieces: Iterator[bytes]) -> None:
        self.state = b"".join(pieces)
        if not self.state:
            raise VmStateFailed(-errno.EINVAL, "Not a migration stream")
        if self.loading_fails is not None:
            raise self.loading_fails


class Host:
    """A folder, a machine, and its drives: `a` and `b` are images, `raw` is not, `cd` is empty.

    `name` with `-ro` behind it is read-only.
    """

    def __init__(self, folder: Path, images: Images, profile: str, *drives: str) -> None:
        self.machine = FakeMachine()
        self.images = images
        self.drives = [
            Drive(drive.removesuffix("-ro"), self._open(folder, drive)) for drive in drives
        ]
        self.snapshots = Snapshots(self.drives, self.machine, PROFILES[profile])

    def _open(self, folder: Path, drive: str) -> Image | RawImage | None:
        name = drive.removesuffix("-ro")
        path, read_only = folder / name, name != drive
        if name == "cd":
            return None
        if name == "raw":
            path.write_bytes(bytes(DISK_BYTES))
            return self.images.open_raw(path, read_only=read_only)
        if not path.exists():
            create(path, DISK_BYTES)
        return self.images.open(path, read_only=read_only)

    def image(self, name: str) -> Image:
        (image,) = (drive.image for drive in self.drives if drive.name == name)
        assert isinstance(image, Image)
        return image

    def tags(self, name: str) -> list[str]:
        """Ids and tags of an image's snapshots."""
        return [f"{each.id} {each.name}" for each in self.image(name).snapshots()]

    def execute(self, line: str) -> Outcome:
        """A line of the human monitor."""
        command, _, name = line.partition(" ")
        match command:
            case "savevm":
                return self.snapshots.save(name or None)
            case "loadvm":
                return self.snapshots.load(name)
            case "delvm":
                return self.snapshots.delete(name)
        assert line == "info snapshots"
        return self.snapshots.info()

    def shows(self, *lines: str) -> str:
        """What the human monitor shows for them."""
        return "".join(self.execute(line).on_monitor for line in lines)
