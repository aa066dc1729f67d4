"""Copying the ledger of one machine to PostgreSQL, repeatedly, until both are equal.

Each run makes the copy equal to the current original. The first run may take long, while the
service works. The last run, with the service stopped, finds few changes. Every batch is a
transaction, so a run that was killed is simply repeated. The copy is marked until ``finish``, and
``schema.require_current`` refuses a marked ledger, so no service uses it too early.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from receiver.errors import ReceiverError
from receiver.ledger import schema
from receiver.ledger.database import Database
from receiver.ledger.tables import job_tables, jobs
from receiver.ledger.text_index import forget_jobs, index_jobs

# Rows per transaction; with bodies of some kilobytes they are a few megabytes.
BATCH = 500
# Columns that never change in a row. If they differ, the original row was deleted and SQLite has
# used its number again.
_ABOUT = ("ref", "idx", "type")

Key = tuple[Any, ...]


@dataclass(slots=True)
class Copied:
    """What a run did: rows compared, and those that were new, changed or deleted."""

    seen: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0


def begin(target: Database) -> None:
    """Mark a ledger as a copy; raise ReceiverError if it has jobs of its own."""

    def work(connection: Connection) -> None:
        if schema.is_unfinished_copy(connection):
            return
        if connection.execute(select(jobs.c.ref).limit(1)).first() is not None:
            raise ReceiverError(
                "the ledger at DATABASE_URL has jobs of its own: name an empty database to copy to"
            )
        schema.mark_unfinished_copy(connection)

    target.write(work)


def finish(target: Database) -> None:
    """Declare a copy complete, number new rows after the copied ones, and count its values.

    Without statistics PostgreSQL may read whole tables for a page, until autovacuum has counted.
    """

    def work(connection: Connection) -> None:
        for table in job_tables:
            if (
                table.autoincrement_column is not None
                and table.autoincrement_column.autoincrement is True
            ):
                column = table.autoincrement_column
                last = select(
                    func.setval(
                        func.pg_get_serial_sequence(table.name, column.name),
                        func.coalesce(func.max(column), 0) + 1,
                        False,
                    )
                )
                connection.execute(last)
            connection.exec_driver_sql(f"ANALYZE {table.name}")
        schema.unmark_copy(connection)

    target.write(work)


def copy(source: Database, target: Database, show: Callable[[str, int, int], None]) -> Copied:
    """Make ``target`` equal to ``source``; call ``show`` with table, rows done and rows in total.

    Raise ReceiverError if existing rows are in conflict.
    """
    done = Copied()

    def work(snapshot: Connection) -> None:
        for table in reversed(job_tables):
            done.gone += _delete_extras(snapshot, target, table)
        for table in job_tables:
            _copy_table(snapshot, target, table, done, show)

    try:
        source.read(work)
    except IntegrityError as error:
        # Only its first line: the next ones quote rows.
        broken = str(error.orig).partition("\n")[0]
        raise ReceiverError(
            f"the copy cannot follow the original ({broken}): "
            "empty the database at DATABASE_URL and copy again"
        ) from error
    return done


def counts(database: Database) -> dict[str, int]:
    """Return the number of rows of each table."""
    queries = {table.name: select(func.count()).select_from(table) for table in job_tables}
    return database.read(
        lambda connection: {
            name: connection.execute(query).scalar_one() for name, query in queries.items()
        }
    )


def _key(table: Table) -> ColumnElement[Any]:
    return tuple_(*table.primary_key.columns)


def _compared(table: Table) -> list[ColumnElement[Any]]:
    """Return the columns to compare; of large ones the length, as they can only be emptied."""
    large = {column.name for column in table.columns if isinstance(column.type, LargeBinary)} | (
        {"params"} if table is jobs else set()
    )
    return [
        func.length(column).label(column.name) if column.name in large else column
        for column in table.columns
    ]


def _batches(
    connection: Connection, table: Table, columns: Sequence[ColumnElement[Any]]
) -> Iterator[list[Row[Any]]]:
    """Yield a table's rows in batches, in the order of its keys."""
    width = len(table.primary_key.columns)
    query = (
        select(*table.primary_key.columns, *columns)
        .order_by(*table.primary_key.columns)
        .limit(BATCH)
    )
    rows = list(connection.execute(query))
    while rows:
        yield rows
        rows = list(connection.execute(query.where(_key(table) > tuple(rows[-1])[:width])))


def _copy_table(
    snapshot: Connection,
    target: Database,
    table: Table,
    done: Copied,
    show: Callable[[str, int, int], None],
) -> None:
    width, place = len(table.primary_key.columns), 0
    total = snapshot.execute(select(func.count()).select_from(table)).scalar_one()
    for rows in _batches(snapshot, table, _compared(table)):
        ours = {tuple(row)[:width]: tuple(row)[width:] for row in rows}
        known = target.read(partial(_find, table=table, keys=list(ours)))
        new = [key for key in ours if key not in known]
        changed = [key for key in ours if key in known and known[key] != ours[key]]
        if new or changed:
            full = _full(snapshot, table, new + changed)
            target.write(
                partial(
                    _put,
                    table=table,
                    new=[full[key] for key in new],
                    changed=[full[key] for key in changed],
                )
            )
        place += len(rows)
        done.seen, done.new, done.changed = (
            done.seen + len(rows),
            done.new + len(new),
            done.changed + len(changed),
        )
        show(table.name, place, total)


def _find(connection: Connection, table: Table, keys: Sequence[Key]) -> dict[Key, Key]:
    width = len(table.primary_key.columns)
    query = select(*table.primary_key.columns, *_compared(table)).where(_key(table).in_(keys))
    return {tuple(row)[:width]: tuple(row)[width:] for row in connection.execute(query)}


def _full(connection: Connection, table: Table, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    names, wanted = [column.name for column in table.primary_key.columns], set(keys)
    found = (
        (tuple(row[name] for name in names), row)
        for row in connection.execute(select(table).where(_within(table, keys))).mappings()
    )
    return {key: dict(row) for key, row in found if key in wanted}


def _within(table: Table, keys: Sequence[Key]) -> ColumnElement[bool]:
    """Return the condition of all rows from the first of these keys to the last one.

    With a list of two-column keys SQLite would read the whole table. Python sorts keys as SQLite
    does. PostgreSQL may not; then a range has more rows, which only costs time.
    """
    return and_(_key(table) >= min(keys), _key(table) <= max(keys))


def _put(
    connection: Connection,
    table: Table,
    new: Sequence[dict[str, Any]],
    changed: Sequence[dict[str, Any]],
) -> None:
    # Changes first: a key or an id may have moved from an older job to a newer one.
    for row in changed:
        mine = [column == row[column.name] for column in table.primary_key.columns]
        connection.execute(
            update(table)
            .where(*mine)
            .values({name: row[name] for name in row if name not in table.primary_key.columns})
        )
    if new:
        connection.execute(insert(table), list(new))
    if table is jobs:
        index_jobs(connection, [row["ref"] for row in new])


def _delete_extras(snapshot: Connection, target: Database, table: Table) -> int:
    """Delete rows that an earlier run copied and the original no longer has; return how many."""
    keys = _extras(snapshot, target, table)
    for start in range(0, len(keys), BATCH):
        target.write(partial(_delete, table=table, keys=keys[start : start + BATCH]))
    return len(keys)


def _extras(snapshot: Connection, target: Database, table: Table) -> list[Key]:
    width, about = len(table.primary_key.columns), _about(table)
    found: list[Key] = []

    def work(connection: Connection) -> None:
        for rows in _batches(connection, table, about):
            keys = [tuple(row)[:width] for row in rows]
            known = select(*table.primary_key.columns, *about).where(_within(table, keys))
            there = {tuple(row) for row in snapshot.execute(known)}
            found.extend(
                key for key, row in zip(keys, rows, strict=True) if tuple(row) not in there
            )

    target.read(work)
    return found


def _about(table: Table) -> list[Column[Any]]:
    """Return the columns that show, with the key, whether a row is still the same one."""
    return [column for column in table.columns if column.name in _ABOUT and not column.primary_key]


def _delete(connection: Connection, table: Table, keys: Sequence[Key]) -> None:
    if table is jobs:
        forget_jobs(connection, [key[0] for key in keys])
    connection.execute(delete(table).where(_key(table).in_(keys)))
