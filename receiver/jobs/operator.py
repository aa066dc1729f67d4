"""What an operator can do: retry or expedite a job, accept a rejected file, replay a delivery."""

from collections.abc import Callable
from hashlib import sha256

from sqlalchemy import Connection, func, update

from receiver.archive.quarantine import Quarantine
from receiver.errors import ReceiverError, UnreadableError
from receiver.ingest.inbox import Inbox, read_report
from receiver.ledger.assets import Assets, expedite_assets, has_inline_losses, reopen_job
from receiver.ledger.claims import is_unexplained
from receiver.ledger.database import Database
from receiver.ledger.jobs import expedite_job, find_job, lock_job
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Asset, DeliveryRow, Job
from receiver.ledger.tables import deliveries
from receiver.model import (
    FINAL_STATES,
    AssetState,
    Decision,
    Delivery,
    JobState,
    Proof,
    Provider,
    Reason,
    Source,
    Timing,
)
from receiver.telemetry.metrics import REJECTED


class Operator:
    """Carries out an operator's requests. ``now`` returns seconds since the epoch."""

    def __init__(
        self,
        database: Database,
        inbox: Inbox,
        assets: Assets,
        quarantine: Quarantine,
        timing: Timing,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._queries = JobQueries(database)
        self._inbox = inbox
        self._assets = assets
        self._quarantine = quarantine
        self._timing = timing
        self._now = now

    def retry(self, ref: str) -> Job:
        """Reopen a final job in a new round, and return it.

        Lost assets are pending again, and the provider is asked for fresh URLs. An archived job
        whose manifest was set aside is only concluded again. Raise ReceiverError if that cannot
        help: the job did not fail or expire, or the provider never had it.
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

    def accept(self, ref: str, idx: int, sha256: str = "") -> Job:
        """Make the rejected file of an asset its result file, and return the job.

        The job is concluded again. Accepting a file again changes nothing. With ``sha256`` only
        that file is accepted, because a retry may bring another one. Raise ReceiverError if there
        is no such file, or if another one is archived.
        """
        found = self._asset(ref, idx)
        if sha256 and sha256 != (found.rejected_sha256 or ""):
            raise ReceiverError(
                f"the rejected file of asset {idx} of {ref} is another one by now: look at it again"
            )
        if found.state is AssetState.ARCHIVED:
            return self._accepted_before(found)
        try:
            stored = self._quarantine.restore(found)
        except ReceiverError:
            # Another operator may have accepted it since; then the file has left the quarantine.
            now = self._asset(ref, idx)
            if now.accepted_at is None or now.sha256 != found.rejected_sha256:
                raise
            return self._accepted_before(now)
        job = self._assets.accept(ref, idx, stored)
        self._quarantine.remove_old(found)
        REJECTED.labels("accepted").inc()
        return job

    def _asset(self, ref: str, idx: int) -> Asset:
        found = next((row for row in self._queries.assets([ref])[ref] if row.idx == idx), None)
        if found is None:
            raise ReceiverError(f"there is no asset {idx} of a job {ref}")
        return found

    def _accepted_before(self, found: Asset) -> Job:
        job = self._queries.job(found.ref)
        if job is None or found.accepted_at is None:
            raise ReceiverError(f"asset {found.idx} of {found.ref} is archived already")
        return job

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
        try:
            return self._inbox.accept(self._stored(row), replayed=number)
        except UnreadableError as error:
            raise ReceiverError(f"{number} is still unreadable: {error}") from error

    def _stored(self, row: DeliveryRow) -> Delivery:
        """Return a stored delivery as it was received."""
        job = self._queries.job(row.ref)
        provider = Provider.of(job.provider) if job else Provider.GRSAI
        proof = Proof(row.proof or Proof.TASK)
        source = Source(row.source)
        return Delivery(row.ref, source, row.body, row.received_at, provider, proof)

    def dismiss(self, number: int) -> None:
        """Remove an unreadable delivery from the list of what was set aside; it stays stored.

        Doing it again changes nothing. Raise ReceiverError if there is no such delivery.
        """
        unreadable = (deliveries.c.id == number) & (deliveries.c.verdict == Decision.UNREADABLE)
        dismissed = func.coalesce(deliveries.c.dismissed_at, self._now())
        change = update(deliveries).where(unreadable).values(dismissed_at=dismissed)
        if not self._database.write(lambda connection: connection.execute(change).rowcount):
            raise ReceiverError(
                f"{number} is not an unreadable delivery: there is nothing to dismiss"
            )

    def complaint(self, number: int) -> str:
        """Return what is wrong with the body of an unreadable delivery; "" if that is not known."""
        row = self._queries.delivery(number)
        if row is None or _is_emptied(row):
            return ""
        try:
            read_report(self._stored(row))
        except UnreadableError as error:
            return str(error)
        return ""


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
