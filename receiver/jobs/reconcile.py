"""Reconciliation: no job stays silent. Every unfinished job is due at some time and handled here.

A job without a result is polled, and expires after its deadline. A job whose assets are all final
is concluded: its manifest is stored and the job ends.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from receiver.archive.conclusion import Conclusion, decide_end, shortfall
from receiver.clock import back_off, doubling
from receiver.errors import (
    ClaimLostError,
    NoSuchTaskError,
    ProviderError,
    ReceiverError,
    UnreadableError,
)
from receiver.ingest.inbox import Inbox
from receiver.ledger.claims import LEASE, MOST_CRASHES, Claimed, set_aside
from receiver.ledger.hints import Hints
from receiver.ledger.jobs import Jobs
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Asset, Hint, Job
from receiver.model import (
    Api,
    AssetState,
    Decision,
    Delivery,
    JobState,
    Mode,
    Provider,
    Source,
    Timing,
    new_ref,
    risk_begins,
)
from receiver.providers.dialect import Task
from receiver.providers.grsai.reports import read_report
from receiver.providers.openai.protocol import ANSWER_LOST
from receiver.telemetry import tracing

log = structlog.get_logger(__name__)

# Until this many seconds after the submit, "no such task" can mean "not yet". Later the provider
# must say it this many times in a row before the job counts as lost.
NOT_YET = 60.0
MOST_UNKNOWN = 3
# Texts for people about decisions after which the job still has no result.
_COMPLAINTS = {
    Decision.PROGRESS: "the provider still calls it running",
    Decision.EMPTY: "the provider reports success, but no result",
    Decision.OTHER_ID: "the provider answers with another task",
    Decision.UNREADABLE: "the provider's answer cannot be read",
}
# How often a hint is verified before it is dropped.
MOST_HINT_ATTEMPTS = 5
# Seconds until a job is due again whose manifest could not be stored.
ARCHIVE_PAUSE = 15.0


class ResultSource(Protocol):
    """Can ask providers for results."""

    def can_ask(self, provider: str) -> bool:
        """Return whether a provider can be asked: we have its key."""

    def result(self, task: Task) -> bytes:
        """Return the answer's body; raise ProviderError."""


class Reconciler:
    """Handles due jobs and hints; ``base_url`` is GRSAI's, for hints."""

    def __init__(
        self,
        jobs: Jobs,
        hints: Hints,
        queries: JobQueries,
        inbox: Inbox,
        conclusion: Conclusion,
        result_source: ResultSource,
        *,
        base_url: str,
        timing: Timing,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._hints = hints
        self._queries = queries
        self._inbox = inbox
        self._conclusion = conclusion
        self._result_source = result_source
        self._base_url = base_url
        self._timing = timing
        self._now = now
        # By ref: how often in a row the provider did not know the job. A restart counts from zero,
        # which only delays the job's end.
        self._unknown: Counter[str] = Counter()

    def reconcile_job(self, claimed: Claimed[Job]) -> None:
        """Do for a claimed job what its state needs."""
        job = claimed.row
        try:
            if job.crashes >= MOST_CRASHES:
                self._set_aside(claimed)
            elif job.state is not JobState.ARCHIVING:
                self._poll(claimed)
            elif pending := self._pending_assets(job):
                self._refresh_urls(claimed, pending)
            else:
                with tracing.span("conclude", job.ref):
                    self._conclude(claimed)
        except ClaimLostError:
            # Most often a callback arrived during the poll; it has the newer information.
            log.info("job changed meanwhile", ref=job.ref)
        except ReceiverError as error:
            log.warning("job not reconciled", ref=job.ref, error=str(error))
            with suppress(ClaimLostError):
                self._jobs.release(claimed, self._now() + ARCHIVE_PAUSE)

    def _set_aside(self, claimed: Claimed[Job]) -> None:
        """Stop working on a job that crashes workers; its archived pictures stay archived."""
        job, message = claimed.row, set_aside(claimed.row)
        log.error("job set aside", ref=job.ref, state=job.state, crashes=job.crashes)
        assets = self._queries.assets([job.ref])[job.ref]
        if job.state is not JobState.ARCHIVING:
            self._jobs.expire(job.ref, message)
        elif pending := [asset for asset in assets if asset.state is AssetState.PENDING]:
            # Its assets are archived without it, and the last one makes it due.
            last = max(asset.expires_at for asset in pending)
            self._jobs.release(claimed, max(self._now() + LEASE, last))
        else:
            state, reason, losses = decide_end(assets)
            parts = [losses, shortfall(job, len(assets)), f"no manifest, {message}"]
            message = "; ".join(filter(None, parts))
            self._jobs.conclude(claimed, state, reason=reason, message=message)

    # Hints.

    def verify_hint(self, claimed: Claimed[Hint]) -> None:
        """Ask the provider about an id from a callback without a ticket.

        If it is our task, it becomes a job with the provider's answer as its first report.
        """
        hint, ref = claimed.row, new_ref(self._now())
        if hint.attempts > MOST_HINT_ATTEMPTS:  # a worker crashed during the last attempt
            self._hints.drop(hint)
            return
        try:
            task = Task(Provider.GRSAI, hint.provider_id, self._base_url, Api.DRAW)
            body = self._result_source.result(task)
            read_report(body)  # an answer that is not a report confirms nothing
        except (ProviderError, UnreadableError) as error:
            log.info("hint not confirmed", attempt=hint.attempts, error=str(error))
            self._retry_or_drop(claimed)
            return
        self._hints.adopt(ref, hint, self._base_url)
        if self._queries.job(ref) is None:
            # Another job has this task by now. Accepting the answer under our ref would make a
            # second job.
            log.info("hint already known", provider_id=hint.provider_id)
        else:
            self._accept(ref, body, Provider.GRSAI)

    def _retry_or_drop(self, claimed: Claimed[Hint]) -> None:
        if claimed.row.attempts >= MOST_HINT_ATTEMPTS:
            self._hints.drop(claimed.row)
        else:
            with suppress(ClaimLostError):
                self._hints.release(claimed, self._now() + self._timing.poll_interval)

    # Jobs without a result.

    def _poll(self, claimed: Claimed[Job]) -> None:
        """Ask the provider about a job; expire it if it has no result after its deadline."""
        job = claimed.row
        complaint = "no callback came"
        if job.provider_id is not None:
            try:
                decision = self._ask_about(job, job.provider_id)
                self._unknown.pop(job.ref, None)
                if decision not in _COMPLAINTS:
                    return
                complaint = _COMPLAINTS[decision]
            except ProviderError as error:
                complaint = str(error)
                if isinstance(error, NoSuchTaskError) and self._is_gone(job):
                    self._expire(
                        job,
                        f"the provider does not know its task {job.provider_id} any more: "
                        f"{complaint}",
                    )
                    return
        if self._now() >= job.deadline_at:
            self._expire(job, self._expiry_message(job, complaint))
        else:
            log.info(
                "job has no result yet", ref=job.ref, attempt=job.attempts, complaint=complaint
            )
            # ClaimLostError: an accepted report has already set the time of the next poll.
            with suppress(ClaimLostError):
                self._jobs.release(claimed, self._next_poll(job))

    def _ask_about(self, job: Job, provider_id: str) -> Decision:
        """Ask the provider about a job, and accept its answer; raise ProviderError."""
        provider = Provider.of(job.provider)
        task = Task(provider, provider_id, job.base_url, job.api, job.model, job.poll_url)
        return self._accept(job.ref, self._result_source.result(task), provider)

    def _accept(self, ref: str, body: bytes, provider: Provider) -> Decision:
        with suppress(UnreadableError):
            return self._inbox.accept(Delivery(ref, Source.POLL, body, self._now(), provider))
        return Decision.UNREADABLE

    def _is_gone(self, job: Job) -> bool:
        """Return whether to believe "no such task"; see ``NOT_YET`` and ``MOST_UNKNOWN``."""
        self._unknown[job.ref] += 1
        old_enough = self._now() - job.submitted_at > NOT_YET
        return old_enough and self._unknown[job.ref] >= MOST_UNKNOWN

    def _next_poll(self, job: Job) -> float:
        can_ask = self._result_source.can_ask(job.provider)
        if job.provider_id is None or not can_ask:
            return job.deadline_at
        return min(self._now() + self._poll_wait(job, 4), job.deadline_at)

    def _poll_wait(self, job: Job, most: int) -> float:
        """Return the seconds to the next poll: one interval, doubled each time up to ``most``."""
        interval = self._timing.poll_interval
        return back_off(job.attempts, doubling(interval, interval * most), jitter=0)

    def _expire(self, job: Job, message: str) -> None:
        # This finds the job by ref, not by claim: a report that was just accepted has ended our
        # claim.
        self._jobs.expire(job.ref, message)
        self._unknown.pop(job.ref, None)
        log.error("job expired", ref=job.ref, message=message)

    def _expiry_message(self, job: Job, complaint: str) -> str:
        """Return what was lost and what a person can do about it."""
        late = f"no result within {self._timing.job_timeout:.0f} s"
        if job.mode is Mode.SYNC:
            return (
                f"{late}: the process that submitted it ended before the answer came. {ANSWER_LOST}"
            )
        if job.provider_id is None:
            return (
                f"{late}: the answer to the submit was lost and {complaint}; "
                "it may have been billed, look for it at the provider"
            )
        return (
            f"{late} ({complaint}); the provider knows it as {job.provider_id}: "
            f"`receiver retry {job.ref}` asks once more"
        )

    # Jobs with a result.

    def _pending_assets(self, job: Job) -> list[Asset]:
        assets = self._queries.assets([job.ref])[job.ref]
        return [asset for asset in assets if asset.state is AssetState.PENDING]

    def _refresh_urls(self, claimed: Claimed[Job], pending: list[Asset]) -> None:
        """Announce that assets may be lost, and ask the provider for fresh URLs."""
        job, first = claimed.row, min(pending, key=lambda asset: asset.expires_at)
        if self._now() >= risk_begins(first.expires_at, self._timing.lifetime(job.provider)):
            left, trouble = max(0.0, first.expires_at - self._now()), first.error or "not tried yet"
            message = (
                f"{len(pending)} of its pictures not archived yet, "
                f"the first URL expires in {left:.0f} s: {trouble}"
            )
            if self._jobs.announce_risk(claimed, message):
                log.error("job at risk", ref=job.ref, message=message)
        # If all are being downloaded, a fresh URL would only interrupt the downloads.
        if job.provider_id is not None and any(asset.claim is None for asset in pending):
            try:
                self._ask_about(job, job.provider_id)
            except ProviderError as error:
                log.warning("no fresh URL", ref=job.ref, error=str(error))
        self._jobs.release(claimed, self._now() + self._poll_wait(job, 8))

    def _conclude(self, claimed: Claimed[Job]) -> None:
        """End a job whose assets are all final."""
        end = self._conclusion.prepare(claimed)
        self._jobs.conclude(claimed, end.state, reason=end.reason, message=end.message, at=end.at)
        log.info("job concluded", ref=claimed.row.ref, state=end.state)
