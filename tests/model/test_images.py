"""Disk images of the model: contents, snapshots, locks, damage, what a killed process leaves."""

import errno
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import testbed.model.snapshots.images as images_module
from testbed.model.snapshots.image_error import ImageError
from testbed.model.snapshots.image_store import IMAGES_MAX
from testbed.model.snapshots.images import CLUSTER_BYTES, STATE_PIECE_BYTES, Image, Images, create

DISK_BYTES = 4 * CLUSTER_BYTES


@pytest.fixture
def images() -> Iterator[Images]:
    with Images() as opened:
        yield opened


def make(folder: Path, name: str = "a.img", size_bytes: int = DISK_BYTES) -> Path:
    create(folder / name, size_bytes)
    return folder / name


def names(image: Image) -> list[str]:
    return [snapshot.name for snapshot in image.snapshots()]


def snapshot_with_state(image: Image, name: str, *pieces: bytes) -> None:
    with image.store.transaction():
        image.create_snapshot(name, date_ns=0, state=image.write_state(pieces))


def refusal(images: Images, path: Path, *, read_only: bool = False) -> str:
    with pytest.raises(ImageError) as refused:
        images.open(path, read_only=read_only)
    return str(refused.value)


def test_a_new_image_is_zeros_of_whole_sectors(tmp_path: Path, images: Images) -> None:
    image = images.open(make(tmp_path, size_bytes=70_000))
    assert image.size_bytes == 70_144
    assert image.read(0, image.size_bytes) == bytes(70_144)
    assert image.snapshots() == []
    assert image.can_snapshot


@pytest.mark.parametrize("offset", [0, 512, CLUSTER_BYTES - 512, CLUSTER_BYTES])
@pytest.mark.parametrize("length", [1, 512, CLUSTER_BYTES, CLUSTER_BYTES + 1024])
def test_what_is_written_is_read_back_and_nothing_beside_it(
    tmp_path: Path, offset: int, length: int
) -> None:
    path = make(tmp_path)
    data = random.Random(offset + length).randbytes(length)
    with Images() as images:
        images.open(path).write(offset, data)
    with Images() as images:
        whole = images.open(path).read(0, DISK_BYTES)
    assert whole == bytes(offset) + data + bytes(DISK_BYTES - offset - length)


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (0, DISK_BYTES + 1), (DISK_BYTES, 1)])
def test_a_guest_cannot_reach_beyond_the_end(
    tmp_path: Path, images: Images, offset: int, length: int
) -> None:
    image = images.open(make(tmp_path))
    with pytest.raises(ImageError) as refused:
        image.read(offset, length)
    assert refused.value.number == errno.EIO
    with pytest.raises(ImageError):
        image.write(offset, bytes(length))


def test_each_snapshot_keeps_contents_and_state_of_its_own(tmp_path: Path, images: Images) -> None:
    image = images.open(make(tmp_path))
    for name in ("one", "two", "three"):
        image.write(512, name.encode())
        snapshot_with_state(image, name, name.encode() * 7, b"", b".")
    image.write(512, b"now")
    for snapshot in image.snapshots():
        assert b"".join(image.read_state(snapshot)) == snapshot.name.encode() * 7 + b"."
        assert snapshot.vm_state_bytes == 7 * len(snapshot.name) + 1
        image.goto_snapshot(snapshot)
        assert image.read(512, len(snapshot.name)).decode() == snapshot.name


def test_an_id_is_the_highest_one_plus_1_and_names_may_repeat(
    tmp_path: Path, images: Images
) -> None:
    image = images.open(make(tmp_path))
    one, two, three = (image.create_snapshot("x", date_ns=0) for _ in range(3))
    assert [one.id, two.id, three.id] == ["1", "2", "3"]
    image.delete_snapshot(two)
    assert image.create_snapshot("x", date_ns=0).id == "4"
    for snapshot in image.snapshots():
        image.delete_snapshot(snapshot)
    assert image.create_snapshot("x", date_ns=0).id == "1"


def test_a_name_is_cut_at_255_bytes(tmp_path: Path, images: Images) -> None:
    image = images.open(make(tmp_path))
    assert image.create_snapshot("n" * 300, date_ns=0).name == "n" * 255
    assert image.create_snapshot("é" * 200, date_ns=0).name == "é" * 127 + "�"


def test_a_deleted_snapshot_leaves_nothing_behind(tmp_path: Path, images: Images) -> None:
    image = images.open(make(tmp_path))
    image.write(0, b"old")
    snapshot_with_state(image, "x", b"state")
    image.write(0, b"new")
    image.delete_snapshot(image.snapshots()[0])
    for table, rows in [("cluster", 1), ("mapping", 1), ("state", 0), ("snapshot", 0)]:
        assert image.store.rows(f"SELECT count(*) FROM main.{table}") == [(rows,)]


def test_there_is_a_highest_number_of_snapshots(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "SNAPSHOTS_MAX", 2)
    image = images.open(make(tmp_path))
    image.create_snapshot("1", date_ns=0)
    image.create_snapshot("2", date_ns=0)
    with pytest.raises(ImageError) as refused:
        image.create_snapshot("3", date_ns=0)
    assert refused.value.number == errno.EFBIG
    assert names(image) == ["1", "2"]


def test_a_transaction_that_fails_changes_none_of_the_images(
    tmp_path: Path, images: Images
) -> None:
    a, b = images.open(make(tmp_path, "a")), images.open(make(tmp_path, "b"))
    a.write(0, b"before")

    def create_in_both_and_fail() -> None:
        with a.store.transaction():
            a.create_snapshot("x", date_ns=0)
            b.create_snapshot("x", date_ns=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        create_in_both_and_fail()
    assert names(a) == names(b) == []
    assert a.read(0, 6) == b"before"


def test_a_big_state_takes_little_memory(tmp_path: Path, images: Images) -> None:
    image = images.open(make(tmp_path))
    piece, count = bytes(5 * STATE_PIECE_BYTES + 1), 60
    tracemalloc.start()
    try:
        snapshot_with_state(image, "x", *(piece for _ in range(count)))
        length = sum(len(part) for part in image.read_state(image.snapshots()[0]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == count * len(piece)
    assert peak < 8 * STATE_PIECE_BYTES  # Python's part; SQLite's cache has its own bound


def test_a_second_opener_is_refused_as_qemu_refuses_it(tmp_path: Path, images: Images) -> None:
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    images.open(a)
    images.open(b, read_only=True)
    using = "\nIs another process using the image [{}]?"
    with Images() as others:
        other = others.open(make(tmp_path, "c"))
        assert refusal(others, a) == 'Failed to get "write" lock' + using.format(a)
        assert refusal(others, b) == 'Failed to get "write" lock' + using.format(b)
        text = 'Failed to get shared "write" lock' + using.format(a)
        assert refusal(others, a, read_only=True) == text
        assert others.open(b, read_only=True).snapshots() == []
        other.write(0, b"still usable")
    assert 'Failed to get "write" lock' in refusal(images, a), "nor twice by one process"


def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = make(tmp_path)
    script = (
        "import sys; from pathlib import Path; from testbed.model.snapshots.images import Images\n"
        "with Images() as images:\n"
        "    images.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()\n"
    )
    with python(script, str(path)) as holder, Images() as images:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        assert refusal(images, path).startswith('Failed to get "write" lock')
        holder.kill()
        holder.wait()
        assert images.open(path).snapshots() == []


def test_a_read_only_image_is_read_and_not_written(tmp_path: Path, images: Images) -> None:
    path = make(tmp_path)
    with Images() as earlier:
        writable = earlier.open(path)
        writable.write(0, b"contents")
        snapshot_with_state(writable, "x", b"state")
    path.chmod(0o444)
    image = images.open(path, read_only=True)
    assert not image.can_snapshot
    assert image.read(0, 8) == b"contents"
    assert names(image) == ["x"]
    for change in (
        lambda: image.write(0, b"x"),
        lambda: image.create_snapshot("y", date_ns=0),
        lambda: image.delete_snapshot(image.snapshots()[0]),
        lambda: image.goto_snapshot(image.snapshots()[0]),
    ):
        with pytest.raises(ImageError):
            change()


def test_more_images_than_sqlite_attaches_are_refused(tmp_path: Path, images: Images) -> None:
    opened = [images.open(make(tmp_path, str(number))) for number in range(IMAGES_MAX)]
    assert "11 are open" in refusal(images, make(tmp_path, "more"))
    with opened[0].store.transaction():
        for image in opened:
            image.create_snapshot("x", date_ns=0)
    assert [names(image) for image in opened] == [["x"]] * IMAGES_MAX


def test_what_is_no_image_is_refused_with_the_reason(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "no%20 such?file#"
    assert refusal(images, path) == f"Could not open '{path}': No such file or directory"
    path.write_bytes(b"")
    assert refusal(images, path) == "Image is not in model format"
    path.write_bytes(b"some text\n" * 10_000)
    assert refusal(images, path) == "Image is not in model format"
    path.unlink()
    sqlite3.connect(path).executescript("CREATE TABLE t (x)").connection.close()
    assert refusal(images, path) == "Image is not in model format"
    path.unlink()
    path.mkdir()
    assert refusal(images, path) == f"'file' driver requires '{path}' to be a regular file"
    path.rmdir()
    assert images.open(make(tmp_path, path.name)).size_bytes == DISK_BYTES


def test_a_file_that_is_there_is_never_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageError) as refused:
        create(path, 512)
    assert str(refused.value) == f"Could not create '{path}': File exists"


def test_a_file_or_folder_that_may_not_be_written_is_refused(images: Images) -> None:
    with folder_of_root() as folder:
        path = make(folder)
        path.chmod(0o444)
        with unprivileged():
            denied = f"Could not open '{path}': Permission denied"
            assert refusal(images, path) == denied
        path.chmod(0o666)
        folder.chmod(0o555)
        with unprivileged():
            assert refusal(images, path) == (
                f"Could not open '{path}': its folder must be writable, for the journal:"
                " Permission denied"
            )
            assert images.open(path, read_only=True).snapshots() == []
            with pytest.raises(ImageError) as refused:
                create(folder / "new", 512)
            text = f"Could not create '{folder}/new': Permission denied"
            assert str(refused.value) == text
        folder.chmod(0o755)


def test_a_damaged_image_is_an_error_for_people(tmp_path: Path) -> None:
    path = make(tmp_path)
    with Images() as images:
        image = images.open(path)
        for number in range(3):
            image.write(number * CLUSTER_BYTES, bytes([number + 1]) * CLUSTER_BYTES)
            snapshot_with_state(image, f"s{number}", bytes(100_000))
    sound = path.read_bytes()
    rng = random.Random(20_170_101)
    errors = 0
    for _ in range(60):
        damaged = bytearray(sound)
        for _ in range(rng.choice([1, 20, 400])):
            at = rng.randrange(16, min(len(sound), rng.choice([200, 1 << 15, len(sound)])))
            damaged[at] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(sound), rng.randrange(512, len(sound))])])
        try:
            with Images() as images:
                image = images.open(path)
                for snapshot in image.snapshots():
                    for _ in image.read_state(snapshot):
                        pass
                    image.goto_snapshot(snapshot)
                    image.read(0, image.size_bytes % (1 << 20))
                image.create_snapshot("more", date_ns=0)
                image.delete_snapshot(image.snapshots()[0])
        except ImageError:
            errors += 1
    assert errors > 10


def test_a_raw_image_is_a_plain_file_without_snapshots(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(1024))
    image = images.open_raw(path)
    image.write(512, b"x" * 512)
    image.flush()
    assert path.read_bytes() == bytes(512) + b"x" * 512
    assert image.read(511, 2) == b"\0x"
    assert not image.can_snapshot
    with pytest.raises(ImageError):
        image.write(513, bytes(512))
    with pytest.raises(ImageError, match='Failed to get "write" lock'):
        images.open_raw(path)
    with pytest.raises(ImageError, match='Failed to get shared "write" lock'):
        images.open_raw(path, read_only=True)
    with pytest.raises(ImageError, match="No such file or directory"):
        images.open_raw(tmp_path / "none")


SAVING = """
import sys, itertools
from pathlib import Path
from testbed.model.snapshots.images import Images
with Images() as images:
    a, b = (images.open(Path(path)) for path in sys.argv[1:3])
    print("open", flush=True)
    for number in itertools.count(int(sys.argv[3])):
        stamp = b"%08d" % number
        a.write(0, stamp)
        b.write(70_000, stamp)
        with a.store.transaction():
            for image in (a, b):
                for snapshot in image.snapshots():
                    image.delete_snapshot(snapshot)
            state = a.write_state(stamp * 9_000 for _ in range(40))
            a.create_snapshot("x", date_ns=number, state=state)
            b.create_snapshot("x", date_ns=number)
        print(number, flush=True)
"""


def test_a_killed_process_leaves_the_old_or_the_new_snapshot_in_all_images(tmp_path: Path) -> None:
    seed = int(os.environ.get("TESTBED_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    sys.stdout.write(f"TESTBED_SEED={seed}\n")
    rng = random.Random(seed)
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    with Images() as images:
        for path in (a, b):
            images.open(path).create_snapshot("x", date_ns=0)
    last = 0
    for _ in range(20):
        with python(SAVING, str(a), str(b), str(last + 1)) as saver:
            assert saver.stdout is not None
            assert saver.stdout.readline() == b"open\n"
            try:
                saver.wait(rng.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                saver.kill()
            said = [last, *map(int, saver.stdout.read().split())]
        with Images() as images:
            order = rng.sample([a, b], 2)
            opened = {path: images.open(path) for path in order}
            ((in_a,), (in_b,)) = opened[a].snapshots(), opened[b].snapshots()
            assert in_a.date_ns == in_b.date_ns, seed
            assert in_a.date_ns in (said[-1], said[-1] + 1), seed
            last, stamp = in_a.date_ns, b"%08d" % in_a.date_ns
            if last:
                assert b"".join(opened[a].read_state(in_a)) == stamp * 9_000 * 40
                for path, snapshot, offset in ((a, in_a, 0), (b, in_b, 70_000)):
                    opened[path].goto_snapshot(snapshot)
                    assert opened[path].read(offset, 8) == stamp
    assert last >= 3, "the saver was killed before it could save"


def test_a_reader_undoes_what_a_killed_process_left_undone(tmp_path: Path) -> None:
    path = make(tmp_path)
    with Images() as images:
        images.open(path).create_snapshot("old", date_ns=0)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from testbed.model.snapshots.images import Images\n"
        "image = Images().open(Path(sys.argv[1]))\n"
        "with image.store.transaction():\n"
        "    image.delete_snapshot(image.snapshots()[0])\n"
        "    image.write_state(bytes(1 << 20) for _ in range(32))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with python(script, str(path)) as killed:
        assert killed.wait() == -9
    assert path.stat().st_size > 1 << 20, "nothing of it was in the file yet: a weak test"
    with Images() as images:
        assert names(images.open(path, read_only=True)) == ["old"]


def outlived_journal(super_journal: Path) -> bytes:
    """What a process leaves that is killed right after a commit to several files.

    Source: https://sqlite.org/fileformat2.html#the_rollback_journal; SQLite's `src/pager.c`,
    `writeSuperJournal`.
    """
    name = os.fsencode(super_journal)
    header = bytes.fromhex("d9d505f920a163d7").ljust(512, b"\0")
    pending_byte_page = (1 << 30) // (1 << 15) + 1
    tail = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big") + header[:8]
    return header + pending_byte_page.to_bytes(4, "big") + name + tail


def test_a_reader_is_not_kept_out_by_the_journal_of_what_was_committed(tmp_path: Path) -> None:
    path = make(tmp_path)
    with Images() as images:
        images.open(path).create_snapshot("new", date_ns=0)
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(outlived_journal(tmp_path / "a.img-mj0123456789"))
    with Images() as images:
        assert names(images.open(path, read_only=True)) == ["new"]
    assert not journal.exists()


class AgainstADict(RuleBasedStateMachine):
    """An image of four clusters behaves as a bytearray and a list of copies of it."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = make(Path(self.folder.name))
        self.images = Images()
        self.image = self.images.open(self.path)
        self.disk = bytearray(DISK_BYTES)
        self.saved: dict[str, tuple[str, bytes, bytes]] = {}

    @rule(sector=st.integers(0, DISK_BYTES // 512 - 300), count=st.integers(1, 300), of=st.binary())
    def write(self, sector: int, count: int, of: bytes) -> None:
        data = (of + b"-")[:1] * (512 * count)
        self.image.write(512 * sector, data)
        self.disk[512 * sector : 512 * sector + len(data)] = data

    @rule(name=st.sampled_from(["a", "b", "1"]), state=st.binary(max_size=5))
    def save(self, name: str, state: bytes) -> None:
        with self.image.store.transaction():
            made = self.image.create_snapshot(
                name, date_ns=0, state=self.image.write_state([state]) if state else None
            )
        assert made.id == str(max(map(int, self.saved), default=0) + 1)
        self.saved[made.id] = (name, bytes(self.disk), state)

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def go_to(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(self.image.snapshots()))
        self.image.goto_snapshot(snapshot)
        self.disk = bytearray(self.saved[snapshot.id][1])

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(self.image.snapshots()))
        self.image.delete_snapshot(snapshot)
        del self.saved[snapshot.id]

    @rule(name=st.sampled_from(["a", "b"]))
    def fail_in_a_transaction(self, name: str) -> None:
        try:
            with self.image.store.transaction():
                for snapshot in self.image.snapshots():
                    self.image.delete_snapshot(snapshot)
                state = self.image.write_state([b"half"])
                self.image.create_snapshot(name, date_ns=0, state=state)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    @rule()
    def open_again(self) -> None:
        self.images.close()
        self.image = self.images.open(self.path)

    @invariant()
    def they_agree(self) -> None:
        assert self.image.read(0, DISK_BYTES) == self.disk
        assert {
            snapshot.id: (snapshot.name, b"".join(self.image.read_state(snapshot)))
            for snapshot in self.image.snapshots()
        } == {number: (name, state) for number, (name, _, state) in self.saved.items()}

    def teardown(self) -> None:
        self.images.close()
        self.folder.cleanup()


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@contextmanager
def python(script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python of its own, which is gone when the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def folder_of_root() -> Iterator[Path]:
    """A folder that somebody else can look into, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
