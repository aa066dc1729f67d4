"""What was set aside: jobs that crashed workers, and deliveries that could not be read."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_, func, select, text, union

from receiver.ledger.database import Database
from receiver.ledger.queries.job_list import Page, page_of
from receiver.ledger.rows import job_of
from receiver.ledger.tables import assets, deliveries, job_columns, jobs
from receiver.model import AssetState

# A part of the message of everything that was set aside after repeated crashes.
SET_ASIDE = "set aside"
# Written as text: SQLite uses a partial index only for exactly its condition.
_UNREADABLE = and_(text("verdict = 'unreadable'"), deliveries.c.dismissed_at.is_(None))


@dataclass(frozen=True, slots=True)
class OddDelivery:
    """An unreadable delivery without its body; ``size`` is the body's, in bytes."""

    id: int
    ref: str
    source: str
    verdict: str
    received_at: float
    size: int


class SetAsideQueries:
    """Reads what was set aside."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, after: str = "", limit: int = 50) -> Page:
        """Return jobs that were set aside because they or an asset kept crashing workers.

        Newest first, after the ref ``after``.
        """
        crashed = select(jobs.c.ref).where(_crashed(jobs), jobs.c.message.contains(SET_ASIDE))
        lost = select(assets.c.ref).where(
            _crashed(assets),
            assets.c.error.contains(SET_ASIDE),
            assets.c.state != AssetState.PENDING,
        )
        wanted = [jobs.c.ref.in_(union(crashed, lost)), *([jobs.c.ref < after] if after else [])]
        query = select(*job_columns).where(*wanted).order_by(jobs.c.ref.desc()).limit(limit + 1)
        found = self._database.read(
            lambda connection: [job_of(row) for row in connection.execute(query)]
        )
        return page_of(found, limit)

    def deliveries(self, before: int | None = None, limit: int = 50) -> list[OddDelivery]:
        """Return deliveries that could not be read, newest first, with numbers below ``before``."""
        names = ("id", "ref", "source", "verdict", "received_at")
        columns = [deliveries.c[name] for name in names]
        query = select(*columns, func.length(deliveries.c.body).label("size")).where(_UNREADABLE)
        query = query if before is None else query.where(deliveries.c.id < before)
        query = query.order_by(deliveries.c.id.desc()).limit(limit)
        return self._database.read(
            lambda connection: [OddDelivery(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - documented
        )

    def count(self, most: int = 100) -> int:
        """Count the jobs and deliveries that were set aside, up to ``most``."""
        return min(most, len(self.jobs(limit=most).jobs) + len(self.deliveries(limit=most)))


def _crashed(table: Table) -> ColumnElement[bool]:
    return table.c.crashes > text("0")  # as text for the same reason
