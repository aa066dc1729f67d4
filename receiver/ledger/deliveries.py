"""Deliveries: the statements that store a report and what it changes.

Every callback runs them, so the frequent ones are built once: SQLAlchemy needs longer to build a
statement than to run it, and all other writers wait meanwhile.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from receiver.ledger.many_rows import LOCK_JOBS, ManyRows, select_each
from receiver.ledger.notifications import QueueName, notify, notify_of_rows
from receiver.ledger.rows import Job, job_of
from receiver.ledger.tables import assets, deliveries, job_columns, jobs
from receiver.model import (
    AssetState,
    Decision,
    Delivery,
    JobState,
    Provider,
    Report,
    Timing,
    risk_begins,
)

# Attempts after which an asset gets no fresh URL; they take about five hours. An operator's retry
# starts at zero again.
MOST_ATTEMPTS = 300

# Deliveries kept per job, and bytes of their bodies: a stolen ticket, or a provider that never
# stops calling back, must not fill the disk.
MOST_KEPT = 200
MOST_BYTES = 16 * 1024 * 1024

_JOB_OF_DELIVERY = select(*job_columns).where(jobs.c.ref == bindparam("ref")).with_for_update()
_UPDATE_JOB = update(jobs).where(jobs.c.ref == bindparam("of_ref"))  # run with the new values
_COUNT_AND_BYTES = (
    select(
        deliveries.c.ref, func.count(), func.coalesce(func.sum(func.length(deliveries.c.body)), 0)
    )
    .where(deliveries.c.ref.in_(bindparam("refs", expanding=True)))
    .group_by(deliveries.c.ref)
)


_RECORD_PROGRESS = ManyRows(
    """UPDATE jobs SET state = 'waiting', provider_id = new.column1, progress = new.column2,
        due_at = new.column3, claim = NULL
    FROM ({values}) AS new WHERE jobs.ref = new.column4""",
    """UPDATE jobs SET state = 'waiting', provider_id = new.provider_id, progress = new.progress,
        due_at = new.due_at, claim = NULL
    FROM unnest(%s::text[], %s::int[], %s::float8[], %s::text[])
        AS new (provider_id, progress, due_at, ref)
    WHERE jobs.ref = new.ref""",
)
_BEGIN_ARCHIVING = ManyRows(
    """UPDATE jobs SET state = 'archiving', outcome = 'succeeded', progress = 100, claim = NULL,
        attempts = 0, provider_id = new.column1, ended_at = new.column2, due_at = new.column3
    FROM ({values}) AS new WHERE jobs.ref = new.column4""",
    """UPDATE jobs SET state = 'archiving', outcome = 'succeeded', progress = 100, claim = NULL,
        attempts = 0, provider_id = new.provider_id, ended_at = new.ended_at, due_at = new.due_at
    FROM unnest(%s::text[], %s::float8[], %s::float8[], %s::text[])
        AS new (provider_id, ended_at, due_at, ref)
    WHERE jobs.ref = new.ref""",
)
_INSERT_ASSETS = ManyRows(
    """INSERT INTO assets (state, ref, idx, url, announced_at, expires_at, due_at, folder)
    SELECT 'pending', * FROM ({values})""",
    """INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, due_at, folder)
    SELECT ref, idx, 'pending', url, announced_at, expires_at, due_at, folder
    FROM unnest(
        %s::text[], %s::int[], %s::text[], %s::float8[], %s::float8[], %s::float8[], %s::text[])
        AS new (ref, idx, url, announced_at, expires_at, due_at, folder)""",
)
_INSERT_DELIVERIES = ManyRows(
    """INSERT INTO deliveries (ref, source, verdict, received_at, digest, body, repaired, proof)
    {values}""",
    """INSERT INTO deliveries (ref, source, verdict, received_at, digest, body, repaired, proof)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::text[], %s::bytea[],
        %s::text[], %s::text[])""",
)


def lock_job_of_delivery(connection: Connection, ref: str) -> Job | None:
    """Return the job of a delivery, locked until the transaction ends; None if there is none."""
    row = connection.execute(_JOB_OF_DELIVERY, {"ref": ref}).one_or_none()
    return job_of(row) if row else None


def lock_jobs(connection: Connection, refs: Sequence[str]) -> dict[str, Job]:
    """Return the jobs of several deliveries by ref, locked until the transaction ends.

    The statement goes straight to the driver, whose errors it raises.
    """
    (found,) = select_each(connection, [LOCK_JOBS], refs)
    return {job.ref: job for job in map(job_of, found)}


def has_room(connection: Connection, arrived: Sequence[Delivery]) -> list[Delivery]:
    """Return those of the deliveries, one per job, whose jobs have not stored enough already."""
    if not arrived:
        return []
    rows = connection.execute(_COUNT_AND_BYTES, {"refs": [one.ref for one in arrived]})
    stored = {ref: (count, size) for ref, count, size in rows}
    return [one for one in arrived if _fits(one, *stored.get(one.ref, (0, 0)))]


def _fits(delivery: Delivery, count: int, size: int) -> bool:
    return count < MOST_KEPT and size + len(delivery.body) <= MOST_BYTES


def insert_deliveries(
    connection: Connection, stored: Sequence[tuple[Delivery, str, Decision, str]]
) -> None:
    """Store deliveries, each with its digest, what was decided, and what had to be repaired."""
    rows = [
        (
            *(one.ref, one.source.value, decision.value, one.received_at),
            *(digest, one.body, repaired, one.proof.value),
        )
        for one, digest, decision, repaired in stored
    ]
    _INSERT_DELIVERIES.run(connection, rows)


def update_decision(
    connection: Connection, number: int, decision: Decision, repaired: str | None = None
) -> None:
    """Correct the decision of a stored delivery and, if given, what had to be repaired."""
    values = {"verdict": decision} | ({} if repaired is None else {"repaired": repaired})
    connection.execute(update(deliveries).where(deliveries.c.id == number).values(values))


# Changes that a report causes.


def record_progress(connection: Connection, changes: Sequence[tuple[Job, Report, float]]) -> None:
    """Record that the provider works on these jobs; each is not polled before its due time."""
    rows = [
        (job.provider_id or report.provider_id, max(job.progress, report.progress), due_at, job.ref)
        for job, report, due_at in changes
    ]
    _RECORD_PROGRESS.run(connection, rows)


def record_provider_id(connection: Connection, job: Job, provider_id: str | None) -> None:
    """Record the provider's id of a job whose submit answer has not come, so it can be polled."""
    if job.provider_id is None and provider_id is not None:
        state = JobState.WAITING if job.state is JobState.SUBMITTING else job.state
        values = {"provider_id": provider_id, "state": state}
        connection.execute(_UPDATE_JOB, {"of_ref": job.ref, **values})


def record_left_out(connection: Connection, ref: str, count: int) -> None:
    """Record how many results of a success are not archived, because they are too many."""
    connection.execute(_UPDATE_JOB, {"of_ref": ref, "left_out": count})


def begin_archiving(
    connection: Connection, changes: Sequence[tuple[Job, Report]], now: float, timing: Timing
) -> None:
    """Insert a pending asset for each result of a success."""
    ended, announced = [], []
    for job, report in changes:
        lifetime = timing.lifetime(job.provider)
        expires_at = _expires_at(job, report, now, lifetime)
        due_at = risk_begins(expires_at, lifetime)
        ended.append((job.provider_id or report.provider_id, now, due_at, job.ref))
        announced += [
            (job.ref, idx, result.url, now, expires_at, now, job.folder)
            for idx, result in enumerate(report.results)
        ]
    _BEGIN_ARCHIVING.run(connection, ended)
    _INSERT_ASSETS.run(connection, announced)
    if announced:
        notify(connection, QueueName.ASSETS)


def _expires_at(job: Job, report: Report, now: float, lifetime: float) -> float:
    """Return when the URLs of a report end: they live from when the results were made."""
    made_at = now if report.made_at is None else max(report.made_at, job.submitted_at)
    return min(made_at, now) + lifetime


def refresh_urls(
    connection: Connection, job: Job, report: Report, now: float, timing: Timing
) -> bool:
    """Give pending assets the URLs of a new answer; return whether any URL was new."""
    fresh: list[int] = []  # the crashes of each asset with a new URL
    expires_at = _expires_at(job, report, now, timing.lifetime(job.provider))
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
            "expires_at": expires_at,
            "due_at": now,
            "claim": None,
        }
        change = update(assets).where(stale).values(values).returning(assets.c.crashes)
        fresh += connection.execute(change).scalars().all()
    return notify_of_rows(connection, QueueName.ASSETS, fresh)


# Reads of earlier deliveries.


def asset_urls(connection: Connection, ref: str) -> list[str]:
    """Return the URLs of a job's results, in order."""
    urls = select(assets.c.url).where(assets.c.ref == ref).order_by(assets.c.idx)
    return list(connection.execute(urls).scalars())


def find_unconfirmed(connection: Connection, ref: str) -> list[tuple[int, bytes]]:
    """Return number and body of a job's deliveries that wait for the provider's own answer."""
    waiting = (deliveries.c.ref == ref) & (deliveries.c.verdict == Decision.UNCONFIRMED)
    found = connection.execute(select(deliveries.c.id, deliveries.c.body).where(waiting))
    return [(row.id, row.body) for row in found]


def find_reports(connection: Connection, ref: str) -> list[tuple[Provider, bytes]]:
    """Return the reports that brought a job's results, newest first, each with its provider.

    A report that was replayed since counts as a duplicate.
    """
    for verdicts in ([Decision.ENDED, Decision.REFRESHED], [Decision.DUPLICATE]):
        brought = (deliveries.c.ref == ref) & deliveries.c.verdict.in_(verdicts)
        reports = select(jobs.c.provider, deliveries.c.body).where(
            brought, jobs.c.ref == deliveries.c.ref
        )
        found = connection.execute(reports.order_by(deliveries.c.id.desc())).all()
        if found:
            return [(Provider.of(row.provider), row.body) for row in found]
    return []


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
    doubtful = deliveries.c.verdict.in_(
        [Decision.EMPTY, Decision.OTHER_ID, Decision.UNCONFIRMED, Decision.UNREADABLE]
    )
    earlier = select(deliveries.c.id).where(
        deliveries.c.ref == ref, doubtful, deliveries.c.received_at > since
    )
    return connection.execute(earlier.limit(1)).first() is not None
