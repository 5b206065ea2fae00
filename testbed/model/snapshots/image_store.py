"""One SQLite connection for the image files of a process, and what fails in them, in QEMU's words.

Why one: SQLite commits a transaction over attached files as one, with a super-journal beside the
first of them, as long as each has a rollback journal (https://sqlite.org/atomiccommit.html,
"Multi-file Commit"). After a `kill -9` at any moment, or a power cut, each file is as it was before
the transaction, or each as it is after it, however many of them are opened next, and in whatever
order. Until then a file, its `-journal` and the first one's `-mj...` belong together, where they
are; an empty or outlived one may stay behind and does no harm.

Locks are SQLite's own, held from opening to closing.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from .image_error import ImageError

IMAGES_MAX = 11
"""The first one and SQLite's `SQLITE_MAX_ATTACHED`, of which 10 is the default."""

_APPLICATION_ID = 0x54424449  # "TBDI", at offset 68 of the file
_FILE_VERSION = 1
_PAGE_BYTES = 1 << 15
_CACHE_KIB = 8192  # per file; what does not fit goes to the file before the commit

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EAGAIN,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
# The sqlite3 module cannot say what is wrong where the words of a damaged file are no UTF-8.
_FAILED = (sqlite3.Error, UnicodeDecodeError)
_NOT_OURS = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


class Store:
    """Image files, each as a schema of one connection; what changes them is a transaction."""

    def __init__(self, *, read_only: bool) -> None:
        """No file yet."""
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._schemas: dict[str, Path] = {}
        self._inside = False

    @property
    def in_transaction(self) -> bool:
        """A block of `transaction` is being run."""
        return self._inside

    def attach(self, path: Path) -> str:
        """Open and lock the file at `path`; return the name of its schema.

        Raises:
            ImageError: see there. The files that are open stay so.
        """
        _check_file(path, read_only=self._read_only)
        if len(self._schemas) == IMAGES_MAX:
            raise ImageError(errno.EMFILE, f"Could not open '{path}': {IMAGES_MAX} are open")
        self.flush()
        if self._read_only and _has_journal(path):
            _recover(path)
        schema = f"image{len(self._schemas)}" if self._connection else "main"
        try:
            self._open(path, schema)
        except _FAILED as error:
            if schema in self._schemas:
                self.detach(schema)
            raise _of_opening(error, path, read_only=self._read_only) from error
        return schema

    def detach(self, schema: str) -> None:
        """Forget a file that was attached last, because it turned out not to be usable."""
        del self._schemas[schema]
        if schema == "main":
            connection, self._connection = self._connection, None
            assert connection is not None
            connection.close()
        else:
            self.do(f"DETACH {schema}")

    def begin(self) -> None:
        """What follows is in the files after `flush`, and not before."""
        assert self._connection is not None
        if not self._connection.in_transaction:
            self.do("BEGIN IMMEDIATE")

    def flush(self) -> None:
        """Commit what was begun."""
        assert not self._inside, "a block of transaction ends as a whole"
        self._commit()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What the block does to any of the files is done to all, or, if it raises, to none.

        A block inside a block is part of it. What was written before is committed first.
        """
        if self._inside:
            yield
            return
        self.flush()
        self.begin()
        self._inside = True
        try:
            yield
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._inside = False

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """All rows that `statement` finds; raises `ImageError`."""
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).fetchall()
        except _FAILED as error:
            raise _of_use(error) from error

    def do(self, statement: str, *values: object) -> int:
        """Execute `statement`; return the row id that was inserted; raises `ImageError`."""
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).lastrowid or 0
        except _FAILED as error:
            raise _of_use(error) from error

    def close(self) -> None:
        """Commit and release all; raises `ImageError`, and has released all even then."""
        if self._connection is None:
            return
        try:
            self.flush()
        finally:
            self._connection.close()
            self._connection = None
            self._schemas.clear()

    def _open(self, path: Path, schema: str) -> None:
        uri = _uri(path, "ro" if self._read_only else "rw")
        if schema == "main":
            self._connection = sqlite3.connect(
                uri,
                uri=True,
                isolation_level=None,
                timeout=0,
                check_same_thread=False,
                # A BEGIN that was prepared before an ATTACH does not lock the file attached.
                cached_statements=0,
            )
        else:
            assert self._connection is not None
            self._connection.execute(f"ATTACH ? AS {schema}", (uri,))
        assert self._connection is not None
        self._schemas[schema] = path
        ask = self._connection.execute
        ask(f"PRAGMA {schema}.locking_mode = EXCLUSIVE")
        ask(f"PRAGMA {schema}.cache_size = {-_CACHE_KIB}")
        # Zeros over what was deleted would be written twice, to the journal and to the file.
        ask(f"PRAGMA {schema}.secure_delete = OFF")
        if not self._read_only:
            ask("BEGIN EXCLUSIVE")
            ask("COMMIT")
        found = tuple(
            ask(f"PRAGMA {schema}.{name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if found != (_APPLICATION_ID, _FILE_VERSION):
            self.detach(schema)
            raise ImageError.not_ours()
        if not self._read_only:
            ask(f"PRAGMA {schema}.synchronous = FULL")
            # A file in WAL mode would commit on its own.
            (mode,) = ask(f"PRAGMA {schema}.journal_mode = TRUNCATE").fetchone()
            assert mode == "truncate"

    def _commit(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("COMMIT")
            except _FAILED as error:
                self._roll_back()
                raise _of_use(error) from error

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors.
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()


def create_file(path: Path, schema: Sequence[str], insert: str, *values: object) -> None:
    """Make a file of ours with the tables of `schema` and a first row, all of it or none.

    Raises:
        ImageError: something is there already, or the folder cannot be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except OSError as error:
        number = error.errno or errno.EIO
        raise ImageError(number, f"Could not create '{path}': {os.strerror(number)}") from error
    connection = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_FILE_VERSION}")
        for statement in schema:
            connection.execute(statement)
        connection.execute(insert, values)
        connection.execute("COMMIT")
    except _FAILED as error:
        path.unlink(missing_ok=True)
        number = _of_use(error).number
        raise ImageError(number, f"Could not create '{path}': {os.strerror(number)}") from error
    finally:
        connection.close()


def _check_file(path: Path, *, read_only: bool) -> None:
    """Refuse what SQLite would not name, or not refuse: without opening the file.

    Closing a descriptor of the file would release the locks that this process has on it.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        raise ImageError.not_opened(path, number or errno.EINVAL) from error
    if not stat.S_ISREG(status.st_mode):
        text = f"'file' driver requires '{path}' to be a regular file"
        raise ImageError(errno.EINVAL, text)
    # SQLite opens what may not be written for reading only, and says so with the first write.
    if not os.access(path, os.R_OK | (0 if read_only else os.W_OK), effective_ids=True):
        raise ImageError.not_opened(path, errno.EACCES)
    if not read_only and not os.access(path.absolute().parent, os.W_OK, effective_ids=True):
        why = f"its folder must be writable, for the journal: {os.strerror(errno.EACCES)}"
        raise ImageError(errno.EACCES, f"Could not open '{path}': {why}")
    if status.st_size == 0:
        raise ImageError.not_ours()


def _has_journal(path: Path) -> bool:
    try:
        return path.with_name(f"{path.name}-journal").stat().st_size > 0
    except OSError:
        return False


def _recover(path: Path) -> None:
    """Undo what a killed process left undone: a reader may not, and could not read.

    With a connection of its own, whose locks end with what it does: an exclusive one leaves a
    journal as it is whose super-journal is gone, because all was committed.
    """
    _check_file(path, read_only=False)
    connection = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None, timeout=0)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except _FAILED as error:
        raise _of_opening(error, path, read_only=True) from error
    finally:
        connection.close()


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"


def _of_opening(error: Exception, path: Path, *, read_only: bool) -> ImageError:
    """What SQLite says of a file that it cannot open."""
    code = _primary_code(error)
    if code == sqlite3.SQLITE_BUSY:
        return ImageError.in_use(path, read_only=read_only)
    if code in _NOT_OURS:
        return ImageError.not_ours()
    if code == sqlite3.SQLITE_CORRUPT:
        return ImageError.corrupt(path)
    return ImageError.not_opened(path, _of_use(error).number)


def _of_use(error: Exception) -> ImageError:
    """What SQLite says of a file that was open; all that is not known is an I/O error."""
    return ImageError(_ERRNO.get(_primary_code(error), errno.EIO))


def _primary_code(error: Exception) -> int:
    # What the sqlite3 module finds by itself, such as text that is not UTF-8, has no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
