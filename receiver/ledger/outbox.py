"""The outbox: events on their way to others. Each destination is handed every event once, in order, and nobody waits for another.

A destination's cursor says up to which event it has been handed over; the rest is found by looking behind it, so nothing is missed,
whatever dies in between. Of a job's events only the first that is not told yet has a ``due_at``; its end gives the next one its turn.
Whoever ends or adds sendings locks the destination's row first, so that no event is added unseen while the one before it ends.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    Update,
    and_,
    bindparam,
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
from receiver.ledger import claims, writes
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.ledger import LEASE
from receiver.ledger.rows import EventDelivery
from receiver.ledger.tables import destinations, events, sendings
from receiver.model import EventDeliveryState, EventType

T = TypeVar("T")

# Events handed over in one transaction, and rows removed in one.
BATCH = 500
# Seconds that rows of the past are kept: told ones, and those nobody asked to be sent again.
KEPT, KEPT_ASIDE = 7 * 86400.0, 90 * 86400.0
# Rows counted of a kind; more than these are told as so many.
MOST_COUNTED = 10_000

# Written out, because the planners use a partial index only for the very words of its condition.
_PENDING: ColumnElement[str] = literal_column(f"'{EventDeliveryState.PENDING}'")
_SENT: ColumnElement[str] = literal_column(f"'{EventDeliveryState.SENT}'")
_SET_ASIDE: ColumnElement[str] = literal_column(f"'{EventDeliveryState.SET_ASIDE}'")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a destination stands: events it was not handed yet, those it was not told, since when the longest due waits, those set aside.

    Counts end at 10,000. Only a destination that nobody serves has many that were not handed to it.
    """

    destination: str
    not_handed: int
    waiting: int
    due_since: float | None
    set_aside: int


class Outbox:
    """Every write to the sendings, and what is to be seen of them. ``clock`` returns seconds since the epoch."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self.now = clock

    def _write(self, work: Callable[[Connection], T]) -> T:
        return self._database.write(work)

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def begin(self, names: Sequence[str]) -> None:
        """Make new destinations known: they are told what happens from now on. Known ones keep their place."""
        known = set(
            self._read(
                lambda connection: connection.execute(select(destinations.c.name)).scalars().all()
            )
        )
        for name in names:
            if name not in known:
                with suppress(IntegrityError):  # another process makes it known this instant
                    self._write(partial(_begin, name=name))

    # Telling.

    def next_due(self, destination: str) -> float | None:
        """Return when a destination is to be told something: at once if there are events it was not handed yet."""

        def work(connection: Connection) -> float | None:
            cursor = connection.execute(
                select(destinations.c.cursor).where(destinations.c.name == destination)
            ).scalar()
            if cursor is None:
                return None  # it was forgotten meanwhile
            if (connection.execute(select(func.max(events.c.id))).scalar() or 0) > cursor:
                return 0.0
            return _due_since(connection, destination)

        return self._read(work)

    def claim(
        self, destination: str, types: Sequence[EventType], limit: int
    ) -> list[Claimed[EventDelivery]]:
        """Claim what is due; where that is less than asked for, hand the destination what is new, of these types, and claim of that."""

        def work(connection: Connection) -> list[Claimed[EventDelivery]]:
            now = self.now()
            cursor = _lock(connection, destination)
            found = claims.claim_event_deliveries(connection, destination, now, now + LEASE, limit)
            if (
                len(found) < limit
                and cursor is not None
                and _hand_over(connection, destination, types, cursor, now)
            ):
                found += claims.claim_event_deliveries(
                    connection, destination, now, now + LEASE, limit - len(found)
                )
            return found

        return self._write(work)

    def sent(self, claimed: Claimed[EventDelivery]) -> None:
        """Note that an event was told; raise ClaimLostError if it is no longer ours."""
        self._end(claimed, EventDeliveryState.SENT, "")

    def set_aside(self, claimed: Claimed[EventDelivery], error: str) -> None:
        """Give an event up for this destination; the next one of its job has its turn."""
        self._end(claimed, EventDeliveryState.SET_ASIDE, error)

    def _end(self, claimed: Claimed[EventDelivery], state: EventDeliveryState, error: str) -> None:
        def work(connection: Connection) -> None:
            now, row = self.now(), claimed.row
            _lock(connection, row.destination)
            claims.change_held(
                connection,
                claimed,
                state=state,
                finished_at=now,
                due_at=None,
                claim=None,
                error=error,
            )
            _give_turns(connection, _TURNS_OF_JOB, to=row.destination, job=row.ref, now=now)

        self._write(work)

    def try_again(self, claimed: Claimed[EventDelivery], due_at: float, error: str) -> None:
        """Have an event told again at ``due_at``; raise ClaimLostError if it is no longer ours."""
        self._write(
            lambda connection: claims.change_held(
                connection, claimed, due_at=due_at, claim=None, error=error
            )
        )

    def prune(self) -> int:
        """Remove some rows of what was told long ago; return how many. Events themselves stay."""
        now = self.now()

        def work(connection: Connection) -> int:
            return _forget(connection, _SENT, now - KEPT) + _forget(
                connection, _SET_ASIDE, now - KEPT_ASIDE
            )

        return self._write(work)

    # For people.

    def standing(self) -> list[Standing]:
        """Say how each destination stands that was ever named."""

        def work(connection: Connection) -> list[Standing]:
            names = (
                connection.execute(select(destinations.c.name).order_by(destinations.c.name))
                .scalars()
                .all()
            )
            return [_standing(connection, name) for name in names]

        return self._read(work)

    def forget(self, name: str) -> None:
        """Remove a destination, with all that was still to be told it; raise ReceiverError where there is none of that name.

        Stopped half-way it is to be done again; until then the destination goes on with what is left.
        """
        known = [standing.destination for standing in self.standing()]
        if name not in known:
            raise ReceiverError(
                f"there is no destination {name!r}; known are: {', '.join(known) or 'none'}"
            )
        while not self._write(partial(_remove, name=name)):
            pass

    def aside(self, after: int = 0, limit: int = 100) -> list[EventDelivery]:
        """Return what was set aside, oldest event first, after the event numbered ``after``."""
        question = select(sendings).where(sendings.c.state == _SET_ASIDE, sendings.c.event > after)
        question = question.order_by(sendings.c.event, sendings.c.destination).limit(limit)
        return self._read(
            lambda connection: [
                writes.event_delivery_of(row) for row in connection.execute(question)
            ]
        )

    def resend(self, event: int) -> int:
        """Have an event sent again wherever it was set aside, and return to how many; raise ReceiverError where it was not."""

        def work(connection: Connection) -> int:
            mine = and_(sendings.c.event == event, sendings.c.state == _SET_ASIDE)
            rows = connection.execute(
                select(sendings.c.destination, sendings.c.ref)
                .where(mine)
                .order_by(sendings.c.destination)
            ).all()
            for name, ref in rows:
                _lock(connection, name)
                anew = {
                    "state": EventDeliveryState.PENDING,
                    "since": self.now(),
                    "finished_at": None,
                    "attempts": 0,
                }
                connection.execute(
                    update(sendings).where(mine, sendings.c.destination == name).values(anew)
                )
                _give_turns(connection, _TURNS_OF_JOB, to=name, job=ref, now=self.now())
            return len(rows)

        if not (count := self._write(work)):
            raise ReceiverError(
                f"event {event} is not set aside; `receiver events` lists those that are"
            )
        return count

    def find(self, number: int) -> Row[Any] | None:
        """Return one event's row; None where there is none."""
        return self._read(
            lambda connection: connection.execute(
                select(events).where(events.c.id == number)
            ).one_or_none()
        )

    def newest(self) -> int:
        """Return the number of the newest event, 0 where there is none."""
        return (
            self._read(
                lambda connection: connection.execute(select(func.max(events.c.id))).scalar()
            )
            or 0
        )

    def following(
        self, after: int, types: Sequence[EventType] = (), limit: int = 100
    ) -> tuple[Sequence[Row[Any]], int]:
        """Return events after the one numbered ``after``, of these types, oldest first, and the number up to which was looked.

        What a rebuild put back was told long ago and is passed over.
        """

        def work(connection: Connection) -> tuple[Sequence[Row[Any]], int]:
            upto = _end_of_batch(connection, after, limit)
            wanted = [
                events.c.id > after,
                events.c.id <= upto,
                events.c.rebuilt == 0,
                *([events.c.type.in_(types)] if types else []),
            ]
            return connection.execute(
                select(events).where(*wanted).order_by(events.c.id)
            ).all(), upto

        return self._read(work)


def _begin(connection: Connection, name: str) -> None:
    # In line with whoever is writing events: one that commits later has a higher number.
    writes.stand_in_line(connection)
    place = select(literal(name), func.coalesce(func.max(events.c.id), 0))
    connection.execute(insert(destinations).from_select(["name", "cursor"], place))


def _lock(connection: Connection, destination: str) -> int | None:
    """Lock a destination until the transaction ends and return its cursor."""
    cursor: int | None = connection.execute(
        select(destinations.c.cursor).where(destinations.c.name == destination).with_for_update()
    ).scalar()
    return cursor


def _end_of_batch(connection: Connection, after: int, size: int) -> int:
    """Return the number of the last of the ``size`` events after one; that one's, if there are none."""
    batch = (
        select(events.c.id).where(events.c.id > after).order_by(events.c.id).limit(size).subquery()
    )
    return connection.execute(select(func.max(batch.c.id))).scalar() or after


def _hand_over(
    connection: Connection, destination: str, types: Sequence[EventType], cursor: int, now: float
) -> bool:
    """Write a sending for each event behind the cursor; say whether there were any. They appear in order: see ``stand_in_line``."""
    upto = _end_of_batch(connection, cursor, BATCH)
    if upto == cursor:
        return False
    wanted = (
        events.c.id > cursor,
        events.c.id <= upto,
        events.c.rebuilt == 0,
        events.c.type.in_(types),
    )
    what = select(
        literal(destination),
        events.c.id,
        events.c.ref,
        literal(EventDeliveryState.PENDING.value),
        literal(now),
    ).where(*wanted)
    connection.execute(
        insert(sendings).from_select(["destination", "event", "ref", "state", "since"], what)
    )
    _give_turns(connection, _TURNS_BEHIND, to=destination, cursor=cursor, now=now)
    connection.execute(
        update(destinations).where(destinations.c.name == destination).values(cursor=upto)
    )
    return True


def _forget(connection: Connection, state: ColumnElement[str], before: float) -> int:
    key = tuple_(sendings.c.destination, sendings.c.event)
    old = (
        select(sendings.c.destination, sendings.c.event)
        .where(sendings.c.state == state, sendings.c.finished_at < before)
        .limit(BATCH)
    )
    return connection.execute(delete(sendings).where(key.in_(old))).rowcount


def _remove(connection: Connection, name: str) -> bool:
    """Remove some sendings of a destination, and with the last of them the destination; say whether it is gone."""
    _lock(connection, name)
    # The newest first: of a job's events the first has its turn, and the others would wait for it for ever.
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


def _turns(among: ColumnElement[bool]) -> tuple[Update, Update]:
    """Build the statements that make due, among some pending events, the first of each job, and have the later ones of its job wait."""
    earlier = sendings.alias("earlier")
    first = select(func.min(earlier.c.event)).where(
        earlier.c.destination == bindparam("to"),
        earlier.c.ref == sendings.c.ref,
        earlier.c.state == _PENDING,
    )
    mine = and_(sendings.c.destination == bindparam("to"), sendings.c.state == _PENDING, among)
    turn = and_(mine, sendings.c.due_at.is_(None), sendings.c.event == first.scalar_subquery())
    # One that is sent again comes before those of its job that are waiting now.
    late = and_(
        mine,
        sendings.c.due_at.isnot(None),
        sendings.c.claim.is_(None),
        sendings.c.event != first.scalar_subquery(),
    )
    now: BindParameter[float] = bindparam("now", type_=Double)
    return update(sendings).where(turn).values(due_at=now, since=now), update(sendings).where(
        late
    ).values(due_at=None)


# Built once: that takes longer than to run them, and all writers wait meanwhile.
_TURNS_OF_JOB = _turns(sendings.c.ref == bindparam("job"))
_TURNS_BEHIND = _turns(sendings.c.event > bindparam("cursor"))


def _give_turns(
    connection: Connection, statements: tuple[Update, Update], **values: object
) -> None:
    for statement in statements:
        connection.execute(statement, values)


def _due_since(connection: Connection, destination: str) -> float | None:
    due = select(func.min(sendings.c.due_at)).where(
        sendings.c.destination == destination, sendings.c.due_at.isnot(None)
    )
    moment: float | None = connection.execute(due).scalar()
    return moment


def _standing(connection: Connection, name: str) -> Standing:
    cursor = select(destinations.c.cursor).where(destinations.c.name == name).scalar_subquery()
    not_handed = _count(connection, select(events.c.id).where(events.c.id > cursor))
    waiting, aside = (
        _count(
            connection,
            select(sendings.c.event).where(
                sendings.c.destination == name, sendings.c.state == state
            ),
        )
        for state in (_PENDING, _SET_ASIDE)
    )
    return Standing(name, not_handed, waiting, _due_since(connection, name), aside)


def _count(connection: Connection, rows: Select[int]) -> int:
    return int(
        connection.execute(
            select(func.count()).select_from(rows.limit(MOST_COUNTED).subquery())
        ).scalar_one()
    )
