"""Notifications for due rows that have none (PostgreSQL).

Rows become due without a notification when time passes (polls, back-off, ends of leases), and when
a notification was lost with its worker. None is written for the future: a worker that looks for one
would have to read all that are not due yet.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    table,
)

from receiver.ledger.claims import completed, suspected, unindexed
from receiver.ledger.database import Database
from receiver.ledger.notifications import QueueName, notify, notify_dispatchers
from receiver.ledger.tables import assets, destinations, events, hints, jobs, sendings

# If so many notifications wait in a queue, no more are added: each makes a worker take the row with
# the nearest deadline, whatever row it was for.
ENOUGH = 500

_notifications = table(
    "procrastinate_jobs", column("queue_name"), column("queueing_lock"), column("status")
)
_waiting: ColumnElement[bool] = _notifications.c.status == literal_column("'todo'")
_now: BindParameter[float] = bindparam("now")


def _due(rows: Table, deadline: ColumnElement[Any], *wanted: ColumnElement[bool]) -> Select[Any]:
    """Return names and deadlines of due rows without a notification."""
    name: ColumnElement[str] = literal(rows.name)
    for key in rows.primary_key.columns:
        name = name + literal("/") + cast(key, Text)
    notified = exists(select(1).where(_notifications.c.queueing_lock == name, _waiting))
    question = select(name.label("name"), deadline.label("deadline")).where(
        rows.c.due_at <= _now, *wanted, ~notified
    )
    return question.order_by(deadline).limit(ENOUGH)


_DUE_ROWS = {
    QueueName.ASSETS: _due(assets, assets.c.expires_at, suspected(assets, suspects=False)),
    QueueName.SUSPECT_ASSETS: _due(
        assets, unindexed(assets.c.expires_at), suspected(assets, suspects=True)
    ),
    QueueName.COMPLETE_JOBS: _due(
        jobs, jobs.c.due_at, completed(complete=True), suspected(jobs, suspects=False)
    ),
    QueueName.JOBS: _due(
        jobs, jobs.c.due_at, completed(complete=False), suspected(jobs, suspects=False)
    ),
    QueueName.SUSPECT_JOBS: _due(jobs, unindexed(jobs.c.due_at), suspected(jobs, suspects=True)),
    QueueName.HINTS: _due(hints, hints.c.due_at),
}
_COUNT_WAITING = select(func.count()).select_from(
    select(1)
    .where(_notifications.c.queue_name == bindparam("queue"), _waiting)
    .limit(ENOUGH)
    .subquery()
)
_has_new_events = destinations.c.cursor < select(func.max(events.c.id)).scalar_subquery()
_delivery_due = exists(
    select(1).where(sendings.c.destination == destinations.c.name, sendings.c.due_at <= _now)
)
_DELIVERIES_DUE = select(exists(select(1).where(or_(_has_new_events, _delivery_due))))


def notify_due(database: Database, now: Callable[[], float]) -> int:
    """Send a notification for each due row that has none; return how many. Only on PostgreSQL."""
    return database.write(lambda connection: _notify_due(connection, now()))


def _notify_due(connection: Connection, now: float) -> int:
    found = 0
    for queue, question in _DUE_ROWS.items():
        if connection.execute(_COUNT_WAITING, {"queue": queue}).scalar_one() < ENOUGH:
            rows = {row.name: row.deadline for row in connection.execute(question, {"now": now})}
            notify(connection, queue, rows)
            found += len(rows)
    if connection.execute(_DELIVERIES_DUE, {"now": now}).scalar_one():
        notify_dispatchers(connection, now)
    return found
