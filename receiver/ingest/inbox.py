"""The one door in: whatever its source, a report about a job becomes a delivery and passes ``Inbox.accept``.

The raw fact is stored with what it was taken for, in the same transaction as what it changed. Terminal reports end a job once; whatever
comes later is kept and changes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy import Connection

from receiver.clock import back_off, doubling
from receiver.errors import LedgerError, UnreadableError
from receiver.ingest import evidence
from receiver.ledger import writes
from receiver.ledger.ledger import Ledger
from receiver.ledger.rows import Job
from receiver.model import (
    FINAL_STATES,
    Decision,
    Delivery,
    JobState,
    Outcome,
    Reason,
    Report,
    Source,
)
from receiver.providers.grsai import protocol as grsai
from receiver.providers.openai import protocol as openai_images
from receiver.telemetry import tracing
from receiver.telemetry.metrics import DELIVERIES
from receiver.telemetry.redaction import Redactor

log = structlog.get_logger(__name__)

_MASK = Redactor()
# After these somebody has work to do at once.
_WAKING = {
    Decision.ENDED,
    Decision.REFRESHED,
    Decision.EMPTY,
    Decision.OTHER_ID,
    Decision.UNCONFIRMED,
}


def decide(
    job: Job,
    report: Report,
    source: Source,
    *,
    confirm_always: bool = False,
    reopened: bool = False,
) -> Decision:
    """Say what a report means for a job as it stands; pure, so that every order of reports can be tried."""
    if report.provider_id and job.provider_id and report.provider_id != job.provider_id:
        return Decision.OTHER_ID
    if job.outcome is None and job.state not in FINAL_STATES:
        return (
            Decision.UNCONFIRMED
            if confirm_always and source is Source.CALLBACK
            else _first_word(report)
        )
    if report.outcome is Outcome.RUNNING:
        return Decision.LATE
    if report.outcome is not job.outcome:
        return Decision.CONTRADICTION
    asked = (source is Source.POLL or reopened) and job.state is JobState.ARCHIVING
    return Decision.REFRESHED if asked and report.results else Decision.DUPLICATE


def _first_word(report: Report) -> Decision:
    if report.outcome is Outcome.RUNNING:
        return Decision.PROGRESS
    if report.outcome is Outcome.SUCCEEDED and not report.results:
        return Decision.EMPTY
    return Decision.ENDED


def read_report(delivery: Delivery) -> Report:
    """Read a delivery in the words of whoever sends such; raise UnreadableError if it is no report."""
    return (
        openai_images.read_report(delivery.body)
        if delivery.source is Source.SYNC
        else grsai.read_report(delivery.body)
    )


class Inbox:
    """Takes deliveries in; ``notify`` is called after a commit that left work to do, ``mask`` blackens what providers say."""

    def __init__(
        self,
        ledger: Ledger,
        notify: Callable[[], None],
        *,
        base_url: str,
        confirm_always: bool = False,
        mask: Redactor = _MASK,
    ) -> None:
        self._ledger = ledger
        self._ring = notify
        self._base_url = base_url
        self._confirm_always = confirm_always
        self._mask = mask

    def accept(
        self, delivery: Delivery, *, replayed: int | None = None, unsigned: bool = False
    ) -> Decision:
        """Store a delivery and do what it says; durable when this returns. An ``unsigned`` one is not believed: the provider is asked.

        ``replayed`` is the number of the kept delivery this one is a repetition of, by an operator: it opens a job that was lost again.
        Raise UnreadableError after keeping a body that is no report, LedgerError when nothing could be stored.
        """
        try:
            with tracing.span(delivery.source, delivery.ref):
                report = self._masked(read_report(delivery))
                verdict = self._ledger.write(
                    partial(
                        self._apply,
                        delivery=delivery,
                        report=report,
                        replayed=replayed,
                        unsigned=unsigned,
                    )
                )
        except LedgerError:
            raise
        except UnreadableError:
            self._set_aside(delivery, replayed)
            raise
        except Exception as error:
            # A mistake of ours must not lose what was reported: it is set aside as evidence, to be replayed when the mistake is mended.
            log.exception("report set aside", ref=delivery.ref, source=delivery.source)
            self._set_aside(delivery, replayed)
            raise UnreadableError(
                f"set aside: taking it in broke off ({type(error).__name__}); the log says where"
            ) from error
        DELIVERIES.labels(delivery.source, verdict).inc()
        if verdict in _WAKING and not unsigned:
            self._ring()
        return verdict

    def _apply(
        self,
        connection: Connection,
        delivery: Delivery,
        report: Report,
        replayed: int | None,
        *,
        unsigned: bool = False,
    ) -> Decision:
        job = self._job(connection, delivery.ref)
        reopened = (
            replayed is not None
            and job.state in {JobState.FAILED, JobState.EXPIRED}
            and bool(report.results)
        )
        if reopened:
            self._ledger.open_again(connection, job)
            job = self._job(connection, delivery.ref)
        report = self._with_free_id(connection, job, report)
        verdict = decide(
            job,
            report,
            delivery.source,
            confirm_always=self._confirm_always or unsigned,
            reopened=reopened,
        )
        match verdict:
            case Decision.PROGRESS:
                writes.hear(connection, job, report, self._next_look(job, delivery.source))
            case Decision.EMPTY if delivery.source is Source.POLL and writes.was_empty_before(
                connection, job.ref, but=replayed
            ):
                verdict = Decision.ENDED
                self._fail(
                    connection,
                    job,
                    report,
                    Reason.NO_RESULT,
                    "the provider reports success, but no result",
                )
            case Decision.ENDED if report.outcome is Outcome.SUCCEEDED:
                writes.begin_archiving(
                    connection, job, report, self._ledger.now(), self._ledger.timing.url_lifetime
                )
            case Decision.ENDED:
                self._fail(
                    connection, job, report, report.reason or Reason.PROVIDER_ERROR, report.message
                )
            case Decision.REFRESHED:
                writes.note_id(connection, job, report.provider_id)
                fresh = writes.refresh_urls(
                    connection, job, report, self._ledger.now(), self._ledger.timing.url_lifetime
                )
                verdict = Decision.REFRESHED if fresh or reopened else Decision.DUPLICATE
            case Decision.EMPTY | Decision.OTHER_ID | Decision.UNCONFIRMED:
                writes.note_id(connection, job, report.provider_id)
                # For a stranger, and the second time, soon but not at once: one poll an interval at most, though a ticket has leaked.
                now, interval = self._ledger.now(), self._ledger.timing.poll_interval
                again = writes.was_doubted_since(
                    connection, job.ref, now - interval
                ) or evidence.is_full(connection, delivery)
                writes.look_at(connection, job.ref, now + interval * (unsigned or again))
            case Decision.LATE | Decision.CONTRADICTION | Decision.DUPLICATE:
                # It changes nothing, but an operator's retry needs the id to ask with.
                writes.note_id(connection, job, report.provider_id)
                doubted = verdict is Decision.DUPLICATE and (self._confirm_always or unsigned)
                verdict = evidence.compare(connection, job.ref, report) if doubted else verdict
        self._keep(connection, delivery, verdict, replayed)
        if verdict is Decision.ENDED and delivery.source is not Source.CALLBACK:
            evidence.settle(connection, job.ref, report)
        return verdict

    def keep_unreadable(self, delivery: Delivery) -> None:
        """Keep what came of a body that broke off: it is no report, whatever it says."""
        self._set_aside(delivery, None)

    def _set_aside(self, delivery: Delivery, replayed: int | None) -> None:
        self._ledger.write(partial(self._keep_unreadable, delivery=delivery, replayed=replayed))
        DELIVERIES.labels(delivery.source, Decision.UNREADABLE).inc()

    def _keep_unreadable(
        self, connection: Connection, delivery: Delivery, replayed: int | None
    ) -> None:
        self._job(connection, delivery.ref)
        self._keep(connection, delivery, Decision.UNREADABLE, replayed)

    def _masked(self, report: Report) -> Report:
        return replace(report, message=self._mask(report.message)) if report.message else report

    def _job(self, connection: Connection, ref: str) -> Job:
        """Find the delivery's job, or adopt it: our secret signed its ticket, so one of our machines posted it."""
        return writes.find_job(connection, ref) or self._ledger.adopt(
            connection, ref, self._base_url
        )

    def _with_free_id(self, connection: Connection, job: Job, report: Report) -> Report:
        """Leave out an id that is another job's: one task of a provider is one job."""
        if job.provider_id is None and report.provider_id is not None:
            other = writes.find_job_by_provider_id(connection, job.provider, report.provider_id)
            return replace(report, provider_id=None) if other else report
        return report

    def _next_look(self, job: Job, source: Source) -> float:
        """Return when a job that goes on is asked about: later after a callback, sooner and with back-off once we had to ask."""
        timing, now = self._ledger.timing, self._ledger.now()
        wait = (
            timing.poll_after
            if source is Source.CALLBACK
            else back_off(
                job.attempts, doubling(timing.poll_interval, timing.poll_interval * 4), jitter=0
            )
        )
        # A poll that finds the job running after its deadline looks once more; a callback then does not put off the end.
        return min(
            now + wait, max(job.deadline_at, now + timing.poll_interval * (source is Source.POLL))
        )

    def _fail(
        self, connection: Connection, job: Job, report: Report, reason: Reason, message: str
    ) -> None:
        now, said = self._ledger.now(), report.outcome
        named = report.provider_id
        writes.finish_job(
            connection,
            job,
            JobState.FAILED,
            now,
            outcome=said,
            reason=reason,
            message=message,
            provider_id=named,
        )

    def _keep(
        self, connection: Connection, delivery: Delivery, verdict: Decision, replayed: int | None
    ) -> None:
        if replayed is not None:
            writes.set_verdict(connection, replayed, verdict)
            return
        evidence.keep(connection, delivery, verdict)
