"""What an operator can do by hand: retry a final job, expedite a waiting one, replay a delivery."""

from collections.abc import Callable
from hashlib import sha256

from sqlalchemy import Connection

from receiver.errors import ReceiverError, UnreadableError
from receiver.ingest.inbox import Inbox
from receiver.ledger.assets import expedite_assets, has_inline_losses, reopen_job
from receiver.ledger.claims import is_unexplained
from receiver.ledger.database import Database
from receiver.ledger.jobs import expedite_job, find_job, lock_job
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import DeliveryRow, Job
from receiver.model import FINAL_STATES, Decision, Delivery, JobState, Reason, Source, Timing


class Operator:
    """Carries out an operator's requests. ``now`` returns seconds since the epoch."""

    def __init__(
        self, database: Database, inbox: Inbox, timing: Timing, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._queries = JobQueries(database)
        self._inbox = inbox
        self._timing = timing
        self._now = now

    def retry(self, ref: str) -> Job:
        """Reopen a final job in a new round, and return it.

        Lost assets are pending again, and the provider is asked for fresh URLs. An archived job
        whose manifest was set aside is only concluded again. Raise ReceiverError if that cannot
        help: the job is not lost, or the provider never had it.
        """

        def work(connection: Connection) -> Job:
            job = lock_job(connection, ref)
            _require_retryable(connection, job)
            reopen_job(connection, job, self._timing, self._now())
            return lock_job(connection, ref)

        return self._database.write(work)

    def expedite(self, ref: str) -> None:
        """Make a job and its assets due now; what a worker has claimed is left alone."""

        def work(connection: Connection) -> None:
            find_job(connection, ref, locked=True)  # a job is locked before its assets
            expedite_assets(connection, ref, self._now())
            expedite_job(connection, ref, self._now())

        self._database.write(work)

    def replay(self, number: int) -> Decision:
        """Accept a stored delivery again and return the new decision.

        Raise ReceiverError if there is none, or if its body is gone or unreadable.
        """
        row = self._queries.delivery(number)
        if row is None:
            raise ReceiverError(f"there is no delivery {number}; `receiver show REF` lists a job's")
        if _is_emptied(row):  # an empty body would be unreadable for ever
            raise ReceiverError(
                f"the body of {number} was pruned, or lost before a rebuild: "
                "there is nothing of it to replay"
            )
        delivery = Delivery(row.ref, Source(row.source), row.body, row.received_at)
        try:
            return self._inbox.accept(delivery, replayed=number)
        except UnreadableError as error:
            raise ReceiverError(f"{number} is still unreadable: {error}") from error


def _require_retryable(connection: Connection, job: Job) -> None:
    if is_unexplained(job):
        return
    if job.state not in FINAL_STATES or job.state is JobState.ARCHIVED:
        raise ReceiverError(f"{job.ref} is {job.state}: there is nothing to retry")
    if job.provider_id is None and not has_inline_losses(connection, job.ref):
        remedy = "submit it again as a new job"
        if job.reason is not Reason.REFUSED:
            remedy = (
                "it may have been billed, so look for it at the provider before you submit it again"
            )
        raise ReceiverError(
            f"{job.ref} has no id at the provider, so its result cannot be asked for: {remedy}"
        )


def _is_emptied(row: DeliveryRow) -> bool:
    return not row.body and row.digest != sha256(b"").hexdigest()
