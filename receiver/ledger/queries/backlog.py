"""The backlog: rows that are due and not claimed, counted by index, each count up to 10,000."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, func, select

from receiver.ledger.database import Database
from receiver.ledger.tables import assets, hints, jobs
from receiver.model import risk_begins

# Counts end here; more is an outage anyway.
MOST_COUNTED = 10_000

_KINDS: dict[str, Table] = {"assets": assets, "jobs": jobs, "hints": hints}


@dataclass(frozen=True, slots=True)
class Backlog:
    """Due rows by kind (assets, jobs, hints), and how many seconds the oldest one has waited."""

    due: dict[str, int]
    oldest: dict[str, float]
    pending: int  # assets not archived yet
    at_risk: int  # pending ones in the last quarter of their URL's life


class BacklogQueries:
    """Measures the backlog; a URL lives ``lifetime`` seconds, ``clock`` returns the time."""

    def __init__(self, database: Database, lifetime: float, clock: Callable[[], float]) -> None:
        self._database = database
        self._lifetime = lifetime
        self._now = clock

    def measure(self) -> Backlog:
        """Return the backlog now."""
        return self._database.read(self._measure)

    def _measure(self, connection: Connection) -> Backlog:
        now = self._now()
        waiting = assets.c.due_at.isnot(None)
        # Converted, because the index has the time when a URL expires, not when its risk begins.
        dies_before = now - risk_begins(0.0, self._lifetime)
        return Backlog(
            due={
                kind: _count(connection, table, table.c.due_at <= now)
                for kind, table in _KINDS.items()
            },
            oldest={kind: _oldest(connection, table, now) for kind, table in _KINDS.items()},
            pending=_count(connection, assets, waiting),
            at_risk=_count(
                connection, assets, waiting, assets.c.expires_at <= dies_before, is_at_risk(now)
            ),
        )


def is_at_risk(now: float) -> ColumnElement[bool]:
    """Return the condition of assets in the last quarter of their URL's own life.

    URLs of some providers are valid for minutes only. No index has this condition, so combine it
    with a limit of ``expires_at``.
    """
    lifetime = assets.c.expires_at - assets.c.announced_at
    return assets.c.expires_at - lifetime / 4 <= now


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> int:
    some = select(table.c.due_at).where(*conditions).limit(MOST_COUNTED).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def _oldest(connection: Connection, table: Table, now: float) -> float:
    first: float | None = connection.execute(
        select(func.min(table.c.due_at)).where(table.c.due_at.isnot(None))
    ).scalar()
    return 0.0 if first is None else max(0.0, now - first)
