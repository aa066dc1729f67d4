"""What strangers named without a ticket: ids worth a look, few at a time and not for long.

Whoever floods us with made-up ids fills no disk, has us ask the provider no more than so often, and locks nobody out for longer than the
flood lasts.
"""

from contextlib import suppress
from hashlib import sha256

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from receiver.ledger import writes
from receiver.ledger.notifications import notify_hint
from receiver.ledger.rows import Hint
from receiver.ledger.tables import hints, jobs
from receiver.model import Decision, Delivery, Source

# Ids that may wait at a time, and that may be new in a minute, of all processes; each is asked about a few times.
MOST_WAITING = 1000
MOST_A_MINUTE = 120
# Bytes of what a stranger sent that are kept with the id; a report is a few hundred.
LARGEST_BODY = 16 * 1024


def ref_of(connection: Connection, provider_id: str) -> str | None:
    """Return the ref of the job GRSAI knows under this id; None where there is none."""
    named = (jobs.c.provider == "grsai") & (jobs.c.provider_id == provider_id)
    ref: str | None = connection.execute(select(jobs.c.ref).where(named)).scalar()
    return ref


def remember(connection: Connection, provider_id: str, body: bytes, now: float) -> bool:
    """Write down an id, to be looked into at once; False if too many new ones were named in the last minute.

    Where ids pile up all the same, the oldest makes room: nobody is locked out by what is there.
    """
    if _is_known(connection, provider_id):
        return True
    if _count(connection, since=now - 60) >= MOST_A_MINUTE:
        return False
    if _count(connection) >= MOST_WAITING:
        oldest = (
            select(hints.c.provider_id)
            .where(hints.c.claim.is_(None))
            .order_by(hints.c.received_at)
            .limit(1)
        )
        connection.execute(delete(hints).where(hints.c.provider_id.in_(oldest)))
    kept = body if len(body) <= LARGEST_BODY else None
    with (
        suppress(IntegrityError),
        connection.begin_nested(),
    ):  # another stranger may be naming it this instant
        connection.execute(
            insert(hints).values(provider_id=provider_id, received_at=now, due_at=now, body=kept)
        )
        notify_hint(connection, provider_id, now)
    return True


def keep_body(connection: Connection, ref: str, hint: Hint) -> None:
    """Keep what came with a hint as a delivery of its job: it decides nothing, and waits to be compared with the provider's own answer."""
    if hint.body is not None:
        told = Delivery(ref, Source.CALLBACK, hint.body, hint.received_at)
        writes.insert_delivery(
            connection, told, sha256(hint.body).hexdigest(), Decision.UNCONFIRMED
        )


def _is_known(connection: Connection, provider_id: str) -> bool:
    waiting = select(hints.c.attempts).where(hints.c.provider_id == provider_id)
    return (
        connection.execute(waiting).first() is not None
        or ref_of(connection, provider_id) is not None
    )


def _count(connection: Connection, *, since: float = 0.0) -> int:
    return int(
        connection.execute(
            select(func.count()).select_from(hints).where(hints.c.received_at > since)
        ).scalar_one()
    )
