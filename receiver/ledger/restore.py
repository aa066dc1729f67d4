"""The writes of a rebuild: final jobs, restored from their manifests.

All rows of a job are written in one transaction, and jobs that the ledger knows are left alone. So
a rebuild can be killed at any time and run again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from receiver.ledger.caller_fields import insert_metadata
from receiver.ledger.events import lock_event_order
from receiver.ledger.tables import assets, deliveries, events, jobs
from receiver.ledger.text_index import index_jobs

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Past:
    """A final job as rows of each table; omitted columns get their defaults."""

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
    """The jobs that were new, and by ref what could not be restored of one."""

    new: list[Past]
    without: dict[str, str]


def restore(connection: Connection, pasts: Sequence[Past]) -> Restored:
    """Insert a few hundred jobs, except known ones, without the ids and keys of other jobs."""
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
    index_jobs(connection, [row["ref"] for row in rows])
    insert_metadata(connection, {row["ref"]: json.loads(row["metadata"]) for row in rows})
    _insert_events(connection, [row for past in new for row in past.events])
    return Restored(new, without)


def _insert_events(connection: Connection, rows: list[Row]) -> None:
    """Insert events that were delivered long ago; they are never sent again."""
    if rows:
        lock_event_order(connection)
        connection.execute(insert(events), [{**row, "rebuilt": 1} for row in rows])


def _with_free_names(connection: Connection, rows: list[Row]) -> tuple[list[Row], dict[str, str]]:
    """Remove provider ids and keys that jobs since the loss of the ledger have."""
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
    """Return which jobs have the ids and keys in these rows."""
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
