"""What the ledger needs of a database, and how to open one."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection, text

from receiver.ledger.group_commit import Batch
from receiver.ledger.postgres import PostgresDatabase
from receiver.ledger.sqlite import SqliteDatabase

T = TypeVar("T")
Item = TypeVar("Item")
Work = Callable[[Connection], T]


class Database(Protocol):
    """Runs reads and writes on connections that it keeps."""

    def read(self, work: Work[T]) -> T:
        """Run ``work`` in a read-only snapshot; raise LedgerError if the database cannot answer."""

    def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction and return its value once the commit is durable.

        Raise LedgerError if it may not be durable.
        """

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        """Handle ``item`` together with the items that other threads write now; else like write."""

    def close(self) -> None:
        """Close every connection."""


def open_database(url: str) -> Database:
    """Return the database at a SQLAlchemy ``url``; nothing is connected yet."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(Path(url.removeprefix("sqlite:///")))
    return PostgresDatabase(url)


def require_writable(database: Database) -> None:
    """Raise LedgerError unless a small write succeeds; a full disk shows only when it is needed."""
    database.write(_rewrite_version)


def _rewrite_version(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
