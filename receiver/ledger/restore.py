"""The writes of a rebuild: jobs that are over, put back as their manifests tell them.

A rebuilt job is a whole or not there: its rows are written in one transaction, and what the ledger has already is left alone. So a rebuild
can be killed at any moment and run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from receiver.ledger.outbox import lock_event_order
from receiver.ledger.tables import assets, deliveries, events, jobs

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Past:
    """A job that is over, as rows of each table; of every kind all have the same columns, and those left out have their defaults."""

    job: Row
    assets: list[Row]
    deliveries: list[Row]
    events: list[Row]

    @property
    def ref(self) -> str:
        """The job's ref."""
        return str(self.job["ref"])


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of some pasts: those that are new in the ledger, and by ref what one of them had to go without."""

    new: list[Past]
    without: dict[str, str]


def restore(connection: Connection, pasts: Sequence[Past]) -> Restored:
    """Write down the jobs, of some hundreds, that the ledger does not know; a provider's id or a key that is another job's is left out."""
    known = set(
        connection.execute(
            select(jobs.c.ref).where(jobs.c.ref.in_([past.ref for past in pasts]))
        ).scalars()
    )
    new = [past for past in pasts if past.ref not in known]
    rows, without = _with_free_names(connection, [past.job for past in new])
    for table, lines in (
        (jobs, rows),
        (assets, [row for past in new for row in past.assets]),
        (deliveries, [row for past in new for row in past.deliveries]),
    ):
        if lines:
            connection.execute(insert(table), lines)
    _remember_events(connection, [row for past in new for row in past.events])
    return Restored(new, without)


def _remember_events(connection: Connection, rows: list[Row]) -> None:
    """Write events that were told long ago: for the books, never to be sent again."""
    if rows:
        lock_event_order(connection)
        connection.execute(insert(events), [{**row, "rebuilt": 1} for row in rows])


def _with_free_names(connection: Connection, rows: list[Row]) -> tuple[list[Row], dict[str, str]]:
    """Take from each row the provider's id or the key that another job has: it was asked for anew, or adopted, before the rebuild."""
    ids, keys = _owners(connection, rows)
    kept, without = [], {}
    for row in rows:
        ref, task, key = row["ref"], (row["provider"], row["provider_id"]), row["key"]
        lost = {}
        if row["provider_id"] is not None and ids.setdefault(task, ref) != ref:
            lost["provider_id"] = (
                f"its provider's id {row['provider_id']!r}, which job {ids[task]} has"
            )
        if key is not None and keys.setdefault(key, ref) != ref:
            lost["key"] = f"its key {key!r}, which job {keys[key]} has"
        if lost:
            without[ref] = " and ".join(lost.values())
        kept.append({**row, **dict.fromkeys(lost)})
    return kept, without


def _owners(
    connection: Connection, rows: list[Row]
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Return which jobs of the ledger have the ids and keys in these rows."""
    names = {
        column: [row[column] for row in rows if row[column] is not None]
        for column in ("provider_id", "key")
    }
    ids = connection.execute(
        select(jobs.c.provider, jobs.c.provider_id, jobs.c.ref).where(
            jobs.c.provider_id.in_(names["provider_id"])
        )
    )
    keys = connection.execute(select(jobs.c.key, jobs.c.ref).where(jobs.c.key.in_(names["key"])))
    return {(row.provider, row.provider_id): row.ref for row in ids}, {
        row.key: row.ref for row in keys
    }
