"""Hints: provider ids that callbacks without a ticket named, to be verified with the provider.

Their number is limited. A flood of invented ids fills no disk, causes few requests to the provider,
and stops new hints only as long as the flood lasts.
"""

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from receiver.ledger import claims
from receiver.ledger.adoption import adopt_job
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.deliveries import insert_deliveries
from receiver.ledger.jobs import find_job_by_provider_id
from receiver.ledger.notifications import QueueName, notify
from receiver.ledger.rows import Hint
from receiver.ledger.tables import hints, jobs
from receiver.model import Decision, Delivery, Proof, Source, Timing

# Hints that may wait at a time, and new ones in a minute, of all processes together.
MOST_WAITING = 1000
MOST_A_MINUTE = 120
# Bytes of a hint's body that are kept; a report has a few hundred.
LARGEST_BODY = 16 * 1024

_CLAIM = claims.claim_statement(hints, hints.c.due_at)


class Hints:
    """The transactions of hints. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, timing: Timing, now: Callable[[], float]) -> None:
        self._database = database
        self._timing = timing
        self._now = now

    def find_ref(self, provider_id: str) -> str | None:
        """Return the ref of the job that GRSAI knows under this id; None if there is none."""
        return self._database.read(lambda connection: _find_ref(connection, provider_id))

    def add(self, provider_id: str, body: bytes = b"") -> bool:
        """Store an id to be verified at once, with the ``body`` that named it.

        Return False if too many new ids were named in the last minute. If too many wait, the oldest
        one is deleted, so that old hints never stop new ones.
        """
        return self._database.write(
            lambda connection: _add(connection, provider_id, body, self._now())
        )

    def claim(self, limit: int) -> list[Claimed[Hint]]:
        """Claim due hints."""

        def work(connection: Connection) -> list[Claimed[Hint]]:
            rows = claims.claim_rows(connection, _CLAIM, self._now(), limit)
            return [Claimed(Hint(**row._mapping), row.claim) for row in rows]  # noqa: SLF001 - the documented way to a row's names

        return self._database.write(work)

    def release(self, claimed: Claimed[Hint], due_at: float) -> None:
        """End a claim without a result: the hint is due again at ``due_at``.

        Raise ClaimLostError if the hint is no longer ours.
        """
        self._database.write(
            lambda connection: claims.update_claimed(connection, claimed, due_at=due_at, claim=None)
        )

    def drop(self, hint: Hint) -> None:
        """Delete a hint that the provider did not confirm."""
        self._database.write(lambda connection: _delete(connection, hint.provider_id))

    def adopt(self, ref: str, hint: Hint, base_url: str) -> None:
        """Turn a confirmed hint into the job ``ref``, unless its task has a job by now."""

        def work(connection: Connection) -> None:
            _delete(connection, hint.provider_id)
            if find_job_by_provider_id(connection, "grsai", hint.provider_id) is None:
                timing, now = self._timing, self._now()
                adopt_job(connection, ref, base_url, timing, now, hint.provider_id)
                _keep_body(connection, ref, hint)

        self._database.write(work)


def _find_ref(connection: Connection, provider_id: str) -> str | None:
    named = (jobs.c.provider == "grsai") & (jobs.c.provider_id == provider_id)
    ref: str | None = connection.execute(select(jobs.c.ref).where(named)).scalar()
    return ref


def _add(connection: Connection, provider_id: str, body: bytes, now: float) -> bool:
    if _is_known(connection, provider_id):
        return True
    if _count(connection, since=now - 60) >= MOST_A_MINUTE:
        return False
    if _count(connection) >= MOST_WAITING:
        unclaimed = select(hints.c.provider_id).where(hints.c.claim.is_(None))
        oldest = unclaimed.order_by(hints.c.received_at).limit(1)
        connection.execute(delete(hints).where(hints.c.provider_id.in_(oldest)))
    kept = body if len(body) <= LARGEST_BODY else None
    values = {"provider_id": provider_id, "received_at": now, "due_at": now, "body": kept}
    # IntegrityError: another callback names the same id at the same moment.
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(hints).values(values))
        notify(connection, QueueName.HINTS)
    return True


def _delete(connection: Connection, provider_id: str) -> None:
    connection.execute(delete(hints).where(hints.c.provider_id == provider_id))


def _keep_body(connection: Connection, ref: str, hint: Hint) -> None:
    """Store a hint's body as a delivery of its job.

    It decides nothing; it is compared with the provider's own answer later.
    """
    if hint.body is not None:
        delivery = Delivery(
            ref, Source.CALLBACK, hint.body, hint.received_at, callback_proof=Proof.NONE
        )
        digest = sha256(hint.body).hexdigest()
        insert_deliveries(connection, [(delivery, digest, Decision.UNCONFIRMED, "")])


def _is_known(connection: Connection, provider_id: str) -> bool:
    waiting = select(hints.c.attempts).where(hints.c.provider_id == provider_id)
    return (
        connection.execute(waiting).first() is not None
        or _find_ref(connection, provider_id) is not None
    )


def _count(connection: Connection, *, since: float = 0.0) -> int:
    counted = select(func.count()).select_from(hints).where(hints.c.received_at > since)
    return int(connection.execute(counted).scalar_one())
