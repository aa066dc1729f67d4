"""The ledger in a SQLite file. Reads run side by side; writes are committed in groups.

SQLite allows one writer at a time, and several that compete for its lock starve each other. So the
threads of a process queue their writes, one of them commits for all (group commit), and processes
take turns with a file lock.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from receiver import data_dir, failpoints
from receiver.errors import LedgerError
from receiver.ledger.database_errors import translated_errors
from receiver.ledger.group_commit import (
    WRITE_TIMEOUT,
    Batch,
    GroupCommit,
    QueuedWrite,
    by_batch,
    run_many,
)
from receiver.ledger.notifications import take_noted
from receiver.ledger.waiting import blocking

log = structlog.get_logger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")


class SqliteDatabase:
    """A SQLite file in WAL mode, ``synchronous=FULL``: a commit is on disk before it returns.

    After a commit ``notified`` is called with the name of each work queue that it fed; the worker
    sets it.
    """

    def __init__(self, path: Path) -> None:
        self.notified: Callable[[str], None] = lambda _name: None
        self._reader, self._writer = _engine(path), _engine(path)
        self._writing: Connection | None = None
        # A connection that is closed while another thread uses it ends the process. The lock is
        # reentrant, because a signal handler may close.
        self._in_use = threading.RLock()
        self._lock_path = path.with_name(path.name + ".lock")
        self._open_mark = _OpenMark(path)
        self._group_commit = GroupCommit(self._commit)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a snapshot; writers do not disturb it."""
        return blocking(partial(self._read, work))

    def _read(self, work: Callable[[Connection], T]) -> T:
        self._open_mark.set()
        with translated_errors(), self._reader.connect() as connection:
            driver: Any = connection.connection
            driver.cursor().execute("BEGIN")  # the pool rolls back
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Queue ``work``. The next leader runs all queued writes in one transaction."""
        return self._group_commit.run(QueuedWrite(work))

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        """Queue an item of a batch. The next leader handles all queued items together."""
        return self._group_commit.run(QueuedWrite.of(batch, item))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        with self._in_use:
            self._forget_connection()
        self._writer.dispose()
        self._open_mark.clear()

    def _commit(self, next_group: Callable[[], list[QueuedWrite[Any]]]) -> None:
        """Run and commit one group of writes, taken from the queue after the file lock is ours."""
        group: list[QueuedWrite[Any]] = []
        failure: LedgerError | None = LedgerError("the write was interrupted")
        try:
            self._open_mark.set()
            with (
                translated_errors(),
                data_dir.locked(self._lock_path),
                self._in_use,
                self._transaction() as connection,
            ):
                take_noted(connection)
                group += next_group()
                for writes in by_batch(group):
                    _run(connection, writes)
                names = take_noted(connection)
                failpoints.reached(failpoints.Point.BEFORE_COMMIT)
            failpoints.reached(failpoints.Point.AFTER_COMMIT)
            failure = None
            for name in names:
                self.notified(name)
        except LedgerError as error:
            failure = error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            failure = LedgerError(f"the ledger cannot be written now: {error}")
        finally:
            for write in group or next_group():
                write.finish(failure)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Commit the block. There is one leader at a time, and it always has the same connection.

        Taking a connection from the pool and returning it costs as much as the statements of a
        group.
        """
        connection = self._writing = self._writing or self._writer.connect()
        driver: Any = connection.connection
        try:
            driver.cursor().execute("BEGIN IMMEDIATE")
            yield connection
            # SQLAlchemy knows of the transaction if one of its own statements has run in it.
            (connection if connection.in_transaction() else driver).commit()
        except BaseException:
            self._forget_connection()  # which rolls back
            raise

    def _forget_connection(self) -> None:
        """Close the writer's connection and its file, so that it holds no lock any more."""
        connection, self._writing = self._writing, None
        if connection is None:
            return
        # SQLAlchemy treats a failed commit as the end of the transaction. In SQLite the transaction
        # goes on, and no process could write meanwhile.
        with suppress(SQLAlchemyError, sqlite3.Error):
            connection.connection.rollback()
        connection.invalidate()
        connection.close()


def _run(connection: Connection, writes: list[QueuedWrite[Any]]) -> None:
    """Run the writes of one batch together, then one by one those that it left."""
    with _savepoint(connection) as failed:
        run_many(connection, writes)
    if failed:
        log.warning("batch failed, its writes run one by one", error=repr(failed[0]))
    for write in writes:
        if failed or not write.ran:
            with _savepoint(connection) as write_failed:
                write.succeed(write.alone(connection))
            write.error = write_failed[0] if write_failed else None


@contextmanager
def _savepoint(connection: Connection) -> Iterator[list[Exception]]:
    """Undo the block if it fails, so that the rest of the group is not affected; give its error."""
    failed: list[Exception] = []
    # The same as begin_nested at a tenth of the cost; the whole group waits for it.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("SAVEPOINT one")
    try:
        yield failed
    except Exception as error:  # noqa: BLE001 - raised again in the thread that queued the work
        failed.append(error)
        _require_transaction(driver)
        driver.execute("ROLLBACK TO one")
    driver.execute("RELEASE one")
    _require_transaction(driver)


def _require_transaction(driver: Any) -> None:
    """Raise LedgerError if SQLite has rolled the transaction back by itself.

    It does so on a full disk or an I/O error. A commit after that does nothing and reports no
    error.
    """
    if not driver.in_transaction:
        raise LedgerError("the ledger rolled its transaction back (disk full, or an I/O error)")


class _OpenMark:
    """A shared lock on a file beside the ledger, held while we have connections; see ``is_open``.

    It is not on the ledger itself: closing any descriptor of that file would drop the locks that
    SQLite holds on it in this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._mutex = threading.Lock()

    def set(self) -> None:
        """Take the lock if we do not have it.

        An OSError (full disk, read-only folder) is ignored, because reading is still possible; the
        next call tries again.
        """
        if self._descriptor is not None:
            return
        with self._mutex, suppress(OSError):
            if self._descriptor is None:
                self._descriptor = _lock_shared(_mark_path(self._path))

    def clear(self) -> None:
        """Release the lock."""
        with self._mutex:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def is_open(path: Path) -> bool:
    """Return whether any process, including this one, has the SQLite ledger at ``path`` open.

    Raise LedgerError if that cannot be found out.
    """
    try:
        # Not created here: the service could not use a file that another user created.
        with _mark_path(path).open("r+b") as file:
            return not data_dir.try_lock(file)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LedgerError(
            f"cannot find out whether the ledger is in use ({error}): "
            "run this as the service's user"
        ) from error


def _mark_path(path: Path) -> Path:
    # Resolved, so that it is the same file through every symbolic link.
    path = path.resolve()
    return path.with_name(path.name + ".open")


def _lock_shared(path: Path) -> int:
    descriptor = data_dir.open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        # May block briefly while ``is_open`` probes with an exclusive lock.
        data_dir.lock_shared(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sqlite_address(path: Path) -> URL:
    """Return the SQLAlchemy address of a SQLite file; its path may contain any characters."""
    return URL.create("sqlite", database=str(path))


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL mode; wait while another process does the same.

    SQLite's busy timeout does not cover this lock, and two first commands may both want it.
    """
    deadline = time.monotonic() + WRITE_TIMEOUT / 2
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _engine(path: Path) -> Engine:
    # Autocommit at the driver (isolation_level None): we decide when and how transactions begin.
    engine = create_engine(
        sqlite_address(path),
        connect_args={"isolation_level": None, "timeout": WRITE_TIMEOUT / 2},
        pool_timeout=WRITE_TIMEOUT,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        _enable_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine
