"""Events, and the state of their deliveries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, func, select

from receiver.ledger.database import Database
from receiver.ledger.events import end_of_batch
from receiver.ledger.outbox import PENDING, SET_ASIDE, destination_names, due_since
from receiver.ledger.rows import EventDelivery, event_delivery_of
from receiver.ledger.tables import destinations, events, sendings
from receiver.model import EventType

T = TypeVar("T")

# Counts end here; a higher number would not help anyone who reads it.
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """The deliveries of one destination; counts end at 10,000.

    ``not_handed`` are events without a delivery yet (many only if no worker serves the
    destination), ``waiting`` are pending deliveries, ``due_since`` is when the first of them became
    due.
    """

    destination: str
    not_handed: int
    waiting: int
    due_since: float | None
    set_aside: int


class EventQueries:
    """Reads events and their deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def newest(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        question = select(func.max(events.c.id))
        return self._read(lambda connection: connection.execute(question).scalar()) or 0

    def after(self, number: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to ``limit`` events after the one with this number, oldest first."""
        question = select(events).where(events.c.id > number).order_by(events.c.id).limit(limit)
        return self._rows(question)

    def of_job(self, ref: str) -> list[dict[str, Any]]:
        """Return the events about a job and its assets, in order."""
        return self._rows(select(events).where(events.c.ref == ref).order_by(events.c.id))

    def _rows(self, question: Select[Any]) -> list[dict[str, Any]]:
        return self._read(
            lambda connection: [dict(row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
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
            question = select(events).where(*wanted).order_by(events.c.id)
            return connection.execute(question).all(), upto

        return self._read(work)

    def destinations(self) -> list[DestinationStatus]:
        """Return the status of every destination, also of those no longer in EVENT_URLS."""
        return self._read(
            lambda connection: [_status(connection, name) for name in destination_names(connection)]
        )

    def set_aside(self, after: int = 0, limit: int = 100) -> list[EventDelivery]:
        """Return deliveries that were given up, oldest event first, after the event ``after``."""
        question = select(sendings).where(sendings.c.state == SET_ASIDE, sendings.c.event > after)
        question = question.order_by(sendings.c.event, sendings.c.destination).limit(limit)
        return self._read(
            lambda connection: [event_delivery_of(row) for row in connection.execute(question)]
        )


def _status(connection: Connection, name: str) -> DestinationStatus:
    cursor = select(destinations.c.cursor).where(destinations.c.name == name).scalar_subquery()
    not_handed = _count(connection, select(events.c.id).where(events.c.id > cursor))
    waiting, set_aside = (
        _count(
            connection,
            select(sendings.c.event).where(
                sendings.c.destination == name, sendings.c.state == state
            ),
        )
        for state in (PENDING, SET_ASIDE)
    )
    return DestinationStatus(name, not_handed, waiting, due_since(connection, name), set_aside)


def _count(connection: Connection, rows: Select[int]) -> int:
    counted = select(func.count()).select_from(rows.limit(MOST_COUNTED).subquery())
    return int(connection.execute(counted).scalar_one())
