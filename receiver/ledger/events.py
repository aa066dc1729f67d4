"""Events: written in the transaction of the change they report, numbered in order of commit.

`receiver.ledger.outbox` delivers them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from receiver.ledger.many_rows import ManyRows
from receiver.ledger.notifications import QueueName, notify
from receiver.ledger.rows import Job
from receiver.ledger.tables import events
from receiver.model import EventType

# The ``idx`` of an event about the job itself, not about one of its assets.
ABOUT_THE_JOB = -1
# Any number is good if all our processes use the same one.
_EVENTS_LOCK = 0x6576656E

# Built once: building them takes longer than running them, and all writers wait meanwhile.
_INSERT_EVENT = insert(events)
_INSERT_EVENTS = ManyRows(
    "INSERT INTO events (type, ref, idx, round, created_at, payload) {values}",
    """INSERT INTO events (type, ref, idx, round, created_at, payload)
    SELECT type, ref, idx, round, created_at, payload
    FROM unnest(%s::text[], %s::text[], %s::int[], %s::int[], %s::float8[], %s::text[])
        WITH ORDINALITY AS new (type, ref, idx, round, created_at, payload, place)
    ORDER BY place""",
)
_LOCK_EVENT_ORDER = select(func.pg_advisory_xact_lock(_EVENTS_LOCK))


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written: about the asset ``idx`` of a job, or ``ABOUT_THE_JOB``."""

    type: EventType
    payload: dict[str, object]
    idx: int = ABOUT_THE_JOB


def write_events(connection: Connection, job: Job, now: float, new: Sequence[NewEvent]) -> None:
    """Write events about a job, in this order, in the transaction of the changes they report."""
    lock_event_order(connection)
    connection.execute(_INSERT_EVENT, [_values(job, now, event) for event in new])
    notify(connection, QueueName.EVENTS)


def write_events_of_jobs(
    connection: Connection, new: Sequence[tuple[Job, float, NewEvent]]
) -> None:
    """Write events about several jobs, each with its time."""
    lock_event_order(connection)
    rows = [tuple(_values(*one).values()) for one in new]
    _INSERT_EVENTS.run(connection, rows)
    notify(connection, QueueName.EVENTS)


def _values(job: Job, now: float, event: NewEvent) -> dict[str, object]:
    payload = {**event.payload, "job_key": job.key}  # the caller's own name for the job
    return {
        "type": event.type,
        "ref": job.ref,
        "idx": event.idx,
        "round": job.round,
        "created_at": now,
        "payload": json.dumps(payload, ensure_ascii=False, separators=(",", ":")),
    }


def lock_event_order(connection: Connection) -> None:
    """Let no other transaction write events until this one ends (PostgreSQL).

    PostgreSQL assigns numbers before the commit. Without the lock a reader could pass a number
    whose event becomes visible only later. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_EVENT_ORDER)


def has_event(connection: Connection, kind: EventType, job: Job) -> bool:
    """Return whether an event of this type about a job was written in its present round."""
    same = (events.c.ref == job.ref) & (events.c.type == kind) & (events.c.round == job.round)
    return connection.execute(select(events.c.id).where(same).limit(1)).first() is not None


def end_of_batch(connection: Connection, after: int, size: int) -> int:
    """Return the number of the last of the ``size`` events after ``after``; ``after`` if none."""
    batch = (
        select(events.c.id).where(events.c.id > after).order_by(events.c.id).limit(size).subquery()
    )
    return connection.execute(select(func.max(batch.c.id))).scalar() or after
