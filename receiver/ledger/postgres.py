"""The ledger in PostgreSQL: a connection pool; writes are transactions, reads are snapshots."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import structlog
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import IntegrityError, InvalidatePoolError

from receiver import failpoints
from receiver.errors import LedgerError
from receiver.ledger import liveness, pooler
from receiver.ledger.database_errors import translated_errors
from receiver.ledger.group_commit import Batch, GroupCommit, QueuedWrite, by_batch, run_many
from receiver.ledger.notifications import NotificationSender, take_noted
from receiver.ledger.waiting import blocking

log = structlog.get_logger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

# Seconds to wait for a free connection of the pool.
POOL_TIMEOUT = 10.0
# A client may be cut off in the middle of a transaction. Then the server must not continue its
# statement, and must not wait for a lock or hold one. Options in DATABASE_URL take precedence.
_SESSION = (
    "-c statement_timeout=60s -c lock_timeout=8s -c idle_in_transaction_session_timeout=10s"
    # Otherwise connections of machines that lost power count against max_connections for two hours.
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
# The same for a server that disappears: by default Linux waits for 15 minutes.
_CONNECTION = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# Connections per process at most. A transaction takes milliseconds, so they
# are enough for more threads than there are connections.
_CONNECTIONS = 16
# Seconds after its last use for which a connection counts as alive.
_UNPINGED = 1.0
_USED_AT = "used at"
# How often a transaction is attempted that a conflict or a server restart rolled back.
_ATTEMPTS = 3
_DEADLOCK = ("40P01", "40001")


class PostgresDatabase:
    """A pool of PostgreSQL connections."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(
            postgres_address(url),
            # No overflow: SQLAlchemy closes such connections when they are returned, and opening
            # one costs more than a transaction.
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT,
        )
        event.listen(self._engine, "do_connect", _connect)
        event.listen(self._engine, "checkin", self._close_late_one)
        self._is_closed = False
        self._pings = _Pings(self._engine)
        self._group_commit = GroupCommit(self._commit)
        self._sender = NotificationSender(
            lambda: self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        )
        # With READ COMMITTED each statement sees another moment, and the counts of an audit would
        # not add up.
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a snapshot; run it again if its connection was lost."""
        return blocking(lambda: self._repeat(lambda: self._look(work)))

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction; run it again if the transaction was certainly rolled back.

        A second attempt sees, for example, the row that took a UNIQUE value in the meantime.
        """
        return blocking(lambda: self._write(work))

    def _write(self, work: Callable[[Connection], T]) -> T:
        return self._repeat(lambda: self._run(work))

    def _repeat(self, transaction: Callable[[], T]) -> T:
        with translated_errors():
            for _ in range(_ATTEMPTS - 1):
                with suppress(_RolledBackError):
                    return transaction()
            try:
                return transaction()
            except _RolledBackError as rolled_back:
                raise rolled_back.error from rolled_back

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        """Queue an item of a batch. The next leader handles all queued items in one transaction.

        An item that the batch leaves, or whose batch failed, gets a transaction of its own.
        """
        queued = QueuedWrite.of(batch, item)
        value = self._group_commit.run(queued)
        return value if queued.ran else self.write(queued.alone)

    def _commit(self, next_group: Callable[[], list[QueuedWrite[Any]]]) -> None:
        """Commit one group, with one transaction for each batch in it."""
        group = next_group()
        try:
            for writes in by_batch(group):
                failure: LedgerError | None = None
                try:
                    self._run_batch(writes)
                except LedgerError as error:
                    failure = error
                for write in writes:
                    write.finish(failure)
        finally:
            # An interrupt must not leave a thread waiting for a write that is never finished.
            for write in group:
                if not write.done:
                    write.finish(LedgerError("the write was interrupted"))

    def _run_batch(self, writes: list[QueuedWrite[Any]]) -> None:
        try:
            self._write(lambda connection: run_many(connection, writes))
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - each item is then tried alone and raises its own
            log.warning("batch failed, its writes run one by one", error=repr(error))
            for write in writes:
                write.ran = False

    def _look(self, work: Callable[[Connection], T]) -> T:
        with self._snapshots.connect() as connection, self._repeatable(connection):
            return work(connection)

    @contextmanager
    def _repeatable(self, connection: Connection) -> Iterator[None]:
        """Raise _RolledBackError for an error after which the transaction can be repeated."""
        try:
            yield
        except Exception as error:
            if _can_be_repeated(error, connection):
                self._pings.note_loss()
                raise _RolledBackError(error) from error
            raise

    def _run(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            take_noted(connection)
            with self._repeatable(connection):
                value = work(connection)
                names = take_noted(connection)
            failpoints.reached(failpoints.Point.BEFORE_COMMIT)
        failpoints.reached(failpoints.Point.AFTER_COMMIT)
        self._sender.send(names)
        return value

    def hold_lock(self, number: int) -> None:
        """Hold the lock of the worker with this number on every connection from now on."""

        def hold(driver: Any, record: Any, _proxy: Any) -> None:
            if liveness.WORKER in record.info:  # emptied by SQLAlchemy when it connects again
                return
            try:
                liveness.hold(driver, number)
                driver.commit()
            except driver.OperationalError as error:
                raise LedgerError(f"the ledger cannot be used now: {error}") from error
            record.info[liveness.WORKER] = number

        # Not when connecting: some connections may be open already.
        event.listen(self._engine, "checkout", hold)

    def keeps_sessions(self) -> bool:
        """Return False if a pooler before PostgreSQL gives our sessions to others."""
        with translated_errors():
            return pooler.keeps_sessions(self._engine)

    def close(self) -> None:
        """Send the last notifications and close the pool.

        The connection of a transaction that still runs in another thread is closed after it.
        """
        self._sender.close()
        self._is_closed = True
        self._engine.dispose()

    def _close_late_one(self, _driver: Any, record: Any) -> None:
        if self._is_closed:
            record.invalidate()


class _Pings:
    """Pings a connection before it is used, unless it was used a moment ago.

    A ping is a round trip and costs as much as a statement. If a connection was lost without a
    ping, its first transaction is repeated, and after that the other connections are pinged too.
    """

    def __init__(self, engine: Engine) -> None:
        self._ping = engine.dialect.do_ping
        self._lost_at = float("-inf")
        event.listen(engine, "checkin", self._note_use)
        event.listen(engine, "checkout", self._require_living)

    def note_loss(self) -> None:
        """Note that a connection may have been lost; then others may be lost too."""
        self._lost_at = time.monotonic()

    def _note_use(self, _driver: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()

    def _require_living(self, driver: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get(_USED_AT)
        if used_at is None or (self._lost_at < used_at > time.monotonic() - _UNPINGED):
            return
        try:
            self._ping(driver)
        except driver.Error as error:
            raise InvalidatePoolError from error  # then all are opened again


def _connect(_dialect: Any, _record: Any, _positional: Any, arguments: dict[str, Any]) -> Any:
    from receiver.ledger.watched_connection import WatchedConnection  # noqa: PLC0415 - as below

    return WatchedConnection.open(arguments)


class _RolledBackError(Exception):
    """A transaction that was certainly rolled back, so it may be repeated."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _can_be_repeated(error: Exception, connection: Connection) -> bool:
    """Return whether the transaction can be repeated after this error before its commit.

    It may be an error of the driver, because the statements of a batch are sent by the driver.
    """
    driver: Any = None if connection.invalidated else connection.connection.dbapi_connection
    if driver is not None and driver.closed:
        connection.invalidate()  # otherwise its rollback fails, with an error of its own
    state = getattr(getattr(error, "orig", error), "sqlstate", "")
    return isinstance(error, IntegrityError) or connection.invalidated or state in _DEADLOCK


def postgres_address(url: str) -> URL:
    """Return the address of a PostgreSQL database, with our connection and session options."""
    address = make_url(url)
    given = address.query.get("options", "")
    options = " ".join([_SESSION, given if isinstance(given, str) else " ".join(given)])
    return address.set(query={**_CONNECTION, **address.query, "options": options})


def conninfo(url: str) -> str:
    """Return the same address as a libpq connection string, for psycopg without SQLAlchemy."""
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - installed only where PostgreSQL is used

    address = postgres_address(url)
    return make_conninfo(**address.get_dialect()().create_connect_args(address)[1])
