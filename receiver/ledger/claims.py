"""Claims: the right to work on one row until its lease ends.

A claim is one conditional UPDATE: rows that are due, nearest deadline first, get our token, and their ``due_at`` moves to the end of the
lease. Whoever finishes shows the token; where it is no longer there the lease was lost and nothing is changed. Losing is normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    case,
    func,
    literal,
    literal_column,
    not_,
    select,
    tuple_,
    update,
)

from receiver.errors import ClaimLostError
from receiver.ledger.rows import Asset, EventDelivery, Hint, Job
from receiver.ledger.tables import assets, hints, job_columns, jobs, sendings
from receiver.ledger.writes import asset_of, event_delivery_of, job_of
from receiver.model import AssetState, JobState

# Crashes after which a row is worked on by itself: one suspect at a time, so that its neighbours in other hands are not blamed with it.
SUSPICIOUS_CRASHES = 2
# Crashes after which a row is set aside. It is then told to a person, and an operator's retry tries it again.
MOST_CRASHES = 5
# The claim of a worker that is known to be dead.
GONE = "gone"
# Seconds that each crash but the first two puts off the next attempt, so that the others get on with their work meanwhile.
CRASH_PAUSE = 10.0

R_co = TypeVar("R_co", Asset, Job, Hint, EventDelivery, covariant=True)


@dataclass(frozen=True, slots=True)
class Claimed(Generic[R_co]):
    """A row as it stood when we got it, and the token that proves our right to it."""

    row: R_co
    token: str


def is_unexplained(job: Job) -> bool:
    """Say whether a job is archived, but its manifest was set aside: the one thing about it that is still to be done."""
    return job.state is JobState.ARCHIVED and job.crashes >= MOST_CRASHES


def set_aside(row: Asset | Job) -> str:
    """Say of a row that is set aside why, and what to do about it."""
    return f"set aside: the worker was gone {row.crashes} times with it in hand; mend that, then `receiver retry {row.ref}` tries it again"


def claim_assets(
    connection: Connection, now: float, until: float, limit: int, *, suspects: bool = False
) -> list[Claimed[Asset]]:
    """Claim up to ``limit`` pending assets, the one whose URL dies first at the head; either the suspects or the others."""
    rows = _claim(
        connection,
        assets,
        assets.c.expires_at,
        now,
        until,
        limit,
        suspected(assets, suspects=suspects),
        few=suspects,
    )
    return sorted((Claimed(asset_of(row), row.claim) for row in rows), key=_by_deadline)


def _by_deadline(claimed: Claimed[Asset]) -> tuple[float, str, int]:
    return claimed.row.expires_at, claimed.row.ref, claimed.row.idx


def claim_jobs(
    connection: Connection, now: float, until: float, limit: int, *, complete: bool | None
) -> list[Claimed[Job]]:
    """Claim up to ``limit`` jobs that are due to be looked at, the longest due first: the complete ones, the others, or (None) any.

    Complete are jobs whose assets are all final. They need the archive only, and must not queue up behind polls of a provider that hangs.
    """
    wanted = (
        () if complete is None else (completed(complete=complete), suspected(jobs, suspects=False))
    )
    return [
        Claimed(job_of(row), row.claim)
        for row in _claim(connection, jobs, jobs.c.due_at, now, until, limit, *wanted)
    ]


def claim_suspect_jobs(
    connection: Connection, now: float, until: float, limit: int
) -> list[Claimed[Job]]:
    """Claim up to ``limit`` of the jobs that may be what made workers crash."""
    rows = _claim(
        connection, jobs, jobs.c.due_at, now, until, limit, suspected(jobs, suspects=True), few=True
    )
    return [Claimed(job_of(row), row.claim) for row in rows]


def claim_hints(
    connection: Connection, now: float, until: float, limit: int
) -> list[Claimed[Hint]]:
    """Claim up to ``limit`` hints that are due to be looked into."""
    rows = _claim(connection, hints, hints.c.due_at, now, until, limit)
    return [Claimed(Hint(**row._mapping), row.claim) for row in rows]  # noqa: SLF001 - the documented way to a row's names


def _crashes(table: Table) -> ColumnElement[int]:
    """Count a row's crashes: a claim that still stands when the row is due again ended without a word."""
    return table.c.crashes + case((table.c.claim.isnot(None), 1), else_=0)


def completed(*, complete: bool) -> ColumnElement[bool]:
    """Return the condition of jobs whose assets are all final, or of the others."""
    # A scalar, not EXISTS: PostgreSQL may answer that by reading every asset once, instead of the job's own.
    pending = (
        select(func.min(assets.c.idx))
        .where(assets.c.ref == jobs.c.ref, assets.c.state == AssetState.PENDING)
        .scalar_subquery()
    )
    found = and_(jobs.c.state == JobState.ARCHIVING, pending.is_(None))
    return found if complete else not_(found)


def suspected(table: Table, *, suspects: bool) -> ColumnElement[bool]:
    """Return the condition of rows that may have made workers crash, or of the others."""
    if not suspects:
        return _crashes(table) < SUSPICIOUS_CRASHES
    # The first part follows from the second, and is what the index of the crashed says: there are few of them among many that are due.
    return and_(table.c.crashes > literal_column("0"), _crashes(table) >= SUSPICIOUS_CRASHES)


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column in words to which no index answers: by its own, all that is due would be looked through for the few wanted."""
    return column + literal_column("0")


def claim_event_deliveries(
    connection: Connection, destination: str, now: float, until: float, limit: int
) -> list[Claimed[EventDelivery]]:
    """Claim up to ``limit`` events that are due to be told to a destination, the longest due first."""
    rows = _claim(
        connection,
        sendings,
        sendings.c.due_at,
        now,
        until,
        limit,
        sendings.c.destination == destination,
    )
    return sorted(
        (Claimed(event_delivery_of(row), row.claim) for row in rows),
        key=lambda claimed: claimed.row.event,
    )


def _claim(
    connection: Connection,
    table: Table,
    order: ColumnElement[Any],
    now: float,
    until: float,
    limit: int,
    *wanted: ColumnElement[bool],
    few: bool = False,
) -> Sequence[Row[Any]]:
    key = tuple_(*table.primary_key.columns)
    due_at, order = (
        (unindexed(table.c.due_at), unindexed(order)) if few else (table.c.due_at, order)
    )
    # A finished row has no due_at, so "due" also means "not finished"; a claimed one is not due until its lease ends.
    due = (
        select(*table.primary_key.columns)
        .where(due_at <= now, *wanted)
        .order_by(order)
        .limit(limit)
    )
    # On PostgreSQL claimers pass over rows that another is claiming this instant; on SQLite there is one writer anyway. Being a CTE it is
    # run once: as a plain subquery some plans run it for each row of the table, and every run claims another ``limit`` rows.
    once = due.with_for_update(skip_locked=True).cte("due")
    values = {"claim": token_hex(8), "due_at": until, "attempts": table.c.attempts + 1}
    if "crashes" in table.c:
        values["crashes"] = _crashes(table)
    return connection.execute(
        update(table)
        .where(key.in_(select(once)))
        .values(values)
        .returning(*(job_columns if table is jobs else table.c))
    ).all()


def _held(claimed: Claimed[Any]) -> tuple[Table, ColumnElement[bool]]:
    """Return the table of a claim and the condition under which the row is still ours."""
    row: Asset | Job | Hint | EventDelivery = claimed.row
    match row:
        case Asset():
            return assets, and_(
                assets.c.ref == row.ref, assets.c.idx == row.idx, assets.c.claim == claimed.token
            )
        case Job():
            return jobs, and_(jobs.c.ref == row.ref, jobs.c.claim == claimed.token)
        case Hint():
            return hints, and_(
                hints.c.provider_id == row.provider_id, hints.c.claim == claimed.token
            )
        case EventDelivery():
            return sendings, and_(
                sendings.c.destination == row.destination,
                sendings.c.event == row.event,
                sendings.c.claim == claimed.token,
            )


def change_held(connection: Connection, claimed: Claimed[Any], **values: object) -> None:
    """Change a row that is ours; raise ClaimLostError if it is ours no longer. ``claim=None`` among the values gives it back."""
    table, held = _held(claimed)
    if connection.execute(update(table).where(held).values(values)).rowcount == 0:
        raise ClaimLostError("the lease ended and the work went to another worker")


def require_held(connection: Connection, claimed: Claimed[Any]) -> None:
    """Raise ClaimLostError unless the row is still ours, and lock it until the transaction ends."""
    table, held = _held(claimed)
    if connection.execute(select(table.c.claim).where(held).with_for_update()).first() is None:
        raise ClaimLostError("the lease ended and the work went to another worker")


def _place_in_line(claimed: Claimed[Any]) -> tuple[int, str, int]:
    """Where several rows are locked, jobs go before their assets and both by their keys: then no two transactions wait for each other."""
    row: Asset | Job | Hint | EventDelivery = claimed.row
    match row:
        case Job():
            return 0, row.ref, 0
        case Asset():
            return 1, row.ref, row.idx
        case Hint():
            return 2, row.provider_id, 0
        case EventDelivery():
            return 3, row.destination, row.event


def renew(connection: Connection, held: Sequence[Claimed[Any]], until: float) -> None:
    """Move the end of our leases; a claim that was lost meanwhile is passed over."""
    for claimed in sorted(held, key=_place_in_line):
        table, still_ours = _held(claimed)
        connection.execute(update(table).where(still_ours).values(due_at=until))


def release(connection: Connection, held: Sequence[Claimed[Any]], now: float) -> None:
    """Give up claims whose work was not finished: due at once for another. The attempt counts, it may have put an object."""
    for claimed in sorted(held, key=_place_in_line):
        table, still_ours = _held(claimed)
        connection.execute(update(table).where(still_ours).values(claim=None, due_at=now))


def take_over(connection: Connection, now: float) -> int:
    """End every lease and return how many there were. Only for the one worker of a machine, at its start: all others are dead.

    What was taken over keeps a claim that is nobody's, until the row is claimed anew and the crash counted.
    """
    taken = 0
    for table in (assets, jobs, hints, sendings):
        pause = (
            case((table.c.crashes > 1, (table.c.crashes - 1) * CRASH_PAUSE), else_=0.0)
            if "crashes" in table.c
            else literal(0.0)
        )
        taken += connection.execute(
            update(table).where(table.c.claim != GONE).values(due_at=now + pause, claim=GONE)
        ).rowcount
    return taken


def next_due(connection: Connection, table: Table) -> float | None:
    """Return when the next row of a table becomes due; None when nothing is."""
    earliest: float | None = connection.execute(_first_due(table)).scalar_one()
    return earliest


def _first_due(table: Table) -> Select[tuple[Any]]:
    # What has no due_at is left out by name: only so does SQLite know that the partial index holds the answer.
    return select(func.min(table.c.due_at)).where(table.c.due_at.isnot(None))


def oldest_due(connection: Connection, now: float) -> float | None:
    """Return since when the oldest due work has been waiting for a hand; None when nothing waits."""
    waiting = [
        connection.execute(_first_due(table)).scalar_one() for table in (assets, jobs, hints)
    ]
    return min((moment for moment in waiting if moment is not None and moment <= now), default=None)
