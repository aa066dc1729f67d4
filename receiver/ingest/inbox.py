"""The single entry point for reports about jobs: read, decide, apply, store.

Whatever its source, a report becomes a ``Delivery`` and passes ``Inbox.accept``. The raw body is
stored with our decision in the same transaction as the changes it causes. The first terminal report
ends a job; later ones are stored and change nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from types import MappingProxyType

import structlog
from sqlalchemy import Connection

from receiver.errors import LedgerError, UnreadableError
from receiver.ingest import confirm
from receiver.ingest.changes import Change, apply, next_poll, poll_soon
from receiver.ledger import deliveries, jobs
from receiver.ledger.adoption import adopt_job
from receiver.ledger.assets import reopen_job
from receiver.ledger.database import Database
from receiver.ledger.group_commit import Batch
from receiver.ledger.many_rows import sent_together
from receiver.ledger.rows import Job
from receiver.model import (
    FINAL_STATES,
    Decision,
    Delivery,
    JobState,
    Outcome,
    Proof,
    Provider,
    Reason,
    Report,
    Source,
    Timing,
)
from receiver.providers.registry import READERS
from receiver.telemetry import tracing
from receiver.telemetry.metrics import DELIVERIES
from receiver.telemetry.redaction import Redactor

log = structlog.get_logger(__name__)

_REDACT_NOTHING = Redactor()
_deliveries = cache(DELIVERIES.labels)
_ORDINARY = {Decision.ENDED, Decision.PROGRESS}
# After these decisions there is no work to do at once.
_NO_WORK = {Decision.PROGRESS, Decision.LATE, Decision.CONTRADICTION, Decision.DUPLICATE}


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A delivery that was read, and the SHA-256 of its body in hex.

    A ``hint`` proves nothing. A ``doubted`` delivery is not believed: the provider is polled.
    """

    delivery: Delivery
    report: Report
    digest: str
    hint: bool = False
    doubted: bool = False


class Inbox:
    """Accepts deliveries.

    ``notify`` is called after a commit that caused work. ``base_urls`` are the addresses that are
    stored with adopted jobs, by provider; ``base_url`` is for all other providers. With
    ``confirm_always`` callbacks are not believed; the provider is polled. ``redact`` removes
    secrets from the provider's messages. ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        timing: Timing,
        now: Callable[[], float],
        notify: Callable[[], None],
        *,
        base_url: str,
        base_urls: Mapping[Provider, str] = MappingProxyType({}),
        confirm_always: bool = False,
        redact: Redactor = _REDACT_NOTHING,
    ) -> None:
        self._database = database
        self._timing = timing
        self._now = now
        self._notify = notify
        self._base_url = base_url
        self._base_urls = base_urls
        self._confirm_always = confirm_always
        self._redact = redact
        self._batch = Batch(one=self._take, many=self._take_ordinary)

    def accept(
        self, delivery: Delivery, *, replayed: int | None = None, unsigned: bool = False
    ) -> Decision:
        """Store a delivery and apply it; durable when this returns.

        ``replayed`` is the number of the stored delivery that an operator repeats; it can reopen a
        failed or expired job. An ``unsigned`` callback is not believed; the provider is polled.
        Raise UnreadableError after storing a body that is not a report, LedgerError if nothing
        could be stored.
        """
        try:
            with tracing.span(delivery.source, delivery.ref):
                report = read_report(delivery)
                if report.message:
                    report = replace(report, message=self._redact(report.message))
                hint = unsigned or is_hint(delivery)
                doubted = hint or self._confirm_always or not is_believed(delivery)
                digest = sha256(delivery.body).hexdigest()
                item = Item(delivery, report, digest, hint, doubted)
                if replayed is None and not hint:
                    decision = self._database.write_item(self._batch, item)
                else:
                    take = partial(self._take, item=item, replayed=replayed)
                    decision = self._database.write(take)
        except LedgerError:
            raise
        except UnreadableError:
            self.keep_unreadable(delivery, replayed)
            raise
        except Exception as error:
            # A bug of ours must not lose a report: store it, to replay it when the bug is fixed.
            log.exception("report set aside", ref=delivery.ref, source=delivery.source)
            self.keep_unreadable(delivery, replayed)
            text = f"set aside: processing it failed ({type(error).__name__}); see the log"
            raise UnreadableError(text) from error
        _deliveries(delivery.source, decision).inc()
        if decision not in _NO_WORK and not hint:
            self._notify()
        return decision

    def _take_ordinary(
        self, connection: Connection, items: Sequence[Item]
    ) -> list[Decision | None]:
        """Take the ordinary callbacks among many with a few statements; return None for the others.

        The ordinary ones are the first success of a job and reports of its progress. This does for
        many of them what ``_take`` does for one; a test compares the two.
        """
        now, timing = self._now(), self._timing
        found = deliveries.lock_jobs(connection, [item.delivery.ref for item in items])
        # If two reports are about one job, the second one is left for later: it must see what the
        # first one changed.
        taken = [(item, job) for item in items if (job := found.pop(item.delivery.ref, None))]
        decisions = {item: self._decide_ordinary(job, item) for item, job in taken}
        ended = [(job, item.report) for item, job in taken if decisions[item] is Decision.ENDED]
        goes_on = [(item, job) for item, job in taken if decisions[item] is Decision.PROGRESS]
        has_room = deliveries.has_room(connection, [item.delivery for item, _ in goes_on])
        decisions |= {item: None for item, _ in goes_on if item.delivery not in has_room}
        polled = [
            (job, item.report, next_poll(job, Source.CALLBACK, timing, now))
            for item, job in goes_on
            if decisions[item]
        ]
        stored = [
            (item.delivery, item.digest, made, item.report.repaired)
            for item, made in decisions.items()
            if made
        ]
        with sent_together(connection):
            deliveries.begin_archiving(connection, ended, now, timing)
            deliveries.record_progress(connection, polled)
            deliveries.insert_deliveries(connection, stored)
        return [decisions.get(item) for item in items]

    def _decide_ordinary(self, job: Job, item: Item) -> Decision | None:
        """Return the decision about an ordinary callback, None for any other delivery."""
        report = item.report
        if item.delivery.source is not Source.CALLBACK:
            return None
        if job.state in FINAL_STATES or report.left_out:
            return None  # it may reopen the job, or has more to record
        if job.provider_id is None and report.provider_id is not None:
            return None  # another job may have this id
        decision = decide(job, report, Source.CALLBACK, confirm_always=item.doubted)
        failure = decision is Decision.ENDED and report.outcome is not Outcome.SUCCEEDED
        return decision if decision in _ORDINARY and not failure else None

    def _take(self, connection: Connection, item: Item, *, replayed: int | None = None) -> Decision:
        """Decide, apply and store in one transaction; return the decision that was stored."""
        delivery, report = item.delivery, item.report
        job = self._job(connection, delivery)
        lost = job.state in {JobState.FAILED, JobState.EXPIRED}
        reopened = replayed is not None and lost and bool(report.results)
        if reopened:
            reopen_job(connection, job, self._timing, self._now())
            job = jobs.lock_job(connection, job.ref)
        report, doubted = _with_free_id(connection, job, report), item.doubted
        if report is not item.report and READERS[delivery.provider].signs_bodies:
            # Genuine, and about another job of ours: the signature proves nothing about this one.
            decision = Decision.OTHER_ID
        else:
            decision = decide(
                job, report, delivery.source, confirm_always=doubted, reopened=reopened
            )
        context = (connection, job, report, delivery, self._timing, self._now())
        decision = apply(decision, Change(*context, replayed, reopened, item.hint, doubted))
        _store(connection, (delivery, item.digest, decision, report.repaired), replayed)
        if decision is Decision.ENDED and delivery.source is not Source.CALLBACK:
            confirm.settle_unconfirmed(connection, job, report)
        return decision

    def _job(self, connection: Connection, delivery: Delivery) -> Job:
        """Return the delivery's job. If it is unknown, adopt it: its ticket has our signature."""
        provider = delivery.provider
        return deliveries.lock_job_of_delivery(connection, delivery.ref) or adopt_job(
            connection,
            delivery.ref,
            self._base_urls.get(provider, self._base_url),
            self._timing,
            self._now(),
            provider=provider,
        )

    def keep_unreadable(self, delivery: Delivery, replayed: int | None = None) -> None:
        """Store a body that is not a report, perhaps because it was cut short, and poll its job.

        An answer to a poll does not cause another one: the next poll is scheduled already.
        """
        digest = sha256(delivery.body).hexdigest()
        is_news = replayed is None and delivery.source in {Source.CALLBACK, Source.STREAM}

        def work(connection: Connection) -> bool:
            job = self._job(connection, delivery)
            polls = is_news and job.provider_id is not None
            if polls:
                poll_soon(connection, job, delivery, self._timing, self._now())
            _store(connection, (delivery, digest, Decision.UNREADABLE, ""), replayed)
            return polls

        polls = self._database.write(work)
        DELIVERIES.labels(delivery.source, Decision.UNREADABLE).inc()
        if polls:
            self._notify()


# Read.


def is_believed(delivery: Delivery) -> bool:
    """Return whether a delivery proves what it says, as far as its provider can prove it.

    GRSAI signs nothing. The ticket is the only proof, and CONFIRM decides whether it is enough.
    """
    return delivery.proof is Proof.BODY or not READERS[delivery.provider].signs_bodies


def is_hint(delivery: Delivery) -> bool:
    """Return whether something is wrong with the signature of a provider that signs."""
    return delivery.proof is Proof.NONE and READERS[delivery.provider].signs_bodies


def read_report(delivery: Delivery) -> Report:
    """Read a delivery in its provider's format; raise UnreadableError if it is not a report."""
    return READERS[delivery.provider].read_report(delivery.body)


def _with_free_id(connection: Connection, job: Job, report: Report) -> Report:
    """Remove a provider id that belongs to another job: one task of a provider is one job."""
    if job.provider_id is None and report.provider_id is not None:
        other = jobs.find_job_by_provider_id(connection, job.provider, report.provider_id)
        return replace(report, provider_id=None) if other else report
    return report


# Decide.


def decide(
    job: Job,
    report: Report,
    source: Source,
    *,
    confirm_always: bool = False,
    reopened: bool = False,
) -> Decision:
    """Return what a report means for a job; pure, so that tests can try every order of reports."""
    if report.provider_id and job.provider_id and report.provider_id != job.provider_id:
        return Decision.OTHER_ID
    if job.outcome is None and (job.state not in FINAL_STATES or _was_taken(job, report)):
        if confirm_always and source is Source.CALLBACK:
            return Decision.UNCONFIRMED
        return _decide_first(report)
    if report.outcome is Outcome.RUNNING:
        return Decision.LATE
    if report.outcome is not job.outcome:
        return Decision.CONTRADICTION
    asked = (source is Source.POLL or reopened) and job.state is JobState.ARCHIVING
    return Decision.REFRESHED if asked and report.results else Decision.DUPLICATE


def _was_taken(job: Job, report: Report) -> bool:
    """Return whether a report proves that the provider accepted a job that we ended as refused."""
    succeeded = report.outcome is Outcome.SUCCEEDED and bool(report.results)
    return succeeded and job.reason is Reason.REFUSED


def _decide_first(report: Report) -> Decision:
    """Decide about a job that has no terminal report yet."""
    if report.outcome is Outcome.RUNNING:
        return Decision.PROGRESS
    if report.outcome is Outcome.SUCCEEDED and not report.results:
        return Decision.EMPTY
    return Decision.ENDED


# Store.


def _store(
    connection: Connection, made: tuple[Delivery, str, Decision, str], replayed: int | None
) -> None:
    """Store a delivery with its decision; of a replayed one only store decision and repairs.

    Callbacks that do not end their job, and unreadable bodies, are not stored if the job has enough
    deliveries already.
    """
    delivery, _, decision, repaired = made
    if replayed is not None:
        deliveries.update_decision(connection, replayed, decision, repaired)
        return
    optional = decision is Decision.UNREADABLE or (
        delivery.source is Source.CALLBACK and decision is not Decision.ENDED
    )
    if optional and not deliveries.has_room(connection, [delivery]):
        message, size = "delivery not stored, its job has too many", len(delivery.body)
        log.warning(message, ref=delivery.ref, verdict=decision, size=size)
    else:
        deliveries.insert_deliveries(connection, [made])
