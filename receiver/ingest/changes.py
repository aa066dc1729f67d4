"""What each decision about a report changes in the ledger, in the transaction that stores it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from receiver.clock import back_off, doubling
from receiver.ingest import confirm
from receiver.ledger import deliveries, jobs
from receiver.ledger.assets import reopen_job
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
    Timing,
)


@dataclass(frozen=True, slots=True)
class Change:
    """A decision's open transaction and everything that its change needs."""

    connection: Connection
    job: Job
    report: Report
    delivery: Delivery
    timing: Timing
    now: float
    replayed: int | None
    reopened: bool
    unsigned: bool
    doubted: bool  # callbacks are compared with the provider's own answer


def apply(decision: Decision, change: Change) -> Decision:
    """Change job and assets as decided; return the decision to store, which may be another one."""
    return _CHANGES[decision](change) or decision


def _progress(change: Change) -> None:
    due_at = next_poll(change.job, change.delivery.source, change.timing, change.now)
    deliveries.record_progress(change.connection, [(change.job, change.report, due_at)])


def next_poll(job: Job, source: Source, timing: Timing, now: float) -> float:
    """Return when to poll a job in progress: later after a callback, with back-off after polls."""
    deadline, interval = job.deadline_at, timing.poll_interval
    if source is Source.CALLBACK:
        wait = timing.poll_after
    else:
        wait = back_off(job.attempts, doubling(interval, interval * 4), jitter=0)
    if source is Source.POLL:
        # A poll that finds the job running after its deadline allows one more poll. A callback does
        # not postpone the end.
        deadline = max(deadline, now + interval)
    return min(now + wait, max(deadline, now))


def _end(change: Change) -> None:
    change = _opened(change)
    report = change.report
    if report.outcome is Outcome.SUCCEEDED:
        deliveries.begin_archiving(
            change.connection, [(change.job, report)], change.now, change.timing
        )
        if report.left_out:
            deliveries.record_left_out(change.connection, change.job.ref, report.left_out)
    else:
        _fail(change, report.reason or Reason.PROVIDER_ERROR, report.message)


def _opened(change: Change) -> Change:
    """Reopen a job that we had ended ourselves because we thought that it was refused."""
    if change.job.state not in FINAL_STATES:
        return change
    reopen_job(change.connection, change.job, change.timing, change.now)
    return replace(change, job=jobs.lock_job(change.connection, change.job.ref))


def _fail(change: Change, reason: Reason, message: str) -> None:
    jobs.finish_job(
        change.connection,
        change.job,
        JobState.FAILED,
        change.now,
        outcome=change.report.outcome,
        reason=reason,
        message=message,
        provider_id=change.report.provider_id,
    )


def _refresh(change: Change) -> Decision | None:
    _record_id(change)
    job, report, timing = change.job, change.report, change.timing
    fresh = deliveries.refresh_urls(change.connection, job, report, change.now, timing)
    return None if fresh or change.reopened else Decision.DUPLICATE


def _empty(change: Change) -> Decision | None:
    """Poll once more after a success without a result; fail the job if a poll confirms it."""
    if change.delivery.source is Source.POLL and deliveries.had_empty_success(
        change.connection, change.job.ref, but=change.replayed
    ):
        _fail(change, Reason.NO_RESULT, "the provider reports success, but no result")
        return Decision.ENDED
    _poll_soon(change)
    return None


def _unconfirmed(change: Change) -> None:
    # A refused job stays closed for callbacks without a ticket.
    _poll_soon(change if change.unsigned else _opened(change))


def _poll_soon(change: Change) -> None:
    _record_id(change)
    poll_soon(
        change.connection,
        change.job,
        change.delivery,
        change.timing,
        change.now,
        later=change.unsigned,
    )


def poll_soon(
    connection: Connection,
    job: Job,
    delivery: Delivery,
    timing: Timing,
    now: float,
    *,
    later: bool = False,
) -> None:
    """Poll the job now, or in an interval if asked for or if another delivery was doubtful.

    So a leaked ticket causes at most one poll per interval.
    """
    repeated = deliveries.had_doubtful_delivery(connection, job.ref, now - timing.poll_interval)
    too_many = not deliveries.has_room(connection, [delivery])
    wait = timing.poll_interval if later or repeated or too_many else 0.0
    jobs.expedite_job(connection, job.ref, now + wait)


def _record_id(change: Change) -> None:
    """Change nothing but the provider's id, which an operator's retry needs for its poll.

    A hint proves nothing: its id may be that of any task.
    """
    if change.unsigned:
        return
    deliveries.record_provider_id(change.connection, change.job, change.report.provider_id)


def _duplicate(change: Change) -> Decision | None:
    _record_id(change)
    if not change.doubted:
        return None
    return confirm.compare_with_known(change.connection, change.job.ref, change.report)


# Each returns the decision to store instead, or None.
_CHANGES: dict[Decision, Callable[[Change], Decision | None]] = {
    Decision.PROGRESS: _progress,
    Decision.ENDED: _end,
    Decision.REFRESHED: _refresh,
    Decision.EMPTY: _empty,
    Decision.OTHER_ID: _poll_soon,
    Decision.UNCONFIRMED: _unconfirmed,
    Decision.LATE: _record_id,
    Decision.CONTRADICTION: _record_id,
    Decision.DUPLICATE: _duplicate,
}
