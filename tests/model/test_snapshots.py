"""savevm, loadvm, delvm and `info snapshots`: texts, the order of checks, what is left behind.

The texts of 7.2 are those of the real one (see also `test_snapshots_live.py`); those of 2.9 are
in its sources.
"""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshot_helpers import DATE_NS, DISK_BYTES, Host

from testbed.model.snapshots.image_error import ImageError
from testbed.model.snapshots.images import Image, Images
from testbed.model.snapshots.texts import size_2_9, size_7_2
from testbed.vmstate import VmStateFailed

BOTH = pytest.mark.parametrize("profile", ["2.9", "7.2"])


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def images() -> Iterator[Images]:
    with Images() as opened:
        yield opened


NO_DEVICE_7_2 = "no block device can store vmstate for snapshot\n"
RAW_2_9 = "Device 'raw' is writable but does not support snapshots.\n"
RAW_7_2 = "Error: Device 'raw' is writable but does not support snapshots\n"
NONE_YET = "There is no snapshot available.\n"
NOT_SAVED_2_9 = "No block device can accept snapshots\n"
NOT_LISTED_2_9 = "No available block device supports snapshots\n"
REFUSALS = [
    # drives; then what savevm x, loadvm x, delvm x and info snapshots show
    ("2.9", "", NOT_SAVED_2_9, "No block device supports snapshots\n", "", NOT_LISTED_2_9),
    ("7.2", "", *["Error: " + NO_DEVICE_7_2] * 2, "", NO_DEVICE_7_2),
    ("2.9", "raw", RAW_2_9, RAW_2_9, "", NOT_LISTED_2_9),
    ("7.2", "raw", RAW_7_2, RAW_7_2, RAW_7_2, NO_DEVICE_7_2),
    ("2.9", "a raw", RAW_2_9, RAW_2_9, "", NONE_YET),
    ("7.2", "a raw", RAW_7_2, RAW_7_2, RAW_7_2, NONE_YET),
    ("2.9", "cd", NOT_SAVED_2_9, "No block device supports snapshots\n", "", NOT_LISTED_2_9),
    ("7.2", "raw-ro cd", *["Error: " + NO_DEVICE_7_2] * 2, "", NO_DEVICE_7_2),
]


@pytest.mark.parametrize(("profile", "drives", "save", "load", "delete", "info"), REFUSALS)
def test_drives_that_cannot_have_snapshots(
    tmp_path: Path,
    images: Images,
    profile: str,
    drives: str,
    save: str,
    load: str,
    delete: str,
    info: str,
) -> None:
    host = Host(tmp_path, images, profile, *drives.split())
    assert host.shows("savevm x") == save
    assert host.shows("savevm") == save
    assert host.machine.log == [], "refused before the guest is stopped"
    assert host.shows("loadvm x") == load
    assert host.shows("delvm x") == delete
    assert host.shows("info snapshots") == info


@BOTH
def test_read_only_and_empty_drives_are_passed_over(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "cd", "raw-ro", "a", "b")
    host.machine.state = b"saved"
    assert host.shows("savevm x") == ""
    host.machine.state = b"later"
    assert host.shows("loadvm x") == ""
    assert host.machine.state == b"saved"
    assert host.machine.log == ["stop save-vm", "cont", "stop restore-vm", "reset", "cont"]
    first, second = (host.image(name).snapshots()[0] for name in "ab")
    assert (first.vm_state_bytes, second.vm_state_bytes) == (5, 0), "the first device holds it"


@BOTH
def test_a_guest_that_stood_still_goes_on_standing_still(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a")
    host.machine.running = False
    assert host.shows("savevm x", "loadvm x") == ""
    assert host.machine.log == ["stop save-vm", "stop restore-vm", "reset"]


@BOTH
def test_loadvm_brings_back_what_was_on_all_disks(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    for name in "ab":
        host.image(name).write(0, b"before " + name.encode())
    assert host.shows("savevm x") == ""
    for name in "ab":
        host.image(name).write(0, b"behind " + name.encode())
    assert host.shows("loadvm x") == ""
    for name in "ab":
        assert host.image(name).read(0, 8) == b"before " + name.encode()


LACKING = [
    ("2.9", "Device 'b' does not have the requested snapshot '{}'\n"),
    ("7.2", "Error: Snapshot '{}' does not exist in one or more devices\n"),
]


@pytest.mark.parametrize(("profile", "text"), LACKING)
def test_loadvm_of_what_an_image_lacks_leaves_the_guest_stopped(
    tmp_path: Path, images: Images, profile: str, text: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.image("a").create_snapshot("partial", date_ns=0)
    assert host.shows("loadvm partial") == text.format("partial")
    assert host.machine.log == ["stop restore-vm"]
    outcome = host.snapshots.load_vmstate("partial")
    assert not outcome.done
    assert outcome.on_stderr == (text.format("partial").removeprefix("Error: ").rstrip(),)


DISK_ONLY = [
    ("2.9", "This is a disk-only snapshot. Revert to it offline using qemu-img.\n"),
    ("7.2", "Error: This is a disk-only snapshot. Revert to it  offline using qemu-img\n"),
]


@pytest.mark.parametrize(("profile", "text"), DISK_ONLY)
def test_loadvm_of_a_disk_only_snapshot(
    tmp_path: Path, images: Images, profile: str, text: str
) -> None:
    host = Host(tmp_path, images, profile, "a")
    host.image("a").create_snapshot("disk", date_ns=0)
    host.image("a").write(0, b"now")
    assert host.shows("loadvm disk") == text
    assert host.image("a").read(0, 3) == b"now"


@pytest.mark.parametrize(("profile", "prefix"), [("2.9", ""), ("7.2", "Error: ")])
def test_a_state_that_does_not_load(
    tmp_path: Path, images: Images, profile: str, prefix: str
) -> None:
    host = Host(tmp_path, images, profile, "a")
    host.image("a").write(0, b"old")
    host.shows("savevm x")
    host.image("a").write(0, b"new")
    host.machine.loading_fails = VmStateFailed(-errno.EINVAL, "first", "second")
    outcome = host.execute("loadvm x")
    assert outcome.on_monitor == f"first\nsecond\n{prefix}Error -22 while loading VM state\n"
    assert outcome.on_stderr == ("first", "second", "Error -22 while loading VM state")
    assert host.image("a").read(0, 3) == b"old", "the disks have gone back all the same"
    assert not host.machine.running


@BOTH
def test_savevm_replaces_the_snapshot_of_that_name(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.shows("savevm x", "savevm y")
    host.image("b").create_snapshot("z", date_ns=0)
    host.machine.state = b"newer"
    assert host.shows("savevm x", "savevm z") == ""
    assert host.tags("a") == ["2 y", "3 x", "4 z"]
    assert host.tags("b") == ["2 y", "4 x", "5 z"]
    host.shows("loadvm x")
    assert host.machine.state == b"newer"


@BOTH
def test_without_a_name_it_is_the_local_time_and_replaces_nothing(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a")
    assert host.shows("savevm", "savevm") == ""
    assert host.tags("a") == ["1 vm-20170215132345", "2 vm-20170215132345"]


def test_the_old_version_takes_a_name_for_an_id(tmp_path: Path, images: Images) -> None:
    host = Host(tmp_path, images, "2.9", "a")
    host.shows("savevm x", "savevm y", "savevm 1")
    assert host.tags("a") == ["2 y", "3 1"], "deleted by its id"
    assert host.shows("loadvm 2", "delvm 2") == ""
    assert host.tags("a") == ["3 1"]


def test_the_new_version_checks_one_snapshot_and_goes_to_another(
    tmp_path: Path, images: Images
) -> None:
    host = Host(tmp_path, images, "7.2", "a")
    host.image("a").create_snapshot("disk", date_ns=0)
    host.shows("savevm 1")
    assert host.tags("a") == ["1 disk", "2 1"], "a name is no id"
    assert host.shows("delvm 2") == ""
    assert host.tags("a") == ["1 disk", "2 1"]
    text = "Not a migration stream\nError: Error -22 while loading VM state\n"
    assert host.shows("loadvm 1") == text


FAILED_SAVING = [
    ("2.9", VmStateFailed(-errno.EIO), "Error while writing VM state: Input/output error\n"),
    ("2.9", ImageError(errno.ENOSPC), "Error while writing VM state: No space left on device\n"),
    ("7.2", ImageError(errno.ENOSPC), "Error: Error while writing VM state: Input/output error\n"),
    (
        "7.2",
        VmStateFailed(-errno.EIO, "why"),
        "why\nError: Error while writing VM state: Input/output error\n",
    ),
]


@pytest.mark.parametrize(("profile", "failure", "text"), FAILED_SAVING)
def test_a_state_that_is_not_written_costs_the_old_snapshot_as_with_qemu(
    tmp_path: Path, images: Images, profile: str, failure: VmStateFailed | ImageError, text: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.shows("savevm x", "savevm y")
    host.machine.saving_fails = failure
    assert host.shows("savevm x") == text
    assert host.tags("a") == host.tags("b") == ["2 y"]
    assert host.machine.running
    assert host.image("a").store.rows("SELECT DISTINCT view FROM main.state") == [(2,)]


CREATING = [
    ("2.9", "Error while creating snapshot on 'b'\n"),
    ("7.2", "Error: Could not create snapshot 'y' on 'b'\n"),
]


@pytest.mark.parametrize(("profile", "text"), CREATING)
def test_a_snapshot_that_fails_on_one_image_is_on_none(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch, profile: str, text: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.shows("savevm x")
    monkeypatch.setattr("testbed.model.snapshots.images.SNAPSHOTS_MAX", 2)
    host.image("b").create_snapshot("another", date_ns=0)
    assert host.shows("savevm y") == text
    assert host.tags("a") == ["1 x"]
    assert host.tags("b") == ["1 x", "2 another"]
    assert host.machine.running


BLOCKED = "State blocked by non-migratable device '0000:00:02.0/nvme'"


@pytest.mark.parametrize(
    ("profile", "text", "left"),
    [("2.9", BLOCKED + "\n", []), ("7.2", f"Error: {BLOCKED}\n", ["1 x"])],
)
def test_a_machine_that_cannot_be_saved(
    tmp_path: Path, images: Images, profile: str, text: str, left: list[str]
) -> None:
    host = Host(tmp_path, images, profile, "a")
    host.shows("savevm x")
    host.machine.blocker = BLOCKED
    assert host.shows("savevm x") == text
    assert host.tags("a") == left
    assert host.machine.running


UNWRITABLE = [
    (
        *("2.9", "delvm x", "delete_snapshot"),
        "Error while deleting snapshot on device 'b': "
        "Failed to remove snapshot from snapshot list: No space left on device\n",
    ),
    (
        *("7.2", "delvm x", "delete_snapshot"),
        "Error: Could not delete snapshot 'x' on 'b': "
        "Failed to remove snapshot from snapshot list: No space left on device\n",
    ),
    (
        *("2.9", "loadvm x", "goto_snapshot"),
        "Error -28 while activating snapshot 'x' on 'b'\n",
    ),
    (
        *("7.2", "loadvm x", "goto_snapshot"),
        "Error: Could not load snapshot 'x' on 'b': "
        "Failed to load snapshot: No space left on device\n",
    ),
]


@pytest.mark.parametrize(("profile", "line", "method", "text"), UNWRITABLE)
def test_a_change_that_fails_on_one_image_is_made_on_none(
    tmp_path: Path,
    images: Images,
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    line: str,
    method: str,
    text: str,
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.shows("savevm x")
    host.image("a").write(0, b"now")
    b, works = host.image("b"), getattr(Image, method)

    def fails_on_b(image: Image, *arguments: object) -> None:
        if image is b:
            raise ImageError(errno.ENOSPC)
        works(image, *arguments)

    monkeypatch.setattr(Image, method, fails_on_b)
    assert host.shows(line) == text
    assert host.tags("a") == ["1 x"]
    assert host.image("a").read(0, 3) == b"now"


HEADING_2_9 = "ID        TAG                 VM SIZE                DATE       VM CLOCK\n"
HEADING_7_2 = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n"
LISTS = [
    (
        "2.9",
        "List of snapshots present on all disks:\n"
        f"{HEADING_2_9}"
        "--        x                      2.9K 2017-02-15 13:23:45   01:02:03.004\n"
        "--        é                        0 2017-02-15 13:23:45   01:02:03.004\n"
        "\nList of partial (non-loadable) snapshots on 'b':\n"
        f"{HEADING_2_9}"
        "3         disk                      0 1970-01-01 00:00:00   00:00:00.000\n",
    ),
    (
        "7.2",
        "List of snapshots present on all disks:\n"
        f"{HEADING_7_2}"
        "--        x                2.93 KiB 2017-02-15 13:23:45 01:02:03.004           \n"
        "--        é                    0 B 2017-02-15 13:23:45 01:02:03.004           \n"
        "\nList of partial (non-loadable) snapshots on 'b':\n"
        f"{HEADING_7_2}"
        "3         disk                  0 B 1970-01-01 00:00:00 00:00:00.000          0\n",
    ),
]


@pytest.mark.parametrize(("profile", "text"), LISTS)
def test_the_lists_of_what_is_on_all_disks_and_on_some(
    tmp_path: Path, images: Images, profile: str, text: str
) -> None:
    host = Host(tmp_path, images, profile, "cd", "raw-ro", "a", "b")
    host.machine.state = bytes(3000)
    host.shows("savevm x")
    host.machine.state = b""
    host.shows("savevm é")
    host.image("b").create_snapshot("disk", date_ns=0, icount=0)
    assert host.shows("info snapshots") == text


def test_a_disk_without_snapshots_counts_among_all_disks_since_6_0(
    tmp_path: Path, images: Images
) -> None:
    old = Host(tmp_path, images, "2.9", "a", "raw")
    old.image("a").create_snapshot("x", date_ns=0)
    assert "\n--        x  " in old.shows("info snapshots")
    images.close()
    new = Host(tmp_path, images, "7.2", "a", "raw")
    assert new.shows("info snapshots").startswith(
        "List of snapshots present on all disks:\nNone\n"
        "\nList of partial (non-loadable) snapshots on 'a':\n"
    )


SIZES = [  # the right ones are what `qemu-img info` of 7.2 says of images of that size
    (0, "0", "0 B"),
    (999, "999", "999 B"),
    (1024, "1.0K", "1 KiB"),
    (10_239, "10.0K", "10 KiB"),
    (10_240, "10K", "10 KiB"),
    (102_400, "100K", "100 KiB"),
    (1_023_488, "1000K", "1e+03 KiB"),
    (1_023_999, "1000K", "1e+03 KiB"),
    (1_024_000, "1.0M", "0.977 MiB"),
    (1_572_864, "1.5M", "1.5 MiB"),
    (1_047_527_424, "999M", "999 MiB"),
    (1_048_576_000, "1.0G", "0.977 GiB"),
    (123_456_789_504, "115G", "115 GiB"),
    (5_000 << 40, "5000T", "4.88 PiB"),
]


@pytest.mark.parametrize(("size", "old", "new"), SIZES)
def test_sizes(size: int, old: str, new: str) -> None:
    assert size_2_9(size) == old
    assert size_7_2(size) == new


@BOTH
def test_what_the_guest_wrote_last_is_in_the_snapshot(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a", "b")
    host.image("b").write(512, b"just now")
    host.shows("savevm x")
    host.image("b").write(512, bytes(8))
    host.shows("loadvm x")
    assert host.image("b").read(512, 8) == b"just now"


@BOTH
def test_an_exception_of_ours_leaves_guest_and_images_as_they_were(
    tmp_path: Path, images: Images, profile: str
) -> None:
    host = Host(tmp_path, images, profile, "a")
    host.shows("savevm x")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    host.machine.save_state = broken
    with pytest.raises(ZeroDivisionError):
        host.execute("savevm x")
    assert host.tags("a") == ["1 x"]
    assert host.machine.running


REPEATING = """
import sys
from pathlib import Path
from snapshot_helpers import Host
from testbed.model.snapshots.images import Images
with Images() as images:
    host = Host(Path(sys.argv[1]), images, "7.2", "a", "b")
    host.shows("loadvm x")
    print("open", flush=True)
    while True:
        number = int(host.machine.state) + 1
        host.machine.state = b"%d" % number
        for name in "ab":
            host.image(name).write(0, b"%08d" % number)
        assert host.shows("savevm x") == ""
        print(number, flush=True)
        for name in "ab":
            host.image(name).write(0, bytes(8))
        assert host.shows("loadvm x") == ""
"""


def test_savevm_and_loadvm_that_are_killed_leave_a_snapshot_that_loads(tmp_path: Path) -> None:
    seed = int(os.environ.get("TESTBED_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    sys.stdout.write(f"TESTBED_SEED={seed}\n")
    rng = random.Random(seed)
    with Images() as images:
        host = Host(tmp_path, images, "7.2", "a", "b")
        host.machine.state = b"0"
        for name in "ab":
            host.image(name).write(0, b"00000000")
        host.shows("savevm x")
    last = 0
    helpers = str(Path(__file__).parent)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", REPEATING, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([helpers, *sys.path])},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            try:
                process.wait(rng.uniform(0, 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
            said = [last, *map(int, process.stdout.read().split())]
        with Images() as images:
            host = Host(tmp_path, images, "7.2", "a", "b")
            for name in "ab":  # what the guest had is lost with it; the snapshot is not
                assert len(host.tags(name)) == 1, seed
            assert host.shows("loadvm x") == "", seed
            last = int(host.machine.state)
            assert last in (said[-1], said[-1] + 1), seed
            for name in "ab":
                assert host.image(name).read(0, 8) == b"%08d" % last, seed
                assert host.image(name).size_bytes == DISK_BYTES
    assert last >= 2, "the process was killed before it could save"


def test_dates_are_local_and_rounded_down(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, images, "7.2", "a")
    host.machine.date_ns = DATE_NS + 999_999_999
    monkeypatch.setenv("TZ", "UTC-5:30")
    time.tzset()
    host.shows("savevm")
    assert " vm-20170215185345 " in host.shows("info snapshots")
    assert " 2017-02-15 18:53:45 " in host.shows("info snapshots")
