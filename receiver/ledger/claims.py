"""Claims: the right to work on one row until its lease ends.

A claim is one conditional UPDATE: rows that are due, nearest deadline first, get our token, and their ``due_at`` moves to the end of the
lease. Whoever finishes shows the token; where it is no longer there the lease was lost and nothing is changed. Losing is normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, func, not_, select, tuple_, update

from receiver.errors import ClaimLostError
from receiver.ledger.rows import Asset, Hint, Job
from receiver.ledger.tables import assets, hints, job_columns, jobs
from receiver.ledger.writes import asset_of, job_of
from receiver.model import AssetState, JobState

R_co = TypeVar("R_co", Asset, Job, Hint, covariant=True)


@dataclass(frozen=True, slots=True)
class Claimed(Generic[R_co]):
    """A row as it stood when we got it, and the token that proves our right to it."""

    row: R_co
    token: str


def claim_assets(connection: Connection, now: float, until: float, limit: int) -> list[Claimed[Asset]]:
    """Claim up to ``limit`` pending assets, the one whose URL dies first at the head."""
    rows = _claim(connection, assets, assets.c.expires_at, now, until, limit)
    return sorted((Claimed(asset_of(row), row.claim) for row in rows), key=lambda claimed: claimed.row.expires_at)


def claim_jobs(connection: Connection, now: float, until: float, limit: int, *, complete: bool | None) -> list[Claimed[Job]]:
    """Claim up to ``limit`` jobs that are due to be looked at, the longest due first: the complete ones, the others, or (None) any.

    Complete are jobs whose assets are all final. They need the archive only, and must not queue up behind polls of a provider that hangs.
    """
    # A scalar, not EXISTS: PostgreSQL may answer that by reading every asset once, instead of the job's own.
    pending = select(func.min(assets.c.idx)).where(assets.c.ref == jobs.c.ref, assets.c.state == AssetState.PENDING).scalar_subquery()
    is_complete = and_(jobs.c.state == JobState.ARCHIVING, pending.is_(None))
    wanted = () if complete is None else (is_complete if complete else not_(is_complete),)
    return [Claimed(job_of(row), row.claim) for row in _claim(connection, jobs, jobs.c.due_at, now, until, limit, *wanted)]


def claim_hints(connection: Connection, now: float, until: float, limit: int) -> list[Claimed[Hint]]:
    """Claim up to ``limit`` hints that are due to be looked into."""
    rows = _claim(connection, hints, hints.c.due_at, now, until, limit)
    return [Claimed(Hint(**row._mapping), row.claim) for row in rows]  # noqa: SLF001 - the documented way to a row's names


def _claim(
    connection: Connection, table: Table, order: ColumnElement[Any], now: float, until: float, limit: int, *wanted: ColumnElement[bool]
) -> Sequence[Row[Any]]:
    key = tuple_(*table.primary_key.columns)
    # A finished row has no due_at, so "due" also means "not finished"; a claimed one is not due until its lease ends.
    due = select(*table.primary_key.columns).where(table.c.due_at <= now, *wanted).order_by(order).limit(limit)
    # On PostgreSQL claimers pass over rows that another is claiming this instant; on SQLite there is one writer anyway. Being a CTE it is
    # run once: as a plain subquery some plans run it for each row of the table, and every run claims another ``limit`` rows.
    once = due.with_for_update(skip_locked=True).cte("due")
    values = {"claim": token_hex(8), "due_at": until, "attempts": table.c.attempts + 1}
    return connection.execute(
        update(table).where(key.in_(select(once))).values(values).returning(*(job_columns if table is jobs else table.c))
    ).all()


def _held(claimed: Claimed[Any]) -> tuple[Table, ColumnElement[bool]]:
    """Return the table of a claim and the condition under which the row is still ours."""
    row: Asset | Job | Hint = claimed.row
    match row:
        case Asset():
            return assets, and_(assets.c.ref == row.ref, assets.c.idx == row.idx, assets.c.claim == claimed.token)
        case Job():
            return jobs, and_(jobs.c.ref == row.ref, jobs.c.claim == claimed.token)
        case Hint():
            return hints, and_(hints.c.provider_id == row.provider_id, hints.c.claim == claimed.token)


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
    row: Asset | Job | Hint = claimed.row
    match row:
        case Job():
            return 0, row.ref, 0
        case Asset():
            return 1, row.ref, row.idx
        case Hint():
            return 2, row.provider_id, 0


def renew(connection: Connection, held: Sequence[Claimed[Any]], until: float) -> None:
    """Move the end of our leases; a claim that was lost meanwhile is passed over."""
    for claimed in sorted(held, key=_place_in_line):
        table, still_ours = _held(claimed)
        connection.execute(update(table).where(still_ours).values(due_at=until))


def hand_back(connection: Connection, held: Sequence[Claimed[Any]], now: float) -> None:
    """Give up claims whose work was not finished: due at once for another, and the attempt does not count."""
    for claimed in sorted(held, key=_place_in_line):
        table, still_ours = _held(claimed)
        connection.execute(update(table).where(still_ours).values(claim=None, due_at=now, attempts=table.c.attempts - 1))


def take_over(connection: Connection, now: float) -> int:
    """End every lease and return how many there were. Only for the one worker of a machine, at its start: all others are dead."""
    return sum(
        connection.execute(update(table).where(table.c.claim.isnot(None)).values(claim=None, due_at=now)).rowcount
        for table in (assets, jobs, hints)
    )


def next_due(connection: Connection, table: Table) -> float | None:
    """Return when the next row of a table becomes due; None when nothing is."""
    earliest: float | None = connection.execute(_first_due(table)).scalar_one()
    return earliest


def _first_due(table: Table) -> Select[tuple[Any]]:
    # What has no due_at is left out by name: only so does SQLite know that the partial index holds the answer.
    return select(func.min(table.c.due_at)).where(table.c.due_at.isnot(None))


def oldest_due(connection: Connection, now: float) -> float | None:
    """Return since when the oldest due work has been waiting for a hand; None when nothing waits."""
    waiting = [connection.execute(_first_due(table)).scalar_one() for table in (assets, jobs, hints)]
    return min((moment for moment in waiting if moment is not None and moment <= now), default=None)
