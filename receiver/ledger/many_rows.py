"""Statements about many rows, sent straight to the driver in as few round trips as possible.

The most frequent transactions run them: those of callbacks, and of assets that are archived.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection
from sqlalchemy.exc import DBAPIError, ProgrammingError

from receiver.ledger.tables import job_columns


@dataclass(frozen=True, slots=True)
class ManyRows:
    """One statement for many rows of values, run once for all of them.

    Running it for each row would take longer: each run releases Python's interpreter lock, and with
    sixteen busy threads it takes milliseconds to get it again. SQLite's statement goes straight to
    the driver, which takes a third of the time. ``{values}`` in it stands for the rows; their
    columns are called ``column1``, ``column2`` and so on. PostgreSQL takes an array per column.
    """

    sqlite: str
    postgresql: str

    def run(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Run the statement for these rows; nothing is run for none."""
        if connection.dialect.name == "sqlite":
            for part in (rows[at : at + _MOST_ROWS] for at in range(0, len(rows), _MOST_ROWS)):
                statement = self.sqlite.format(values=_placeholders(len(part), len(part[0])))
                connection.connection.cursor().execute(statement, [*chain.from_iterable(part)])
        elif rows:
            columns = tuple(list(column) for column in zip(*rows, strict=True))
            connection.exec_driver_sql(self.postgresql, columns)


# SQLite allows 32,766 values in a statement.
_MOST_ROWS = 1000


@lru_cache(maxsize=256)
def _placeholders(rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"VALUES {','.join([row] * rows)}"


@contextmanager
def sent_together(connection: Connection) -> Iterator[None]:
    """Send PostgreSQL the statements of this block at once, and wait for all of them at its end.

    They must not return rows, because these would not be there yet.
    """
    driver: Any = connection.connection.dbapi_connection
    with driver.pipeline() if connection.dialect.name == "postgresql" else nullcontext():
        yield


def names(columns: Iterable[Column[Any]]) -> str:
    """Return the names of columns, for a SELECT."""
    return ", ".join(column.name for column in columns)


# In the order of their refs, so that transactions that lock the same jobs cannot deadlock.
LOCK_JOBS = f"SELECT {names(job_columns)} FROM jobs WHERE ref {{of_refs}} ORDER BY ref {{locked}}"  # noqa: S608 - names of columns


def select_each(
    connection: Connection, queries: Sequence[str], refs: Sequence[str]
) -> list[list[Any]]:
    """Run each query about these jobs and return its rows; PostgreSQL gets all queries at once.

    Two placeholders in a query are replaced: ``{of_refs}`` by the condition that a ref is one of
    ``refs``, ``{locked}`` at its end by the clause that locks its rows.
    """
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        some = f"IN ({','.join('?' * len(refs))})"
        statements = [query.format(of_refs=some, locked="") for query in queries]
        return [driver.execute(statement, refs).fetchall() for statement in statements]
    some = "= ANY(%s::text[])"
    statements = [query.format(of_refs=some, locked="FOR UPDATE") for query in queries]
    try:
        with driver.pipeline():
            cursors = [driver.execute(statement, [list(refs)]) for statement in statements]
        return [cursor.fetchall() for cursor in cursors]
    except driver.Error as error:
        kind = ProgrammingError if isinstance(error, driver.ProgrammingError) else DBAPIError
        raise kind("; ".join(statements), None, error) from error
