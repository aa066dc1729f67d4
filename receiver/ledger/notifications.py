"""Notifications (PostgreSQL): a row that becomes due notifies one worker, in the same transaction.

A notification is a Procrastinate job in the queue of the kind of work. It does not name work to do:
the worker that receives it claims the row nearest to its deadline. A lost notification delays a row
until the next poll for due rows, a superfluous one finds nothing. Notifications are inserted by
Procrastinate's own SQL function, in one round trip, and commit or roll back with the row. On SQLite
one process works, and nothing is written.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import Connection, text

# Procrastinate serves the highest priority first, in 32 bits: the negated deadline, in seconds
# since November 2023.
_EPOCH = 1_700_000_000
_EVENTS = "events to "

# Sorted, so that two transactions with the same notifications do not deadlock. A row that has a
# notification gets no second one.
_NOTIFY_ROWS = text("""
    SELECT procrastinate_defer_jobs_v1(array_agg(
        ROW(:queue, :queue, wanted.priority, NULL, wanted.lock, '{}', NULL)
        ::procrastinate_job_to_defer_v1 ORDER BY wanted.lock))
    FROM unnest(CAST(:locks AS text[]), CAST(:priorities AS integer[])) AS wanted(lock, priority)
    WHERE NOT EXISTS (
        SELECT FROM procrastinate_jobs AS known
        WHERE known.queueing_lock = wanted.lock AND known.status = 'todo')
""")
# The name of a destination may be too long for a queue: PostgreSQL's channels have 63 bytes, and
# Procrastinate puts 23 before the queue's name. So the queue is named after a hash.
_NOTIFY_DISPATCHERS = text("""
    SELECT procrastinate_defer_jobs_v1(array_agg(
        ROW(wanted.queue, wanted.queue, :priority, NULL, wanted.queue, '{}', NULL)
        ::procrastinate_job_to_defer_v1 ORDER BY wanted.queue))
    FROM (
        SELECT 'events ' || left(encode(sha256(convert_to(name, 'UTF8')), 'hex'), 16) AS queue
        FROM destinations) AS wanted
    WHERE NOT EXISTS (
        SELECT FROM procrastinate_jobs AS known
        WHERE known.queueing_lock = wanted.queue AND known.status = 'todo')
""")


class QueueName(StrEnum):
    """The work queues by name; each destination of events has one more, see ``events_queue``."""

    ASSETS = "assets"
    SUSPECT_ASSETS = "suspect assets"
    COMPLETE_JOBS = "complete jobs"
    JOBS = "jobs"
    SUSPECT_JOBS = "suspect jobs"
    HINTS = "hints"


def events_queue(destination: str) -> str:
    """Return the name of the work queue that delivers events to a destination."""
    return _EVENTS + destination


def queue_of(name: str) -> str:
    """Return the Procrastinate queue of a work queue."""
    if name.startswith(_EVENTS):
        return f"events {sha256(name.removeprefix(_EVENTS).encode()).hexdigest()[:16]}"
    return name


def notify(connection: Connection, queue: QueueName, rows: Mapping[str, float]) -> None:
    """Send a notification for each of these rows that has none.

    ``rows`` maps names of rows, ``table/key``, to their deadlines in seconds since the epoch.
    """
    if connection.dialect.name == "postgresql" and rows:
        connection.execute(
            _NOTIFY_ROWS,
            {
                "queue": queue,
                "locks": list(rows),
                "priorities": [_priority(moment) for moment in rows.values()],
            },
        )


def notify_assets(
    connection: Connection, ref: str, indexes: Iterable[int], expires_at: float
) -> None:
    """Notify workers of assets that are due now; their URLs die at ``expires_at``."""
    notify(connection, QueueName.ASSETS, {f"assets/{ref}/{idx}": expires_at for idx in indexes})


def notify_job(connection: Connection, ref: str, now: float, *, complete: bool = False) -> None:
    """Notify a worker of a job that is due now."""
    queue = QueueName.COMPLETE_JOBS if complete else QueueName.JOBS
    notify(connection, queue, {f"jobs/{ref}": now})


def notify_hint(connection: Connection, provider_id: str, now: float) -> None:
    """Notify a worker of a hint."""
    notify(connection, QueueName.HINTS, {f"hints/{provider_id}": now})


def notify_dispatchers(connection: Connection, now: float) -> None:
    """Notify the dispatcher of each destination; one notification stands for all its events."""
    if connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY_DISPATCHERS, {"priority": _priority(now)})


def _priority(deadline: float) -> int:
    return max(-(2**31), min(_EPOCH - int(deadline), 2**31 - 1))
