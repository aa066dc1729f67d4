"""The sweep over a ledger that many machines work on: wakes for the rows that are due and have none.

Rows become due without a wake by the passing of time (polls, back-off, the ends of leases), and where a wake was lost with its worker.
Nothing is woken for the future: whoever looks for a wake would have to read through all those that wait for their time.
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

# Wakes that wait in a queue, from which on the sweep adds none: whoever hears one takes the nearest deadline, whatever row it was for.
ENOUGH = 500

_wakes = table(
    "procrastinate_jobs", column("queue_name"), column("queueing_lock"), column("status")
)
_waiting: ColumnElement[bool] = _wakes.c.status == literal_column("'todo'")
_now: BindParameter[float] = bindparam("now")


def _due(rows: Table, deadline: ColumnElement[Any], *wanted: ColumnElement[bool]) -> Select[Any]:
    """Ask for the rows that are due and have no wake, as ``wakes`` names them, with their deadlines."""
    name: ColumnElement[str] = literal(rows.name)
    for key in rows.primary_key.columns:
        name = name + literal("/") + cast(key, Text)
    awake = exists(select(1).where(_wakes.c.queueing_lock == name, _waiting))
    question = select(name.label("name"), deadline.label("deadline")).where(
        rows.c.due_at <= _now, *wanted, ~awake
    )
    return question.order_by(deadline).limit(ENOUGH)


_SWEPT = {
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
_HEARD = select(func.count()).select_from(
    select(1).where(_wakes.c.queue_name == bindparam("queue"), _waiting).limit(ENOUGH).subquery()
)
_not_handed_over = destinations.c.cursor < select(func.max(events.c.id)).scalar_subquery()
_to_be_told = exists(
    select(1).where(sendings.c.destination == destinations.c.name, sendings.c.due_at <= _now)
)
_UNTOLD = select(exists(select(1).where(or_(_not_handed_over, _to_be_told))))


def notify_due(database: Database, now: Callable[[], float]) -> int:
    """Send a notification for each due row that has none; return how many. Only on PostgreSQL."""
    return database.write(lambda connection: _notify_due(connection, now()))


def _notify_due(connection: Connection, now: float) -> int:
    found = 0
    for queue, question in _SWEPT.items():
        if connection.execute(_HEARD, {"queue": queue}).scalar_one() < ENOUGH:
            rows = {row.name: row.deadline for row in connection.execute(question, {"now": now})}
            notify(connection, queue, rows)
            found += len(rows)
    if connection.execute(_UNTOLD, {"now": now}).scalar_one():
        notify_dispatchers(connection, now)
    return found
