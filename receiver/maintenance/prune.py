"""Pruning: jobs that ended long ago leave the ledger, the bodies of their deliveries even earlier.

The archive stays complete. A job leaves with everything that belongs to it, in one transaction, so
every invariant holds at any time. Jobs with events that are still to be delivered stay.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, Select, delete, func, select, true, update

from receiver.ledger.database import Database
from receiver.ledger.tables import (
    assets,
    attempts,
    deliveries,
    destinations,
    events,
    jobs,
    sendings,
)
from receiver.model import INLINE, AssetState, Decision, EventDeliveryState, new_ref

# Jobs per transaction: it takes some milliseconds, so callbacks do not wait long.
BATCH = 200


class Pruner:
    """Removes what ended before a given moment (seconds since the epoch).

    Every batch is a transaction. Batches follow the refs: each starts after a ref and returns its
    last one, "" if there are no more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, before: float, after: str = "") -> tuple[int, Counter[str], str]:
        """Remove a batch of jobs.

        Return how many were removed, how many stay per destination that still gets their events,
        and the last ref. Jobs with the newest event, delivery or attempt stay too: their numbers
        must not be used again.
        """
        return self._database.write(partial(_prune_jobs, before=before, after=after))

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


def _prune_jobs(connection: Connection, before: float, after: str) -> tuple[int, Counter[str], str]:
    refs = (
        connection.execute(_over(before, after).with_for_update(skip_locked=True)).scalars().all()
    )
    waiting = _undelivered(connection, refs)
    staying = {ref for _, ref in waiting} | _with_newest_numbers(connection)
    going = [ref for ref in refs if ref not in staying]
    _forget(connection, going)
    return len(going), Counter(name for name, _ in waiting), refs[-1] if refs else ""


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
        (name, ref)
        for question in (not_queued, not_sent)
        for name, ref in connection.execute(question)
    }


def _with_newest_numbers(connection: Connection) -> set[str]:
    # SQLite numbers a new row after the highest number in the table. If that row were removed, its
    # number would be used again, and readers that are past it (a destination's cursor, a listener's
    # file) would never see the new event.
    newest = [
        select(table.c.ref).order_by(table.c.id.desc()).limit(1)
        for table in (events, deliveries, attempts)
    ]
    return {ref for question in newest for ref in connection.execute(question).scalars()}


def _forget(connection: Connection, refs: Sequence[str]) -> None:
    theirs = select(events.c.id).where(events.c.ref.in_(refs))
    connection.execute(
        delete(sendings).where(
            sendings.c.destination.in_(select(destinations.c.name)), sendings.c.event.in_(theirs)
        )
    )
    for table in (events, attempts, assets, deliveries, jobs):
        connection.execute(delete(table).where(table.c.ref.in_(refs)))


def _prune_bodies(connection: Connection, before: float, after: str) -> tuple[int, str]:
    refs = connection.execute(_over(before, after)).scalars().all()
    # An unreadable body stays: it can be replayed when the bug that it met is fixed.
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
