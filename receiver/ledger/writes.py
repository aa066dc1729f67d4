"""The statements of a job's life, each a function on an open transaction.

Whoever changes a job locks its row first (``find_job``), so that the two assets of a job cannot both think the other is still pending.
"""

import json
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, text, update

from receiver.ledger.notifications import notify_assets, notify_dispatchers, notify_job
from receiver.ledger.rows import Asset, EventDelivery, Job
from receiver.ledger.tables import assets, attempts, deliveries, events, hints, job_columns, jobs
from receiver.model import (
    INLINE,
    Api,
    AssetState,
    Decision,
    Delivery,
    EventDeliveryState,
    EventType,
    JobState,
    Mode,
    Outcome,
    Reason,
    Report,
    Result,
    Source,
)

ABOUT_THE_JOB = -1
# Attempts after which an asset gets no fresh URL any more: some five hours of them. An operator's retry counts anew.
MOST_ATTEMPTS = 300
# Any number will do, as long as every process of ours asks PostgreSQL for the same one.
_EVENTS_LINE = 0x6576656E

# What every callback runs, built once: SQLAlchemy takes longer to build a statement than to run it, and all writers wait meanwhile.
_JOB = select(*job_columns).where(jobs.c.ref == bindparam("ref"))
_JOB_LOCKED = _JOB.with_for_update()
_CHANGE_JOB = update(jobs).where(
    jobs.c.ref == bindparam("of_ref")
)  # run with the new values beside ``of_ref``
_WEIGHT = select(func.count(), func.coalesce(func.sum(func.length(deliveries.c.body)), 0)).where(
    deliveries.c.ref == bindparam("ref")
)
_NEW_DELIVERY, _NEW_ASSET, _NEW_EVENT = insert(deliveries), insert(assets), insert(events)


def job_of(row: Row[Any]) -> Job:
    """Turn a row of ``job_columns`` into a Job."""
    values = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's names
    values["api"], values["mode"], values["state"] = (
        Api(values["api"]),
        Mode(values["mode"]),
        JobState(values["state"]),
    )
    values["outcome"] = Outcome(values["outcome"]) if values["outcome"] else None
    values["reason"] = Reason(values["reason"]) if values["reason"] else None
    return Job(**values)


def asset_of(row: Row[Any]) -> Asset:
    """Turn a full row of ``assets`` into an Asset."""
    values = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's names
    return Asset(**{**values, "state": AssetState(values["state"])})


def event_delivery_of(row: Row[Any]) -> EventDelivery:
    """Turn a full row of ``sendings`` into a Sending."""
    values = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's names
    return EventDelivery(**{**values, "state": EventDeliveryState(values["state"])})


def find_job(connection: Connection, ref: str, *, locked: bool = True) -> Job | None:
    """Return the job ``ref``, ``locked`` until the transaction ends; None where there is none."""
    row = connection.execute(_JOB_LOCKED if locked else _JOB, {"ref": ref}).one_or_none()
    return job_of(row) if row else None


def find_job_by_provider_id(connection: Connection, provider: str, provider_id: str) -> Job | None:
    """Return the job a provider knows under ``provider_id``, locked; None where there is none."""
    named = (jobs.c.provider == provider) & (jobs.c.provider_id == provider_id)
    row = connection.execute(select(*job_columns).where(named).with_for_update()).one_or_none()
    return job_of(row) if row else None


def find_job_by_key(connection: Connection, key: str) -> Job | None:
    """Return the job that has a caller's key; None where there is none."""
    row = connection.execute(select(*job_columns).where(jobs.c.key == key)).one_or_none()
    return job_of(row) if row else None


def delete_unheard_job(connection: Connection, ref: str) -> None:
    """Remove a job nobody ever reported on."""
    heard_of = select(deliveries.c.id).where(deliveries.c.ref == ref).exists()
    connection.execute(delete(jobs).where(jobs.c.ref == ref, ~heard_of))


def insert_job(connection: Connection, **values: object) -> None:
    """Write a new job; it is due (``due_at``) from its first moment."""
    connection.execute(insert(jobs).values(values))


def insert_delivery(
    connection: Connection, delivery: Delivery, digest: str, verdict: Decision
) -> None:
    """Keep a delivery with what became of it."""
    values = {
        "ref": delivery.ref,
        "source": delivery.source,
        "verdict": verdict,
        "received_at": delivery.received_at,
        "digest": digest,
        "body": delivery.body,
    }
    connection.execute(_NEW_DELIVERY, values)


def set_verdict(connection: Connection, number: int, verdict: Decision) -> None:
    """Correct what a kept delivery was taken for, after it was replayed."""
    connection.execute(update(deliveries).where(deliveries.c.id == number).values(verdict=verdict))


def weigh_deliveries(connection: Connection, ref: str) -> tuple[int, int]:
    """Return how many deliveries of a job are kept, and the bytes of their bodies."""
    count, size = connection.execute(_WEIGHT, {"ref": ref}).one()
    return int(count), int(size)


def find_unconfirmed(connection: Connection, ref: str) -> list[tuple[int, bytes]]:
    """Return number and body of a job's deliveries that wait for the provider's own answer."""
    waiting = (deliveries.c.ref == ref) & (deliveries.c.verdict == Decision.UNCONFIRMED)
    return [
        (row.id, row.body)
        for row in connection.execute(select(deliveries.c.id, deliveries.c.body).where(waiting))
    ]


def find_answer(connection: Connection, ref: str) -> bytes | None:
    """Return the answer to a job's submit, where the answer was its result; None for any other job."""
    answers = (deliveries.c.ref == ref) & (deliveries.c.source == Source.SYNC)
    body: bytes | None = connection.execute(
        select(deliveries.c.body).where(answers).order_by(deliveries.c.id).limit(1)
    ).scalar()
    return body


def was_empty_before(connection: Connection, ref: str, *, but: int | None = None) -> bool:
    """Say whether this job had a success without a URL, other than the delivery numbered ``but``."""
    earlier = select(deliveries.c.id).where(
        deliveries.c.ref == ref,
        deliveries.c.verdict == Decision.EMPTY,
        deliveries.c.id != (but or 0),
    )
    return connection.execute(earlier.limit(1)).first() is not None


def was_doubted_since(connection: Connection, ref: str, moment: float) -> bool:
    """Say whether a report of this job that the provider has to be asked about was received after that moment."""
    doubted = deliveries.c.verdict.in_([Decision.EMPTY, Decision.OTHER_ID, Decision.UNCONFIRMED])
    earlier = select(deliveries.c.id).where(
        deliveries.c.ref == ref, doubted, deliveries.c.received_at > moment
    )
    return connection.execute(earlier.limit(1)).first() is not None


def hear(connection: Connection, job: Job, report: Report, due_at: float) -> None:
    """Note a sign of life: the provider has the job, and need not be asked before ``due_at``."""
    values = {
        "state": JobState.WAITING,
        "provider_id": job.provider_id or report.provider_id,
        "progress": max(job.progress, report.progress),
        "due_at": due_at,
        "claim": None,
    }
    connection.execute(_CHANGE_JOB, {"of_ref": job.ref, **values})


def note_id(connection: Connection, job: Job, provider_id: str | None) -> None:
    """Learn the provider's id of a job whose submit answer has not come, so that it can be asked about."""
    if job.provider_id is None and provider_id is not None:
        values = {
            "provider_id": provider_id,
            "state": JobState.WAITING if job.state is JobState.SUBMITTING else job.state,
        }
        connection.execute(_CHANGE_JOB, {"of_ref": job.ref, **values})


def look_at(connection: Connection, ref: str, due_at: float) -> None:
    """Have an unfinished job looked at no later than ``due_at``, unless somebody is looking at it now."""
    wanted = (
        (jobs.c.ref == ref)
        & jobs.c.finished_at.is_(None)
        & jobs.c.claim.is_(None)
        & (jobs.c.due_at > due_at)
    )
    if connection.execute(update(jobs).where(wanted).values(due_at=due_at)).rowcount:
        notify_job(connection, ref, due_at)


def begin_archiving(
    connection: Connection, job: Job, report: Report, now: float, lifetime: float
) -> None:
    """Write down the results of a success: one pending asset for each, alive for ``lifetime`` seconds from ``now``."""
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
    connection.execute(_CHANGE_JOB, {"of_ref": job.ref, **values})
    connection.execute(
        _NEW_ASSET,
        [
            _new_asset(job.ref, idx, result, now, lifetime)
            for idx, result in enumerate(report.results)
        ],
    )
    notify_assets(connection, job.ref, range(len(report.results)), now + lifetime)


def risk_begins(expires_at: float, lifetime: float) -> float:
    """Return when a URL still not archived counts as at risk: in the last quarter of its life."""
    return expires_at - lifetime / 4


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
    """Give pending assets the URLs a new answer brought; say whether any URL was new."""
    fresh = []
    for idx, result in enumerate(report.results):
        stale = (
            (assets.c.ref == job.ref)
            & (assets.c.idx == idx)
            & (assets.c.state == AssetState.PENDING)
            & (assets.c.url != result.url)
        )
        # A provider that signs a new URL with every answer must not keep an asset alive for ever.
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
) -> None:
    """End a job and write the event that says so; nothing changes it any more but an operator's retry."""
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
    connection.execute(_CHANGE_JOB, {"of_ref": job.ref, **values})
    payload: dict[str, object] = {
        "ref": job.ref,
        "state": state,
        "provider": job.provider,
        "provider_id": values["provider_id"],
        "model": job.model,
        "reason": reason,
        "message": message,
    }
    emit(connection, EventType(f"job.{state}"), job, ABOUT_THE_JOB, now, payload)


def emit(
    connection: Connection,
    kind: EventType,
    job: Job,
    idx: int,
    now: float,
    payload: dict[str, object],
) -> None:
    """Write an event beside the change it tells of."""
    stand_in_line(connection)
    payload = {**payload, "job_key": job.key}  # by which a caller knows the job
    values = {
        "type": kind,
        "ref": job.ref,
        "idx": idx,
        "round": job.round,
        "created_at": now,
        "payload": json.dumps(payload, ensure_ascii=False, separators=(",", ":")),
    }
    connection.execute(_NEW_EVENT, values)
    notify_dispatchers(connection, now)


def stand_in_line(connection: Connection) -> None:
    """Let no other transaction write events until this one ends, where events are read while they are written (PostgreSQL).

    Numbers are drawn before the commit. Writers of events stand in line, or a reader could pass a number that is yet to be seen.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_EVENTS_LINE)))


def has_event(connection: Connection, kind: EventType, job: Job) -> bool:
    """Say whether an event about this job was written in this round."""
    same = (events.c.ref == job.ref) & (events.c.type == kind) & (events.c.round == job.round)
    return connection.execute(select(events.c.id).where(same).limit(1)).first() is not None


def pending_assets(connection: Connection, ref: str) -> int:
    """Count the assets of a job that are not final yet."""
    still = (
        select(func.count())
        .select_from(assets)
        .where(assets.c.ref == ref, assets.c.state == AssetState.PENDING)
    )
    return int(connection.execute(still).scalar_one())


def note_attempt(connection: Connection, asset: Asset, now: float, error: str) -> None:
    """Keep what an attempt to archive an asset met."""
    connection.execute(insert(attempts).values(ref=asset.ref, idx=asset.idx, at=now, error=error))


def asset_urls(connection: Connection, ref: str) -> list[str]:
    """Return where a job's results are, in their order."""
    return list(
        connection.execute(
            select(assets.c.url).where(assets.c.ref == ref).order_by(assets.c.idx)
        ).scalars()
    )


def lost_inline_assets(connection: Connection, ref: str) -> int:
    """Count the assets of a job that are not archived although their bytes are in the ledger."""
    ours = (
        (assets.c.ref == ref)
        & (assets.c.state != AssetState.ARCHIVED)
        & assets.c.url.startswith(INLINE)
    )
    return int(
        connection.execute(select(func.count()).select_from(assets).where(ours)).scalar_one()
    )


def touch(connection: Connection) -> None:
    """Write what is there already: the smallest change that needs the disk."""
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


def delete_hint(connection: Connection, provider_id: str) -> None:
    """Forget what a stranger named."""
    connection.execute(delete(hints).where(hints.c.provider_id == provider_id))
