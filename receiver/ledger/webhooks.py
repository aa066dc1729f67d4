"""Deliveries to the webhooks of jobs: one destination, but each job names its own address."""

from sqlalchemy import Connection, select, update

from receiver.errors import EventPostponedError
from receiver.ledger import claims
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.event_queue import BATCH, JOB_WEBHOOKS
from receiver.ledger.rows import EventDelivery
from receiver.ledger.tables import destinations, jobs, sendings

# How many deliveries are searched for those to one host: 100,000 would stop all writers.
LOOK_AT = 2000


def postpone(
    database: Database, claimed: Claimed[EventDelivery], why: EventPostponedError, oldest: float
) -> None:
    """Make a delivery due again when its host may get deliveries; the attempt does not count.

    A batch of the others to this host is postponed too, so that they do not stand before those to
    other hosts; not those that have been waiting since before ``oldest``. Raise ClaimLostError if
    the delivery is not ours.
    """

    def work(connection: Connection) -> None:
        # With the lock, no two transactions wait for each other's rows.
        mine = select(destinations.c.name).where(destinations.c.name == JOB_WEBHOOKS)
        connection.execute(mine.with_for_update())
        attempts = claimed.row.attempts - 1
        claims.update_claimed(connection, claimed, due_at=why.until, claim=None, attempts=attempts)
        postpone_others(connection, why, oldest)

    database.write(work)


def postpone_others(connection: Connection, why: EventPostponedError, oldest: float) -> None:
    """Postpone a batch of the unclaimed deliveries to this host, of those due first."""
    mine = (sendings.c.destination == JOB_WEBHOOKS) & sendings.c.claim.is_(None)
    # A scalar, not a join: for that PostgreSQL may read every job.
    webhook = select(jobs.c.webhook).where(jobs.c.ref == sendings.c.ref).scalar_subquery()
    first = (
        select(sendings.c.event, webhook.label("webhook"))
        .where(mine, sendings.c.due_at < why.until, sendings.c.since > oldest)
        .order_by(sendings.c.due_at)
        .limit(LOOK_AT)
        .subquery()
    )
    to_host = first.c.webhook.startswith(why.start, autoescape=True)
    some = select(first.c.event).where(to_host).limit(BATCH)
    postponed = update(sendings).where(mine, sendings.c.event.in_(some)).values(due_at=why.until)
    connection.execute(postponed)
