"""Claims: the right to work on a row until its lease ends.

A claim is one conditional UPDATE: due rows, nearest deadline first, get our token, and their
``due_at`` moves to the end of the lease. The worker that finishes must show the token. If the row
has another one, the lease was lost and nothing is changed; that is a normal event.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
    Row,
    Select,
    Table,
    Update,
    and_,
    bindparam,
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
from receiver.ledger.database import Database
from receiver.ledger.liveness import WORKER
from receiver.ledger.rows import Asset, EventDelivery, Hint, Job
from receiver.ledger.tables import assets, hints, job_columns, jobs, sendings
from receiver.model import AssetState, JobState

# Seconds a claim lasts; a living worker renews it long before it ends.
LEASE = 60.0
# Crashes after which a row is suspect. Suspects are worked on one at a time, so that a crash does
# not count against other rows.
SUSPICIOUS_CRASHES = 2
# Crashes after which a row is set aside and shown to people; an operator's retry tries it again.
MOST_CRASHES = 5
# The claim of a worker that is known to be dead.
GONE = "gone"
# Seconds that each crash after the second one delays the next attempt, so that other rows proceed.
CRASH_PAUSE = 10.0

R_co = TypeVar("R_co", Asset, Job, Hint, EventDelivery, covariant=True)


@dataclass(frozen=True, slots=True)
class Claimed(Generic[R_co]):
    """A row as it was when we claimed it, and the token that proves our right to it."""

    row: R_co
    token: str


class Claims:
    """The transactions that concern claims of any kind. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def renew(self, held: Sequence[Claimed[Any]]) -> None:
        """Extend our leases; a claim that was lost meanwhile is skipped."""
        self._database.write(
            lambda connection: _update_all(connection, held, due_at=self._now() + LEASE)
        )

    def release(self, held: Sequence[Claimed[Any]], *, after: float = 0.0) -> None:
        """End claims whose work was not finished; the rows are due ``after`` this many seconds.

        The attempt counts, because it may have stored an object.
        """
        self._database.write(
            lambda connection: _update_all(connection, held, claim=None, due_at=self._now() + after)
        )

    def take_over(self, worker: int | None = None) -> int:
        """End the leases of the dead worker with this number; return how many there were.

        Without a number, end every lease. Only the single worker of a machine does this, when it
        starts: all other workers are dead. The rows keep a claim of no worker until they are
        claimed again and the crash is counted.
        """
        return self._database.write(lambda connection: _take_over(connection, self._now(), worker))


def is_unexplained(job: Job) -> bool:
    """Return whether a job is archived but its manifest was set aside."""
    return job.state is JobState.ARCHIVED and job.crashes >= MOST_CRASHES


def set_aside(row: Asset | Job) -> str:
    """Return why a row is set aside and what to do about it, for people."""
    return (
        f"set aside: the worker was gone {row.crashes} times with it in hand; mend that, "
        f"then `receiver retry {row.ref}` tries it again"
    )


def completed(*, complete: bool) -> ColumnElement[bool]:
    """Return the condition of jobs whose assets are all final, or of the others."""
    # A scalar, not EXISTS: for that PostgreSQL may read every asset instead of those of the job.
    pending = (
        select(func.min(assets.c.idx))
        .where(assets.c.ref == jobs.c.ref, assets.c.state == AssetState.PENDING)
        .scalar_subquery()
    )
    found = and_(jobs.c.state == JobState.ARCHIVING, pending.is_(None))
    return found if complete else not_(found)


def _crashes(table: Table) -> ColumnElement[int]:
    """Count a row's crashes: a due row that still has a claim was left by a crashed worker."""
    return table.c.crashes + case((table.c.claim.isnot(None), 1), else_=0)


def suspected(table: Table, *, suspects: bool) -> ColumnElement[bool]:
    """Return the condition of rows that may have crashed workers, or of the others."""
    if not suspects:
        return _crashes(table) < SUSPICIOUS_CRASHES
    # The second condition implies the first one, but the small index of crashed rows is used only
    # with the first one. Without it all due rows are read for the few suspects.
    return and_(table.c.crashes > literal_column("0"), _crashes(table) >= SUSPICIOUS_CRASHES)


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as an expression that has no index, so that a better index is used."""
    return column + literal_column("0")


def claim_statement(
    table: Table, order: ColumnElement[Any], *wanted: ColumnElement[bool], few: bool = False
) -> Update:
    """Return the statement with which ``claim_rows`` claims due rows of a table in this order.

    Built once for each kind of work: that takes longer than running it. ``few``: only few of the
    due rows are wanted, so the index of ``due_at`` is not used.
    """
    key = tuple_(*table.primary_key.columns)
    due_at, order = (
        (unindexed(table.c.due_at), unindexed(order)) if few else (table.c.due_at, order)
    )
    # A finished row has no due_at, so "due" also means "not finished". A claimed row is due when
    # its lease ends.
    due = (
        select(*table.primary_key.columns)
        .where(due_at <= bindparam("now", type_=Double), *wanted)
        .order_by(order)
        .limit(bindparam("limit", type_=Integer))
    )
    # On PostgreSQL, rows that another worker is claiming are skipped; SQLite has one writer anyway.
    # A CTE is run once. Some plans run a plain subquery for each row of the table, and every run
    # would claim another ``limit`` rows.
    once = due.with_for_update(skip_locked=True).cte("due")
    values = {
        "claim": bindparam("token"),
        "due_at": bindparam("until"),
        "attempts": table.c.attempts + 1,
    }
    if "crashes" in table.c:
        values["crashes"] = _crashes(table)
    return (
        update(table)
        .where(key.in_(select(once)))
        .values(values)
        .returning(*(job_columns if table is jobs else table.c))
    )


def claim_rows(
    connection: Connection, statement: Update, now: float, limit: int, **values: object
) -> Sequence[Row[Any]]:
    """Claim up to ``limit`` rows that are due ``now``, for the length of a lease; return them.

    ``values`` are other parameters of the ``claim_statement``.
    """
    claim = {"now": now, "until": now + LEASE, "limit": limit, "token": _new_token(connection)}
    return connection.execute(statement, {**claim, **values}).all()


def _new_token(connection: Connection) -> str:
    """Return a token that no other claim has; it begins with the worker's number if it has one.

    So a claim has a number if, and only if, the connection that made it holds the worker's lock.
    """
    number = connection.info.get(WORKER)
    return token_hex(8) if number is None else f"{number}.{token_hex(8)}"


def _is_ours(table: Table) -> ColumnElement[bool]:
    """Return the condition that a row is still ours; ``_held`` returns its parameters."""
    key = (column == bindparam(f"of_{column.name}") for column in table.primary_key)
    return and_(*key, table.c.claim == bindparam("of_claim"))


# In the order in which every transaction locks rows: jobs before their assets. One order for all
# transactions prevents deadlocks.
_TABLES = (jobs, assets, hints, sendings)
# Run with the new values.
_UPDATE_OURS = {table: update(table).where(_is_ours(table)) for table in _TABLES}
_LOCK_OURS = {
    table: select(table.c.claim).where(_is_ours(table)).with_for_update() for table in _TABLES
}


def _held(claimed: Claimed[Any]) -> tuple[Table, dict[str, object]]:
    """Return the table of a claim and the parameters of ``_is_ours``."""
    row: Asset | Job | Hint | EventDelivery = claimed.row
    match row:
        case Asset():
            table, key = assets, {"of_ref": row.ref, "of_idx": row.idx}
        case Job():
            table, key = jobs, {"of_ref": row.ref}
        case Hint():
            table, key = hints, {"of_provider_id": row.provider_id}
        case EventDelivery():
            table, key = sendings, {"of_destination": row.destination, "of_event": row.event}
    return table, {**key, "of_claim": claimed.token}


def update_claimed(connection: Connection, claimed: Claimed[Any], **values: object) -> None:
    """Update a row that is ours; ``claim=None`` ends the claim.

    Raise ClaimLostError if the row is no longer ours.
    """
    table, held = _held(claimed)
    if connection.execute(_UPDATE_OURS[table], {**held, **values}).rowcount == 0:
        raise ClaimLostError("the lease ended and the work went to another worker")


def require_claimed(connection: Connection, claimed: Claimed[Any]) -> None:
    """Raise ClaimLostError unless the row is still ours, and lock it until the transaction ends."""
    table, held = _held(claimed)
    if connection.execute(_LOCK_OURS[table], held).first() is None:
        raise ClaimLostError("the lease ended and the work went to another worker")


def _update_all(connection: Connection, claims: Sequence[Claimed[Any]], **values: object) -> None:
    """Update all rows that are still ours, with one statement for each table."""
    rows = [_held(claimed) for claimed in claims]
    for table in _TABLES:
        own = [held for its_table, held in rows if its_table is table]
        own.sort(key=lambda held: [str(part) for part in held.values()])
        if own:
            connection.execute(_UPDATE_OURS[table], [{**held, **values} for held in own])


def _of_dead(table: Table, now: float, worker: int | None) -> ColumnElement[bool]:
    if worker is None:
        return table.c.claim != GONE
    # A row whose lease has ended is due in any case, and its crash is counted.
    return and_(table.c.due_at > now, table.c.claim.startswith(f"{worker}."))


def _take_over(connection: Connection, now: float, worker: int | None) -> int:
    taken = 0
    for table in (jobs, assets, hints, sendings):  # in the order in which rows are locked
        pause = (
            case((table.c.crashes > 1, (table.c.crashes - 1) * CRASH_PAUSE), else_=0.0)
            if "crashes" in table.c
            else literal(0.0)
        )
        taken += connection.execute(
            update(table).where(_of_dead(table, now, worker)).values(due_at=now + pause, claim=GONE)
        ).rowcount
    return taken


def _first_due(table: Table, *wanted: ColumnElement[bool]) -> Select[tuple[Any]]:
    # Rows without due_at are excluded explicitly: otherwise SQLite ignores the partial index.
    return select(func.min(table.c.due_at)).where(table.c.due_at.isnot(None), *wanted)


_FIRST_DUE = {table: _first_due(table) for table in (assets, jobs, hints)}
# Only rows that crashed a worker can be suspects; a small index has them.
_FIRST_CRASHED = {
    table: _first_due(table, table.c.crashes > literal_column("0")) for table in (assets, jobs)
}


def next_due(connection: Connection, table: Table, *, suspects: bool = False) -> float | None:
    """Return when the next row of a table becomes due; None if none will.

    With ``suspects`` only rows that crashed a worker count.
    """
    statement = _FIRST_CRASHED[table] if suspects else _FIRST_DUE[table]
    earliest: float | None = connection.execute(statement).scalar_one()
    return earliest


def count_starving(connection: Connection, due_before: float) -> int:
    """Return how many assets have been due since before this time, counted up to 10,000."""
    some = select(assets.c.idx).where(assets.c.due_at <= due_before).limit(10_000).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def oldest_due(connection: Connection, now: float) -> float | None:
    """Return since when the oldest due row has been waiting for a worker; None if none waits."""
    waiting = [next_due(connection, table) for table in (assets, jobs, hints)]
    return min((moment for moment in waiting if moment is not None and moment <= now), default=None)
