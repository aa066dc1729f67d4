"""No silent job: whoever is due is looked at. A job without a word is polled, a dead one expires, a complete one is concluded."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog

from receiver import failpoints
from receiver.archive.manifest import manifest, manifest_key, read_manifest
from receiver.archive.stores import Store
from receiver.clock import back_off, doubling
from receiver.errors import (
    ClaimLostError,
    MissingObjectError,
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
    Reason,
    Source,
    Timing,
    new_ref,
    risk_begins,
)
from receiver.providers.grsai.protocol import read_report
from receiver.providers.openai.protocol import ANSWER_LOST
from receiver.telemetry import tracing

log = structlog.get_logger(__name__)

# "No such task" means "not yet" for so many seconds after the submit, and "gone" only when said so many times.
NOT_YET = 60.0
MOST_UNKNOWN = 3
# What a poll may answer while the job goes on, as it is told to a person; after any other answer the job is over, or was by then.
_COMPLAINTS = {
    Decision.PROGRESS: "the provider still calls it running",
    Decision.EMPTY: "the provider reports success, but no result",
    Decision.OTHER_ID: "the provider answers with another task",
    Decision.UNREADABLE: "the provider's answer cannot be read",
}
# Looks at a stranger's hint before it is forgotten.
MOST_HINT_LOOKS = 5
# Seconds until a job whose manifest could not be stored is looked at again.
ARCHIVE_PAUSE = 15.0


class ResultSource(Protocol):
    """Whoever can ask a provider for a result."""

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:
        """Return the answer's body; raise ProviderError."""


class Reconciler:
    """Looks at due jobs and hints; ``result_source`` is None without a key, and then nothing can be asked."""

    def __init__(
        self,
        jobs: Jobs,
        hints: Hints,
        queries: JobQueries,
        inbox: Inbox,
        store: Store,
        result_source: ResultSource | None,
        *,
        base_url: str,
        timing: Timing,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._hints = hints
        self._queries = queries
        self._timing = timing
        self._now = now
        self._inbox = inbox
        self._store = store
        self._result_source = result_source
        self._base_url = base_url
        # How often in a row the provider did not know a job, by ref. A restart counts anew, which only adds patience.
        self._unknown: Counter[str] = Counter()

    def look(self, claimed: Claimed[Job]) -> None:
        """Do for a claimed job what its state asks for."""
        job = claimed.row
        try:
            if job.crashes >= MOST_CRASHES:
                self._set_aside(claimed)
            elif job.state is not JobState.ARCHIVING:
                self._seek_result(claimed)
            elif waiting := self._pending(job):
                self._hurry(claimed, waiting)
            else:
                with tracing.span("conclude", job.ref):
                    self._conclude(claimed)
        except ClaimLostError:
            # Most often a callback came while we were looking: it knows better.
            log.info("job heard of meanwhile", ref=job.ref)
        except ReceiverError as error:
            log.warning("job not reconciled", ref=job.ref, error=str(error))
            with suppress(ClaimLostError):
                self._jobs.release(claimed, self._now() + ARCHIVE_PAUSE)

    def _set_aside(self, claimed: Claimed[Job]) -> None:
        """Stop trying what workers crash over; what is archived of the job counts all the same."""
        job, message = claimed.row, set_aside(claimed.row)
        log.error("job set aside", ref=job.ref, state=job.state, crashes=job.crashes)
        assets = self._queries.assets([job.ref])[job.ref]
        if job.state is not JobState.ARCHIVING:
            self._jobs.expire(job.ref, message)
        elif waiting := [asset for asset in assets if asset.state is AssetState.PENDING]:
            # Its assets are worked on without it, and the last of them makes it due.
            self._jobs.release(
                claimed, max(self._now() + LEASE, *(asset.expires_at for asset in waiting))
            )
        else:
            state, reason, losses = decide_end(assets)
            self._jobs.conclude(
                claimed,
                state,
                reason=reason,
                message="; ".join(filter(None, [losses, f"no manifest, {message}"])),
            )

    def verify_hint(self, claimed: Claimed[Hint]) -> None:
        """Ask the provider about an id a stranger named: if it is ours there, it becomes a job; what is archived comes from the answer."""
        hint, ref = claimed.row, new_ref(self._now())
        if hint.attempts > MOST_HINT_LOOKS:  # the worker was gone with it in hand
            self._hints.drop(hint)
            return
        try:
            body = self._ask(self._base_url, Api.DRAW, hint.provider_id)
            read_report(body)  # what is no report confirms nothing
        except (ProviderError, UnreadableError) as error:
            log.info("hint not confirmed", attempt=hint.attempts, error=str(error))
            self._drop_or_look_again(claimed)
            return
        self._hints.adopt(ref, hint, self._base_url)
        if self._queries.job(ref) is None:
            log.info(
                "hint known meanwhile", provider_id=hint.provider_id
            )  # accepted under our ref, the answer would make a second job
        else:
            self._accept(ref, body)

    def _drop_or_look_again(self, claimed: Claimed[Hint]) -> None:
        if claimed.row.attempts >= MOST_HINT_LOOKS:
            self._hints.drop(claimed.row)
        else:
            with suppress(ClaimLostError):
                self._hints.release(claimed, self._now() + self._timing.poll_interval)

    def _ask(self, base_url: str, api: Api, provider_id: str) -> bytes:
        if self._result_source is None:
            raise ProviderError("GRSAI_API_KEY is not set: the provider cannot be asked")
        return self._result_source.result(base_url, api, provider_id)

    def _accept(self, ref: str, body: bytes) -> Decision:
        with suppress(UnreadableError):
            return self._inbox.accept(Delivery(ref, Source.POLL, body, self._now()))
        return Decision.UNREADABLE

    # Jobs without a result.

    def _seek_result(self, claimed: Claimed[Job]) -> None:
        """Poll a job, and expire it once its time is over and the provider has nothing for it."""
        job = claimed.row
        complaint = "no callback came"
        if job.provider_id is not None:
            try:
                verdict = self._accept(job.ref, self._ask(job.base_url, job.api, job.provider_id))
                self._unknown.pop(job.ref, None)
                if verdict not in _COMPLAINTS:
                    return
                complaint = _COMPLAINTS[verdict]
            except ProviderError as error:
                complaint = str(error)
                if isinstance(error, NoSuchTaskError) and self._is_gone(job):
                    self._expire(
                        claimed,
                        f"the provider does not know its task {job.provider_id} any more: {complaint}",
                    )
                    return
        if self._now() >= job.deadline_at:
            self._expire(claimed, self._obituary(job, complaint))
        else:
            log.info(
                "job has no result yet", ref=job.ref, attempt=job.attempts, complaint=complaint
            )
            with suppress(ClaimLostError):  # an accepted report has already said when to look again
                self._jobs.release(claimed, self._next_look(job))

    def _is_gone(self, job: Job) -> bool:
        """Say whether "no such task" is to be believed: not in a job's first minute, nor before it was said several times in a row."""
        self._unknown[job.ref] += 1
        return self._now() - job.submitted_at > NOT_YET and self._unknown[job.ref] >= MOST_UNKNOWN

    def _next_look(self, job: Job) -> float:
        if job.provider_id is None or self._result_source is None:
            return job.deadline_at
        return min(self._now() + self._back_off(job, 4), job.deadline_at)

    def _back_off(self, job: Job, most: int) -> float:
        """Return seconds until the next look: a poll interval, doubled with each look up to ``most`` of them."""
        interval = self._timing.poll_interval
        return back_off(job.attempts, doubling(interval, interval * most), jitter=0)

    def _obituary(self, job: Job, complaint: str) -> str:
        """Say what was lost and what a person can do about it."""
        hours = f"no result within {self._timing.job_timeout:.0f} s"
        if job.mode is Mode.SYNC:
            return f"{hours}: whoever submitted it died or was stopped before the answer came. {ANSWER_LOST}"
        if job.provider_id is None:
            return f"{hours}: the answer to the submit was lost and {complaint}; it may have been billed, look for it at the provider"
        return f"{hours} ({complaint}); the provider knows it as {job.provider_id}: `receiver retry {job.ref}` asks once more"

    def _expire(self, claimed: Claimed[Job], message: str) -> None:
        # A report that was just accepted gave our claim back; the job's row may have a new state by now.
        self._jobs.expire(claimed.row.ref, message)
        self._unknown.pop(claimed.row.ref, None)
        log.error("job expired", ref=claimed.row.ref, message=message)

    # Jobs with a result.

    def _pending(self, job: Job) -> list[Asset]:
        return [
            asset
            for asset in self._queries.assets([job.ref])[job.ref]
            if asset.state is AssetState.PENDING
        ]

    def _hurry(self, claimed: Claimed[Job], waiting: list[Asset]) -> None:
        """Announce the risk of losing late assets, and ask for fresh URLs while there is time."""
        job, first = claimed.row, min(waiting, key=lambda asset: asset.expires_at)
        if self._now() >= risk_begins(first.expires_at, self._timing.url_lifetime):
            left, trouble = (
                max(0.0, first.expires_at - self._now()),
                first.error or "not tried yet",
            )
            message = f"{len(waiting)} of its pictures not archived yet, the first URL dies in {left:.0f} s: {trouble}"
            if self._jobs.announce_risk(claimed, message):
                log.error("job at risk", ref=job.ref, message=message)
        # A download under way is left alone: a fresh URL would take it from its hand.
        if job.provider_id is not None and any(asset.claim is None for asset in waiting):
            try:
                self._accept(job.ref, self._ask(job.base_url, job.api, job.provider_id))
            except ProviderError as error:
                log.warning("no fresh URL", ref=job.ref, error=str(error))
        self._jobs.release(claimed, self._now() + self._back_off(job, 8))

    def _conclude(self, claimed: Claimed[Job]) -> None:
        """End a job whose assets are all final: the manifest first, so that whoever sees the end finds it explained."""
        job = claimed.row
        assets = self._queries.assets([job.ref])[job.ref]
        state, reason, message = decide_end(assets)
        if any(asset.state is AssetState.ARCHIVED for asset in assets) and not self._is_explained(
            job
        ):
            ended = replace(
                job, state=state, reason=reason, message=message, finished_at=self._now()
            )
            content = manifest(
                ended, self._queries.params(job.ref), assets, self._queries.delivery_log(job.ref)
            )
            self._store.replace(manifest_key(job.ref), content, content_type="application/json")
            failpoints.reached(failpoints.Point.MANIFEST_STORED)
        self._jobs.conclude(claimed, state, reason=reason, message=message)
        log.info("job concluded", ref=job.ref, state=state)

    def _is_explained(self, job: Job) -> bool:
        """Say whether a manifest of an earlier ledger knows what was asked for; we do not, where the job was adopted."""
        if job.model:
            return False
        with (
            suppress(MissingObjectError, UnreadableError),
            self._store.open(manifest_key(job.ref)) as file,
        ):
            return bool(read_manifest(file.read(), job.ref).request.model)
        return False


def decide_end(assets: list[Asset]) -> tuple[JobState, Reason | None, str]:
    """Say how a job ends by its assets: with one lost it is expired, with one bad it failed, else it is archived."""
    losses = [
        f"asset {asset.idx}: {asset.error}"
        for asset in assets
        if asset.state is not AssetState.ARCHIVED
    ]
    states = {asset.state for asset in assets}
    if AssetState.EXPIRED in states:
        return JobState.EXPIRED, None, "; ".join(losses)
    if AssetState.FAILED in states:
        return JobState.FAILED, Reason.BAD_ASSET, "; ".join(losses)
    return JobState.ARCHIVED, None, ""
