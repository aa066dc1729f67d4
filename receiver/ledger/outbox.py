"""The outbox: the deliveries of events to each destination.

Each destination gets every event once, events of one job in order, and no destination waits for
another. A destination's cursor is the last event for which a delivery was queued; later events are
found by reading behind it, so nothing is missed when a process dies. Of a job's pending deliveries
only the first one has a ``due_at``; when it ends, the next one becomes due. A transaction that ends
or adds deliveries locks the destination's row first: otherwise an event could be added while the
one before it ends, and would never become due.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from receiver.errors import ReceiverError
from receiver.ledger import claims
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.event_queue import (
    BATCH,
    NEXT_OF_JOB,
    PENDING,
    claim_deliveries,
    lock_destination,
    make_next_due,
)
from receiver.ledger.events import lock_event_order
from receiver.ledger.rows import EventDelivery
from receiver.ledger.tables import destinations, events, sendings
from receiver.model import EventDeliveryState, EventType

# Seconds that finished deliveries are kept: sent ones, and those that were set aside.
KEPT, KEPT_ASIDE = 7 * 86400.0, 90 * 86400.0

# More than there can be.
ANY = 2**31 - 1

# Literals, for the same reason as PENDING.
SENT: ColumnElement[str] = literal_column(f"'{EventDeliveryState.SENT}'")
SET_ASIDE: ColumnElement[str] = literal_column(f"'{EventDeliveryState.SET_ASIDE}'")
# A pending delivery whose last attempt failed.
FAILING = and_(sendings.c.state == PENDING, sendings.c.error != literal_column("''"))


class Outbox:
    """The transactions of event deliveries. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self.now = now

    def register(self, names: Sequence[str]) -> None:
        """Insert new destinations, which get all events from now on; known ones stay unchanged."""
        known = set(self._database.read(destination_names))
        for name in names:
            if name not in known:
                with suppress(IntegrityError):  # another process inserts it at the same moment
                    self._database.write(partial(_insert_destination, name=name))

    def next_due(self, destination: str) -> float | None:
        """Return when a delivery is due: 0.0 if there are new events, None if there is nothing."""

        def work(connection: Connection) -> float | None:
            cursor = connection.execute(
                select(destinations.c.cursor).where(destinations.c.name == destination)
            ).scalar()
            if cursor is None:
                return None  # it was deleted meanwhile
            if (connection.execute(select(func.max(events.c.id))).scalar() or 0) > cursor:
                return 0.0
            return due_since(connection, destination)

        return self._database.read(work)

    def claim(
        self,
        destination: str,
        types: Sequence[EventType],
        limit: int,
        *,
        retries: int = ANY,
        turn: int = 0,
    ) -> list[Claimed[EventDelivery]]:
        """Claim up to ``limit`` due deliveries, at most ``retries`` that were tried before.

        If those that were not tried yet are fewer, new events of these ``types`` are queued.
        ``turn`` counts the claims of a destination; it decides which deliveries come first.
        """
        now = self.now()
        ask = partial(claim_deliveries, destination=destination, types=types, now=now)
        return self._database.write(partial(ask, limit=limit, retries=retries, turn=turn))

    def find(self, event: int) -> Row[Any] | None:
        """Return one event's row; None if there is none."""
        query = select(events).where(events.c.id == event)
        return self._database.read(lambda connection: connection.execute(query).one_or_none())

    def mark_sent(self, claimed: Claimed[EventDelivery]) -> None:
        """Record that an event was delivered; raise ClaimLostError if it is no longer ours."""
        self._end(claimed, EventDeliveryState.SENT, "")

    def set_aside(self, claimed: Claimed[EventDelivery], error: str) -> None:
        """Stop trying a delivery; the next event of its job becomes due.

        Raise ClaimLostError if it is no longer ours.
        """
        self._end(claimed, EventDeliveryState.SET_ASIDE, error)

    def _end(self, claimed: Claimed[EventDelivery], state: EventDeliveryState, error: str) -> None:
        def work(connection: Connection) -> None:
            now, row = self.now(), claimed.row
            lock_destination(connection, row.destination)
            claims.update_claimed(
                connection,
                claimed,
                state=state,
                finished_at=now,
                due_at=None,
                claim=None,
                error=error,
            )
            make_next_due(connection, NEXT_OF_JOB, to=row.destination, job=row.ref, now=now)

        self._database.write(work)

    def retry(self, claimed: Claimed[EventDelivery], due_at: float, error: str) -> None:
        """Make a delivery due again at ``due_at``; raise ClaimLostError if it is no longer ours."""
        self._database.write(
            lambda connection: claims.update_claimed(
                connection, claimed, due_at=due_at, claim=None, error=error
            )
        )

    def prune(self) -> int:
        """Delete a batch of old finished deliveries and return how many. The events stay."""
        return self._database.write(lambda connection: _prune(connection, self.now()))

    def forget(self, name: str) -> None:
        """Delete a destination with its deliveries; raise ReceiverError if there is none.

        If the process is killed meanwhile, call it again; until then the destination keeps the
        rest.
        """
        self._require_known(name)
        while not self._database.write(partial(_delete_some, name=name)):
            pass

    def resend(self, event: int) -> int:
        """Make an event pending again wherever it was set aside; return for how many destinations.

        Raise ReceiverError if it is not set aside anywhere.
        """

        def work(connection: Connection) -> int:
            mine = and_(sendings.c.event == event, sendings.c.state == SET_ASIDE)
            rows = connection.execute(
                select(sendings.c.destination, sendings.c.ref)
                .where(mine)
                .order_by(sendings.c.destination)
            ).all()
            for name, ref in rows:
                lock_destination(connection, name)
                values = {
                    "state": EventDeliveryState.PENDING,
                    "since": self.now(),
                    "finished_at": None,
                    "attempts": 0,
                    "error": "",
                }
                connection.execute(
                    update(sendings).where(mine, sendings.c.destination == name).values(values)
                )
                make_next_due(connection, NEXT_OF_JOB, to=name, job=ref, now=self.now())
            return len(rows)

        return _require_set_aside(self._database.write(work), event)

    def dismiss(self, event: int) -> int:
        """Delete the deliveries of an event that were set aside; return how many. It stays itself.

        Raise ReceiverError if it is not set aside anywhere.
        """
        mine = delete(sendings).where(sendings.c.event == event, sendings.c.state == SET_ASIDE)
        count = self._database.write(lambda connection: connection.execute(mine).rowcount)
        return _require_set_aside(count, event)

    def expedite(self, name: str, most: int | None = None) -> int:
        """Make what waits for a destination due now, all or about ``most`` deliveries.

        Return how many became due. Its dispatchers end the pause that follows failures. A job's
        later events still wait for its earlier ones. Raise ReceiverError if there is no such
        destination.
        """
        self._require_known(name)
        mark = update(destinations).where(destinations.c.name == name)
        mark = mark.values(expedited_at=self.now())
        count = 0
        while most is None or count < most:
            made_due = self._database.write(partial(_make_some_due, name=name, now=self.now()))
            if not made_due:
                break
            count += made_due
        self._database.write(lambda connection: connection.execute(mark))
        return count

    def expedited_at(self, name: str) -> float:
        """Return when an operator last asked to send what waits at once; 0.0 for never."""
        query = select(destinations.c.expedited_at).where(destinations.c.name == name)
        return self._database.read(lambda connection: connection.execute(query).scalar()) or 0.0

    def _require_known(self, name: str) -> None:
        known = self._database.read(destination_names)
        if name not in known:
            raise ReceiverError(
                f"there is no destination {name!r}; known are: {', '.join(known) or 'none'}"
            )


def _require_set_aside(count: int, event: int) -> int:
    if not count:
        text = f"event {event} is not set aside; `receiver events` lists those that are"
        raise ReceiverError(text)
    return count


def destination_names(connection: Connection) -> Sequence[str]:
    """Return the names of all destinations, also of those no longer in EVENT_URLS."""
    names = select(destinations.c.name).order_by(destinations.c.name)
    return connection.execute(names).scalars().all()


def due_since(connection: Connection, destination: str) -> float | None:
    """Return when a destination's first delivery is or was due; None if none is pending."""
    due = select(func.min(sendings.c.due_at)).where(
        sendings.c.destination == destination, sendings.c.due_at.isnot(None)
    )
    moment: float | None = connection.execute(due).scalar()
    return moment


def _insert_destination(connection: Connection, name: str) -> None:
    # With the lock, an event that is committed later has a higher number than the cursor.
    lock_event_order(connection)
    place = select(literal(name), func.coalesce(func.max(events.c.id), 0))
    connection.execute(insert(destinations).from_select(["name", "cursor"], place))


def _prune(connection: Connection, now: float) -> int:
    deleted = 0
    for state, before in ((SENT, now - KEPT), (SET_ASIDE, now - KEPT_ASIDE)):
        ended = (sendings.c.state == state) & (sendings.c.finished_at < before)
        old = select(sendings.c.destination, sendings.c.event).where(ended).limit(BATCH)
        key = tuple_(sendings.c.destination, sendings.c.event)
        deleted += connection.execute(delete(sendings).where(key.in_(old))).rowcount
    return deleted


def _delete_some(connection: Connection, name: str) -> bool:
    """Delete a batch of a destination's deliveries, and with the last batch the destination.

    Return whether the destination is gone.
    """
    lock_destination(connection, name)
    # The newest first: the first event of a job is the due one, and the others would wait for it.
    newest = (
        select(sendings.c.event)
        .where(sendings.c.destination == name)
        .order_by(sendings.c.event.desc())
        .limit(BATCH)
    )
    removed = connection.execute(
        delete(sendings).where(sendings.c.destination == name, sendings.c.event.in_(newest))
    ).rowcount
    if removed == BATCH:
        return False
    connection.execute(delete(destinations).where(destinations.c.name == name))
    return True


def _make_some_due(connection: Connection, name: str, now: float) -> int:
    """Make a batch of a destination's unclaimed deliveries due; return how many it had."""
    lock_destination(connection, name)
    later = (
        select(sendings.c.event)
        .where(sendings.c.destination == name, sendings.c.due_at > now, sendings.c.claim.is_(None))
        .limit(BATCH)
    )
    mine = (sendings.c.destination == name) & sendings.c.event.in_(later)
    return connection.execute(
        update(sendings).where(mine, sendings.c.claim.is_(None)).values(due_at=now)
    ).rowcount
