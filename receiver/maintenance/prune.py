"""Forgetting: jobs that ended long ago leave the ledger, and bodies of deliveries before them. The archive keeps all it has.

A job leaves with all that belongs to it, in one transaction, so every law of the ledger holds at every moment. What somebody is still to
be told stays.
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

# Jobs of a transaction: it takes some milliseconds, and callbacks wait no longer for it.
BATCH = 200


class Pruner:
    """Removes what ended before some moment, given in seconds since the epoch; every batch is a transaction, and may be the last.

    Batches go along the refs: each is given the last ref of the one before, and returns its own, "" when there are no more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, before: float, after: str = "") -> tuple[int, Counter[str], str]:
        """Remove some jobs; return how many went, how many stay for each destination that is still to be told of them, and the last ref.

        One that has the newest number of its kind stays too, until there is a newer one.
        """
        return self._database.write(partial(_prune_jobs, before=before, after=after))

    def bodies(self, before: float, after: str = "") -> tuple[int, str]:
        """Empty the bodies kept for some jobs, but those that have the only copy of a picture; return how many, and the last ref."""
        return self._database.write(partial(_prune_bodies, before=before, after=after))


def _over(before: float, after: str) -> Select[str]:
    # A job is older than its end, and refs sort by time: so the walk along the refs ends where no job can be old enough.
    old = select(jobs.c.ref).where(
        jobs.c.finished_at < before, jobs.c.ref < new_ref(before), jobs.c.ref > after
    )
    return old.order_by(jobs.c.ref).limit(BATCH)


def _prune_jobs(connection: Connection, before: float, after: str) -> tuple[int, Counter[str], str]:
    refs = (
        connection.execute(_over(before, after).with_for_update(skip_locked=True)).scalars().all()
    )
    waiting = _to_be_told(connection, refs)
    staying = {ref for _, ref in waiting} | _with_newest_numbers(connection)
    going = [ref for ref in refs if ref not in staying]
    _forget(connection, going)
    return len(going), Counter(name for name, _ in waiting), refs[-1] if refs else ""


def _to_be_told(connection: Connection, refs: Sequence[str]) -> set[tuple[str, str]]:
    """Return the destinations that were not handed, or not told, an event of one of the jobs; each with that job's ref."""
    theirs = select(events.c.id, events.c.ref).where(events.c.ref.in_(refs)).subquery()
    whom_of_what = select(destinations.c.name, theirs.c.ref).select_from(
        theirs.join(destinations, true())
    )
    not_handed = whom_of_what.where(theirs.c.id > destinations.c.cursor)
    # By way of the destinations: the key of the sendings begins with theirs.
    sent_on = (
        (sendings.c.destination == destinations.c.name)
        & (sendings.c.event == theirs.c.id)
        & (sendings.c.state != EventDeliveryState.SENT)
    )
    not_told = whom_of_what.join(sendings, sent_on)
    return {
        (name, ref)
        for question in (not_handed, not_told)
        for name, ref in connection.execute(question)
    }


def _with_newest_numbers(connection: Connection) -> set[str]:
    # SQLite numbers a new row after the highest there is. Were that removed, its number would be given again, and whoever was told of
    # events up to there (a destination's cursor, a listener's file) would never hear of the new one.
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
    # What could not be read is kept as it is: it waits for somebody who mends that, and replays it.
    full = (
        deliveries.c.ref.in_(refs)
        & (func.length(deliveries.c.body) > 0)
        & (deliveries.c.verdict != Decision.UNREADABLE)
    )
    # And what brought pictures that are not archived: it is the only copy, `receiver retry` brings them home from there.
    inline = (
        assets.c.ref.in_(refs)
        & (assets.c.state != AssetState.ARCHIVED)
        & assets.c.url.startswith(INLINE)
    )
    full &= deliveries.c.ref.not_in(select(assets.c.ref).where(inline))
    emptied = connection.execute(update(deliveries).where(full).values(body=b"")).rowcount
    return emptied, refs[-1] if refs else ""
