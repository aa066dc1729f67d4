"""Jobs: the statements on their rows, and the transactions from submit to end.

A transaction that changes a job or its assets locks the job's row first (``lock_job``). Otherwise
two workers that finish the last two assets at the same time could each see the other one pending.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Update, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from receiver.errors import KeyTakenError, ReceiverError
from receiver.ledger import caller_fields, claims, text_index
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.events import NewEvent, has_event, write_events
from receiver.ledger.notifications import QueueName, notify, notify_of_rows
from receiver.ledger.outbox import Outbox
from receiver.ledger.rows import Job, job_of
from receiver.ledger.tables import deliveries, job_columns, job_metadata, jobs
from receiver.model import (
    FINAL_STATES,
    EventType,
    JobState,
    Mode,
    Outcome,
    Reason,
    Submission,
    Timing,
    new_ref,
)
from receiver.telemetry import metrics

# Built once: SQLAlchemy needs longer to build a statement than to run it.
_JOB = select(*job_columns).where(jobs.c.ref == bindparam("ref"))
_JOB_LOCKED = _JOB.with_for_update()
_UPDATE_JOB = update(jobs).where(jobs.c.ref == bindparam("of_ref"))  # run with the new values
# By ``complete``: only jobs whose assets are all final, only the others, or any.
_CLAIM = {None: claims.claim_statement(jobs, jobs.c.due_at)} | {
    complete: claims.claim_statement(
        jobs,
        jobs.c.due_at,
        claims.completed(complete=complete),
        claims.suspected(jobs, suspects=False),
    )
    for complete in (True, False)
}
_CLAIM_SUSPECTS = claims.claim_statement(
    jobs, jobs.c.due_at, claims.suspected(jobs, suspects=True), few=True
)


class Jobs:
    """The transactions of jobs. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, timing: Timing, now: Callable[[], float]) -> None:
        self._database = database
        self._timing = timing
        self._now = now

    def get(self, ref: str) -> Job:
        """Return a job; raise ReceiverError if there is none."""
        return self._database.read(lambda connection: _existing(find_job(connection, ref), ref))

    def key_holder(self, key: str) -> Job | None:
        """Return the job that uses a caller's key; None if the key is free."""
        job = self._database.read(lambda connection: find_job_by_key(connection, key))
        return None if job is None or job.reason is Reason.REFUSED else job

    # Submit.

    def submit(
        self,
        submission: Submission,
        base_url: str,
        ref: str | None = None,
        *,
        signer: str | None = None,
    ) -> Job:
        """Insert a job that is about to be posted; it is ``submitting`` until the answer is known.

        ``signer`` is the fingerprint of the secret that signed its ticket, None without a ticket.
        Raise KeyTakenError if another job uses the caller's key. A refused job frees its key.
        """
        now = self._now()
        ref = ref or new_ref(now)
        names = ("provider", "api", "mode", "model", "prompt", "key", "batch", "folder", "webhook")
        values = {name: getattr(submission, name) for name in names}
        values["params"] = json.dumps(submission.params, ensure_ascii=False)
        values["shown"] = caller_fields.shown_params(submission.params)
        values["metadata"] = json.dumps(submission.metadata, ensure_ascii=False)
        values["due_at"] = now + self._timing.job_timeout
        values |= {"requested": submission.requested, "signer": signer}

        if submission.webhook is not None:
            Outbox(self._database, self._now).register([JOB_WEBHOOKS])

        def work(connection: Connection) -> Job:
            if submission.key is not None:
                _free_key(connection, submission.key)
            try:
                with connection.begin_nested():
                    insert_job(connection, ref, now, self._timing, base_url=base_url, **values)
            except IntegrityError:
                # Another submit took the key at the same moment.
                _free_key(connection, submission.key or "")
                raise
            caller_fields.insert_metadata(connection, {ref: submission.metadata})
            text_index.index_jobs(connection, [ref])
            return lock_job(connection, ref)

        return self._database.write(work)

    def withdraw(self, ref: str) -> None:
        """Delete a job whose POST never reached the provider, so that it can be posted again.

        A job with a delivery stays.
        """

        def work(connection: Connection) -> None:
            job = find_job(connection, ref, locked=True)
            if job is not None and job.state is JobState.SUBMITTING:
                reported = select(deliveries.c.id).where(deliveries.c.ref == ref).limit(1)
                if connection.execute(reported).first() is None:
                    text_index.forget_jobs(connection, [ref])
                    for table in (job_metadata, jobs):
                        connection.execute(delete(table).where(table.c.ref == ref))

        self._database.write(work)

    def record_accepted(self, ref: str, provider_id: str, poll_url: str | None = None) -> Job:
        """Record that the provider took a job; if a callback was faster, only the id is new.

        The id of the provider's answer replaces one that only an unproved callback named.
        ``poll_url`` is the address that the provider gave for polls.
        """

        def work(connection: Connection) -> Job:
            job = lock_job(connection, ref)
            # An id of another job is left out: one task of a provider is one job.
            is_open = job.outcome is None and job.state not in FINAL_STATES
            is_news = job.provider_id is None or (is_open and job.provider_id != provider_id)
            taken = is_news and find_job_by_provider_id(connection, job.provider, provider_id)
            values: dict[str, object] = {
                "provider_id": provider_id if is_news and not taken else job.provider_id,
                "answered_at": job.answered_at or self._now(),
            }
            if poll_url and not taken:
                values["poll_url"] = poll_url
            if job.state == JobState.SUBMITTING:
                due_at = first_poll(job, self._timing, self._now())
                values |= {"state": JobState.WAITING, "due_at": due_at, "claim": None}
            connection.execute(update(jobs).where(jobs.c.ref == ref).values(values))
            return lock_job(connection, ref)

        return self._database.write(work)

    def record_refused(
        self, ref: str, message: str, provider_id: str | None = None, *, answered: bool = True
    ) -> Job:
        """End a job that the provider did not take, with the provider's own message.

        ``provider_id`` is the id in the refusal, if it has one; ``answered`` is False if the submit
        was never sent.
        """

        def work(connection: Connection) -> Job:
            job, now = lock_job(connection, ref), self._now()
            # The events of a stream may say that the job is waiting before an error comes.
            is_unnamed = job.state is JobState.WAITING and job.provider_id is None
            if job.state is JobState.SUBMITTING or is_unnamed:
                taken = provider_id and find_job_by_provider_id(
                    connection, job.provider, provider_id
                )
                finish_job(
                    connection,
                    job,
                    JobState.FAILED,
                    now,
                    reason=Reason.REFUSED,
                    message=message,
                    provider_id=None if taken else provider_id,
                )
                if answered:
                    answer = {"of_ref": ref, "answered_at": job.answered_at or now}
                    connection.execute(_UPDATE_JOB, answer)
            return lock_job(connection, ref)

        return self._database.write(work)

    # Reconciliation.

    def claim(self, limit: int, *, complete: bool | None = None) -> list[Claimed[Job]]:
        """Claim due jobs, longest due first.

        ``complete=True``: jobs whose assets are all final. They need only the archive, and must not
        wait behind polls of a provider that does not answer. ``False``: the other jobs. ``None``:
        any.
        """
        return self._claim(_CLAIM[complete], limit)

    def claim_suspects(self, limit: int) -> list[Claimed[Job]]:
        """Claim due jobs that may have crashed workers."""
        return self._claim(_CLAIM_SUSPECTS, limit)

    def _claim(self, statement: Update, limit: int) -> list[Claimed[Job]]:
        def work(connection: Connection) -> list[Claimed[Job]]:
            rows = claims.claim_rows(connection, statement, self._now(), limit)
            return [Claimed(job_of(row), row.claim) for row in rows]

        return self._database.write(work)

    def release(self, claimed: Claimed[Job], due_at: float) -> None:
        """End a claim without a result: the job is due again at ``due_at``.

        Raise ClaimLostError if the job is no longer ours.
        """

        def work(connection: Connection) -> None:
            claims.update_claimed(connection, claimed, due_at=due_at, claim=None, crashes=0)
            if claimed.row.crashes:  # it is not suspect any more, so it is in another work queue
                notify(connection, QueueName.JOBS)

        self._database.write(work)

    def announce_risk(self, claimed: Claimed[Job], message: str) -> bool:
        """Write ``job.at_risk`` once per round; return whether it was new.

        Raise ClaimLostError if the job is no longer ours.
        """

        def work(connection: Connection) -> bool:
            job = lock_job(connection, claimed.row.ref)
            claims.require_claimed(connection, claimed)
            if has_event(connection, EventType.JOB_AT_RISK, job):
                return False
            payload: dict[str, object] = {"ref": job.ref, "message": message}
            write_events(connection, job, self._now(), [NewEvent(EventType.JOB_AT_RISK, payload)])
            return True

        if new := self._database.write(work):
            metrics.AT_RISK.inc()
        return new

    def conclude(
        self,
        claimed: Claimed[Job],
        state: JobState,
        *,
        reason: Reason | None = None,
        message: str = "",
        at: float | None = None,
    ) -> None:
        """End a claimed job, now or at the time that its manifest names.

        Raise ClaimLostError if it is no longer ours.
        """

        def work(connection: Connection) -> None:
            job, now = lock_job(connection, claimed.row.ref), at or self._now()
            claims.require_claimed(connection, claimed)
            finish_job(connection, job, state, now, reason=reason, message=message)

        self._database.write(work)

    def expire(self, ref: str, message: str) -> None:
        """End a job whose result never came; a job that has a result by now is not changed."""

        def work(connection: Connection) -> bool:
            job = lock_job(connection, ref)
            if alive := job.state in {JobState.SUBMITTING, JobState.WAITING}:
                finish_job(connection, job, JobState.EXPIRED, self._now(), message=message)
            return alive

        if self._database.write(work):
            metrics.LOST.labels("job").inc()


# Statements.


def find_job(connection: Connection, ref: str, *, locked: bool = False) -> Job | None:
    """Return the job ``ref``, locked until the transaction ends if asked; None if there is none."""
    row = connection.execute(_JOB_LOCKED if locked else _JOB, {"ref": ref}).one_or_none()
    return job_of(row) if row else None


def lock_job(connection: Connection, ref: str) -> Job:
    """Lock a job until the transaction ends and return it; raise ReceiverError if there is none."""
    return _existing(find_job(connection, ref, locked=True), ref)


def _existing(job: Job | None, ref: str) -> Job:
    if job is None:
        raise ReceiverError(f"there is no job {ref}")
    return job


def find_job_by_provider_id(connection: Connection, provider: str, provider_id: str) -> Job | None:
    """Return the job a provider knows under ``provider_id``, locked; None if there is none."""
    named = (jobs.c.provider == provider) & (jobs.c.provider_id == provider_id)
    row = connection.execute(select(*job_columns).where(named).with_for_update()).one_or_none()
    return job_of(row) if row else None


def find_job_by_key(connection: Connection, key: str) -> Job | None:
    """Return the job that has a caller's key; None if there is none."""
    row = connection.execute(select(*job_columns).where(jobs.c.key == key)).one_or_none()
    return job_of(row) if row else None


def _free_key(connection: Connection, key: str) -> None:
    """Take the key from a refused job; raise KeyTakenError if any other job has it."""
    holder = find_job_by_key(connection, key)
    if holder is not None and holder.reason is not Reason.REFUSED:
        raise KeyTakenError(key, holder.ref)
    if holder is not None:
        connection.execute(update(jobs).where(jobs.c.ref == holder.ref).values(key=None))


def insert_job(
    connection: Connection, ref: str, now: float, timing: Timing, **values: object
) -> None:
    """Insert a job that is being submitted; ``values`` are its other columns."""
    fixed = {"ref": ref, "state": JobState.SUBMITTING, "submitted_at": now}
    deadline_at = now + timing.job_timeout
    connection.execute(insert(jobs).values(**fixed, deadline_at=deadline_at, **values))


def first_poll(job: Job, timing: Timing, now: float) -> float:
    """Return when to poll a job that the provider has just taken (seconds since the epoch)."""
    wait = timing.poll_after if job.mode is Mode.WEBHOOK else timing.poll_interval
    return min(now + wait, max(job.deadline_at, now))


def expedite_job(connection: Connection, ref: str, due_at: float) -> None:
    """Make an unfinished job due by ``due_at`` at the latest, unless a worker has claimed it."""
    wanted = (
        (jobs.c.ref == ref)
        & jobs.c.finished_at.is_(None)
        & jobs.c.claim.is_(None)
        & (jobs.c.due_at > due_at)
    )
    change = update(jobs).where(wanted).values(due_at=due_at).returning(jobs.c.crashes)
    notify_of_rows(connection, QueueName.JOBS, connection.execute(change).scalars().all())


def finish_job(
    connection: Connection,
    job: Job,
    state: JobState,
    now: float,
    *,
    outcome: Outcome | None = None,
    reason: Reason | None = None,
    message: str = "",
    provider_id: str | None = None,
    earlier: Sequence[NewEvent] = (),
) -> None:
    """End a job and write the event of its end; only an operator's retry changes it after that.

    ``earlier`` are other events of this transaction, which are written before that one.
    """
    values = {
        "state": state,
        "outcome": outcome or job.outcome,
        "reason": reason,
        "message": message,
        "provider_id": job.provider_id or provider_id,
        "ended_at": job.ended_at or (now if outcome else None),
        "finished_at": now,
        "due_at": None,
        "claim": None,
    }
    connection.execute(_UPDATE_JOB, {"of_ref": job.ref, **values})
    ended = replace(job, provider_id=job.provider_id or provider_id)
    # Last, because transactions that write events wait for each other until the commit.
    write_events(connection, job, now, [*earlier, end_event(ended, state, reason, message)])


def end_event(job: Job, state: JobState, reason: Reason | None, message: str) -> NewEvent:
    """Return the event of a job's end."""
    payload: dict[str, object] = {
        "ref": job.ref,
        "state": state,
        "provider": job.provider,
        "provider_id": job.provider_id,
        "model": job.model,
        "reason": reason,
        "message": message,
    }
    return NewEvent(EventType(f"job.{state}"), payload)
