"""Deliveries: the statements that store a report and what it changes.

Every callback runs them, so the frequent ones are built once: building a statement takes SQLAlchemy
longer than running it, and all other writers wait meanwhile.
"""

from sqlalchemy import Connection, bindparam, func, insert, select, update

from receiver.ledger.notifications import notify_assets
from receiver.ledger.rows import Job, job_of
from receiver.ledger.tables import assets, deliveries, job_columns, jobs
from receiver.model import (
    AssetState,
    Decision,
    Delivery,
    JobState,
    Outcome,
    Report,
    Result,
    Source,
    risk_begins,
)

# Attempts after which an asset gets no fresh URL; they take about five hours. An operator's retry
# starts at zero again.
MOST_ATTEMPTS = 300

_JOB_OF_DELIVERY = select(*job_columns).where(jobs.c.ref == bindparam("ref")).with_for_update()
_UPDATE_JOB = update(jobs).where(jobs.c.ref == bindparam("of_ref"))  # run with the new values
_COUNT_AND_BYTES = select(
    func.count(), func.coalesce(func.sum(func.length(deliveries.c.body)), 0)
).where(deliveries.c.ref == bindparam("ref"))
_INSERT_DELIVERY, _INSERT_ASSET = insert(deliveries), insert(assets)


def lock_job_of_delivery(connection: Connection, ref: str) -> Job | None:
    """Return the job of a delivery, locked until the transaction ends; None if there is none."""
    row = connection.execute(_JOB_OF_DELIVERY, {"ref": ref}).one_or_none()
    return job_of(row) if row else None


def count_deliveries(connection: Connection, ref: str) -> tuple[int, int]:
    """Return the number of a job's deliveries and the size of their bodies in bytes."""
    count, size = connection.execute(_COUNT_AND_BYTES, {"ref": ref}).one()
    return int(count), int(size)


def insert_delivery(
    connection: Connection, delivery: Delivery, digest: str, decision: Decision
) -> None:
    """Store a delivery and what was decided about it."""
    values = {
        "ref": delivery.ref,
        "source": delivery.source,
        "verdict": decision,
        "received_at": delivery.received_at,
        "digest": digest,
        "body": delivery.body,
    }
    connection.execute(_INSERT_DELIVERY, values)


def update_decision(connection: Connection, number: int, decision: Decision) -> None:
    """Correct the decision of a stored delivery."""
    connection.execute(update(deliveries).where(deliveries.c.id == number).values(verdict=decision))


# What a report changes.


def record_progress(connection: Connection, job: Job, report: Report, due_at: float) -> None:
    """Record that the provider works on a job, which is not polled before ``due_at``."""
    values = {
        "state": JobState.WAITING,
        "provider_id": job.provider_id or report.provider_id,
        "progress": max(job.progress, report.progress),
        "due_at": due_at,
        "claim": None,
    }
    connection.execute(_UPDATE_JOB, {"of_ref": job.ref, **values})


def record_provider_id(connection: Connection, job: Job, provider_id: str | None) -> None:
    """Record the provider's id of a job whose submit answer has not come, so it can be polled."""
    if job.provider_id is None and provider_id is not None:
        state = JobState.WAITING if job.state is JobState.SUBMITTING else job.state
        values = {"provider_id": provider_id, "state": state}
        connection.execute(_UPDATE_JOB, {"of_ref": job.ref, **values})


def begin_archiving(
    connection: Connection, job: Job, report: Report, now: float, lifetime: float
) -> None:
    """Insert a pending asset for each result of a success; a URL lives ``lifetime`` seconds."""
    values = {
        "state": JobState.ARCHIVING,
        "outcome": Outcome.SUCCEEDED,
        "provider_id": job.provider_id or report.provider_id,
        "progress": 100,
        "ended_at": now,
        "due_at": risk_begins(now + lifetime, lifetime),
        "claim": None,
        "attempts": 0,
    }
    connection.execute(_UPDATE_JOB, {"of_ref": job.ref, **values})
    rows = [
        _new_asset(job.ref, idx, result, now, lifetime) for idx, result in enumerate(report.results)
    ]
    connection.execute(_INSERT_ASSET, rows)
    notify_assets(connection, job.ref, range(len(rows)), now + lifetime)


def _new_asset(
    ref: str, idx: int, result: Result, now: float, lifetime: float
) -> dict[str, object]:
    return {
        "ref": ref,
        "idx": idx,
        "state": AssetState.PENDING,
        "url": result.url,
        "announced_at": now,
        "expires_at": now + lifetime,
        "due_at": now,
    }


def refresh_urls(
    connection: Connection, job: Job, report: Report, now: float, lifetime: float
) -> bool:
    """Give pending assets the URLs of a new answer; return whether any URL was new."""
    fresh = []
    for idx, result in enumerate(report.results):
        stale = (
            (assets.c.ref == job.ref)
            & (assets.c.idx == idx)
            & (assets.c.state == AssetState.PENDING)
            & (assets.c.url != result.url)
        )
        # A provider that signs a new URL for every answer must not keep an asset pending for ever.
        stale &= assets.c.attempts < MOST_ATTEMPTS
        values = {
            "url": result.url,
            "announced_at": now,
            "expires_at": now + lifetime,
            "due_at": now,
            "claim": None,
        }
        if connection.execute(update(assets).where(stale).values(values)).rowcount:
            fresh.append(idx)
    notify_assets(connection, job.ref, fresh, now + lifetime)
    return bool(fresh)


# What earlier deliveries said.


def asset_urls(connection: Connection, ref: str) -> list[str]:
    """Return the URLs of a job's results, in order."""
    urls = select(assets.c.url).where(assets.c.ref == ref).order_by(assets.c.idx)
    return list(connection.execute(urls).scalars())


def find_unconfirmed(connection: Connection, ref: str) -> list[tuple[int, bytes]]:
    """Return number and body of a job's deliveries that wait for the provider's own answer."""
    waiting = (deliveries.c.ref == ref) & (deliveries.c.verdict == Decision.UNCONFIRMED)
    found = connection.execute(select(deliveries.c.id, deliveries.c.body).where(waiting))
    return [(row.id, row.body) for row in found]


def find_answer(connection: Connection, ref: str) -> bytes | None:
    """Return the submit's answer if it was the job's result; None for any other job."""
    answers = (deliveries.c.ref == ref) & (deliveries.c.source == Source.SYNC)
    first = select(deliveries.c.body).where(answers).order_by(deliveries.c.id).limit(1)
    body: bytes | None = connection.execute(first).scalar()
    return body


def had_empty_success(connection: Connection, ref: str, *, but: int | None = None) -> bool:
    """Return whether a job has a success without a URL, not counting the delivery ``but``."""
    earlier = select(deliveries.c.id).where(
        deliveries.c.ref == ref,
        deliveries.c.verdict == Decision.EMPTY,
        deliveries.c.id != (but or 0),
    )
    return connection.execute(earlier.limit(1)).first() is not None


def had_doubtful_delivery(connection: Connection, ref: str, since: float) -> bool:
    """Return whether a delivery after ``since`` was one that the provider must be asked about."""
    doubtful = deliveries.c.verdict.in_([Decision.EMPTY, Decision.OTHER_ID, Decision.UNCONFIRMED])
    earlier = select(deliveries.c.id).where(
        deliveries.c.ref == ref, doubtful, deliveries.c.received_at > since
    )
    return connection.execute(earlier.limit(1)).first() is not None
