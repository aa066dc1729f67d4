"""Events, and the state of their deliveries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.event_queue import PENDING
from receiver.ledger.events import end_of_batch
from receiver.ledger.outbox import FAILING, SET_ASIDE, destination_names, due_since
from receiver.ledger.rows import EventDelivery, event_delivery_of
from receiver.ledger.tables import destinations, events, sendings
from receiver.model import EventDeliveryState, EventType

T = TypeVar("T")

# Counts end here; a higher number would not help anyone who reads it.
MOST_COUNTED = 10_000
# The success rate is computed from this many of a destination's newest deliveries.
RECENT = 1000


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest ``RECENT`` deliveries of a destination: how many were tried, and delivered.

    A delivery counts as tried once it is delivered, was set aside, or its last attempt failed.
    """

    tried: int
    delivered: int

    @property
    def success_rate(self) -> float | None:
        """The delivered share of those that were tried, 0 to 1; None if none was."""
        return self.delivered / self.tried if self.tried else None


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """The deliveries of one destination; counts end at 10,000, times are epoch seconds.

    ``not_handed`` are events without a delivery yet; there are many only if no worker serves the
    destination. ``waiting`` are pending deliveries, and ``due_since`` is when the first of them
    became due. ``failing`` are those of the waiting ones whose last attempt failed. ``oldest_at``
    is when the oldest event happened that is neither delivered nor set aside. ``attempts`` and
    ``last_error`` are those of the oldest failing delivery, or else of the newest one set aside.
    """

    destination: str
    not_handed: int
    waiting: int
    due_since: float | None
    set_aside: int
    failing: int
    oldest_at: float | None
    attempts: int
    last_error: str
    recent: Recent


@dataclass(frozen=True, slots=True)
class FailingDelivery:
    """A pending delivery whose last attempt failed, and when its event happened."""

    delivery: EventDelivery
    type: str
    happened_at: float


class EventQueries:
    """Reads events and their deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def newest(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        query = select(func.max(events.c.id))
        return self._read(lambda connection: connection.execute(query).scalar()) or 0

    def after(self, number: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to ``limit`` events after the one with this number, oldest first."""
        query = select(events).where(events.c.id > number).order_by(events.c.id).limit(limit)
        return self._rows(query)

    def of_job(self, ref: str) -> list[dict[str, Any]]:
        """Return the events about a job and its assets, in order."""
        return self._rows(select(events).where(events.c.ref == ref).order_by(events.c.id))

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        return self._read(
            lambda connection: [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - documented
        )

    def following(
        self, after: int, types: Sequence[EventType] = (), limit: int = 100
    ) -> tuple[Sequence[Row[Any]], int]:
        """Return events of these types after ``after``, oldest first, and the last number read.

        Events that a rebuild restored are left out: they were delivered long ago.
        """

        def work(connection: Connection) -> tuple[Sequence[Row[Any]], int]:
            upto = end_of_batch(connection, after, limit)
            wanted = [
                events.c.id > after,
                events.c.id <= upto,
                events.c.rebuilt == 0,
                *([events.c.type.in_(types)] if types else []),
            ]
            query = select(events).where(*wanted).order_by(events.c.id)
            return connection.execute(query).all(), upto

        return self._read(work)

    def destinations(self) -> list[DestinationStatus]:
        """Return the status of every destination, also of those no longer in EVENT_URLS."""
        return self._read(
            lambda connection: [_status(connection, name) for name in destination_names(connection)]
        )

    def set_aside(self, after: int = 0, limit: int = 100) -> list[EventDelivery]:
        """Return deliveries that were set aside, oldest event first, after the event ``after``."""
        query = select(sendings).where(sendings.c.state == SET_ASIDE, sendings.c.event > after)
        query = query.order_by(sendings.c.event, sendings.c.destination).limit(limit)
        return self._read(
            lambda connection: [event_delivery_of(row) for row in connection.execute(query)]
        )

    def failing(self, names: Sequence[str], limit: int = 100) -> list[FailingDelivery]:
        """Return deliveries to these destinations whose last attempt failed, oldest event first."""
        query = (
            select(sendings, events.c.type, events.c.created_at)
            .join(events, events.c.id == sendings.c.event)
            .where(sendings.c.destination.in_(names), FAILING)
            .order_by(sendings.c.event, sendings.c.destination)
            .limit(limit)
        )
        return self._read(
            lambda connection: [
                FailingDelivery(event_delivery_of(row), row.type, row.created_at)
                for row in connection.execute(query)
            ]
        )

    def count_failing(self, names: Sequence[str], most: int) -> int:
        """Count the failing deliveries to these destinations, up to ``most``."""
        rows = select(sendings.c.event).where(sendings.c.destination.in_(names), FAILING)
        return self._read(lambda connection: _count(connection, rows, most))


def _status(connection: Connection, name: str) -> DestinationStatus:
    cursor = select(destinations.c.cursor).where(destinations.c.name == name).scalar_subquery()
    mine = select(sendings.c.event).where(sendings.c.destination == name)
    waiting, set_aside, failing = (
        _count(connection, mine.where(kind))
        for kind in (sendings.c.state == PENDING, sendings.c.state == SET_ASIDE, FAILING)
    )
    failed = _last_failed(connection, name)
    return DestinationStatus(
        destination=name,
        not_handed=_count(connection, select(events.c.id).where(events.c.id > cursor)),
        waiting=waiting,
        due_since=due_since(connection, name),
        set_aside=set_aside,
        failing=failing,
        oldest_at=_oldest_at(connection, name),
        attempts=failed.attempts if failed else 0,
        last_error=failed.error if failed else "",
        recent=_recent(connection, name),
    )


def _oldest_at(connection: Connection, name: str) -> float | None:
    """Return when the oldest event happened that is neither delivered nor set aside.

    It is one of three: the oldest failing one; the one that is due first, because those that were
    not tried yet become due in their order; or the first one behind the cursor.
    """
    mine = select(sendings.c.event).where(sendings.c.destination == name)
    first_due = mine.where(sendings.c.due_at.isnot(None)).order_by(sendings.c.due_at).limit(1)
    failing = mine.where(FAILING).order_by(sendings.c.event).limit(1)
    cursor = select(destinations.c.cursor).where(destinations.c.name == name).scalar_subquery()
    behind = select(events.c.id).where(events.c.id > cursor).order_by(events.c.id).limit(1)
    found = [connection.execute(query).scalar() for query in (first_due, failing, behind)]
    oldest = min((number for number in found if number is not None), default=None)
    happened = select(events.c.created_at).where(events.c.id == oldest)
    moment: float | None = None if oldest is None else connection.execute(happened).scalar()
    return moment


def _last_failed(connection: Connection, name: str) -> Row[Any, Any] | None:
    mine = select(sendings.c.attempts, sendings.c.error).where(sendings.c.destination == name)
    failing = mine.where(FAILING).order_by(sendings.c.event).limit(1)
    aside = mine.where(sendings.c.state == SET_ASIDE).order_by(sendings.c.event.desc()).limit(1)
    return connection.execute(failing).first() or connection.execute(aside).first()


def _recent(connection: Connection, name: str) -> Recent:
    newest = (
        select(sendings.c.state, sendings.c.error)
        .where(sendings.c.destination == name)
        .order_by(sendings.c.event.desc())
        .limit(RECENT)
        .subquery()
    )
    sent, pending = EventDeliveryState.SENT.value, EventDeliveryState.PENDING.value
    tried = (newest.c.state != pending) | (newest.c.error != "")
    counted = select(
        func.count(case((tried, 1))), func.count(case((newest.c.state == sent, 1)))
    ).select_from(newest)
    return Recent(*connection.execute(counted).one())


def _count(connection: Connection, rows: Select[int], most: int = MOST_COUNTED) -> int:
    counted = select(func.count()).select_from(rows.limit(most).subquery())
    return int(connection.execute(counted).scalar_one())
