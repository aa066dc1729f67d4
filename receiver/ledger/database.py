"""Connections to the ledger: reads run side by side, writes are durable when they return.

The two databases differ here and nowhere else. SQLite takes one writer at a time, and several that fight for its lock starve each other,
so writes queue up: the threads of a process behind one leader, who commits for all of them (group commit), and the processes behind a
file lock. PostgreSQL takes many writers and needs none of this.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from receiver import failpoints
from receiver.errors import LedgerError

T = TypeVar("T")
Work = Callable[[Connection], T]

# Seconds a writer waits for its turn before it says so; a callback is then answered 503 and comes again.
WRITE_PATIENCE = 10.0
# PostgreSQL ends what nobody waits for any more: it must not go on with a statement, wait for a lock, or hold one for a machine that was
# cut off in the midst of a transaction. What stands in DATABASE_URL wins.
_SESSION = (
    "-c statement_timeout=60s -c lock_timeout=8s -c idle_in_transaction_session_timeout=10s"
    # Otherwise connections of machines that lost their power count against max_connections for two hours.
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
# And we do not wait for a server that is gone without a word; its system would let us wait for a quarter of an hour.
_CONNECTION = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# Connections of a process at most, half of them kept. A transaction takes milliseconds, so they serve more hands than there are.
_CONNECTIONS = 16
# Times a transaction is begun that another one, or a server that went away, has undone before its commit.
_BEGINNINGS = 3
_DEADLOCK = ("40P01", "40001")
# A table, a column, a function, a type, a schema or a right that is missing: no mistake in a statement of ours, but a ledger that is being
# put back in order.
_UNREADY = ("42P01", "42703", "42883", "42704", "3F000", "42501")
# Writes that share one commit. More would only lengthen the wait of the first.
GROUP_SIZE = 64


class Database(Protocol):
    """What the ledger needs of a database."""

    def read(self, work: Work[T]) -> T:
        """Run ``work`` on a connection for reading; raise LedgerError if the database cannot answer."""

    def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction and return its value once it is durable; raise LedgerError if it may not be."""

    def close(self) -> None:
        """Close every connection."""


def open_database(url: str) -> Database:
    """Return the database at a SQLAlchemy ``url``; nothing is connected yet."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(Path(url.removeprefix("sqlite:///")))
    return PostgresDatabase(url)


@contextmanager
def foreign_errors_turned() -> Iterator[None]:
    """Turn what SQLAlchemy raises for an unusable database into LedgerError; broken constraints are our bugs and pass."""
    try:
        yield
    except IntegrityError:
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") not in _UNREADY:
            raise
        raise LedgerError(f"the ledger is not as this release needs it: {error.orig}") from error
    except (PoolTimeoutError, DBAPIError) as error:
        raise LedgerError(
            f"the ledger cannot be used now: {getattr(error, 'orig', error)}"
        ) from error


class PostgresDatabase:
    """A pool of PostgreSQL connections; each write is a transaction of its own, each read a snapshot."""

    def __init__(self, url: str) -> None:
        half = _CONNECTIONS // 2
        address = postgres_address(url)
        self._engine = create_engine(
            address,
            pool_size=half,
            max_overflow=half,
            pool_timeout=WRITE_PATIENCE,
            pool_pre_ping=True,
        )
        # Otherwise each statement of a read would see another moment, and the figures of an audit would not add up.
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    def read(self, work: Work[T]) -> T:
        """Run ``work`` in a snapshot."""
        with foreign_errors_turned(), self._snapshots.connect() as connection:
            return work(connection)

    def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction of its own; again if it was undone, say by one that took a UNIQUE value, which it now can see."""
        with foreign_errors_turned():
            for _ in range(_BEGINNINGS - 1):
                with suppress(_UndoneError):
                    return self._run(work)
            try:
                return self._run(work)
            except _UndoneError as undone:
                raise undone.error from undone

    def _run(self, work: Work[T]) -> T:
        with self._engine.begin() as connection:
            try:
                value = work(connection)
            except (IntegrityError, OperationalError) as error:
                if _is_undone(error):
                    raise _UndoneError(error) from error
                raise
            failpoints.reached(failpoints.Point.BEFORE_COMMIT)
        failpoints.reached(failpoints.Point.AFTER_COMMIT)
        return value

    def close(self) -> None:
        """Close the pool."""
        self._engine.dispose()


class _UndoneError(Exception):
    """A transaction that is undone for certain: it may be begun again."""

    def __init__(self, error: DBAPIError) -> None:
        super().__init__(str(error))
        self.error = error


def _is_undone(error: DBAPIError) -> bool:
    return (
        isinstance(error, IntegrityError)
        or error.connection_invalidated
        or getattr(error.orig, "sqlstate", "") in _DEADLOCK
    )


def postgres_address(url: str) -> URL:
    """Return the address of a PostgreSQL with all that we ask of its connections."""
    address = make_url(url)
    given = address.query.get("options", "")
    options = " ".join([_SESSION, given if isinstance(given, str) else " ".join(given)])
    return address.set(query={**_CONNECTION, **address.query, "options": options})


def conninfo(url: str) -> str:
    """Return the same address in the words of libpq, for whoever connects by psycopg alone."""
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - installed only where PostgreSQL is used

    address = postgres_address(url)
    return make_conninfo(**address.get_dialect()().create_connect_args(address)[1])


class SqliteDatabase:
    """A SQLite file in WAL mode, ``synchronous=FULL``: a commit is on disk before it returns."""

    def __init__(self, path: Path) -> None:
        self._reader = _sqlite_engine(path, begin="BEGIN")
        self._writer = _sqlite_engine(path, begin="BEGIN IMMEDIATE")
        self._lock_path = path.with_name(path.name + ".lock")
        self._mark = _OpenMark(path)
        self._waiting: deque[_Write[Any]] = deque()
        self._leader = threading.Lock()

    def read(self, work: Work[T]) -> T:
        """Run ``work`` in a snapshot; writers do not disturb it."""
        self._mark.set()
        with foreign_errors_turned(), self._reader.begin() as connection:
            return work(connection)

    def write(self, work: Work[T]) -> T:
        """Queue ``work``; whoever leads next runs all that is queued in one transaction, each behind a savepoint."""
        mine = _Write(work)
        self._waiting.append(mine)
        while not mine.settled:
            if self._leader.acquire(blocking=False):
                try:
                    if not mine.settled:
                        self._lead()
                finally:
                    self._leader.release()
                    self._call_next()
            elif not self._wait_for_call(mine) and self._withdraw(mine):
                raise LedgerError(f"the ledger took no write for {WRITE_PATIENCE:.0f} s")
            mine.called.clear()
        return mine.result()

    def _wait_for_call(self, write: "_Write[Any]") -> bool:
        """Sleep until somebody settled the write or it is its turn to lead; False if neither came."""
        try:
            return write.called.wait(WRITE_PATIENCE)
        except BaseException:
            self._withdraw(write)  # an interrupt must not swallow the call
            raise

    def _call_next(self) -> None:
        """Have the one who waits longest lead; the others sleep on. Woken by a lock one after the other, they would lengthen every wait."""
        with suppress(IndexError):  # nobody waits
            self._waiting[0].called.set()

    def _withdraw(self, write: "_Write[Any]") -> bool:
        """Take a write out of the queue, so that it is not done after we said it was not; False where a leader has it already."""
        try:
            self._waiting.remove(write)
        except ValueError:
            return False
        self._call_next()  # the call to lead may have come to this one
        return True

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()
        self._mark.clear()

    def _lead(self) -> None:
        """Commit one group. The queue is emptied only once the file is ours, so that the group is as large as it can be."""
        group: list[_Write[Any]] = []
        failure: LedgerError | None = LedgerError("the write was interrupted")
        try:
            self._mark.set()
            with (
                foreign_errors_turned(),
                _locked(self._lock_path),
                self._writer.begin() as connection,
            ):
                group += self._next_group()
                for write in group:
                    write.run(connection)
                    _still_in_transaction(connection)
                failpoints.reached(failpoints.Point.BEFORE_COMMIT)
            failpoints.reached(failpoints.Point.AFTER_COMMIT)
            failure = None
        except LedgerError as error:
            failure = error
        except (SQLAlchemyError, OSError) as error:
            failure = LedgerError(f"the ledger cannot be written now: {error}")
        finally:
            for write in group or self._next_group():
                write.settle(failure)

    def _next_group(self) -> list["_Write[Any]"]:
        group: list[_Write[Any]] = []
        with suppress(
            IndexError
        ):  # nobody waits any more; counting them first would be wrong, they may withdraw
            while len(group) < GROUP_SIZE:
                group.append(self._waiting.popleft())
        return group


class _Write(Generic[T]):
    """One piece of work waiting for a leader."""

    def __init__(self, work: Work[T]) -> None:
        self.settled = False
        self.called = threading.Event()  # to look again: it is settled, or it is its turn to lead
        self._work = work
        self._value: T | None = None
        self._error: Exception | None = None

    def run(self, connection: Connection) -> None:
        """Run the work behind a savepoint: its failure is its own, the rest of the group goes on."""
        connection.exec_driver_sql(
            "SAVEPOINT one"
        )  # what begin_nested does, at half its cost, while everybody waits
        try:
            self._value = self._work(connection)
        except Exception as error:  # noqa: BLE001 - handed to the thread whose work it was
            self._error = error
            _still_in_transaction(connection)
            connection.exec_driver_sql("ROLLBACK TO one")
        connection.exec_driver_sql("RELEASE one")

    def settle(self, failure: LedgerError | None) -> None:
        """Say how the commit went: when it failed, whatever the work returned did not happen."""
        self._error = failure or self._error
        self.settled = True
        self.called.set()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            with foreign_errors_turned():
                raise self._error
        return self._value  # type: ignore[return-value]  # None only where T is None


def _still_in_transaction(connection: Connection) -> None:
    """Make sure the group can still be committed.

    On a full disk or an I/O error SQLite rolls the whole transaction back by itself, and a commit after that is silently nothing.
    """
    driver: Any = connection.connection.dbapi_connection
    if not driver.in_transaction:
        raise LedgerError("the ledger rolled its transaction back (disk full, or an I/O error)")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file lock of ``path``; the kernel gives it back when a process dies, so it is never stale."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _OpenMark:
    """A shared lock on a file beside the ledger, held from the first connection to the last: see ``is_open``.

    Not on the ledger's own file: whoever closes any descriptor of that drops the locks SQLite has on it in this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._one = threading.Lock()

    def set(self) -> None:
        """Take the lock, unless we have it. A full disk or a read-only folder keeps nobody from reading; the next one tries again."""
        if self._descriptor is not None:
            return
        with self._one, suppress(OSError):
            if self._descriptor is None:
                self._descriptor = _lock_shared(_mark_path(self._path))

    def clear(self) -> None:
        """Give the lock back."""
        with self._one:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def is_open(path: Path) -> bool:
    """Say whether any process, this one too, has the SQLite ledger at ``path`` open; raise LedgerError if that cannot be told."""
    try:
        with _mark_path(path).open(
            "r+b"
        ) as file:  # never made here: the service could not use a file that another user made
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise LedgerError(
            f"it cannot be told whether anybody has the ledger open ({error}): run this as the user of the service"
        ) from error
    return False


def _mark_path(path: Path) -> Path:
    # Resolved, because it has to be the same file for all, by whatever links they come.
    path = path.resolve()
    return path.with_name(path.name + ".open")


def _lock_shared(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever asks has it for an instant
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sqlite_address(path: Path) -> URL:
    """Return the address of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def _make_wal(connection: sqlite3.Connection) -> None:
    """Have the file keep a write-ahead log. SQLite waits for all its locks but the one of this, which two first commands may both want."""
    deadline = time.monotonic() + WRITE_PATIENCE / 2
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _sqlite_engine(path: Path, begin: str) -> Engine:
    # autocommit at the driver (isolation_level None): transactions begin where we say and as we say.
    engine = create_engine(
        sqlite_address(path),
        connect_args={"isolation_level": None, "timeout": WRITE_PATIENCE / 2},
        pool_timeout=WRITE_PATIENCE,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        _make_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
