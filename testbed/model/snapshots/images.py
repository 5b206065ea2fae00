"""Disk image files of the model's own: contents, snapshots and vm state, each a SQLite file.

What QEMU keeps in a qcow2 file: clusters that views share until one of them is written (view 0 is
what the guest sees, each snapshot is another), a table of snapshots, and the state of the machine
in pieces beside it. A raw image is a plain file and knows no snapshots. The images of a process
that can be written are one SQLite connection (`image_store`), so that a transaction is of all of
them or of none of them.

Source of the behaviour: QEMU `block/qcow2-snapshot.c`, `block/snapshot.c`, `block/file-posix.c`,
`docs/interop/qcow2.txt`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from .image_error import ImageError
from .raw_image import RawImage, check_range

if TYPE_CHECKING:
    from .image_store import Store

SECTOR_BYTES = 512
CLUSTER_BYTES = 1 << 16
"""What is shared between views, as in qcow2."""
STATE_PIECE_BYTES = 1 << 18
"""A row of vm state: what saving and loading hold in memory at a time."""
SNAPSHOTS_MAX = 65536
"""`QCOW_MAX_SNAPSHOTS`."""
NAME_BYTES_MAX = 255
"""`QEMUSnapshotInfo.name` has 256 bytes, one of them the NUL."""

_NUMBER_MAX = 1 << 62  # SQLite's integers have 63 bits and a sign
_ACTIVE = 0  # the view that the guest reads and writes
_SCHEMA = (
    "CREATE TABLE image (size_bytes INTEGER NOT NULL) STRICT",
    # `view` counts on and is never used twice in one list; `id` is what QEMU shows.
    "CREATE TABLE snapshot (view INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE,"
    " name TEXT NOT NULL, vm_state_bytes INTEGER NOT NULL, date_ns INTEGER NOT NULL,"
    " vm_clock_ns INTEGER NOT NULL, icount INTEGER) STRICT",
    "CREATE TABLE cluster (cluster INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT",
    "CREATE TABLE mapping (view INTEGER, number INTEGER, cluster INTEGER NOT NULL,"
    " PRIMARY KEY (view, number)) STRICT, WITHOUT ROWID",
    "CREATE INDEX mapping_of_cluster ON mapping (cluster)",
    "CREATE TABLE state (view INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,"
    " UNIQUE (view, number)) STRICT",
)


class Snapshot(NamedTuple):
    """`QEMUSnapshotInfo`."""

    view: int  # of the file; no user sees it
    id: str  # a decimal number, unique in its image
    name: str  # the tag; several may have the same
    vm_state_bytes: int  # 0: of the disk only
    date_ns: int  # since the epoch
    vm_clock_ns: int
    icount: int | None  # None: the machine does not count instructions


class State(NamedTuple):
    """A machine's state that was written and belongs to no snapshot yet."""

    view: int
    size_bytes: int


class Image:
    """An image that can hold snapshots. Every method raises `ImageError`.

    What is written reaches the file with `flush`, with `Images.close`, or with the next change of
    the snapshots, as with a disk that has a write cache; it reaches it whole or not at all.
    """

    def __init__(self, store: Store, path: Path, *, read_only: bool) -> None:
        """Add the file at `path` to `store`."""
        self.path = path
        self.read_only = read_only
        self.store = store
        self._schema = store.attach(path)
        try:
            self.size_bytes = self._number("SELECT size_bytes FROM {}.image LIMIT 1")
            self.snapshots()
        except ImageError as error:
            store.detach(self._schema)
            raise ImageError.corrupt(path) from error

    @property
    def can_snapshot(self) -> bool:
        """`bdrv_can_snapshot`: a writable image of a format that has them."""
        return not self.read_only

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What the guest reads: what was written there last, or zeros."""
        check_range(self.size_bytes, offset_bytes, length_bytes)
        parts = []
        for number, start, length in _clusters(offset_bytes, length_bytes):
            parts.append(self._cluster(number)[start : start + length])
        return b"".join(parts)

    def write(self, offset_bytes: int, data: bytes) -> None:
        """What the guest writes; a cluster that a snapshot shares is copied first."""
        check_range(self.size_bytes, offset_bytes, len(data))
        if self.read_only:
            raise ImageError(errno.EPERM)
        self.store.begin()
        done = 0
        for number, start, length in _clusters(offset_bytes, len(data)):
            cluster = data[done : done + length]
            if length < CLUSTER_BYTES:
                old = self._cluster(number)
                cluster = old[:start] + cluster + old[start + length :]
            self._put_cluster(number, cluster)
            done += length

    def flush(self) -> None:
        """What was written to any image of the store is in its file when this returns."""
        self.store.flush()

    def snapshots(self) -> list[Snapshot]:
        """`bdrv_snapshot_list`: the oldest first."""
        rows = self._rows(
            "SELECT view, id, name, vm_state_bytes, date_ns, vm_clock_ns, icount"
            " FROM {}.snapshot ORDER BY view LIMIT ?",
            SNAPSHOTS_MAX,
        )
        return [self._snapshot(*row) for row in rows]

    def write_state(self, pieces: Iterable[bytes]) -> State:
        """Write a machine's state, for `create_snapshot` in the same transaction.

        Args:
            pieces: of any size; no more than a piece and `STATE_PIECE_BYTES` are held at a time.
        """
        assert self.store.in_transaction, "state without a snapshot would stay in the file"
        view = self._new_view()
        size = 0
        for number, data in enumerate(_of_equal_size(pieces)):
            self._do("INSERT INTO {}.state VALUES (?, ?, ?)", view, number, data)
            size += len(data)
        return State(view, size)

    def read_state(self, snapshot: Snapshot) -> Iterator[bytes]:
        """The state that `snapshot` was made with, in pieces."""
        number = 0
        while rows := list(
            self._rows(
                "SELECT data FROM {}.state WHERE view = ? AND number = ?", snapshot.view, number
            )
        ):
            data = rows[0][0]
            if not isinstance(data, bytes):
                raise ImageError.corrupt(self.path)
            yield data
            number += 1

    def create_snapshot(
        self,
        name: str,
        *,
        date_ns: int,
        vm_clock_ns: int = 0,
        icount: int | None = None,
        state: State | None = None,
    ) -> Snapshot:
        """`bdrv_snapshot_create`: keep the contents as they are now.

        The id is the highest one plus 1; a name is cut to `NAME_BYTES_MAX`. Without `state` the
        snapshot is of the disk only.
        """
        self._check_writable()
        with self.store.transaction():
            present = self.snapshots()
            if len(present) >= SNAPSHOTS_MAX:
                raise ImageError(errno.EFBIG)
            made = Snapshot(
                view=self._new_view() if state is None else state.view,
                id=str(max((int(snapshot.id) for snapshot in present), default=0) + 1),
                name=name.encode(errors="replace")[:NAME_BYTES_MAX].decode(errors="replace"),
                vm_state_bytes=0 if state is None else state.size_bytes,
                date_ns=date_ns,
                vm_clock_ns=vm_clock_ns,
                icount=icount,
            )
            self._do(
                "INSERT INTO {}.snapshot VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(made.view, int(made.id), made.name, made.vm_state_bytes),
                *(made.date_ns, made.vm_clock_ns, made.icount),
            )
            self._copy_view(_ACTIVE, made.view)
        return made

    def delete_snapshot(self, snapshot: Snapshot) -> None:
        """`bdrv_snapshot_delete`: with its state, and with what only it kept of the contents."""
        self._check_writable()
        with self.store.transaction():
            self._do("DELETE FROM {}.snapshot WHERE view = ?", snapshot.view)
            self._do("DELETE FROM {}.state WHERE view = ?", snapshot.view)
            self._drop_view(snapshot.view)

    def goto_snapshot(self, snapshot: Snapshot) -> None:
        """`bdrv_snapshot_goto`: the contents are what they were when it was made."""
        self._check_writable()
        with self.store.transaction():
            self._drop_view(_ACTIVE)
            self._copy_view(snapshot.view, _ACTIVE)

    def _check_writable(self) -> None:
        if self.read_only:
            raise ImageError(errno.ENOTSUP)

    def _snapshot(self, *row: object) -> Snapshot:
        match row:
            case (
                int() as view,
                int() as number,
                str() as name,
                int() as vm_state_bytes,
                int() as date_ns,
                int() as vm_clock_ns,
                int() | None as icount,
            ) if 0 < number <= _NUMBER_MAX and _ACTIVE < view <= _NUMBER_MAX:
                return Snapshot(
                    view, str(number), name, vm_state_bytes, date_ns, vm_clock_ns, icount
                )
        raise ImageError.corrupt(self.path)

    def _new_view(self) -> int:
        return 1 + self._number(
            "SELECT max((SELECT coalesce(max(view), 0) FROM {0}.snapshot),"
            " (SELECT coalesce(max(view), 0) FROM {0}.state))"
        )

    def _number(self, statement: str) -> int:
        """The one number that a sound image has there."""
        match self._rows(statement):
            case [(int() as number,)] if 0 <= number <= _NUMBER_MAX:
                return number
        raise ImageError.corrupt(self.path)

    def _cluster(self, number: int) -> bytes:
        for (data,) in self._rows(
            "SELECT data FROM {0}.mapping JOIN {0}.cluster USING (cluster)"
            " WHERE view = 0 AND number = ?",
            number,
        ):
            if not isinstance(data, bytes) or len(data) != CLUSTER_BYTES:
                raise ImageError.corrupt(self.path)
            return data
        return bytes(CLUSTER_BYTES)

    def _put_cluster(self, number: int, data: bytes) -> None:
        self._do(
            "DELETE FROM {0}.cluster WHERE cluster ="
            " (SELECT cluster FROM {0}.mapping WHERE view = 0 AND number = ?1)"
            " AND 1 = (SELECT count(*) FROM {0}.mapping AS other"
            " WHERE other.cluster = {0}.cluster.cluster)",
            number,
        )
        cluster = self._do("INSERT INTO {}.cluster (data) VALUES (?)", data)
        self._do("INSERT OR REPLACE INTO {}.mapping VALUES (0, ?, ?)", number, cluster)

    def _copy_view(self, old: int, new: int) -> None:
        self._do(
            "INSERT INTO {0}.mapping SELECT ?, number, cluster FROM {0}.mapping WHERE view = ?",
            new,
            old,
        )

    def _drop_view(self, view: int) -> None:
        """Forget a view, and the clusters that no other one has."""
        self._do(
            "DELETE FROM {0}.cluster WHERE cluster IN"
            " (SELECT cluster FROM {0}.mapping WHERE view = ?1) AND NOT EXISTS"
            " (SELECT 1 FROM {0}.mapping AS other"
            " WHERE other.cluster = {0}.cluster.cluster AND other.view <> ?1)",
            view,
        )
        self._do("DELETE FROM {}.mapping WHERE view = ?", view)

    def _rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        return self.store.rows(statement.format(self._schema), *values)

    def _do(self, statement: str, *values: object) -> int:
        return self.store.do(statement.format(self._schema), *values)


class Images:
    """The disk images of a process: what opens them, holds their locks and closes them.

    At most `image_store.IMAGES_MAX` can be writable. A file that is open writable cannot be opened
    by anybody else; read-only ones are shared. Everything is used by one thread at a time.
    """

    def __init__(self) -> None:
        """No images yet."""
        self._stack = ExitStack()
        self._writable: Store | None = None

    def open(self, path: Path, *, read_only: bool = False) -> Image:
        """Open an image that `create` made; what a killed process left undone is undone.

        Raises:
            ImageError: it is not there, not ours, damaged, in use, or may not be written.
        """
        if read_only:
            return Image(self._new_store(read_only=True), path, read_only=True)
        if self._writable is None:
            self._writable = self._new_store(read_only=False)
        return Image(self._writable, path, read_only=False)

    def open_raw(self, path: Path, *, read_only: bool = False) -> RawImage:
        """Open a plain file as an image; raises `ImageError`."""
        image = RawImage(path, read_only=read_only)
        self._stack.callback(image.close)
        return image

    def close(self) -> None:
        """Write what is left to write, and release all; raises `ImageError`."""
        self._writable = None
        self._stack.close()

    def __enter__(self) -> Self:
        """Leaving the block closes them."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See `close`."""
        self.close()

    def _new_store(self, *, read_only: bool) -> Store:
        from .image_store import Store  # sqlite3 is imported where there is an image

        store = Store(read_only=read_only)
        self._stack.callback(store.close)
        return store


def create(path: Path, size_bytes: int) -> None:
    """Make an image of zeros at `path`, where nothing may be yet; raises `ImageError`.

    Args:
        path: of the new file. Its folder must stay writable: the journal is beside the image.
        size_bytes: of the disk; rounded up to whole sectors.
    """
    from .image_store import create_file

    assert size_bytes >= 0
    sectors = -(-size_bytes // SECTOR_BYTES)
    create_file(path, _SCHEMA, "INSERT INTO image VALUES (?)", sectors * SECTOR_BYTES)


def _clusters(offset_bytes: int, length_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Cut a range at the clusters: the number of each, and the start and length inside it."""
    end = offset_bytes + length_bytes
    while offset_bytes < end:
        number, start = divmod(offset_bytes, CLUSTER_BYTES)
        length = min(CLUSTER_BYTES - start, end - offset_bytes)
        yield number, start, length
        offset_bytes += length


def _of_equal_size(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `STATE_PIECE_BYTES`, the last one shorter."""
    held = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), STATE_PIECE_BYTES):
            held += piece[start : start + STATE_PIECE_BYTES]
            if len(held) >= STATE_PIECE_BYTES:
                yield bytes(held[:STATE_PIECE_BYTES])
                del held[:STATE_PIECE_BYTES]
    if held:
        yield bytes(held)
