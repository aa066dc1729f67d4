"""The ledger: what happens to a job, each happening one durable transaction.

The statements stand in ``writes`` and ``claims``; here they are put together. Everything takes its time from one clock.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, update
from sqlalchemy.exc import IntegrityError

from receiver.errors import KeyTakenError, ReceiverError, UnreadableError
from receiver.ledger import claims, hints, writes
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.due_notifications import sweep
from receiver.ledger.notifications import notify_assets, notify_job
from receiver.ledger.rows import Asset, Hint, Job, StoredAsset
from receiver.ledger.tables import assets, jobs
from receiver.model import (
    FINAL_STATES,
    Api,
    AssetState,
    EventType,
    JobState,
    Mode,
    Reason,
    Submission,
    new_ref,
)
from receiver.telemetry import metrics

T = TypeVar("T")

# Seconds a claim lasts; a living worker renews it long before.
LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds; the settings of the same names."""

    url_lifetime: float
    poll_after: float
    poll_interval: float
    job_timeout: float


class Ledger:
    """Every write to the database, and every claim."""

    def __init__(self, database: Database, timing: Timing, clock: Callable[[], float]) -> None:
        self._database = database
        self.timing = timing
        self.now = clock

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction; durable when it returns, LedgerError when it may not be."""
        return self._database.write(work)

    def require_writable(self) -> None:
        """Raise LedgerError unless something can be written now; a full disk shows only when its pages are needed."""
        self.write(writes.touch)

    # A job's beginning.

    def submit(self, submission: Submission, base_url: str, ref: str | None = None) -> Job:
        """Write down a job that is about to be posted; until its answer is known it is ``submitting``.

        Raise KeyTakenError where the caller's key is another job's. A job the provider refused has not spent its key.
        """
        now = self.now()
        ref = ref or new_ref(now)

        def work(connection: Connection) -> Job:
            if submission.key is not None:
                self._free_key(connection, submission.key)
            what = {
                name: getattr(submission, name)
                for name in ("provider", "api", "mode", "model", "prompt", "key")
            }
            params = json.dumps(submission.params, ensure_ascii=False)
            try:
                with connection.begin_nested():
                    self._insert_job(
                        connection,
                        ref,
                        now,
                        base_url=base_url,
                        due_at=now + self.timing.job_timeout,
                        params=params,
                        **what,
                    )
            except IntegrityError:
                self._free_key(
                    connection, submission.key or ""
                )  # another submit took it this instant
                raise
            return self._job(connection, ref)

        return self.write(work)

    def job(self, ref: str) -> Job:
        """Return a job as it stands; raise ReceiverError if there is none."""
        return self._database.read(lambda connection: self._job(connection, ref, locked=False))

    def answer(self, ref: str) -> bytes:
        """Return the answer that brought a job's pictures itself; raise UnreadableError if none did."""
        body = self._database.read(lambda connection: writes.find_answer(connection, ref))
        if body is None:
            raise UnreadableError(f"{ref} has no answer with pictures in it")
        return body

    def key_holder(self, key: str) -> Job | None:
        """Return the job that has spent a caller's key; None where the key is free."""
        job = self._database.read(lambda connection: writes.find_job_by_key(connection, key))
        return None if job is None or job.reason is Reason.REFUSED else job

    def _free_key(self, connection: Connection, key: str) -> None:
        holder = writes.find_job_by_key(connection, key)
        if holder is not None and holder.reason is not Reason.REFUSED:
            raise KeyTakenError(key, holder.ref)
        if holder is not None:
            connection.execute(update(jobs).where(jobs.c.ref == holder.ref).values(key=None))

    def withdraw(self, ref: str) -> None:
        """Take back a job whose POST never reached the provider, so that it can be posted again; one that was heard of stays."""

        def work(connection: Connection) -> None:
            job = writes.find_job(connection, ref)
            if job is not None and job.state is JobState.SUBMITTING:
                writes.delete_unheard_job(connection, ref)

        self.write(work)

    def adopt(
        self, connection: Connection, ref: str, base_url: str, provider_id: str | None = None
    ) -> Job:
        """Write down a job whose submit we did not see: its ticket is ours, or the provider says the task is."""
        now = self.now()
        unknown = {"model": "", "prompt": "", "params": "{}"}
        what = {
            "provider": "grsai",
            "api": Api.DRAW,
            "mode": Mode.WEBHOOK,
            "provider_id": provider_id,
            "base_url": base_url,
        }
        with (
            suppress(IntegrityError),
            connection.begin_nested(),
        ):  # another report may be adopting it this instant
            self._insert_job(
                connection, ref, now, due_at=now + self.timing.poll_after, **what, **unknown
            )
        return self._job(connection, ref)

    def _insert_job(self, connection: Connection, ref: str, now: float, **values: object) -> None:
        always = {"ref": ref, "state": JobState.SUBMITTING, "submitted_at": now}
        writes.insert_job(connection, **always, deadline_at=now + self.timing.job_timeout, **values)

    def _job(self, connection: Connection, ref: str, *, locked: bool = True) -> Job:
        job = writes.find_job(connection, ref, locked=locked)
        if job is None:
            raise ReceiverError(f"there is no job {ref}")
        return job

    def accepted(self, ref: str, provider_id: str) -> Job:
        """Note the provider's id for a job. A callback may have been faster; then only the id is new."""

        def work(connection: Connection) -> Job:
            job = self._job(connection, ref)
            # An id that is another job's is left out: one task of a provider is one job.
            taken = job.provider_id is None and writes.find_job_by_provider_id(
                connection, job.provider, provider_id
            )
            values: dict[str, object] = {
                "provider_id": job.provider_id if taken else job.provider_id or provider_id
            }
            if job.state == JobState.SUBMITTING:
                values |= {"state": JobState.WAITING, "due_at": self.poll_due(job), "claim": None}
            connection.execute(update(jobs).where(jobs.c.ref == ref).values(values))
            return self._job(connection, ref)

        return self.write(work)

    def refused(self, ref: str, message: str) -> Job:
        """End a job the provider did not take, with the provider's own words."""

        def work(connection: Connection) -> Job:
            job = self._job(connection, ref)
            if job.state == JobState.SUBMITTING:
                writes.finish_job(
                    connection,
                    job,
                    JobState.FAILED,
                    self.now(),
                    reason=Reason.REFUSED,
                    message=message,
                )
            return self._job(connection, ref)

        return self.write(work)

    def poll_due(self, job: Job) -> float:
        """Return when a job that was just heard of wants to be asked about, in seconds since the epoch."""
        wait = self.timing.poll_after if job.mode is Mode.WEBHOOK else self.timing.poll_interval
        return min(self.now() + wait, max(job.deadline_at, self.now()))

    # Claims.

    def claim_assets(self, limit: int, *, suspects: bool = False) -> list[Claimed[Asset]]:
        """Claim assets to archive, nearest deadline first: those that may have made workers crash (``suspects``), or the others."""
        return self.write(
            lambda connection: claims.claim_assets(
                connection, self.now(), self.now() + LEASE, limit, suspects=suspects
            )
        )

    def claim_jobs(self, limit: int, *, complete: bool | None = None) -> list[Claimed[Job]]:
        """Claim jobs to look at: the complete ones to conclude, the others to poll, hurry or expire, or (None) any."""
        return self.write(
            lambda connection: claims.claim_jobs(
                connection, self.now(), self.now() + LEASE, limit, complete=complete
            )
        )

    def claim_suspect_jobs(self, limit: int) -> list[Claimed[Job]]:
        """Claim jobs to look at that may have made workers crash."""
        return self.write(
            lambda connection: claims.claim_suspect_jobs(
                connection, self.now(), self.now() + LEASE, limit
            )
        )

    def claim_hints(self, limit: int) -> list[Claimed[Hint]]:
        """Claim hints to look into."""
        return self.write(
            lambda connection: claims.claim_hints(connection, self.now(), self.now() + LEASE, limit)
        )

    def sweep(self) -> int:
        """Wake somebody for each row that is due and has no wake, where many machines work; return for how many."""
        return self.write(lambda connection: sweep(connection, self.now()))

    def renew(self, held: list[Claimed[Any]]) -> None:
        """Prolong our leases."""
        self.write(lambda connection: claims.renew(connection, held, self.now() + LEASE))

    def release(self, held: list[Claimed[Any]]) -> None:
        """Give up claims at a shutdown."""
        self.write(lambda connection: claims.release(connection, held, self.now()))

    def take_over(self) -> int:
        """End the leases of workers that died; only for the one worker of a machine."""
        return self.write(lambda connection: claims.take_over(connection, self.now()))

    # An asset's end.

    def finish_asset(self, claimed: Claimed[Asset], stored: StoredAsset) -> None:
        """Note that an asset is safe; raise ClaimLostError if the work is no longer ours."""
        payload: dict[str, object] = {
            "ref": claimed.row.ref,
            "index": claimed.row.idx,
            "key": stored.key,
            "sha256": stored.sha256,
            "size": stored.size,
            "content_type": stored.content_type,
            "width": stored.width,
            "height": stored.height,
        }
        values = {
            name: payload[name]
            for name in ("key", "sha256", "size", "content_type", "width", "height")
        }
        self._end_asset(claimed, AssetState.ARCHIVED, payload, error="", **values)
        metrics.BYTES.inc(stored.size)
        metrics.TIME_LEFT.observe(max(0.0, claimed.row.expires_at - self.now()))

    def give_up_asset(self, claimed: Claimed[Asset], state: AssetState, error: str) -> None:
        """Note that an asset failed or expired, and why; raise ClaimLostError if the work is no longer ours."""
        self._end_asset(claimed, state, None, error=error)
        metrics.LOST.labels("asset").inc()

    def _end_asset(
        self,
        claimed: Claimed[Asset],
        state: AssetState,
        event: dict[str, object] | None,
        **values: object,
    ) -> None:
        def work(connection: Connection) -> None:
            now = self.now()
            job = self._job(connection, claimed.row.ref)
            claims.change_held(
                connection, claimed, state=state, finished_at=now, due_at=None, claim=None, **values
            )
            if state is not AssetState.ARCHIVED:
                writes.note_attempt(connection, claimed.row, now, str(values["error"]))
            if writes.pending_assets(connection, job.ref) == 0:
                # The last one: the job can be concluded at once, even if somebody is just polling it.
                connection.execute(
                    update(jobs)
                    .where(jobs.c.ref == job.ref)
                    .values(due_at=now, claim=None, crashes=0)
                )
                notify_job(connection, job.ref, now, complete=True)
            if (
                event is not None
            ):  # last, because all who write events wait for each other until the commit
                writes.emit(connection, EventType.ASSET_ARCHIVED, job, claimed.row.idx, now, event)

        self.write(work)
        metrics.ASSETS.labels(state).inc()

    def retry_asset(
        self,
        claimed: Claimed[Asset],
        due_at: float,
        error: str,
        *,
        counted: bool = True,
        ask_again: bool = False,
    ) -> None:
        """Try an asset again at ``due_at``; ``ask_again`` has its job polled for a fresh URL. An attempt that says nothing
        about the asset (the archive was down) is not ``counted``.
        """  # noqa: D205 - one sentence each

        def work(connection: Connection) -> None:
            attempts = assets.c.attempts if counted else assets.c.attempts - 1
            job = self._job(connection, claimed.row.ref)
            claims.change_held(
                connection,
                claimed,
                due_at=due_at,
                claim=None,
                error=error,
                attempts=attempts,
                crashes=0,
            )
            if counted:
                writes.note_attempt(connection, claimed.row, self.now(), error)
            if ask_again:
                writes.look_at(connection, job.ref, self.now())

        self.write(work)
        metrics.ASSETS.labels("retry").inc()

    # A job's end.

    def conclude(
        self,
        claimed: Claimed[Job],
        state: JobState,
        *,
        reason: Reason | None = None,
        message: str = "",
    ) -> None:
        """End a claimed job; raise ClaimLostError if it is no longer ours."""

        def work(connection: Connection) -> None:
            job = self._job(connection, claimed.row.ref)
            claims.require_held(connection, claimed)
            writes.finish_job(connection, job, state, self.now(), reason=reason, message=message)

        self.write(work)

    def expire(self, ref: str, message: str) -> None:
        """End a job whose result never came; a job that has one by now is left alone."""

        def work(connection: Connection) -> bool:
            job = self._job(connection, ref)
            if alive := job.state in {JobState.SUBMITTING, JobState.WAITING}:
                writes.finish_job(connection, job, JobState.EXPIRED, self.now(), message=message)
            return alive

        if self.write(work):
            metrics.LOST.labels("job").inc()

    def look_again(self, claimed: Claimed[Job] | Claimed[Hint], due_at: float) -> None:
        """Give a claim back and have the row looked at again at ``due_at``; raise ClaimLostError if it is no longer ours."""
        quiet = {} if isinstance(claimed.row, Hint) else {"crashes": 0}
        self.write(
            lambda connection: claims.change_held(
                connection, claimed, due_at=due_at, claim=None, **quiet
            )
        )

    def announce_risk(self, claimed: Claimed[Job], message: str) -> bool:
        """Write ``job.at_risk``, once a round; say whether it was new. Raise ClaimLostError if the job is no longer ours."""

        def work(connection: Connection) -> bool:
            job = self._job(connection, claimed.row.ref)
            claims.require_held(connection, claimed)
            if writes.has_event(connection, EventType.JOB_AT_RISK, job):
                return False
            payload: dict[str, object] = {"ref": job.ref, "message": message}
            writes.emit(
                connection, EventType.JOB_AT_RISK, job, writes.ABOUT_THE_JOB, self.now(), payload
            )
            return True

        if new := self.write(work):
            metrics.AT_RISK.inc()
        return new

    # Hints.

    def ref_of(self, provider_id: str) -> str | None:
        """Return the ref of the job GRSAI knows under this id; None where there is none."""
        return self._database.read(lambda connection: hints.ref_of(connection, provider_id))

    def hint(self, provider_id: str, body: bytes = b"") -> bool:
        """Remember that a stranger named a task, in this ``body``. False: too many new ones were named in the last minute."""
        return self.write(
            lambda connection: hints.remember(connection, provider_id, body, self.now())
        )

    def drop_hint(self, hint: Hint) -> None:
        """Forget a hint that came to nothing."""
        self.write(lambda connection: writes.delete_hint(connection, hint.provider_id))

    def adopt_hint(self, ref: str, hint: Hint, base_url: str) -> None:
        """Turn a confirmed hint into a job, unless the task became one meanwhile."""

        def work(connection: Connection) -> None:
            writes.delete_hint(connection, hint.provider_id)
            if writes.find_job_by_provider_id(connection, "grsai", hint.provider_id) is None:
                self.adopt(connection, ref, base_url, hint.provider_id)
                hints.keep_body(connection, ref, hint)

        self.write(work)

    # Operators.

    def retry(self, ref: str) -> Job:
        """Open a final job again, in a new round: lost assets are tried anew and the provider is asked for fresh URLs.

        An archived job whose manifest was set aside is concluded again, and nothing else.

        Raise ReceiverError where that cannot help: nothing is wrong with the job, or the provider never had it.
        """

        def work(connection: Connection) -> Job:
            job = self._job(connection, ref)
            unexplained = claims.is_unexplained(job)
            if job.state not in FINAL_STATES or (
                job.state is JobState.ARCHIVED and not unexplained
            ):
                raise ReceiverError(f"{ref} is {job.state}: there is nothing to retry")
            if (
                not unexplained
                and job.provider_id is None
                and not writes.lost_inline_assets(connection, ref)
            ):
                remedy = "submit it again as a new job"
                if job.reason is not Reason.REFUSED:
                    remedy = "it may have been billed, so look for it at the provider before you submit it again"
                raise ReceiverError(
                    f"{ref} has no id at the provider, so its result cannot be asked for: {remedy}"
                )
            self.open_again(connection, job)
            return self._job(connection, ref)

        return self.write(work)

    def open_again(self, connection: Connection, job: Job) -> None:
        """Begin a new round of a job: its lost assets are pending again, or, without any, its result is sought again.

        If nothing of it is lost, it is only concluded again.
        """
        now = self.now()
        again = {
            "state": AssetState.PENDING,
            "due_at": now,
            "finished_at": None,
            "attempts": 0,
            "crashes": 0,
            "expires_at": now + self.timing.url_lifetime,
        }
        lost = (assets.c.ref == job.ref) & assets.c.state.in_(
            [AssetState.FAILED, AssetState.EXPIRED]
        )
        reopened = (
            connection.execute(update(assets).where(lost).values(again).returning(assets.c.idx))
            .scalars()
            .all()
        )
        notify_assets(connection, job.ref, reopened, now + self.timing.url_lifetime)
        notify_job(connection, job.ref, now)
        values: dict[str, object] = {
            "round": job.round + 1,
            "reason": None,
            "message": "",
            "finished_at": None,
            "due_at": now,
            "attempts": 0,
            "crashes": 0,
        }
        if reopened or job.state is JobState.ARCHIVED:
            values |= {"state": JobState.ARCHIVING}
        else:
            values |= {
                "state": JobState.WAITING,
                "outcome": None,
                "ended_at": None,
                "deadline_at": now + self.timing.job_timeout,
            }
        connection.execute(update(jobs).where(jobs.c.ref == job.ref).values(values))
