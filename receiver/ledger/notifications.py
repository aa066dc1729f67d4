"""Wakes: where many machines work on one ledger, each row that becomes due tells one of them, in the very transaction that makes it due.

A wake is a job of Procrastinate's, in the queue of the lane that does such work. It is a bell, not the work: whoever hears it claims the
row that is nearest to its deadline. A wake that is lost costs a sweep, one too many finds nothing. It is written by Procrastinate's own
SQL function, so that it commits or vanishes with the row, in one round trip. On SQLite, where one machine works, nothing is written.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import Connection, text

# Procrastinate serves the highest priority first, in 32 bits: the deadline, negative, counted from November 2023.
_EPOCH = 1_700_000_000
_EVENTS = "events to "

# Sorted, so that no two transactions with the same wakes wait for each other. A row that has a wake gets no second one.
_WAKE = text("""
    SELECT procrastinate_defer_jobs_v1(array_agg(
        ROW(:queue, :queue, wake.priority, NULL, wake.lock, '{}', NULL)::procrastinate_job_to_defer_v1 ORDER BY wake.lock))
    FROM unnest(CAST(:locks AS text[]), CAST(:priorities AS integer[])) AS wake(lock, priority)
    WHERE NOT EXISTS (SELECT FROM procrastinate_jobs AS known WHERE known.queueing_lock = wake.lock AND known.status = 'todo')
""")
# PostgreSQL takes channels of 63 bytes, and Procrastinate puts 23 before a queue's name; the name of a destination may be longer.
_WAKE_SENDERS = text("""
    SELECT procrastinate_defer_jobs_v1(array_agg(
        ROW(wake.queue, wake.queue, :priority, NULL, wake.queue, '{}', NULL)::procrastinate_job_to_defer_v1 ORDER BY wake.queue))
    FROM (SELECT 'events ' || left(encode(sha256(convert_to(name, 'UTF8')), 'hex'), 16) AS queue FROM destinations) AS wake
    WHERE NOT EXISTS (SELECT FROM procrastinate_jobs AS known WHERE known.queueing_lock = wake.queue AND known.status = 'todo')
""")


class QueueName(StrEnum):
    """The lanes that are woken, by their names; each destination of events has one more, see ``queue_of``."""

    ASSETS = "assets"
    SUSPECT_ASSETS = "suspect assets"
    COMPLETE_JOBS = "complete jobs"
    JOBS = "jobs"
    SUSPECT_JOBS = "suspect jobs"
    HINTS = "hints"


def events_queue(destination: str) -> str:
    """Return the name of the lane that tells a destination."""
    return _EVENTS + destination


def queue_of(queue: str) -> str:
    """Return the queue of a lane."""
    if queue.startswith(_EVENTS):
        return f"events {sha256(queue.removeprefix(_EVENTS).encode()).hexdigest()[:16]}"
    return queue


def notify(connection: Connection, queue: QueueName, rows: Mapping[str, float]) -> None:
    """Wake somebody for each of these rows, given by table and key with its deadline (seconds since the epoch), unless it has a wake."""
    if connection.dialect.name == "postgresql" and rows:
        connection.execute(
            _WAKE,
            {
                "queue": queue,
                "locks": list(rows),
                "priorities": [_priority(moment) for moment in rows.values()],
            },
        )


def notify_assets(
    connection: Connection, ref: str, indexes: Iterable[int], expires_at: float
) -> None:
    """Wake somebody for assets of a job that are due now, whose URLs die at ``expires_at``."""
    notify(connection, QueueName.ASSETS, {f"assets/{ref}/{idx}": expires_at for idx in indexes})


def notify_job(connection: Connection, ref: str, now: float, *, complete: bool = False) -> None:
    """Wake somebody to look at a job that is due now."""
    notify(
        connection, QueueName.COMPLETE_JOBS if complete else QueueName.JOBS, {f"jobs/{ref}": now}
    )


def notify_hint(connection: Connection, provider_id: str, now: float) -> None:
    """Wake somebody to look into a hint."""
    notify(connection, QueueName.HINTS, {f"hints/{provider_id}": now})


def notify_dispatchers(connection: Connection, now: float) -> None:
    """Wake somebody for each destination of events; one wake stands for all that a destination has not been told."""
    if connection.dialect.name == "postgresql":
        connection.execute(_WAKE_SENDERS, {"priority": _priority(now)})


def _priority(deadline: float) -> int:
    return max(-(2**31), min(_EPOCH - int(deadline), 2**31 - 1))
