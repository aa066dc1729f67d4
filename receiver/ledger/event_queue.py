"""Which deliveries of events are claimed next, and how new events are queued.

Deliveries that were not tried yet come first, then those with few attempts, then those that failed
several times. So a host that works does not wait for thousands that do not. In one of every few
claims only the due time counts, so that old deliveries have their turn too. The webhooks of jobs
have many hosts. For them every second claim takes the newest deliveries that were not tried. So
thousands of events to dead hosts do not delay the others for long.
"""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Update,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)

from receiver.ledger import claims
from receiver.ledger.claims import Claimed
from receiver.ledger.events import end_of_batch
from receiver.ledger.rows import EventDelivery, event_delivery_of
from receiver.ledger.tables import destinations, events, jobs, sendings
from receiver.model import EventDeliveryState, EventType

# The destination that stands for the webhooks of all jobs that name one.
JOB_WEBHOOKS = "job webhooks"
# Deliveries queued, or deleted, in one transaction.
BATCH = 500
# In one of this many claims only the due time counts.
TURNS = 8

# Written as literals: the planners use a partial index only for exactly its condition.
PENDING: ColumnElement[str] = literal_column(f"'{EventDeliveryState.PENDING}'")


def _statement(*wanted: ColumnElement[bool], newest: bool = False) -> Update:
    order = sendings.c.due_at.desc() if newest else sendings.c.due_at
    return claims.claim_statement(
        sendings, order, sendings.c.destination == bindparam("to"), *wanted
    )


# Each has a partial index. From 3 attempts on (36 s) a delivery comes after those with fewer.
_ATTEMPTS = sendings.c.attempts
_UNTRIED = literal_column("0") == _ATTEMPTS
_FEW = (literal_column("0") < _ATTEMPTS, literal_column("3") > _ATTEMPTS)
_SEVERAL = literal_column("3") <= _ATTEMPTS

# Built once: building them takes longer than running them, and all writers wait meanwhile.
_ANY, _OLDEST, _NEWEST = _statement(), _statement(_UNTRIED), _statement(_UNTRIED, newest=True)
_RETRIES = (_statement(*_FEW), _statement(_SEVERAL))


def claim_deliveries(
    connection: Connection,
    destination: str,
    types: Sequence[EventType],
    now: float,
    limit: int,
    *,
    retries: int,
    turn: int,
) -> list[Claimed[EventDelivery]]:
    """Claim due deliveries, at most ``retries`` that were tried before; see ``Outbox.claim``."""
    if lock_destination(connection, destination) is None:
        return []  # no job has a webhook yet, or it was deleted meanwhile
    newest, by_due = destination == JOB_WEBHOOKS and turn % 2, turn % TURNS == TURNS - 1
    queue_more = partial(_queue_new_events, connection, destination, types, now)
    if newest:
        queue_more()
    untried = _NEWEST if newest else _OLDEST
    found: list[Claimed[EventDelivery]] = []

    def add(statement: Update, most: int) -> None:
        if (most := min(most, limit - len(found))) > 0:
            rows = claims.claim_rows(connection, statement, now, most, to=destination)
            found.extend(Claimed(event_delivery_of(row), row.claim) for row in rows)

    if by_due:
        add(_ANY, retries)
    add(untried, limit)
    if len(found) < limit and queue_more():
        add(untried, limit)
    for statement in _RETRIES:
        add(statement, retries - sum(map(is_retry, found)))
    return sorted(found, key=lambda one: one.row.event)


def is_retry(claimed: Claimed[EventDelivery]) -> bool:
    """Return whether a claimed delivery was tried before; a postponement is not an attempt."""
    return claimed.row.attempts > 1


def lock_destination(connection: Connection, destination: str) -> int | None:
    """Lock a destination until the transaction ends and return its cursor."""
    cursor: int | None = connection.execute(
        select(destinations.c.cursor).where(destinations.c.name == destination).with_for_update()
    ).scalar()
    return cursor


def _queue_new_events(
    connection: Connection, destination: str, types: Sequence[EventType], now: float
) -> bool:
    """Insert a delivery for each event behind the cursor; return whether there were any events.

    They become visible in order: see ``lock_event_order``.
    """
    cursor = lock_destination(connection, destination) or 0
    upto = end_of_batch(connection, cursor, BATCH)
    if upto == cursor:
        return False
    new = (events.c.id > cursor) & (events.c.id <= upto)
    wanted = [new, events.c.rebuilt == 0, events.c.type.in_(types)]
    if destination == JOB_WEBHOOKS:
        wanted.append(exists().where(jobs.c.ref == events.c.ref, jobs.c.webhook.isnot(None)))
    rows = select(
        literal(destination),
        events.c.id,
        events.c.ref,
        literal(EventDeliveryState.PENDING.value),
        literal(now),
    ).where(*wanted)
    connection.execute(
        insert(sendings).from_select(["destination", "event", "ref", "state", "since"], rows)
    )
    make_next_due(connection, _NEXT_BEHIND, to=destination, cursor=cursor, now=now)
    connection.execute(
        update(destinations).where(destinations.c.name == destination).values(cursor=upto)
    )
    return True


def _next_due_statements(among: ColumnElement[bool]) -> tuple[Update, Update]:
    """Build the statements that keep exactly the first pending delivery of each job due.

    The first one makes it due, the second one removes ``due_at`` from the later ones.
    """
    earlier = sendings.alias("earlier")
    first = select(func.min(earlier.c.event)).where(
        earlier.c.destination == bindparam("to"),
        earlier.c.ref == sendings.c.ref,
        earlier.c.state == PENDING,
    )
    mine = and_(sendings.c.destination == bindparam("to"), sendings.c.state == PENDING, among)
    next_one = and_(mine, sendings.c.due_at.is_(None), sendings.c.event == first.scalar_subquery())
    # An event that is sent again comes before the later ones of its job that are due now.
    later = and_(
        mine,
        sendings.c.due_at.isnot(None),
        sendings.c.claim.is_(None),
        sendings.c.event != first.scalar_subquery(),
    )
    now: BindParameter[float] = bindparam("now", type_=Double)
    return (
        update(sendings).where(next_one).values(due_at=now, since=now),
        update(sendings).where(later).values(due_at=None),
    )


NEXT_OF_JOB = _next_due_statements(sendings.c.ref == bindparam("job"))
_NEXT_BEHIND = _next_due_statements(sendings.c.event > bindparam("cursor"))


def make_next_due(
    connection: Connection, statements: tuple[Update, Update], **values: object
) -> None:
    """Make the first pending delivery of each job due, of one job or of those just queued."""
    for statement in statements:
        connection.execute(statement, values)
