"""Pruning: jobs that ended long ago leave the ledger, the bodies of their deliveries even earlier.

The archive keeps pictures and manifests. A job leaves with everything that belongs to it, in one
transaction, so every invariant holds at any time. Jobs with events that are still to be delivered
stay. A rejected file of a job that leaves is deleted: without the ledger it could not be accepted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Select, delete, func, select, true, update

from receiver.archive.manifest import quarantine_key
from receiver.archive.stores import Store
from receiver.ledger.database import Database
from receiver.ledger.tables import (
    assets,
    attempts,
    deliveries,
    destinations,
    events,
    job_metadata,
    jobs,
    sendings,
)
from receiver.ledger.text_index import forget_jobs
from receiver.model import INLINE, AssetState, Decision, EventDeliveryState, new_ref

# Jobs per transaction: it takes some milliseconds, so callbacks do not wait long.
BATCH = 200


class Pruner:
    """Removes what ended before a given moment (seconds since the epoch).

    Every batch is a transaction. Batches follow the refs: each starts after a ref and returns its
    last one, "" if there are no more.
    """

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    def jobs(self, before: float, after: str = "") -> tuple[int, Counter[str], str]:
        """Remove a batch of jobs.

        Return how many were removed, how many stay per destination that still gets their events,
        and the last ref. Jobs with the newest event, delivery or attempt stay too: their numbers
        must not be used again. Raise StoreError if rejected files of removed jobs could not be
        deleted.
        """
        forgotten = self._database.write(partial(_prune_jobs, before=before, after=after))
        for ref, idx, sha256 in forgotten.rejected:
            self._store.delete(quarantine_key(ref, idx, sha256))
        return forgotten.jobs, forgotten.waiting, forgotten.last

    def bodies(self, before: float, after: str = "") -> tuple[int, str]:
        """Empty the bodies of a batch of jobs; return how many, and the last ref.

        A body that is the only copy of a picture stays.
        """
        return self._database.write(partial(_prune_bodies, before=before, after=after))


def _over(before: float, after: str) -> Select[str]:
    # A job is older than its end and refs sort by time, so newer refs need not be read.
    old = select(jobs.c.ref).where(
        jobs.c.finished_at < before, jobs.c.ref < new_ref(before), jobs.c.ref > after
    )
    return old.order_by(jobs.c.ref).limit(BATCH)


@dataclass(frozen=True, slots=True)
class _Forgotten:
    """How many jobs were removed, how many stay per destination, the last ref, rejected files."""

    jobs: int
    waiting: Counter[str]
    last: str
    rejected: Sequence[tuple[str, int, str]]


def _prune_jobs(connection: Connection, before: float, after: str) -> _Forgotten:
    refs = (
        connection.execute(_over(before, after).with_for_update(skip_locked=True)).scalars().all()
    )
    waiting = _undelivered(connection, refs)
    staying = {ref for _, ref in waiting} | _with_newest_numbers(connection)
    going = [ref for ref in refs if ref not in staying]
    rejected = _rejected_files(connection, going)
    _forget(connection, going)
    counts = Counter(name for name, _ in waiting)
    return _Forgotten(len(going), counts, refs[-1] if refs else "", rejected)


def _rejected_files(connection: Connection, refs: Sequence[str]) -> list[tuple[str, int, str]]:
    """Return ref, index and SHA-256 of the files of these jobs that are in the quarantine."""
    columns = (assets.c.ref, assets.c.idx, assets.c.rejected_sha256)
    kept = assets.c.ref.in_(refs) & assets.c.quarantined_at.isnot(None)
    return [tuple(row) for row in connection.execute(select(*columns).where(kept))]


def _undelivered(connection: Connection, refs: Sequence[str]) -> set[tuple[str, str]]:
    """Return pairs of destination and job whose events were not delivered there yet."""
    theirs = select(events.c.id, events.c.ref).where(events.c.ref.in_(refs)).subquery()
    pairs = select(destinations.c.name, theirs.c.ref).select_from(theirs.join(destinations, true()))
    not_queued = pairs.where(theirs.c.id > destinations.c.cursor)
    # Joined by destination, because that is the first column of the key of ``sendings``.
    unsent = (
        (sendings.c.destination == destinations.c.name)
        & (sendings.c.event == theirs.c.id)
        & (sendings.c.state != EventDeliveryState.SENT)
    )
    not_sent = pairs.join(sendings, unsent)
    return {
        (name, ref) for query in (not_queued, not_sent) for name, ref in connection.execute(query)
    }


def _with_newest_numbers(connection: Connection) -> set[str]:
    # SQLite numbers a new row after the highest number in the table. If that row were removed, its
    # number would be used again. Readers that have passed the number (a destination's cursor, a
    # listener's file) would never see the new event.
    newest = [
        select(table.c.ref).order_by(table.c.id.desc()).limit(1)
        for table in (events, deliveries, attempts)
    ]
    return {ref for query in newest for ref in connection.execute(query).scalars()}


def _forget(connection: Connection, refs: Sequence[str]) -> None:
    theirs = select(events.c.id).where(events.c.ref.in_(refs))
    connection.execute(
        delete(sendings).where(
            sendings.c.destination.in_(select(destinations.c.name)), sendings.c.event.in_(theirs)
        )
    )
    forget_jobs(connection, refs)
    for table in (events, attempts, assets, deliveries, job_metadata, jobs):
        connection.execute(delete(table).where(table.c.ref.in_(refs)))


def _prune_bodies(connection: Connection, before: float, after: str) -> tuple[int, str]:
    refs = connection.execute(_over(before, after)).scalars().all()
    # An unreadable body stays: it can be replayed when our bug is fixed.
    full = (
        deliveries.c.ref.in_(refs)
        & (func.length(deliveries.c.body) > 0)
        & (deliveries.c.verdict != Decision.UNREADABLE)
    )
    # A body with pictures that are not archived stays too: `receiver retry` archives them from it.
    inline = (
        assets.c.ref.in_(refs)
        & (assets.c.state != AssetState.ARCHIVED)
        & assets.c.url.startswith(INLINE)
    )
    full &= deliveries.c.ref.not_in(select(assets.c.ref).where(inline))
    emptied = connection.execute(update(deliveries).where(full).values(body=b"")).rowcount
    return emptied, refs[-1] if refs else ""
