"""An operator's word: take a kept delivery in again, or try now what waits for its next attempt."""

from hashlib import sha256

from sqlalchemy import Connection, update

from receiver.errors import ReceiverError, UnreadableError
from receiver.ingest.inbox import Inbox
from receiver.ledger import writes
from receiver.ledger.ledger import Ledger
from receiver.ledger.queries import Queries
from receiver.ledger.rows import DeliveryRow
from receiver.ledger.tables import assets
from receiver.model import Decision, Delivery, Source


def replay(queries: Queries, inbox: Inbox, number: int) -> Decision:
    """Take the delivery of this number in again and return what it is taken for now; raise ReceiverError if there is none to be read."""
    row = queries.delivery(number)
    if row is None:
        raise ReceiverError(f"there is no delivery {number}; `receiver show REF` lists a job's")
    if _is_emptied(row):  # taken in again it would count as unreadable ever after
        raise ReceiverError(
            f"the body of {number} was pruned, or lost before a rebuild: there is nothing of it to replay"
        )
    try:
        return inbox.accept(
            Delivery(row.ref, Source(row.source), row.body, row.received_at), replayed=number
        )
    except UnreadableError as error:
        raise ReceiverError(f"{number} is still unreadable: {error}") from error


def _is_emptied(row: DeliveryRow) -> bool:
    return not row.body and row.digest != sha256(b"").hexdigest()


def expedite(ledger: Ledger, ref: str) -> None:
    """Have a job looked at now, and its pictures tried now; what somebody is working on is left alone."""

    def work(connection: Connection) -> None:
        now = ledger.now()
        waiting = (assets.c.ref == ref) & assets.c.claim.is_(None) & (assets.c.due_at > now)
        writes.find_job(connection, ref)  # locked: a job goes before its assets
        connection.execute(update(assets).where(waiting).values(due_at=now))
        writes.look_at(connection, ref, now)

    ledger.write(work)
